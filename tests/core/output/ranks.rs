//! Ranks of a written adapter: one for all, which every program loads, or each layer's own.

use iteris_web::{
    adapter::Adapter,
    io::{Dtype, DtypeChoice},
    merge::options::{MergeOptions, Ranks},
};

use super::{file, golden, json_of, opened, options, run, tiny, written};
use crate::support::{relative_error, written_deltas};

/// "qv" has other modules and another rank than "all", so the sum's ranks differ by layer.
fn both() -> Vec<iteris_web::jobs::AdapterInput> {
    vec![golden("qv"), golden("all")]
}

/// What vLLM (`vllm/lora/peft_helper.py`, `lora_model.py`) and llama.cpp (`convert_lora_to_gguf.py`) ask of an adapter:
/// both take one rank and one alpha from the configuration, know `lora_A.weight` and `lora_B.weight` alone, and no
/// DoRA, saved modules or biases; llama.cpp also wants alpha as a number, vLLM targets as strings.
#[test]
fn by_default_an_adapter_is_one_that_vllm_and_llama_cpp_load() {
    let (sink, report) = run(Some(tiny()), both(), options()).unwrap();
    let config = json_of(&sink, "adapter_config.json");
    let rank = report.layers.iter().map(|layer| layer.rank).max().unwrap();
    assert!(
        report.layers.iter().any(|layer| layer.rank < rank),
        "ranks differ"
    );
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&rank.into(), &rank.into())
    );
    for (name, value) in [("use_rslora", false), ("use_dora", false)] {
        assert_eq!(config[name], value, "{name}");
    }
    assert_eq!(config["bias"], "none");
    assert!(config["modules_to_save"].is_null());
    for pattern in ["rank_pattern", "alpha_pattern"] {
        assert_eq!(config[pattern], serde_json::json!({}), "{pattern}");
    }
    let targets = config["target_modules"].as_array().unwrap();
    assert!(!targets.is_empty() && targets.iter().all(serde_json::Value::is_string));
    let weights = opened(&file(&sink, "adapter_model.safetensors"));
    assert_eq!(weights.names().len(), 2 * report.layers.len());
    for info in weights.infos() {
        let name = info.name.strip_prefix("base_model.model.").unwrap();
        if name.ends_with(".lora_A.weight") {
            assert_eq!(info.shape[0], rank, "{name}");
        } else {
            assert!(name.ends_with(".lora_B.weight"), "{name}");
            assert_eq!(info.shape[1], rank, "{name}");
        }
    }
}

#[test]
fn ranks_by_layer_are_written_as_anchored_patterns_and_mean_the_same() {
    let own = MergeOptions {
        ranks: Ranks::PerLayer,
        ..options()
    };
    let (uniform, _) = run(Some(tiny()), both(), options()).unwrap();
    let (sink, report) = run(Some(tiny()), both(), own).unwrap();
    let config = json_of(&sink, "adapter_config.json");
    let patterns = config["rank_pattern"].as_object().unwrap();
    assert!(!patterns.is_empty());
    assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
    let weights = opened(&file(&sink, "adapter_model.safetensors"));
    let r = usize::try_from(config["r"].as_u64().unwrap()).unwrap();
    assert_eq!(config["lora_alpha"], r);
    for layer in &report.layers {
        let end = format!("{}.lora_A.weight", layer.module);
        let info = weights.infos().find(|info| info.name.ends_with(&end)).unwrap();
        assert_eq!(info.shape[0], layer.rank, "{}", layer.module);
        let path = info.name.strip_prefix("base_model.model.").unwrap();
        let path = path.strip_suffix(".lora_A.weight").unwrap();
        // PEFT matches `(.*\.)?(KEY)$`; the anchor keeps a key from an end of another module's path.
        let told = patterns.get(&format!("^{path}"));
        assert_eq!(
            told.map_or(r, |rank| usize::try_from(rank.as_u64().unwrap()).unwrap()),
            layer.rank
        );
    }
    let (found, wanted) = (
        written_deltas(&file(&sink, "adapter_model.safetensors")),
        written_deltas(&file(&uniform, "adapter_model.safetensors")),
    );
    for layer in &report.layers {
        assert!(
            relative_error(&found(&layer.module), &wanted(&layer.module)) < 1e-6,
            "{}",
            layer.module
        );
    }
    let read = pollster::block_on(Adapter::read("again", &written(&sink))).unwrap();
    assert!(
        read.modules
            .values()
            .all(|lora| (lora.scaling - 1.0).abs() < 1e-12)
    );
}

#[test]
fn energy_by_layer_keeps_what_it_says_and_tells_the_error() {
    let kept = 0.9;
    let options = MergeOptions {
        energy: Some(kept),
        ranks: Ranks::PerLayer,
        ..options()
    };
    let (sink, report) = run(Some(tiny()), both(), options).unwrap();
    let (exact, _) = run(Some(tiny()), both(), super::options()).unwrap();
    let (found, wanted) = (
        written_deltas(&file(&sink, "adapter_model.safetensors")),
        written_deltas(&file(&exact, "adapter_model.safetensors")),
    );
    for layer in &report.layers {
        let error = relative_error(&found(&layer.module), &wanted(&layer.module));
        assert!(
            (error - layer.error.unwrap()).abs() < 1e-4,
            "{}: {error}",
            layer.module
        );
        assert!(error * error <= 1.0 - kept + 1e-5, "{}: {error}", layer.module);
    }
    assert!(report.layers.iter().any(|layer| layer.error.unwrap() > 0.01));
    let json = json_of(&sink, "merge_report.json");
    assert_eq!(json["version"], 2);
    assert!(json["layers"][0]["error"].is_number());
}

#[test]
fn an_adapter_in_bf16_is_the_f32_one_rounded() {
    let (single, report) = run(Some(tiny()), both(), options()).unwrap();
    let half = MergeOptions {
        dtype: DtypeChoice::Bf16,
        ..options()
    };
    let (half, _) = run(Some(tiny()), both(), half).unwrap();
    let (single, half) = (
        opened(&file(&single, "adapter_model.safetensors")),
        opened(&file(&half, "adapter_model.safetensors")),
    );
    assert_eq!(single.names().len(), 2 * report.layers.len());
    for info in half.infos() {
        assert_eq!(info.dtype, Dtype::BF16);
        let read =
            |checkpoint: &iteris_web::io::Checkpoint| pollster::block_on(checkpoint.f32(&info.name)).unwrap();
        for (found, wanted) in read(&half).iter().zip(read(&single)) {
            // 8 significant bits.
            assert!(
                (found - wanted).abs() <= wanted.abs() / 256.0,
                "{}: {found} for {wanted}",
                info.name
            );
        }
    }
}
