//! BART: an encoder-decoder with learned positions and layer normalisation after each part.
//!
//! Positions begin at row 2 of their table. The head is the embedding table of both halves, with a bias of
//! its own where the checkpoint was saved with its head; bart-base and bart-large were not, and have no
//! `model.` prefix either.
//! Reference: transformers, `models/bart/modeling_bart.py`.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::{Activation, Attention, LayerNorm, Sight},
    error::{Error, Result},
    io::Checkpoint,
    model::{
        batch::{Batch, Stack},
        config::{activation, invalid, only, parse, positive, unquantised, with_defaults},
        family::{Block, Family, Heads, Kind, ModelFacts, Module},
        lanes::Lanes,
        lm_head::LmHead,
        load::{LinearShape, Loader},
        multi_head::{self, MultiHead, Names, Widths},
        parts::{modules, prefix},
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
    vocab_size: usize,
    max_position_embeddings: usize,
    d_model: usize,
    encoder_layers: usize,
    encoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    decoder_layers: usize,
    decoder_attention_heads: usize,
    decoder_ffn_dim: usize,
    activation_function: String,
    scale_embedding: bool,
    pad_token_id: Option<u32>,
}

/// The defaults of transformers' configuration class.
fn defaults() -> Value {
    json!({
        "vocab_size": 50265,
        "max_position_embeddings": 1024,
        "d_model": 1024,
        "encoder_layers": 12,
        "encoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "decoder_layers": 12,
        "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096,
        "activation_function": "gelu",
        "scale_embedding": false,
    })
}

/// What transformers adds to positions, for the two rows that fairseq kept for padding.
const POSITION_OFFSET: u32 = 2;
/// PyTorch's default, which no option changes.
const EPSILON: f32 = 1e-5;
const PREFIX: &str = "model.";
/// The layers of an attention.
const ATTENTION: Names = ["q_proj", "k_proj", "v_proj", "out_proj"];

/// The family over one checkpoint.
struct Bart {
    config: Config,
    architecture: String,
    activation: Activation,
    prefix: &'static str,
    head: LmHead,
    modules: Vec<Module>,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    let architecture = whole_model(config, "BartForConditionalGeneration")?;
    let config = Config::read(config)?;
    let prefix = prefix(checkpoint, "decoder.layernorm_embedding.weight", &[PREFIX, ""]);
    Ok(Box::new(Bart {
        head: head(&config, checkpoint, prefix),
        modules: config.modules(prefix),
        activation: activation("activation_function", &config.activation_function)?,
        architecture,
        prefix,
        config,
    }))
}

/// Options of early versions, for models that became families of their own (mBART, Pegasus, Blenderbot).
fn early_options(config: &Value) -> Result<()> {
    let accepted = [
        ("normalize_before", Value::from(false)),
        ("normalize_embedding", true.into()),
        ("add_final_layer_norm", false.into()),
        ("add_bias_logits", false.into()),
        ("static_position_embeddings", false.into()),
        ("extra_pos_embeddings", POSITION_OFFSET.into()),
    ];
    accepted
        .into_iter()
        .try_for_each(|(option, value)| only(config, option, &[value]))
}

/// The head: the checkpoint's own, or the decoder's embedding table; with the bias, where there is one.
fn head(config: &Config, checkpoint: &Checkpoint, prefix: &str) -> LmHead {
    let has = |key: &str| checkpoint.info(key).is_some();
    let (own, bias) = ("lm_head.weight", "final_logits_bias");
    LmHead {
        weight: if has(own) {
            own.to_owned()
        } else {
            embedding(checkpoint, prefix, Half::Decoder)
        },
        bias: has(bias).then(|| bias.to_owned()),
        vocab_size: config.vocab_size,
        hidden_size: config.d_model,
        scale: 1.0,
        soft_cap: None,
    }
}

const TO_ITSELF: &str = "self_attn";
const TO_ENCODER: &str = "encoder_attn";

/// The attentions of a layer.
const fn attentions(half: Half) -> &'static [&'static str] {
    match half {
        Half::Encoder => &[TO_ITSELF],
        Half::Decoder => &[TO_ITSELF, TO_ENCODER],
    }
}

impl Config {
    fn read(config: &Value) -> Result<Self> {
        early_options(config)?;
        unquantised(config)?;
        let config: Self = parse(&with_defaults(config, defaults()))?;
        let width = config.d_model;
        positive(&[
            ("vocab_size", config.vocab_size),
            ("max_position_embeddings", config.max_position_embeddings),
            ("d_model", width),
            ("encoder_layers", config.encoder_layers),
            ("encoder_attention_heads", config.encoder_attention_heads),
            ("encoder_ffn_dim", config.encoder_ffn_dim),
            ("decoder_layers", config.decoder_layers),
            ("decoder_attention_heads", config.decoder_attention_heads),
            ("decoder_ffn_dim", config.decoder_ffn_dim),
        ])?;
        for half in Half::BOTH {
            let heads = config.heads(half);
            if !width.is_multiple_of(heads) {
                return Err(invalid(&format!(
                    "d_model {width} is no multiple of {}_attention_heads {heads}",
                    half.name()
                )));
            }
        }
        Ok(config)
    }

    const fn heads(&self, half: Half) -> usize {
        match half {
            Half::Encoder => self.encoder_attention_heads,
            Half::Decoder => self.decoder_attention_heads,
        }
    }

    /// The width between the two layers of a feed-forward.
    const fn wide(&self, half: Half) -> usize {
        match half {
            Half::Encoder => self.encoder_ffn_dim,
            Half::Decoder => self.decoder_ffn_dim,
        }
    }

    const fn blocks(&self) -> usize {
        self.encoder_layers + self.decoder_layers
    }

    /// The half, and the path, of the layer that a block is.
    fn layer(&self, block: usize) -> (Half, String) {
        let (half, layer) = if block < self.encoder_layers {
            (Half::Encoder, block)
        } else {
            (Half::Decoder, block - self.encoder_layers)
        };
        (half, format!("{}.layers.{layer}", half.name()))
    }

    fn modules(&self, prefix: &str) -> Vec<Module> {
        let width = self.d_model;
        let of_block = |block| {
            let (half, path) = self.layer(block);
            let wide = self.wide(half);
            let mut layers: Vec<(String, usize, usize)> = attentions(half)
                .iter()
                .flat_map(|name| {
                    multi_head::layers(&format!("{path}.{name}"), ATTENTION, Widths::alike(width), width)
                })
                .collect();
            layers.push((format!("{path}.fc1"), wide, width));
            layers.push((format!("{path}.fc2"), width, wide));
            modules(prefix, block, layers)
        };
        (0..self.blocks()).flat_map(of_block).collect()
    }
}

#[async_trait(?Send)]
impl Family for Bart {
    fn facts(&self) -> ModelFacts {
        let config = &self.config;
        ModelFacts {
            family: "bart".into(),
            kind: Kind::EncoderDecoder,
            generates: true,
            architecture: self.architecture.clone(),
            hidden_size: config.d_model,
            layers: config.blocks(),
            heads: config.encoder_attention_heads,
            max_length: config.max_position_embeddings,
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
        self.config.encoder_layers
    }

    fn pad_id(&self) -> u32 {
        self.config.pad_token_id.unwrap_or(1)
    }

    fn names(&self) -> FamilyNames {
        FamilyNames::prefixed(&[PREFIX])
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
        let config = &self.config;
        let (half, side) = (Half::of_stream(stream), batch.stream(stream));
        let width = config.d_model;
        let path = format!("{}{}", self.prefix, half.name());
        let table = embedding(loader.checkpoint, self.prefix, half);
        let mut sum = loader.rows(&table, config.vocab_size, width, &side.ids).await?;
        if config.scale_embedding {
            let scale = (width as f32).sqrt();
            sum.iter_mut().for_each(|x| *x *= scale);
        }
        let at: Vec<u32> = side.positions.iter().map(|at| at + POSITION_OFFSET).collect();
        let positions = format!("{path}.embed_positions.weight");
        let size = config.max_position_embeddings + POSITION_OFFSET as usize;
        let positions = loader.rows(&positions, size, width, &at).await?;
        sum.iter_mut()
            .zip(positions)
            .for_each(|(x, position)| *x += position);
        let norm = loader
            .layer_norm(&format!("{path}.layernorm_embedding"), width, EPSILON)
            .await?;
        let embedded = loader.compute.tensor(sum, side.ids.len(), width);
        Ok(loader.compute.layer_norm(embedded, &norm))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let (width, (half, path)) = (self.config.d_model, self.config.layer(block));
        let norm = async |name: &str| {
            let key = format!("{}{path}.{name}_layer_norm", self.prefix);
            loader.layer_norm(&key, width, EPSILON).await
        };
        let linear = async |name: &str, d_out, d_in| {
            let name = format!("{path}.{name}");
            let key = format!("{}{name}", self.prefix);
            loader
                .linear(name, &key, LinearShape::new(d_out, d_in).biased(true))
                .await
        };
        let heads = self.config.heads(half);
        let attention = async |name: &str, sight| {
            let how = Attention {
                sight,
                ..Attention::full(heads, width / heads)
            };
            let path = format!("{path}.{name}");
            let layers = MultiHead::read(
                loader,
                (self.prefix, &path),
                ATTENTION,
                (Widths::alike(width), true),
                how,
            )
            .await?;
            Ok::<_, Error>((layers, norm(name).await?))
        };
        let wide = self.config.wide(half);
        Ok(Rc::new(Layer {
            half,
            to_itself: attention(TO_ITSELF, half.sight()).await?,
            to_encoder: match half {
                Half::Encoder => None,
                Half::Decoder => Some(attention(TO_ENCODER, Sight::FULL).await?),
            },
            widen: linear("fc1", wide, width).await?,
            activation: self.activation,
            narrow: linear("fc2", width, wide).await?,
            norm: norm("final").await?,
        }))
    }
}

/// A layer of either half; every part's sum with what it read is normalised.
struct Layer {
    half: Half,
    to_itself: (MultiHead, LayerNorm),
    to_encoder: Option<(MultiHead, LayerNorm)>,
    widen: Projection,
    activation: Activation,
    narrow: Projection,
    norm: LayerNorm,
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        let stream = self.half.stream();
        let mut x = self.half.take(&mut state)?;
        let (attention, norm) = &self.to_itself;
        let attended = attention.to_itself(lanes, stack, stream, x.clone()).await?;
        x = compute.layer_norm(x + attended, norm);
        if let Some((attention, norm)) = &self.to_encoder {
            let attended = attention
                .to_other(lanes, stack, [DECODER, TEXT], x.clone(), &state.rows(TEXT)?)
                .await?;
            x = compute.layer_norm(x + attended, norm);
        }
        let wide = lanes.linear(stack, stream, &self.widen, x.clone()).await?;
        let wide = compute.activation(self.activation, wide);
        let output = lanes.linear(stack, stream, &self.narrow, wide).await?;
        x = compute.layer_norm(x + output, &self.norm);
        Ok(state.with(self.half.stream(), x))
    }

    fn linears(&self) -> Vec<&Projection> {
        let attentions = [Some(&self.to_itself), self.to_encoder.as_ref()];
        let mut linears: Vec<&Projection> = attentions
            .into_iter()
            .flatten()
            .flat_map(|(attention, _)| attention.linears())
            .collect();
        linears.extend([&self.widen, &self.narrow]);
        linears
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn options_that_are_not_handled_are_refused_by_name() {
        // What facebook/bart-large-cnn says.
        let plain = json!({
            "normalize_before": false, "normalize_embedding": true, "add_final_layer_norm": false,
            "add_bias_logits": false, "static_position_embeddings": false, "extra_pos_embeddings": 2,
        });
        assert!(Config::read(&plain).is_ok());
        for (option, value) in [
            ("normalize_before", json!(true)),
            ("normalize_embedding", json!(false)),
            ("add_final_layer_norm", json!(true)),
            ("add_bias_logits", json!(true)),
            ("static_position_embeddings", json!(true)),
            ("extra_pos_embeddings", json!(0)),
            ("quantization_config", json!({"quant_method": "gptq"})),
        ] {
            let error = Config::read(&json!({ option: value })).err().unwrap();
            assert_eq!(error.code(), Code::ModelUnsupported);
            assert!(error.to_string().contains(option), "{error}");
        }
    }

    #[test]
    fn heads_divide_the_width_in_both_halves() {
        for option in ["encoder_attention_heads", "decoder_attention_heads"] {
            let error = Config::read(&json!({ option: 3 })).err().unwrap();
            assert_eq!(error.code(), Code::ConfigInvalid);
            assert!(error.to_string().contains(&format!("{option} 3")), "{error}");
        }
    }
}
