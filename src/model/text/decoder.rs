//! The pre-norm gated decoder: what Llama, Mistral, Qwen, Gemma and Phi-3 are made of.
//!
//! A layer is x + attention(norm(x)), then x + down(act(gate(x)) * up(x)) of the normed x, with RMS norms,
//! rotary positions and keys that several query heads may share. A family is what its configuration turns
//! into [`Settings`]; the last block is the final norm, whose rows the head reads.

use std::{ops::Range, rc::Rc};

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    compute::{Activation, Attention, RmsNorm, Rotary, Sight},
    error::Result,
    io::Checkpoint,
    model::{
        batch::{Batch, Rows, Stack},
        config::{architecture, invalid, parse, positive, unquantised, unsupported},
        family::{Block, Family, Heads, Kind, ModelFacts, Module, State},
        lanes::Lanes,
        lm_head::LmHead,
        load::{LinearShape, Loader},
        parts::{is_language_model, modules, prefix},
        projection::Projection,
    },
    naming::family::FamilyNames,
};

/// What the configurations of all these families have, defaults filled in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Sizes {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f32,
    tie_word_embeddings: bool,
    /// Signed, since the first Llamas say -1 for none.
    pad_token_id: Option<i64>,
}

impl Sizes {
    /// Reads and checks them.
    ///
    /// # Errors
    /// `config_invalid` naming what is absent or makes no model.
    pub(super) fn read(config: &Value) -> Result<Self> {
        let sizes: Self = parse(config)?;
        positive(&[
            ("vocab_size", sizes.vocab_size),
            ("hidden_size", sizes.hidden_size),
            ("intermediate_size", sizes.intermediate_size),
            ("num_hidden_layers", sizes.num_hidden_layers),
            ("num_attention_heads", sizes.num_attention_heads),
            ("num_key_value_heads", sizes.key_heads()),
            ("head_dim", sizes.head_size()),
        ])?;
        let (heads, key_heads) = (sizes.num_attention_heads, sizes.key_heads());
        if !heads.is_multiple_of(key_heads) {
            return Err(invalid(&format!(
                "{heads} attention heads cannot share {key_heads} key and value heads evenly"
            )));
        }
        if sizes.head_dim.is_none() && !sizes.hidden_size.is_multiple_of(heads) {
            return Err(invalid(&format!(
                "{} hidden units make no {heads} heads",
                sizes.hidden_size
            )));
        }
        Ok(sizes)
    }

    fn key_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of a head.
    pub(super) fn head_size(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }
}

/// Which norms a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    /// Before attention and before the feed-forward layers.
    Before,
    /// Behind both as well, before the residual (Gemma 2 and 3).
    Around,
}

/// What differs from layer to layer.
#[derive(Clone)]
pub(super) struct LayerKind {
    /// Tokens that a token sees, itself included; none for all before it.
    pub(super) window: Option<usize>,
    /// The rotary embedding of queries and keys.
    pub(super) rotary: Rc<Rotary>,
}

impl LayerKind {
    /// One kind a layer: `sliding` ones see `window` tokens; `rotary` gives the embedding of either.
    ///
    /// # Errors
    /// `config_invalid` if a layer is to have a window and there is none.
    pub(super) fn all(
        sliding: &[bool],
        window: Option<usize>,
        rotary: impl Fn(bool) -> Rc<Rotary>,
    ) -> Result<Vec<Self>> {
        if sliding.contains(&true) && window.is_none() {
            return Err(invalid(
                "some layers have sliding_attention, but sliding_window is null",
            ));
        }
        let kind = |sliding: &bool| Self {
            window: window.filter(|_| *sliding),
            rotary: rotary(*sliding),
        };
        Ok(sliding.iter().map(kind).collect())
    }
}

/// What makes one of these families.
pub(super) struct Settings {
    /// Its name in reports.
    pub(super) family: &'static str,
    /// Widths and counts.
    pub(super) sizes: Sizes,
    /// The longest sample in tokens.
    pub(super) max_length: usize,
    /// One a layer.
    pub(super) layers: Vec<LayerKind>,
    /// What the gate goes through.
    pub(super) activation: Activation,
    /// Whether queries, keys and values have biases.
    pub(super) projection_bias: bool,
    /// Whether the layer behind the attention has one.
    pub(super) output_bias: bool,
    /// Whether the feed-forward layers have them.
    pub(super) feed_forward_bias: bool,
    /// Whether each head of queries and keys is normalised (`q_norm`, `k_norm`).
    pub(super) head_norms: bool,
    /// Whether queries, keys and values are one layer (`qkv_proj`), and gate and up one (`gate_up_proj`).
    pub(super) fused: bool,
    /// Which norms a layer has.
    pub(super) norms: Norms,
    /// Added to every norm's weight.
    pub(super) norm_offset: f32,
    /// Factor of the embeddings.
    pub(super) embedding_scale: f32,
    /// Factor of the attention scores.
    pub(super) attention_scale: f32,
    /// Soft cap of the attention scores.
    pub(super) attention_cap: Option<f32>,
    /// Soft cap of the logits.
    pub(super) logit_cap: Option<f32>,
    /// What may stand before the names of modules in checkpoints and adapters, the usual one first.
    pub(super) prefixes: &'static [&'static str],
    /// What the head's matrix may be called.
    pub(super) head_keys: &'static [&'static str],
}

impl Settings {
    /// Llama's, but for biases.
    pub(super) fn plain(
        family: &'static str,
        sizes: Sizes,
        activation: Activation,
        layers: Vec<LayerKind>,
        max_length: usize,
    ) -> Self {
        Self {
            family,
            max_length,
            layers,
            activation,
            projection_bias: false,
            output_bias: false,
            feed_forward_bias: false,
            head_norms: false,
            fused: false,
            norms: Norms::Before,
            norm_offset: 0.0,
            embedding_scale: 1.0,
            attention_scale: 1.0 / (sizes.head_size() as f32).sqrt(),
            attention_cap: None,
            logit_cap: None,
            prefixes: &["model.", ""],
            head_keys: &["lm_head.weight"],
            sizes,
        }
    }

    /// The targetable layers of a block: suffix, outputs, inputs and whether it has a bias, in the order
    /// of the forward pass.
    fn linears(&self) -> Vec<(&'static str, LinearShape)> {
        let sizes = &self.sizes;
        let (hidden, wide) = (sizes.hidden_size, sizes.intermediate_size);
        let queries = sizes.num_attention_heads * sizes.head_size();
        let keys = sizes.key_heads() * sizes.head_size();
        let layer = |suffix, d_out, d_in, bias| (suffix, LinearShape::new(d_out, d_in).biased(bias));
        let projection = |suffix, d_out| layer(suffix, d_out, hidden, self.projection_bias);
        let feed_forward = |suffix, d_out, d_in| layer(suffix, d_out, d_in, self.feed_forward_bias);
        let mut layers = if self.fused {
            vec![projection(FUSED_ATTENTION, queries + 2 * keys)]
        } else {
            vec![
                projection(QUERY, queries),
                projection(KEY, keys),
                projection(VALUE, keys),
            ]
        };
        layers.push(layer(ATTENTION_OUTPUT, hidden, queries, self.output_bias));
        if self.fused {
            layers.push(feed_forward(FUSED_GATE, 2 * wide, hidden));
        } else {
            layers.push(feed_forward(GATE, wide, hidden));
            layers.push(feed_forward(UP, wide, hidden));
        }
        layers.push(feed_forward(DOWN, hidden, wide));
        layers
    }
}

const QUERY: &str = "self_attn.q_proj";
const KEY: &str = "self_attn.k_proj";
const VALUE: &str = "self_attn.v_proj";
const FUSED_ATTENTION: &str = "self_attn.qkv_proj";
const ATTENTION_OUTPUT: &str = "self_attn.o_proj";
const GATE: &str = "mlp.gate_proj";
const UP: &str = "mlp.up_proj";
const FUSED_GATE: &str = "mlp.gate_up_proj";
const DOWN: &str = "mlp.down_proj";

/// The family over one checkpoint.
struct Decoder {
    settings: Settings,
    architecture: String,
    prefix: &'static str,
    head: Option<LmHead>,
    modules: Vec<Module>,
}

/// The family that `settings` makes of `config`.
///
/// # Errors
/// `model_unsupported` naming an option that all these families share and that is not handled.
pub(super) fn open(config: &Value, checkpoint: &Checkpoint, settings: Settings) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    causal(config)?;
    if settings.layers.iter().any(|layer| layer.window == Some(0)) {
        return Err(invalid(
            "sliding_window is 0; a token that sees none makes no model",
        ));
    }
    let architecture = architecture(config, settings.family);
    let writes = config.get("architectures").is_none() || is_language_model(&architecture);
    let prefix = prefix(checkpoint, "embed_tokens.weight", settings.prefixes);
    let sizes = &settings.sizes;
    let own = settings
        .head_keys
        .iter()
        .find(|key| checkpoint.info(key).is_some());
    // As transformers does: a head in the file counts even where the configuration says that it is tied.
    let head = match own {
        Some(key) => Some((*key).to_owned()),
        None => (sizes.tie_word_embeddings && writes).then(|| format!("{prefix}embed_tokens.weight")),
    };
    let head = head.map(|weight| LmHead {
        weight,
        bias: None,
        vocab_size: sizes.vocab_size,
        hidden_size: sizes.hidden_size,
        scale: 1.0,
        soft_cap: settings.logit_cap,
    });
    let modules = (0..sizes.num_hidden_layers)
        .flat_map(|block| {
            let layers = settings
                .linears()
                .into_iter()
                .map(move |(suffix, shape)| (format!("layers.{block}.{suffix}"), shape.d_out, shape.d_in));
            modules(prefix, block, layers)
        })
        .collect();
    Ok(Box::new(Decoder {
        settings,
        architecture,
        prefix,
        head,
        modules,
    }))
}

/// Options of any decoder in transformers that let a token see what follows it.
fn causal(config: &Value) -> Result<()> {
    for (option, causal) in [("is_causal", true), ("use_bidirectional_attention", false)] {
        if config.get(option).and_then(Value::as_bool) == Some(!causal) {
            return Err(unsupported(&format!(
                "{option} is {}, which is not supported (only {causal})",
                !causal
            )));
        }
    }
    Ok(())
}

#[async_trait(?Send)]
impl Family for Decoder {
    fn facts(&self) -> ModelFacts {
        let sizes = &self.settings.sizes;
        ModelFacts {
            family: self.settings.family.into(),
            kind: Kind::Decoder,
            generates: self.head.is_some(),
            architecture: self.architecture.clone(),
            hidden_size: sizes.hidden_size,
            layers: sizes.num_hidden_layers,
            heads: sizes.num_attention_heads,
            max_length: self.settings.max_length,
            vocab_size: sizes.vocab_size,
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.settings.sizes.num_hidden_layers + 1
    }

    fn pad_id(&self) -> u32 {
        let id = self.settings.sizes.pad_token_id;
        id.and_then(|id| u32::try_from(id).ok()).unwrap_or(0)
    }

    fn names(&self) -> FamilyNames {
        FamilyNames::prefixed(self.settings.prefixes)
    }

    fn readouts(&self) -> &'static [&'static str] {
        &["score", "classifier"]
    }

    fn head(&self) -> Option<LmHead> {
        self.head.clone()
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, _rows: Rows) -> Result<Tensor<2>> {
        let Settings {
            sizes,
            embedding_scale,
            ..
        } = &self.settings;
        let key = format!("{}embed_tokens.weight", self.prefix);
        let ids = &batch.tokens.ids;
        let mut rows = loader
            .rows(&key, sizes.vocab_size, sizes.hidden_size, ids)
            .await?;
        if (embedding_scale - 1.0).abs() > f32::EPSILON {
            rows.iter_mut().for_each(|x| *x *= embedding_scale);
        }
        Ok(loader.compute.tensor(rows, ids.len(), sizes.hidden_size))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let settings = &self.settings;
        let sizes = &settings.sizes;
        let norm = async |name: &str, width| {
            let key = format!("{}{name}", self.prefix);
            loader
                .rms_norm(&key, width, sizes.rms_norm_eps, settings.norm_offset)
                .await
        };
        let Some(kind) = settings.layers.get(block) else {
            let norm = norm("norm", sizes.hidden_size).await?;
            return Ok(Rc::new(FinalNorm(norm)));
        };
        let shapes = settings.linears();
        let linear = async |wanted: &str| {
            let name = format!("layers.{block}.{wanted}");
            let key = format!("{}{name}", self.prefix);
            let Some((_, shape)) = shapes.iter().find(|(suffix, _)| *suffix == wanted) else {
                unreachable!("a layer that these settings do not have")
            };
            loader.linear(name, &key, *shape).await
        };
        let layer_norm =
            async |suffix: &str| norm(&format!("layers.{block}.{suffix}"), sizes.hidden_size).await;
        let head_norm = async |suffix: &str| {
            if !settings.head_norms {
                return Ok(None);
            }
            let name = format!("layers.{block}.self_attn.{suffix}");
            norm(&name, sizes.head_size()).await.map(Some)
        };
        let around = settings.norms == Norms::Around;
        Ok(Rc::new(Layer {
            attention_norm: layer_norm("input_layernorm").await?,
            attention_output_norm: match settings.norms {
                Norms::Around => Some(layer_norm("post_attention_layernorm").await?),
                Norms::Before => None,
            },
            projections: if settings.fused {
                Projections::Fused(linear(FUSED_ATTENTION).await?)
            } else {
                Projections::Apart([linear(QUERY).await?, linear(KEY).await?, linear(VALUE).await?])
            },
            query_norm: head_norm("q_norm").await?,
            key_norm: head_norm("k_norm").await?,
            rotary: Rc::clone(&kind.rotary),
            attention: Attention {
                key_heads: sizes.key_heads(),
                scale: settings.attention_scale,
                sight: Sight {
                    back: kind.window.map_or(usize::MAX, |window| window - 1),
                    ..Sight::CAUSAL
                },
                soft_cap: settings.attention_cap,
                ..Attention::full(sizes.num_attention_heads, sizes.head_size())
            },
            attention_output: linear(ATTENTION_OUTPUT).await?,
            feed_forward_norm: layer_norm(if around {
                "pre_feedforward_layernorm"
            } else {
                "post_attention_layernorm"
            })
            .await?,
            feed_forward_output_norm: match settings.norms {
                Norms::Around => Some(layer_norm("post_feedforward_layernorm").await?),
                Norms::Before => None,
            },
            gates: if settings.fused {
                Gates::Fused(linear(FUSED_GATE).await?)
            } else {
                Gates::Apart([linear(GATE).await?, linear(UP).await?])
            },
            activation: settings.activation,
            down: linear(DOWN).await?,
        }))
    }
}

/// The layers before an attention.
enum Projections {
    /// Queries, keys, values.
    Apart([Projection; 3]),
    /// All three from one layer, one after another.
    Fused(Projection),
}

/// The layers before the activation.
enum Gates {
    /// Gate, up.
    Apart([Projection; 2]),
    /// Both from one layer, one after another.
    Fused(Projection),
}

struct Layer {
    attention_norm: RmsNorm,
    projections: Projections,
    query_norm: Option<RmsNorm>,
    key_norm: Option<RmsNorm>,
    rotary: Rc<Rotary>,
    attention: Attention,
    attention_output: Projection,
    attention_output_norm: Option<RmsNorm>,
    feed_forward_norm: RmsNorm,
    gates: Gates,
    activation: Activation,
    down: Projection,
    feed_forward_output_norm: Option<RmsNorm>,
}

/// The rows of a decoder-only model.
const ROWS: Rows = Rows::Tokens;

impl Layer {
    /// The attention's contribution to the residual, of normed rows.
    async fn attend(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, x: Tensor<2>) -> Result<Tensor<2>> {
        let [query, key, value] = match &self.projections {
            Projections::Apart(layers) => lanes.group(stack, ROWS, layers.each_ref(), x).await?,
            Projections::Fused(layer) => {
                let all = lanes.linear(stack, ROWS, layer, x).await?;
                let queries = self.attention.heads * self.attention.head_size;
                let keys = queries + self.attention.key_columns();
                let end = all.dims()[1];
                [0..queries, queries..keys, keys..end].map(|range| columns(&all, range))
            }
        };
        let place = |x: Tensor<2>, norm: &Option<RmsNorm>| {
            let x = match norm {
                Some(norm) => lanes.compute().rms_norm(x, norm),
                None => x,
            };
            lanes.rotary(stack, ROWS, x, self.attention.head_size, &self.rotary)
        };
        let (query, key) = (place(query, &self.query_norm), place(key, &self.key_norm));
        let name = &self.attention_output.name;
        let context = lanes.attend(stack, ROWS, name, [query, key, value], &self.attention);
        lanes.linear(stack, ROWS, &self.attention_output, context).await
    }

    /// The feed-forward layers' contribution, of normed rows.
    async fn feed_forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, x: Tensor<2>) -> Result<Tensor<2>> {
        let [gate, up] = match &self.gates {
            Gates::Apart(layers) => lanes.group(stack, ROWS, layers.each_ref(), x).await?,
            Gates::Fused(layer) => {
                let both = lanes.linear(stack, ROWS, layer, x).await?;
                let end = both.dims()[1];
                [0..end / 2, end / 2..end].map(|range| columns(&both, range))
            }
        };
        let wide = lanes.compute().gated(self.activation, gate, up);
        lanes.linear(stack, ROWS, &self.down, wide).await
    }
}

/// Some columns of every row.
fn columns(x: &Tensor<2>, range: Range<usize>) -> Tensor<2> {
    let rows = x.dims()[0];
    x.clone().slice([0..rows, range])
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: State) -> Result<State> {
        let compute = lanes.compute();
        let behind = |x: Tensor<2>, norm: &Option<RmsNorm>| match norm {
            Some(norm) => compute.rms_norm(x, norm),
            None => x,
        };
        let x = state.tokens;
        let normed = compute.rms_norm(x.clone(), &self.attention_norm);
        let attended = self.attend(lanes, stack, normed).await?;
        let x = x + behind(attended, &self.attention_output_norm);
        let normed = compute.rms_norm(x.clone(), &self.feed_forward_norm);
        let output = self.feed_forward(lanes, stack, normed).await?;
        let tokens = x + behind(output, &self.feed_forward_output_norm);
        Ok(State { tokens, ..state })
    }

    fn linears(&self) -> Vec<&Projection> {
        let mut linears: Vec<&Projection> = match &self.projections {
            Projections::Apart(layers) => layers.iter().collect(),
            Projections::Fused(layer) => vec![layer],
        };
        linears.push(&self.attention_output);
        match &self.gates {
            Gates::Apart(layers) => linears.extend(layers),
            Gates::Fused(layer) => linears.push(layer),
        }
        linears.push(&self.down);
        linears
    }
}

struct FinalNorm(RmsNorm);

#[async_trait(?Send)]
impl Block for FinalNorm {
    async fn forward(&self, lanes: &Lanes<'_>, _stack: &Stack<'_>, state: State) -> Result<State> {
        let tokens = lanes.compute().rms_norm(state.tokens, &self.0);
        Ok(State { tokens, ..state })
    }

    fn linears(&self) -> Vec<&Projection> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{error::Code, io::MemorySource, model::text::FAMILIES};

    /// The family of a tiny configuration of that type with `changes`, over a file without tensors.
    fn open(model_type: &str, changes: &Value) -> Result<Box<dyn Family>> {
        let mut config = json!({
            "model_type": model_type, "vocab_size": 50, "hidden_size": 16, "intermediate_size": 28,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "head_dim": 4,
        });
        let fields = config.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        if model_type == "gemma3" {
            config = json!({"text_config": config, "tie_word_embeddings": changes["tie_word_embeddings"]});
        }
        let bytes = [&2u64.to_le_bytes()[..], b"{}"].concat();
        let source = Rc::new(MemorySource::new("model.safetensors", bytes));
        let checkpoint = pollster::block_on(Checkpoint::open_source(source)).unwrap();
        let (_, open) = FAMILIES.iter().find(|(name, _)| *name == model_type).unwrap();
        open(&config, &checkpoint)
    }

    const TYPES: [&str; 8] = [
        "gemma2",
        "gemma3",
        "gemma3_text",
        "llama",
        "mistral",
        "phi3",
        "qwen2",
        "qwen3",
    ];

    #[test]
    fn options_that_are_not_handled_are_refused_by_name() {
        let (unsupported, invalid) = (Code::ModelUnsupported, Code::ConfigInvalid);
        let everywhere = [
            (json!({"is_causal": false}), unsupported, "is_causal"),
            (
                json!({"use_bidirectional_attention": true}),
                unsupported,
                "use_bidirectional_attention",
            ),
            (
                json!({"quantization_config": {"quant_method": "gptq"}}),
                unsupported,
                "gptq",
            ),
            (
                json!({"hidden_act": "mish", "hidden_activation": "mish"}),
                unsupported,
                "mish",
            ),
            (
                json!({"num_key_value_heads": 3}),
                invalid,
                "share 3 key and value heads",
            ),
            (json!({"num_hidden_layers": 0}), invalid, "num_hidden_layers"),
            (
                json!({"num_attention_heads": 0, "head_dim": null}),
                invalid,
                "num_attention_heads",
            ),
            (
                json!({"num_attention_heads": 6, "head_dim": null}),
                invalid,
                "make no 6 heads",
            ),
            (json!({"hidden_size": "wide"}), invalid, "hidden_size"),
        ];
        for model_type in TYPES {
            open(model_type, &json!({}))
                .map_err(|error| error.to_string())
                .map(drop)
                .unwrap();
            for (changes, code, named) in &everywhere {
                let error = open(model_type, changes).err().unwrap();
                assert_eq!(error.code(), *code, "{model_type}: {error}");
                assert!(error.to_string().contains(named), "{model_type}: {error}");
            }
        }
        let sliding = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention"]});
        for (model_type, changes, code, named) in [
            ("llama", sliding.clone(), unsupported, "layer_types"),
            ("mistral", sliding.clone(), unsupported, "layer_types"),
            (
                "mistral",
                json!({"attention_bias": true}),
                unsupported,
                "attention_bias",
            ),
            ("mistral", json!({"sliding_window": 0}), invalid, "sliding_window"),
            (
                "phi3",
                json!({"attention_bias": true}),
                unsupported,
                "attention_bias",
            ),
            (
                "phi3",
                json!({"rope_scaling": {"type": "linear", "factor": 2}, "partial_rotary_factor": 2}),
                unsupported,
                "partial_rotary_factor",
            ),
            ("qwen2", json!({"use_mrope": true}), unsupported, "use_mrope"),
            ("qwen2", sliding, invalid, "sliding_window is null"),
            (
                "qwen3",
                json!({"layer_types": ["chunked_attention", "", ""]}),
                unsupported,
                "chunked_attention",
            ),
            (
                "qwen3",
                json!({"layer_types": ["full_attention"]}),
                invalid,
                "1 entries for 3 layers",
            ),
            (
                "gemma2",
                json!({"query_pre_attn_scalar": 0}),
                invalid,
                "query_pre_attn_scalar",
            ),
            (
                "gemma2",
                json!({"final_logit_softcapping": 0}),
                invalid,
                "final_logit_softcapping",
            ),
            (
                "gemma3",
                json!({"attn_logit_softcapping": 50}),
                unsupported,
                "attn_logit_softcapping",
            ),
            (
                "gemma3_text",
                json!({"sliding_window_pattern": 0}),
                invalid,
                "sliding_window_pattern",
            ),
        ] {
            let error = open(model_type, &changes).err().unwrap();
            assert_eq!(error.code(), code, "{model_type}: {error}");
            assert!(error.to_string().contains(named), "{model_type}: {error}");
        }
    }

    #[test]
    fn a_head_is_tied_only_to_a_language_model() {
        let tied = json!({"tie_word_embeddings": true});
        let classifier =
            json!({"tie_word_embeddings": true, "architectures": ["LlamaForSequenceClassification"]});
        let untied = json!({"tie_word_embeddings": false, "architectures": ["LlamaForCausalLM"]});
        for model_type in TYPES {
            assert!(open(model_type, &tied).unwrap().head().is_some(), "{model_type}");
            assert!(
                open(model_type, &untied).unwrap().head().is_none(),
                "{model_type}"
            );
        }
        assert!(open("llama", &classifier).unwrap().head().is_none());
    }

    #[test]
    fn names_are_without_the_prefix_of_any_class() {
        let names = |model_type: &str| -> Vec<String> {
            let family = open(model_type, &json!({})).unwrap();
            family
                .modules()
                .iter()
                .map(|module| module.name.clone())
                .take(7)
                .collect()
        };
        let llama = [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ];
        for (found, leaf) in names("llama").iter().zip(llama) {
            assert!(found.starts_with("layers.0.") && found.ends_with(leaf), "{found}");
        }
        let phi = [
            "qkv_proj",
            "o_proj",
            "gate_up_proj",
            "down_proj",
            "qkv_proj",
            "o_proj",
            "gate_up_proj",
        ];
        for (found, leaf) in names("phi3").iter().zip(phi) {
            assert!(found.ends_with(leaf), "{found}");
        }
        let gemma = open("gemma3", &json!({})).unwrap();
        for path in [
            "layers.1.mlp.up_proj",
            "model.layers.1.mlp.up_proj",
            "language_model.layers.1.mlp.up_proj",
            "language_model.model.layers.1.mlp.up_proj",
            "model.language_model.layers.1.mlp.up_proj",
        ] {
            assert_eq!(gemma.canonical(path), "layers.1.mlp.up_proj");
        }
    }
}
