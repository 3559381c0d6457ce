//! What of a base model's folder goes along with its merged weights, so that the new folder is usable as it is.
//!
//! Files go along by what they are: not another copy of the weights, the old model card, or an adapter's configuration,
//! at which libraries would take the folder for an adapter.

use serde_json::Value;

use crate::{
    error::Result,
    export::json,
    io::{ByteSource, DtypeChoice, Folder, OutDtype, Sink, parse_json},
};

/// How much of a file is in memory at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// Copies configuration, tokenizer and licence; what a configuration says of the element type follows `dtype`.
pub(super) async fn copy(folder: &Folder, dtype: DtypeChoice, sink: &mut dyn Sink) -> Result<()> {
    for (name, file) in folder.names().zip(folder.files()) {
        if !goes_along(name) {
            continue;
        }
        let is_config = name == "config.json" || name.ends_with("/config.json");
        if is_config && dtype != DtypeChoice::Auto {
            let mut config: Value = parse_json(file.as_ref()).await?;
            retype(&mut config, name_of(dtype.or(OutDtype::F32)));
            sink.write(name, &json(&config)?).await?;
        } else {
            pass(name, file.as_ref(), sink).await?;
        }
    }
    Ok(())
}

async fn pass(name: &str, file: &dyn ByteSource, sink: &mut dyn Sink) -> Result<()> {
    let mut at = 0;
    loop {
        let end = file.len().min(at + PIECE_BYTES);
        sink.write(name, &file.read(at..end).await?).await?;
        at = end;
        if at == file.len() {
            return Ok(());
        }
    }
}

/// Whether a file is neither weights nor something about the old model or its training.
fn goes_along(name: &str) -> bool {
    let (above, file) = name.rsplit_once('/').unwrap_or(("", name));
    let elsewhere = |part: &str| {
        part.starts_with('.')
            || part.starts_with("checkpoint-")
            || matches!(
                part,
                "heads" | "onnx" | "openvino" | "original" | "runs" | "coreml"
            )
    };
    if above.split('/').any(elsewhere) || file.starts_with('.') {
        return false;
    }
    let licence = ["LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY"];
    if licence
        .iter()
        .any(|start| file.to_ascii_uppercase().starts_with(start))
    {
        return true;
    }
    let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
    match extension {
        "json" => {
            !stem.ends_with(".index")
                && !stem.ends_with("_results")
                && !matches!(stem, "adapter_config" | "merge_report" | "trainer_state")
        }
        "txt" => matches!(stem, "vocab" | "merges" | "dict"),
        // Of tokenizers, of chat templates, and of architectures that come with their own code.
        "model" | "spm" | "codes" | "tiktoken" | "jinja" | "py" => true,
        _ => false,
    }
}

/// The name that PyTorch has for a type.
const fn name_of(dtype: OutDtype) -> &'static str {
    match dtype {
        OutDtype::F32 => "float32",
        OutDtype::F16 => "float16",
        OutDtype::Bf16 => "bfloat16",
    }
}

/// Sets what a configuration, or that of a model within the model, says of its element type.
fn retype(config: &mut Value, dtype: &str) {
    let Some(fields) = config.as_object_mut() else {
        return;
    };
    for (name, value) in fields {
        if matches!(name.as_str(), "torch_dtype" | "dtype") && value.is_string() {
            *value = dtype.into();
        } else {
            retype(value, dtype);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{goes_along, retype};

    #[test]
    fn what_makes_a_folder_usable_goes_along_and_nothing_else() {
        for name in [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "vocab.json",
            "vocab.txt",
            "merges.txt",
            "spiece.model",
            "source.spm",
            "chat_template.jinja",
            "additional_chat_templates/tools.jinja",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "modeling_new.py",
            "LICENSE",
            "license.txt",
            "Notice.md",
        ] {
            assert!(goes_along(name), "{name}");
        }
        for name in [
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "pytorch_model.bin",
            "model.gguf",
            "README.md",
            ".gitattributes",
            ".cache/huggingface/x.json",
            "onnx/config.json",
            "original/params.json",
            "checkpoint-500/config.json",
            "heads/one.labels.json",
            "adapter_config.json",
            "merge_report.json",
            "trainer_state.json",
            "all_results.json",
            "samples.txt",
        ] {
            assert!(!goes_along(name), "{name}");
        }
    }

    #[test]
    fn types_are_set_where_a_configuration_has_them() {
        let mut config = serde_json::json!({
            "torch_dtype": "float32", "text_config": {"dtype": "float32"}, "dtype": null, "model_type": "x",
        });
        retype(&mut config, "bfloat16");
        let wanted = serde_json::json!({
            "torch_dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}, "dtype": null, "model_type": "x",
        });
        assert_eq!(config, wanted);
    }
}
