//! How to load what was written, in the program that it was written for.

use std::fmt::Write as _;

use crate::{
    adapter::{Format, LayerKind},
    binding::{Base, Place},
    export::{
        card::Card,
        format_of,
        text::{markdown, python},
    },
    merge::options::{OutputKind, Ranks},
    model::Kind,
};

/// Where the code is to find this folder.
const HERE: &str = "path/to/this/folder";

/// The section of the card.
pub(super) fn write(card: &Card<'_>, out: &mut String) {
    let options = card.options;
    out.push_str("\n## Use\n\n");
    match (options.output, format_of(card.binding, card.options)) {
        (OutputKind::Adapter, Format::Peft) => peft(card, out),
        (OutputKind::Adapter, Format::Kohya | Format::Diffusers) => image(card, out),
        (OutputKind::Base, _) => whole(card, out),
    }
}

/// PEFT's task type of the adapter under whose class the merged one has its names.
pub(super) fn task_type<'a>(card: &Card<'a>) -> Option<&'a str> {
    let leading = card.binding.adapters.get(card.binding.leading)?;
    leading.adapter.config.task_type.as_deref()
}

/// The class of transformers that adapters and base are for.
fn class(card: &Card<'_>) -> &'static str {
    match task_type(card) {
        Some("CAUSAL_LM") => "AutoModelForCausalLM",
        Some("SEQ_2_SEQ_LM") => "AutoModelForSeq2SeqLM",
        Some("SEQ_CLS") => "AutoModelForSequenceClassification",
        Some("TOKEN_CLS") => "AutoModelForTokenClassification",
        Some("QUESTION_ANS") => "AutoModelForQuestionAnswering",
        _ => match card.binding.base {
            Base::Model(model) => match model.family.facts().kind {
                Kind::Decoder if !card.binding.in_class() => "AutoModel",
                Kind::Decoder => "AutoModelForCausalLM",
                Kind::EncoderDecoder => "AutoModelForSeq2SeqLM",
                Kind::ImageToText => "AutoModelForImageTextToText",
                Kind::ImageEncoder => "AutoModelForImageClassification",
                Kind::Encoder | Kind::ImageTextEncoder | Kind::Weights => "AutoModel",
            },
            Base::Absent | Base::Weights(_) => "AutoModel",
        },
    }
}

/// The first head that was written, with its adapter's name and how many outputs it has, if it is a classifier's.
fn head(card: &Card<'_>) -> Option<(String, String, usize)> {
    if !matches!(task_type(card), Some("SEQ_CLS" | "TOKEN_CLS")) {
        return None;
    }
    let read = card
        .binding
        .adapters
        .iter()
        .find(|read| !read.adapter.heads.is_empty())?;
    let file = format!(
        "heads/{}.safetensors",
        crate::export::file_name(&read.adapter.name)
    );
    let matrices = read.adapter.heads.values().filter(|head| head.shape.len() == 2);
    let outputs = matrices.map(|head| head.shape[0]).min()?;
    let written = card.written.iter().any(|digest| digest.name == file);
    written.then(|| (file, read.adapter.name.clone(), outputs))
}

fn peft(card: &Card<'_>, out: &mut String) {
    let base = python(card.base_name().as_deref().unwrap_or("path/to/the/base/model"));
    let head = head(card);
    out.push_str("```python\nfrom peft import PeftModel\n");
    load(class(card), &base, head.as_ref(), out);
    let _ = writeln!(out, "model = PeftModel.from_pretrained(model, \"{HERE}\")\n```");
    told_of_heads(card, head.as_ref(), out);
    let plain = card
        .binding
        .sites
        .iter()
        .all(|site| site.place == Place::Weight(LayerKind::Linear));
    if plain && card.options.ranks == Ranks::Uniform {
        out.push_str("\nAll layers have one rank and `lora_alpha` equals it, so programs that know no `rank_pattern` load it too: vLLM, and llama.cpp through `convert_lora_to_gguf.py`.\n");
    } else if plain {
        out.push_str("\nRanks differ by layer (`rank_pattern`), which vLLM and llama.cpp do not read; merge with one rank for those.\n");
    }
}

/// Python's lines that load a model, and one task's head if there is one.
fn load(class: &str, from: &str, head: Option<&(String, String, usize)>, out: &mut String) {
    let Some((file, _, outputs)) = head else {
        let _ = writeln!(
            out,
            "from transformers import {class}\n\nmodel = {class}.from_pretrained({from})"
        );
        return;
    };
    let file = python(&format!("{HERE}/{file}"));
    let _ = writeln!(
        out,
        "from safetensors.torch import load_file\nfrom transformers import {class}\n\nmodel = {class}.from_pretrained({from}, num_labels={outputs})\nmodel.load_state_dict(load_file({file}), strict=False)"
    );
}

fn told_of_heads(card: &Card<'_>, head: Option<&(String, String, usize)>, out: &mut String) {
    if let Some((_, name, _)) = head {
        let _ = writeln!(
            out,
            "\nEach task keeps the classifier that its own adapter was trained with, under `heads/`; this is that of {}.",
            markdown(name)
        );
    } else if card.written.iter().any(|file| file.name.starts_with("heads/")) {
        out.push_str("\nTensors that adapters saved whole are under `heads/`, one file an adapter.\n");
    }
}

fn image(card: &Card<'_>, out: &mut String) {
    let own = card
        .written
        .iter()
        .find(|file| file.name.ends_with(".safetensors") && !file.name.contains('/'));
    let file = own.map_or("*.safetensors", |file| file.name.as_str());
    let base = python(card.base_name().as_deref().unwrap_or("path/to/the/base/model"));
    let _ = writeln!(
        out,
        "In ComfyUI and other programs: put {} into the folder of LoRAs (`models/loras`). In diffusers:\n",
        markdown(file)
    );
    let _ = writeln!(
        out,
        "```python\nfrom diffusers import DiffusionPipeline\n\npipe = DiffusionPipeline.from_pretrained({base})\npipe.load_lora_weights(\"{HERE}\", weight_name={})\n```",
        python(file)
    );
}

fn whole(card: &Card<'_>, out: &mut String) {
    match card.library() {
        Some("transformers") => {
            let head = head(card);
            out.push_str("```python\n");
            load(class(card), &python(HERE), head.as_ref(), out);
            out.push_str("```\n");
            told_of_heads(card, head.as_ref(), out);
        }
        Some(_) => {
            let _ = writeln!(
                out,
                "```python\nfrom diffusers import DiffusionPipeline\n\npipe = DiffusionPipeline.from_pretrained(\"{HERE}\")\n```"
            );
        }
        None => out.push_str(
            "Files and tensors have the names of the base model's: it takes the base model's place.\n",
        ),
    }
}
