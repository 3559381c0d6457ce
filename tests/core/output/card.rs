//! The model card: YAML that the hub reads, and names that stay names.

use iteris_web::{
    adapter::{DIFFUSERS_FILE, FormatChoice, KOHYA_FILE},
    merge::options::{MergeOptions, OutputKind, Ranks},
};

use super::{adapter, file, files, golden, input, opened, options, run, tiny};

/// A card's front matter as pairs and tags, by the few forms of YAML that it may use: `key: plain`, `key: "quoted"`,
/// `key:` with `- plain` under it.
fn front_matter(card: &str) -> Vec<(String, Vec<String>)> {
    let rest = card.strip_prefix("---\n").unwrap();
    let (yaml, _) = rest.split_once("\n---\n").unwrap();
    let plain = |text: &str| {
        assert!(
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_+.".contains(c)),
            "not plain: {text}"
        );
        text.to_owned()
    };
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in yaml.lines() {
        if let Some(item) = line.strip_prefix("- ") {
            found.last_mut().unwrap().1.push(plain(item));
        } else if let Some(key) = line.strip_suffix(':') {
            found.push((plain(key), Vec::new()));
        } else {
            let (key, value) = line.split_once(": ").unwrap();
            let value = if value.starts_with('"') {
                serde_json::from_str(value).unwrap()
            } else {
                plain(value)
            };
            found.push((plain(key), vec![value]));
        }
    }
    found
}

fn card(sink: &iteris_web::io::MemorySink) -> String {
    String::from_utf8(file(sink, "README.md")).unwrap()
}

#[test]
fn a_card_names_base_adapters_method_and_hashes() {
    let adapters = || {
        let mut second = golden("all");
        second.weight = 0.5;
        vec![golden("qv"), second]
    };
    let (sink, report) = run(Some(tiny()), adapters(), options()).unwrap();
    let text = card(&sink);
    let found = front_matter(&text);
    let of = |name: &str| {
        found
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, values)| values.join(" "))
    };
    assert_eq!(of("base_model_relation").as_deref(), Some("adapter"));
    assert_eq!(of("library_name").as_deref(), Some("peft"));
    assert_eq!(of("tags").as_deref(), Some("iteris-web lora merge peft"));
    assert!(of("base_model").is_some());
    assert!(
        of("license").is_none() && of("language").is_none(),
        "nothing is invented"
    );
    assert!(text.contains("# qv + all\n"));
    for adapter in &report.adapters {
        let file = adapter
            .files
            .iter()
            .find(|file| file.name == "adapter_model.safetensors")
            .unwrap();
        let row = format!(
            "| {} | {} | {} | adapter\\_model.safetensors | `{}` |",
            adapter.name, adapter.weight, adapter.rank, file.sha256
        );
        assert!(text.contains(&row), "{row}\n{text}");
    }
    let base = report
        .base
        .as_ref()
        .unwrap()
        .files
        .iter()
        .find(|file| file.name == "model.safetensors");
    assert!(text.contains(&base.unwrap().sha256));
    assert!(
        text.contains("PeftModel.from_pretrained") && text.contains("AutoModelForSequenceClassification")
    );
    assert!(text.contains("--recipe merge_report.json"));
    for layer in &report.layers {
        assert!(
            text.contains(&format!("| {} |", layer.module)),
            "{}",
            layer.module
        );
    }
    assert!(text.contains("vLLM"));

    let per_layer = MergeOptions {
        ranks: Ranks::PerLayer,
        ..options()
    };
    let (sink, _) = run(Some(tiny()), adapters(), per_layer).unwrap();
    assert!(card(&sink).contains("which vLLM and llama.cpp do not read"));

    let whole = MergeOptions {
        output: OutputKind::Base,
        ..options()
    };
    let (sink, _) = run(Some(tiny()), adapters(), whole).unwrap();
    let text = card(&sink);
    let found = front_matter(&text);
    assert!(found.contains(&("base_model_relation".into(), vec!["merge".into()])));
    assert!(found.contains(&("library_name".into(), vec!["transformers".into()])));
    assert!(!text.contains("PeftModel"));
}

#[test]
fn files_of_image_programs_have_a_card_and_headers_too() {
    for (format, name) in [
        (FormatChoice::Kohya, KOHYA_FILE),
        (FormatChoice::Diffusers, DIFFUSERS_FILE),
    ] {
        let module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
        let style = |name: &str| input(name, adapter(&[(module, 4, 3)]), 1.0);
        let options = MergeOptions { format, ..options() };
        let (sink, report) = run(None, vec![style("ink"), style("wash")], options).unwrap();
        let weights: Vec<_> = report
            .output
            .iter()
            .filter(|file| file.name.ends_with(".safetensors"))
            .collect();
        assert_eq!(weights.len(), 1);
        assert_eq!(weights[0].name, name, "{format:?}");
        let text = card(&sink);
        assert!(front_matter(&text).contains(&("library_name".into(), vec!["diffusers".into()])));
        assert!(text.contains(&format!("weight_name=\"{name}\"")), "{text}");
        assert!(text.contains("ComfyUI") && !text.contains("PeftModel"));
        let metadata = opened(&file(&sink, name)).metadata().clone();
        assert_eq!(metadata["iteris_web.method"], "linear");
        assert!(metadata["iteris_web.adapters"].contains("\"wash\""));
    }
}

#[test]
fn many_layers_are_told_by_pattern_and_those_that_stand_out_by_name() {
    let names: Vec<String> = (0..20)
        .flat_map(|block| {
            ["self_attn.q_proj", "mlp.up_proj"].map(|end| format!("model.layers.{block}.{end}"))
        })
        .collect();
    let modules: Vec<(&str, usize, usize)> = names.iter().map(|name| (name.as_str(), 6, 5)).collect();
    // One layer is in one adapter alone, so that its rank is a fourth of the others'.
    let (lone, all) = ("model.layers.7.mlp.up_proj", 4);
    let others: Vec<_> = modules
        .iter()
        .copied()
        .filter(|(name, ..)| *name != lone)
        .collect();
    let adapters = (0..all)
        .map(|index| {
            let modules = if index == 0 { &modules } else { &others };
            input(&format!("a{index}"), adapter(modules), 1.0)
        })
        .collect();
    let options = MergeOptions {
        ranks: Ranks::PerLayer,
        ..options()
    };
    let (sink, report) = run(None, adapters, options).unwrap();
    assert_eq!(report.layers.len(), 40);
    let text = card(&sink);
    let (_, section) = text.split_once("## Layers").unwrap();
    assert!(
        section.contains("| model.layers.\\*.self\\_attn.q\\_proj | 20 | 4 | 0 |"),
        "{section}"
    );
    assert!(
        section.contains("| model.layers.\\*.mlp.up\\_proj | 20 | 1–4 | 0 |"),
        "{section}"
    );
    assert!(
        section.contains("| model.layers.7.mlp.up\\_proj | 1 | 0 |"),
        "{section}"
    );
    let rows = section.lines().filter(|line| line.starts_with("| model.layers."));
    assert_eq!(
        rows.count(),
        3,
        "two groups and the layer unlike its group: {section}"
    );
}

#[test]
fn names_from_outside_stay_names() {
    let evil = "x\"\n---\nlicense: mit\n```\n# <img src=x>|";
    let lora = |base: &str| {
        let source = adapter(&[("lin", 2, 3)]);
        let weights = source.find("adapter_model.safetensors").unwrap();
        let bytes = pollster::block_on(weights.read(0..weights.len())).unwrap();
        let config = serde_json::json!({
            "peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["lin"], "base_model_name_or_path": base,
        });
        files(
            evil,
            vec![
                ("adapter_config.json", config.to_string().into_bytes()),
                ("adapter_model.safetensors", bytes),
            ],
        )
    };
    let (sink, _) = run(None, vec![input(evil, lora(evil), 1.0)], options()).unwrap();
    let text = card(&sink);
    let found = front_matter(&text);
    assert!(
        found
            .iter()
            .all(|(key, _)| key != "license" && key != "base_model"),
        "{found:?}"
    );
    assert_eq!(text.lines().filter(|line| *line == "---").count(), 2, "{text}");
    assert!(text.contains("\\<img"), "{text}");
    let unescaped = text.replace("\\<", "");
    assert!(!unescaped.contains("<img"), "{text}");
    assert_eq!(text.matches("```").count() % 2, 0, "{text}");
    assert!(text.lines().all(|line| line != "license: mit"));

    // A path is somebody's machine: its last part alone is told.
    let (sink, _) = run(
        None,
        vec![input("a", lora("/home/me/Llama-3.2-1B"), 1.0)],
        options(),
    )
    .unwrap();
    let text = card(&sink);
    assert!(front_matter(&text).contains(&("base_model".into(), vec!["Llama-3.2-1B".into()])));
    assert!(!text.contains("/home/me"), "{text}");
}
