//! T5, its version 1.1 (Flan-T5 among them) and mT5: encoder-decoders with relative positions.
//!
//! Scores are not scaled, a bias by the distance of two tokens is added to them instead; every stack has
//! one table of it, in its first layer. Normalisation is of the root mean square, before each part of a
//! layer, and no linear layer has a bias. What tells the versions apart is in `config.json` (activation,
//! gating, the head's scaling) and in the checkpoint (a head of its own).
//! Reference: transformers, `models/t5/modeling_t5.py` and `models/mt5/modeling_mt5.py`.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::{Activation, Attention, DistanceBias, RmsNorm, narrow},
    error::{Error, Result},
    io::Checkpoint,
    model::{
        batch::{Batch, Stack},
        config::{activation, invalid, parse, positive, unquantised, with_defaults},
        family::{Block, Family, Heads, Kind, ModelFacts, Module},
        lanes::Lanes,
        lm_head::LmHead,
        load::{LinearShape, Loader},
        multi_head::{self, MultiHead, Names, Widths},
        parts::modules,
        projection::Projection,
        state::State,
        streams::{Stream, StreamId},
        text::{
            DECODER, ENCODER_DECODER_STREAMS, TEXT,
            encoder_decoder::{Half, embedding, whole_model},
        },
    },
    naming::family::FamilyNames,
};

/// The parts of `config.json` that the forward pass depends on.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_heads: usize,
    num_layers: usize,
    /// As many as the encoder has, if it says nothing.
    num_decoder_layers: Option<usize>,
    relative_attention_num_buckets: usize,
    relative_attention_max_distance: usize,
    layer_norm_epsilon: f32,
    feed_forward_proj: String,
    /// Written beside `feed_forward_proj` by transformers since 4.21; where they disagree, these count.
    dense_act_fn: Option<String>,
    is_gated_act: Option<bool>,
    tie_word_embeddings: Option<bool>,
    /// What transformers 5 writes of the checkpoint's `tie_word_embeddings`.
    scale_decoder_outputs: Option<bool>,
    /// Tokens it was trained with; positions are relative, so that longer texts work too.
    n_positions: usize,
    pad_token_id: Option<u32>,
}

/// The defaults of transformers' configuration class.
fn defaults(config: &Value) -> Value {
    let mut defaults = json!({
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_heads": 8,
        "num_layers": 6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "n_positions": 512,
    });
    if config.get("model_type").and_then(Value::as_str) == Some("mt5") {
        let of_mt5 = json!({
            "vocab_size": 250_112,
            "d_ff": 1024,
            "num_heads": 6,
            "num_layers": 8,
            "feed_forward_proj": "gated-gelu",
        });
        defaults = with_defaults(&of_mt5, defaults);
    }
    defaults
}

/// The family over one checkpoint.
struct T5 {
    config: Config,
    architecture: String,
    activation: Activation,
    gated: bool,
    head: LmHead,
    /// Keys of the embedding tables, of the encoder and of the decoder.
    embeddings: [String; 2],
    modules: Vec<Module>,
}

/// The layers of an attention.
const ATTENTION: Names = ["q", "k", "v", "o"];

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let architecture = whole_model(config, "T5ForConditionalGeneration")?;
    let config = Config::read(config)?;
    let (activation, gated) = config.feed_forward()?;
    let embeddings = Half::BOTH.map(|half| embedding(checkpoint, "", half));
    Ok(Box::new(T5 {
        head: head(&config, checkpoint, &embeddings[1]),
        modules: config.modules(gated),
        architecture,
        activation,
        gated,
        embeddings,
        config,
    }))
}

/// The head: the checkpoint's own, or the decoder's embedding table.
fn head(config: &Config, checkpoint: &Checkpoint, embedding: &str) -> LmHead {
    let own = "lm_head.weight";
    let has_own = checkpoint.info(own).is_some();
    // mT5's official configurations say that the embeddings are not tied, and its heads are never scaled.
    let scaled = config.model_type != "mt5"
        && config
            .scale_decoder_outputs
            .unwrap_or(config.tie_word_embeddings != Some(false));
    LmHead {
        weight: if has_own { own } else { embedding }.to_owned(),
        bias: None,
        vocab_size: config.vocab_size,
        hidden_size: config.d_model,
        scale: if scaled {
            1.0 / (config.d_model as f32).sqrt()
        } else {
            1.0
        },
        soft_cap: None,
    }
}

/// The attentions of a layer.
const fn attentions(half: Half) -> &'static [&'static str] {
    match half {
        Half::Encoder => &["SelfAttention"],
        Half::Decoder => &["SelfAttention", "EncDecAttention"],
    }
}

/// The path of one part of a layer: one of its attentions, or the feed-forward behind them.
fn part(half: Half, layer: usize, part: usize) -> String {
    let name = attentions(half).get(part).unwrap_or(&"DenseReluDense");
    format!("{}.block.{layer}.layer.{part}.{name}", half.name())
}

impl Config {
    fn read(config: &Value) -> Result<Self> {
        unquantised(config)?;
        let config: Self = parse(&with_defaults(config, defaults(config)))?;
        positive(&[
            ("vocab_size", config.vocab_size),
            ("d_model", config.d_model),
            ("d_kv", config.d_kv),
            ("d_ff", config.d_ff),
            ("num_heads", config.num_heads),
            ("num_layers", config.num_layers),
            ("num_decoder_layers", config.decoder_layers()),
        ])?;
        let (buckets, distance) = (
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        );
        // Below, a bucket's logarithm would be of zero, or divided by one that is not positive.
        if buckets < 4 || distance <= buckets / 2 {
            return Err(invalid(&format!(
                "relative_attention_num_buckets {buckets} with relative_attention_max_distance {distance} makes no buckets"
            )));
        }
        Ok(config)
    }

    /// Which activation the feed-forward layers have, and whether it gates.
    fn feed_forward(&self) -> Result<(Activation, bool)> {
        let option = self.feed_forward_proj.as_str();
        let (gated, name) = match option.split_once('-') {
            // The one that has no name of its own in version 1.1's configurations.
            Some(("gated", "gelu")) => (true, "gelu_new"),
            Some(("gated", name)) => (true, name),
            _ => (false, option),
        };
        let activation = match &self.dense_act_fn {
            Some(name) => activation("dense_act_fn", name)?,
            None => activation("feed_forward_proj", name)?,
        };
        Ok((activation, self.is_gated_act.unwrap_or(gated)))
    }

    fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// The layer, and of which stack, that a block is; `None` for a stack's final normalisation.
    fn layer(&self, block: usize) -> (Half, Option<usize>) {
        let (half, layer, layers) = if block <= self.num_layers {
            (Half::Encoder, block, self.num_layers)
        } else {
            (Half::Decoder, block - self.num_layers - 1, self.decoder_layers())
        };
        (half, (layer < layers).then_some(layer))
    }

    fn blocks(&self) -> usize {
        self.num_layers + 1 + self.decoder_layers() + 1
    }

    fn modules(&self, gated: bool) -> Vec<Module> {
        let of_layer = |half: Half, layer: usize| {
            let width = self.d_model;
            let attentions = attentions(half).len();
            let mut layers: Vec<(String, usize, usize)> = (0..attentions)
                .flat_map(|at| {
                    let path = part(half, layer, at);
                    multi_head::layers(&path, ATTENTION, Widths::alike(width), self.num_heads * self.d_kv)
                })
                .collect();
            let path = part(half, layer, attentions);
            let widen = widening(gated).iter();
            layers.extend(widen.map(|name| (format!("{path}.{name}"), self.d_ff, width)));
            layers.push((format!("{path}.wo"), width, self.d_ff));
            layers
        };
        (0..self.blocks())
            .filter_map(|block| {
                let (half, layer) = self.layer(block);
                Some(modules("", block, of_layer(half, layer?)))
            })
            .flatten()
            .collect()
    }
}

/// The layers of a feed-forward that widen: with a gate, the one behind the activation and the other.
const fn widening(gated: bool) -> &'static [&'static str] {
    if gated { &["wi_0", "wi_1"] } else { &["wi"] }
}

#[async_trait(?Send)]
impl Family for T5 {
    fn facts(&self) -> ModelFacts {
        let config = &self.config;
        ModelFacts {
            family: config.model_type.clone(),
            kind: Kind::EncoderDecoder,
            generates: true,
            architecture: self.architecture.clone(),
            hidden_size: config.d_model,
            layers: config.num_layers + config.decoder_layers(),
            heads: config.num_heads,
            max_length: config.n_positions,
            vocab_size: config.vocab_size,
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.config.blocks()
    }

    fn encoder_blocks(&self) -> usize {
        self.config.num_layers + 1
    }

    fn pad_id(&self) -> u32 {
        self.config.pad_token_id.unwrap_or(0)
    }

    fn names(&self) -> FamilyNames {
        FamilyNames::prefixed(&[])
    }

    fn readouts(&self) -> &'static [&'static str] {
        &["classification_head", "qa_outputs"]
    }

    fn head(&self) -> Option<LmHead> {
        Some(self.head.clone())
    }

    fn streams(&self) -> &[Stream] {
        ENCODER_DECODER_STREAMS
    }

    fn output(&self) -> StreamId {
        DECODER
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, stream: StreamId) -> Result<Tensor<2>> {
        let [encoder, decoder] = &self.embeddings;
        let key = match Half::of_stream(stream) {
            Half::Encoder => encoder,
            Half::Decoder => decoder,
        };
        let ids = &batch.stream(stream).ids;
        let (vocabulary, width) = (self.config.vocab_size, self.config.d_model);
        let data = loader.rows(key, vocabulary, width, ids).await?;
        Ok(loader.compute.tensor(data, ids.len(), width))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let (half, layer) = self.config.layer(block);
        let norm = async |key: String| {
            let (width, epsilon) = (self.config.d_model, self.config.layer_norm_epsilon);
            loader.rms_norm(&key, width, epsilon, 0.0).await
        };
        let Some(layer) = layer else {
            let norm = norm(format!("{}.final_layer_norm", half.name())).await?;
            return Ok(Rc::new(FinalNorm { half, norm }));
        };
        let before = |at: usize| norm(format!("{}.block.{layer}.layer.{at}.layer_norm", half.name()));
        let attention = async |at, how| {
            let path = part(half, layer, at);
            let shape = (Widths::alike(self.config.d_model), false);
            let heads = MultiHead::read(loader, ("", &path), ATTENTION, shape, how).await?;
            Ok::<_, Error>((before(at).await?, heads))
        };
        let to_itself = attention(0, self.self_attention(loader, half).await?).await?;
        let to_encoder = match half {
            Half::Encoder => None,
            Half::Decoder => Some(attention(1, self.attention()).await?),
        };
        let last = attentions(half).len();
        Ok(Rc::new(Layer {
            half,
            to_itself,
            to_encoder,
            feed_forward_norm: before(last).await?,
            feed_forward: self.feed_forward(loader, &part(half, layer, last)).await?,
        }))
    }
}

impl T5 {
    fn attention(&self) -> Attention {
        Attention {
            scale: 1.0,
            ..Attention::full(self.config.num_heads, self.config.d_kv)
        }
    }

    /// A stack's self-attention, with the stack's bias.
    async fn self_attention(&self, loader: &Loader<'_>, half: Half) -> Result<Attention> {
        let (buckets, most) = (
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
        );
        let key = format!("{}.relative_attention_bias.weight", part(half, 0, 0));
        let table = loader.parameter(&key, &[buckets, self.config.num_heads]).await?;
        Ok(Attention {
            sight: half.sight(),
            bias: Some(Rc::new(DistanceBias {
                table,
                bucket: Box::new(move |distance| bucket(distance, half, buckets, most)),
            })),
            ..self.attention()
        })
    }

    async fn feed_forward(&self, loader: &Loader<'_>, path: &str) -> Result<FeedForward> {
        let (width, wide) = (self.config.d_model, self.config.d_ff);
        let linear = async |name: &str, d_out, d_in| {
            let path = format!("{path}.{name}");
            let key = path.clone();
            loader.linear(path, &key, LinearShape::new(d_out, d_in)).await
        };
        let names = widening(self.gated);
        Ok(FeedForward {
            activated: linear(names[0], wide, width).await?,
            gated: match names.get(1) {
                Some(name) => Some(linear(name, wide, width).await?),
                None => None,
            },
            output: linear("wo", width, wide).await?,
            activation: self.activation,
        })
    }
}

/// The bucket of `distance` (key position - query position): half of a half's buckets are for one
/// distance each, the others for ranges that grow by a factor up to `most`, the last for all beyond. An
/// encoder has as many for tokens ahead as for tokens behind; in a decoder there are none ahead.
fn bucket(distance: isize, half: Half, buckets: usize, most: usize) -> usize {
    let (first, buckets) = match half {
        Half::Encoder if distance > 0 => (buckets / 2, buckets / 2),
        Half::Encoder => (0, buckets / 2),
        Half::Decoder => (0, buckets),
    };
    let distance = match half {
        Half::Encoder => distance.unsigned_abs(),
        Half::Decoder => distance.min(0).unsigned_abs(),
    };
    let exact = buckets / 2;
    if distance < exact {
        return first + distance;
    }
    // In f32, as transformers computes it: at the ranges' borders a rounding decides.
    let ratio = distance as f32 / exact as f32;
    let range = narrow(f64::from(ratio).ln()) / narrow((most as f64 / exact as f64).ln());
    let range = range * (buckets - exact) as f32;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the whole part of a small positive number is meant"
    )]
    let range = range as usize;
    first + (exact + range).min(buckets - 1)
}

/// A layer of either stack; every part works on a normalised copy of what it is added to.
struct Layer {
    half: Half,
    to_itself: (RmsNorm, MultiHead),
    to_encoder: Option<(RmsNorm, MultiHead)>,
    feed_forward_norm: RmsNorm,
    feed_forward: FeedForward,
}

/// `wo(act(wi(x)))`, or with a gate `wo(act(wi_0(x)) * wi_1(x))`.
struct FeedForward {
    activated: Projection,
    gated: Option<Projection>,
    output: Projection,
    activation: Activation,
}

impl FeedForward {
    async fn forward(
        &self,
        lanes: &Lanes<'_>,
        stack: &Stack<'_>,
        stream: StreamId,
        x: Tensor<2>,
    ) -> Result<Tensor<2>> {
        let compute = lanes.compute();
        let wide = match &self.gated {
            None => {
                let wide = lanes.linear(stack, stream, &self.activated, x).await?;
                compute.activation(self.activation, wide)
            }
            Some(gated) => {
                let [wide, gated] = lanes.group(stack, stream, [&self.activated, gated], x).await?;
                compute.gated(self.activation, wide, gated)
            }
        };
        lanes.linear(stack, stream, &self.output, wide).await
    }
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        let stream = self.half.stream();
        let mut x = self.half.take(&mut state)?;
        let (norm, attention) = &self.to_itself;
        let normed = compute.rms_norm(x.clone(), norm);
        x = x + attention.to_itself(lanes, stack, stream, normed).await?;
        if let Some((norm, attention)) = &self.to_encoder {
            let normed = compute.rms_norm(x.clone(), norm);
            x = x + attention
                .to_other(lanes, stack, [DECODER, TEXT], normed, &state.rows(TEXT)?)
                .await?;
        }
        let normed = compute.rms_norm(x.clone(), &self.feed_forward_norm);
        x = x + self.feed_forward.forward(lanes, stack, stream, normed).await?;
        Ok(state.with(self.half.stream(), x))
    }

    fn linears(&self) -> Vec<&Projection> {
        let attentions = [Some(&self.to_itself), self.to_encoder.as_ref()];
        let mut linears: Vec<&Projection> = attentions
            .into_iter()
            .flatten()
            .flat_map(|(_, attention)| attention.linears())
            .collect();
        linears.push(&self.feed_forward.activated);
        linears.extend(&self.feed_forward.gated);
        linears.push(&self.feed_forward.output);
        linears
    }
}

/// The normalisation behind a stack's last layer.
struct FinalNorm {
    half: Half,
    norm: RmsNorm,
}

#[async_trait(?Send)]
impl Block for FinalNorm {
    async fn forward(&self, lanes: &Lanes<'_>, _stack: &Stack<'_>, mut state: State) -> Result<State> {
        let x = lanes.compute().rms_norm(self.half.take(&mut state)?, &self.norm);
        Ok(state.with(self.half.stream(), x))
    }

    fn linears(&self) -> Vec<&Projection> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn feed_forward_of(config: &Value) -> Result<(Activation, bool)> {
        Config::read(config)?.feed_forward()
    }

    #[test]
    fn buckets_begin_where_those_of_transformers_do() {
        let first = |half, buckets, most| {
            let of = |distance: isize| bucket(-distance, half, buckets, most);
            let starts = (0..200).filter(|&at| at == 0 || of(at) != of(at - 1));
            starts.collect::<Vec<isize>>()
        };
        // From transformers' `T5Attention._relative_position_bucket`.
        assert_eq!(
            first(Half::Encoder, 32, 128),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
        );
        assert_eq!(
            first(Half::Decoder, 32, 128),
            [
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24, 27, 31, 35, 40, 46, 52,
                59, 67, 77, 87, 99, 113
            ]
        );
        assert_eq!(first(Half::Encoder, 8, 12), [0, 1, 2, 5]);
        assert_eq!(first(Half::Decoder, 8, 12), [0, 1, 2, 3, 4, 6, 7, 10]);
        let all = |half, distances: [isize; 6]| distances.map(|distance| bucket(distance, half, 32, 128));
        assert_eq!(all(Half::Encoder, [-3, -1, 0, 1, 3, 200]), [3, 1, 0, 17, 19, 31]);
        assert_eq!(all(Half::Decoder, [-500, -3, -1, 0, 1, 3]), [31, 3, 1, 0, 0, 0]);
    }

    #[test]
    fn the_activation_is_that_of_the_version() {
        let cases = [
            (json!({}), (Activation::Relu, false)),
            (json!({"model_type": "mt5"}), (Activation::GeluTanh, true)),
            (
                json!({"feed_forward_proj": "gated-gelu"}),
                (Activation::GeluTanh, true),
            ),
            (
                json!({"feed_forward_proj": "gated-silu"}),
                (Activation::Silu, true),
            ),
            (json!({"feed_forward_proj": "gelu"}), (Activation::Gelu, false)),
            (
                json!({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}),
                (Activation::Gelu, true),
            ),
        ];
        for (config, expected) in cases {
            assert_eq!(feed_forward_of(&config).unwrap(), expected, "{config}");
        }
    }

    #[test]
    fn configurations_that_make_no_model_are_refused_by_name() {
        let cases = [
            (
                json!({"feed_forward_proj": "swish-glu"}),
                Code::ModelUnsupported,
                "feed_forward_proj",
            ),
            (
                json!({"feed_forward_proj": "gated-mish"}),
                Code::ModelUnsupported,
                "mish",
            ),
            (json!({"d_kv": 0}), Code::ConfigInvalid, "d_kv"),
            (
                json!({"num_decoder_layers": 0}),
                Code::ConfigInvalid,
                "num_decoder_layers",
            ),
            (
                json!({"relative_attention_max_distance": 16}),
                Code::ConfigInvalid,
                "relative_attention_max_distance 16",
            ),
        ];
        for (config, code, name) in cases {
            let error = feed_forward_of(&config).unwrap_err();
            assert_eq!(error.code(), code, "{config}");
            assert!(error.to_string().contains(name), "{error}");
        }
        for (config, name) in [
            (json!({"architectures": ["T5EncoderModel"]}), "T5EncoderModel"),
            (
                json!({"architectures": ["T5ForSequenceClassification"]}),
                "T5ForSequenceClassification",
            ),
            (json!({"is_encoder_decoder": false}), "is_encoder_decoder"),
        ] {
            let error = whole_model(&config, "T5ForConditionalGeneration").unwrap_err();
            assert_eq!(error.code(), Code::ModelUnsupported);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
