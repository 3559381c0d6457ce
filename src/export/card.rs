//! The model card, `README.md`: what Hugging Face's hub shows of a folder, and what a person needs to use it.
//!
//! Names come from outside, and a card is YAML, Markdown and code at once; each name is written as what it stands in
//! wants it (see [`super::text`]). Nothing is told that the merge does not know: no licence, no language. The same
//! merge gives the same card, so it has neither date nor seconds.

mod layers;
mod usage;

use std::fmt::Write as _;

use crate::{
    adapter::Format,
    binding::{Base, Binding},
    error::Result,
    export::{
        format_of,
        metadata::{weight_file, weight_files},
        method,
        report::{AdapterReport, MergeReport},
        text::{markdown, yaml},
    },
    io::FileDigest,
    merge::options::{MergeOptions, OutputKind},
};

/// The name of the card.
pub(super) const CARD_FILE: &str = "README.md";

/// What a card tells of.
pub(super) struct Card<'a> {
    pub(super) binding: &'a Binding<'a>,
    pub(super) options: &'a MergeOptions,
    pub(super) report: &'a MergeReport,
    /// What has been written so far.
    pub(super) written: &'a [FileDigest],
}

impl Card<'_> {
    /// The whole file.
    pub(super) fn text(&self) -> Result<String> {
        let mut out = String::new();
        self.front_matter(&mut out);
        let names: Vec<String> = self.adapters().map(|adapter| markdown(&adapter.name)).collect();
        let title = match names.len() {
            0..=4 => names.join(" + "),
            all => format!("{all} adapters, merged"),
        };
        let count = match names.len() {
            1 => "1 LoRA adapter".to_owned(),
            all => format!("{all} LoRA adapters"),
        };
        let what = match self.options.output {
            OutputKind::Adapter => format!("One LoRA adapter, made from {count} of one base model."),
            OutputKind::Base => format!("The base model with {count} merged into its weights."),
        };
        let facts = self.options.method.facts();
        let paper = self.paper().map_or(String::new(), |number| {
            format!(" ([arXiv:{number}](https://arxiv.org/abs/{number}))")
        });
        let _ = writeln!(
            out,
            "\n# {title}\n\n{what} Method: {}{paper}. Nothing was trained.",
            facts.map_or("", |facts| facts.title)
        );
        usage::write(self, &mut out);
        self.inputs(&mut out);
        self.settings(&mut out)?;
        layers::write(self, &mut out);
        if !self.report.notes.is_empty() {
            out.push_str("\n## Notes\n\n");
            for note in &self.report.notes {
                let _ = writeln!(out, "- {}", markdown(note));
            }
        }
        let _ = write!(
            out,
            "\n## Making it again\n\n`merge_report.json` has every option and the SHA-256 of every file. From the folder with this file:\n\n```sh\nnpx iteris-web merge --recipe merge_report.json\n```\n\nMade by {}. The weight files name method, options, adapters and their hashes in their headers (`iteris_web.*`).\n",
            self.report.created_by
        );
        Ok(out)
    }

    /// The number of the method's paper on arXiv.
    fn paper(&self) -> Option<&'static str> {
        self.options.method.facts().and_then(|facts| facts.paper)
    }

    fn adapters(&self) -> impl ExactSizeIterator<Item = &AdapterReport> {
        self.report.adapters.iter()
    }

    fn front_matter(&self, out: &mut String) {
        let base = self.base_name();
        let adapter = self.options.output == OutputKind::Adapter;
        out.push_str("---\n");
        if let Some(base) = &base {
            let relation = if adapter { "adapter" } else { "merge" };
            let _ = writeln!(out, "base_model: {}\nbase_model_relation: {relation}", yaml(base));
        }
        let library = self.library();
        if let Some(library) = library {
            let _ = writeln!(out, "library_name: {library}");
        }
        if usage::task_type(self) == Some("CAUSAL_LM") {
            out.push_str("pipeline_tag: text-generation\n");
        }
        let mut tags = vec!["merge".to_owned(), "iteris-web".to_owned()];
        if adapter {
            tags.push("lora".into());
        }
        if self.paper().is_some() {
            tags.push(method::name(self.options.method));
        }
        tags.extend(library.map(str::to_owned));
        tags.sort();
        out.push_str("tags:\n");
        for tag in tags {
            let _ = writeln!(out, "- {tag}");
        }
        out.push_str("---\n");
    }

    /// The library that loads what was written, as the hub calls it.
    fn library(&self) -> Option<&'static str> {
        let options = self.options;
        match (
            options.output,
            format_of(self.binding, self.options),
            self.binding.base,
        ) {
            (OutputKind::Adapter, Format::Peft, _) => Some("peft"),
            (OutputKind::Adapter, Format::Kohya | Format::Diffusers, _) => Some("diffusers"),
            (OutputKind::Base, _, Base::Model(_)) => Some("transformers"),
            (OutputKind::Base, _, Base::Weights(weights)) => {
                let has = |file: &str| weights.folder.find(file).is_some();
                match (has("model_index.json"), has("config.json")) {
                    (true, _) => Some("diffusers"),
                    (false, true) => Some("transformers"),
                    (false, false) => None,
                }
            }
            (OutputKind::Base, _, Base::Absent) => None,
        }
    }

    /// The base model as the hub may know it: the name that all adapters give it, else that of its folder. Of a path
    /// the last part, which alone may mean something elsewhere.
    pub(super) fn base_name(&self) -> Option<String> {
        let mut names = self.binding.adapters.iter();
        let mut given = names
            .by_ref()
            .map(|read| &read.adapter.config.base_model_name_or_path);
        let first = given.next().and_then(Option::as_deref);
        let shared = first.filter(|first| given.all(|other| other.as_deref() == Some(first)));
        let folder = self.report.base.as_ref().map(|base| base.name.as_str());
        [shared, folder].into_iter().flatten().find_map(repository)
    }

    fn inputs(&self, out: &mut String) {
        out.push_str("\n## What went in\n\n");
        if let Some(base) = &self.report.base {
            let _ = writeln!(
                out,
                "Base model: {}\n\n| file | SHA-256 |\n| --- | --- |",
                markdown(&base.name)
            );
            for file in weight_files(&base.files) {
                let _ = writeln!(out, "| {} | `{}` |", markdown(&file.name), file.sha256);
            }
            out.push('\n');
        } else if let Some(name) = self.base_name() {
            let _ = writeln!(
                out,
                "Base model: {} (its weights were not needed)\n",
                markdown(&name)
            );
        }
        out.push_str("| adapter | weight | rank | file | SHA-256 |\n| --- | ---: | ---: | --- | --- |\n");
        for adapter in self.adapters() {
            let (file, hash) = weight_file(&adapter.files).map_or((String::new(), String::new()), |file| {
                (markdown(&file.name), format!("`{}`", file.sha256))
            });
            let _ = writeln!(
                out,
                "| {} | {} | {} | {file} | {hash} |",
                markdown(&adapter.name),
                adapter.weight,
                adapter.rank
            );
        }
        for adapter in self.adapters() {
            if let Some(samples) = &adapter.samples
                && samples.count > 0
            {
                let _ = writeln!(
                    out,
                    "\nCalibration samples of {}: {}, unlabelled.",
                    markdown(&adapter.name),
                    samples.count
                );
            }
        }
    }

    fn settings(&self, out: &mut String) -> Result<()> {
        let settings = method::settings(self.options)?;
        let name = method::name(self.options.method);
        let _ = write!(
            out,
            "\n## How\n\n| option | value |\n| --- | --- |\n| method | {name} |\n"
        );
        for (name, value) in &settings {
            let value = match value {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let _ = writeln!(out, "| {} | {} |", markdown(name), markdown(&value));
        }
        Ok(())
    }
}

/// A name in the form of a repository of the hub, `owner/name` or `name`.
fn repository(name: &str) -> Option<String> {
    let fits = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !part.ends_with(['.', '-'])
            && !part.contains("..")
            && !part.contains("--")
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let parts: Vec<&str> = name.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    let (whole, last) = (
        parts.len() <= 2 && parts.iter().all(|part| fits(part)),
        parts.last()?,
    );
    let is_path = name.starts_with(['/', '\\', '.', '~']) || name.contains('\\') || name.ends_with('/');
    if whole && !is_path {
        return Some(name.to_owned());
    }
    fits(last).then(|| (*last).to_owned())
}

#[cfg(test)]
mod tests {
    use super::repository;

    #[test]
    fn only_what_may_be_a_repository_is_called_one() {
        for (given, wanted) in [
            ("google/flan-t5-base", Some("google/flan-t5-base")),
            ("gpt2", Some("gpt2")),
            ("/home/me/models/Llama-3.2-1B", Some("Llama-3.2-1B")),
            ("./models/base", Some("base")),
            ("../base/", Some("base")),
            (r"C:\models\base", Some("base")),
            ("a/b/c", Some("c")),
            ("", None),
            ("..", None),
            ("my model", None),
            ("x\n---", None),
        ] {
            assert_eq!(repository(given).as_deref(), wanted, "{given:?}");
        }
    }
}
