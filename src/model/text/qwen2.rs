//! Qwen 2 and 2.5: Llama with biases of queries, keys and values.
//!
//! Reference: transformers, `models/qwen2/modeling_qwen2.py`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    error::Result,
    io::Checkpoint,
    model::{
        config::{activation, only, parse, sliding_layers, with_defaults},
        family::Family,
        text::{
            decoder::{self, LayerKind, Settings, Sizes},
            rope::{Rope, Source},
        },
    },
};

/// Options of Qwen 2 and 3.
#[derive(Deserialize)]
struct Options {
    hidden_act: String,
    use_sliding_window: bool,
    sliding_window: Option<usize>,
    max_window_layers: usize,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let config = with_defaults(config, defaults());
    decoder::open(&config, checkpoint, settings(&config)?)
}

/// What Qwen 2 and 3 leave out of `config.json`.
pub(super) fn defaults() -> Value {
    json!({
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false,
        "use_sliding_window": false,
        "sliding_window": 4096,
        "max_window_layers": 28,
    })
}

fn settings(config: &Value) -> Result<Settings> {
    // A Qwen2-VL text model's positions of three kinds.
    only(config, "use_mrope", &[false.into()])?;
    Ok(Settings {
        // Always, whatever `attention_bias` says, and never behind the attention.
        projection_bias: true,
        ..shared("qwen2", config)?
    })
}

/// What Qwen 2 and 3 have in common: windows from a layer on, where they are used at all.
pub(super) fn shared(family: &'static str, config: &Value) -> Result<Settings> {
    let options: Options = parse(config)?;
    let sizes = Sizes::read(config)?;
    let window = options.sliding_window.filter(|_| options.use_sliding_window);
    let sliding = sliding_layers(config, sizes.num_hidden_layers, |layer| {
        window.is_some() && layer >= options.max_window_layers
    })?;
    let activation = activation("hidden_act", &options.hidden_act)?;
    let rope = Rope::read(config, &Source::PLAIN)?;
    let rotary = rope.rotary(sizes.head_size())?;
    let layers = LayerKind::all(&sliding, window, |_| rotary.clone())?;
    Ok(Settings::plain(
        family,
        sizes,
        activation,
        layers,
        rope.max_length(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_the_same_in_both_spellings() {
        let windows = |changes: Value| -> Vec<Option<usize>> {
            let own = json!({
                "num_hidden_layers": 3, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
            });
            let config = with_defaults(&changes, with_defaults(&own, defaults()));
            let settings = settings(&config).ok().unwrap();
            settings.layers.iter().map(|layer| layer.window).collect()
        };
        assert_eq!(windows(json!({})), [None; 3]);
        let used = json!({"use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1});
        assert_eq!(windows(used.clone()), [None, Some(5), Some(5)]);
        let types = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention"]});
        assert_eq!(windows(with_defaults(&types, used)), [Some(5), None, None]);
    }
}
