//! BLIP for captions (Li et al., ICML 2022): a vision transformer, and a BERT that attends to it and writes what is to be
//! seen.
//!
//! The decoder reads a token of its own, `[DEC]`, where a tokenizer would put `[CLS]`, and ends with `[SEP]`. Its head is
//! the embedding table behind one more dense layer.
//! Reference: transformers, `models/blip/modeling_blip.py` and `modeling_blip_text.py`.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::{Activation, Attention, LayerNorm, Sight},
    error::{Code, Error, Result},
    io::Checkpoint,
    model::{
        batch::{Batch, Stack},
        config::{
            activation, architecture, invalid, only, parse, positive, unquantised, unsupported, with_defaults,
        },
        family::{Block, Family, Heads, Kind, ModelFacts, Module},
        generation::GenerationConfig,
        lanes::Lanes,
        lm_head::LmHead,
        load::{LinearShape, Loader},
        multi_head::{self, MultiHead, Widths},
        parts::{Spelling, modules},
        projection::Projection,
        state::State,
        streams::{Stream, StreamId},
        vision::{
            pictures::{self, Pictures, Sides},
            tower::{self, FeedForward, QueryKeyValue, Sizes, Tower},
        },
    },
    naming::family::FamilyNames,
};

/// The picture, a row a pixel.
const PIXELS: StreamId = StreamId::new(0);
/// Its pictures have colours; no option changes that.
const CHANNELS: usize = 3;
/// What the decoder reads.
const DECODER: StreamId = StreamId::new(1);
/// A row a patch.
const PATCHES: StreamId = StreamId::new(2);
/// The class token and the patches.
const IMAGE: StreamId = StreamId::new(3);

/// The layers of an attention of the decoder.
const ATTENTION: multi_head::Names = ["self.query", "self.key", "self.value", "output.dense"];
const TO_ITSELF: &str = "attention";
const TO_IMAGE: &str = "crossattention";
/// The dense layer before the head.
const TRANSFORM: &str = "text_decoder.cls.predictions.transform";
const WORDS: &str = "text_decoder.bert.embeddings.word_embeddings.weight";

const PICTURES: pictures::Names = pictures::Names {
    patches: "embeddings.patch_embedding",
    patch_bias: true,
    class_token: Some("embeddings.class_embedding"),
    positions: "embeddings.position_embedding",
    norm: None,
};

const LAYERS: tower::Names = tower::Names {
    layers: "encoder.layers",
    attention_norm: "layer_norm1",
    query_key_value: QueryKeyValue::Fused("self_attn.qkv"),
    attention_output: "self_attn.projection",
    feed_forward_norm: "layer_norm2",
    feed_forward: FeedForward::Plain(["mlp.fc1", "mlp.fc2"]),
    scales: None,
};

const NAMES: FamilyNames = FamilyNames::prefixed(&[""]);

/// The parts of `vision_config` that the forward pass depends on.
#[derive(Deserialize)]
struct VisionConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: Sides,
    patch_size: Sides,
    hidden_act: String,
    layer_norm_eps: f32,
}

impl VisionConfig {
    fn read(config: &Value) -> Result<Self> {
        let defaults = json!({
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 384, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
        });
        let given = config.get("vision_config").unwrap_or(&Value::Null);
        parse(&with_defaults(given, defaults))
    }

    fn tower(&self, checkpoint: &Checkpoint) -> Result<Tower> {
        let sizes = Sizes {
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            hidden: self.hidden_size,
            wide: self.intermediate_size,
        };
        sizes.check()?;
        Ok(Tower {
            path: "vision_model.",
            names: &LAYERS,
            sizes,
            activation: activation("vision_config's hidden_act", &self.hidden_act)?,
            epsilon: self.layer_norm_eps,
            qkv_bias: true,
            sight: Sight::FULL,
            stream: IMAGE,
            spelling: Spelling::of(checkpoint, NAMES, "vision_model.post_layernorm.weight", None),
        })
    }
}

/// The parts of `text_config` that the forward pass depends on.
#[derive(Deserialize)]
struct TextConfig {
    vocab_size: usize,
    hidden_size: usize,
    encoder_hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    bos_token_id: u32,
    sep_token_id: u32,
    pad_token_id: u32,
    tie_word_embeddings: bool,
}

impl TextConfig {
    fn read(config: &Value, image_width: usize) -> Result<Self> {
        let defaults = json!({
            "vocab_size": 30524, "hidden_size": 768, "encoder_hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 512, "hidden_act": "gelu",
            "layer_norm_eps": 1e-12, "bos_token_id": 30522, "sep_token_id": 102, "pad_token_id": 0,
            "tie_word_embeddings": true,
        });
        let given = config.get("text_config").unwrap_or(&Value::Null);
        only(given, "position_embedding_type", &["absolute".into()])?;
        only(given, "is_decoder", &[true.into()])?;
        let text: Self = parse(&with_defaults(given, defaults))?;
        positive(&[
            ("text_config's vocab_size", text.vocab_size),
            ("text_config's hidden_size", text.hidden_size),
            ("text_config's intermediate_size", text.intermediate_size),
            ("text_config's num_hidden_layers", text.num_hidden_layers),
            ("text_config's num_attention_heads", text.num_attention_heads),
            (
                "text_config's max_position_embeddings",
                text.max_position_embeddings,
            ),
        ])?;
        if !text.hidden_size.is_multiple_of(text.num_attention_heads) {
            return Err(invalid(&format!(
                "text_config's hidden_size {} is no multiple of its num_attention_heads {}",
                text.hidden_size, text.num_attention_heads
            )));
        }
        // transformers' BlipConfig writes the vision model's width over it, whatever it says.
        Ok(Self {
            encoder_hidden_size: image_width,
            ..text
        })
    }

    fn layer(layer: usize) -> String {
        format!("text_decoder.bert.encoder.layer.{layer}")
    }

    /// The targetable layers of a decoder layer: name, outputs, inputs, in the order of the forward pass.
    fn linears(&self, layer: usize) -> Vec<(String, usize, usize)> {
        let (path, hidden, wide) = (Self::layer(layer), self.hidden_size, self.intermediate_size);
        let attention =
            |name: &str, widths| multi_head::layers(&format!("{path}.{name}"), ATTENTION, widths, hidden);
        let feed_forward = [
            (format!("{path}.intermediate.dense"), wide, hidden),
            (format!("{path}.output.dense"), hidden, wide),
        ];
        attention(TO_ITSELF, Widths::alike(hidden))
            .into_iter()
            .chain(attention(TO_IMAGE, self.to_image()))
            .chain(feed_forward)
            .collect()
    }

    /// The head: the table of words, unless it is said to be another matrix.
    fn head(&self, checkpoint: &Checkpoint) -> LmHead {
        let has = |key: &&str| checkpoint.info(key).is_some();
        let own = "text_decoder.cls.predictions.decoder.weight";
        let biases = [
            "text_decoder.cls.predictions.bias",
            "text_decoder.cls.predictions.decoder.bias",
        ];
        LmHead {
            weight: if self.tie_word_embeddings { WORDS } else { own }.to_owned(),
            bias: biases.into_iter().find(has).map(str::to_owned),
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            scale: 1.0,
            soft_cap: None,
        }
    }

    const fn to_image(&self) -> Widths {
        Widths {
            own: self.hidden_size,
            other: self.encoder_hidden_size,
        }
    }
}

/// The family over one checkpoint.
struct Blip {
    tower: Tower,
    pictures: Rc<Pictures>,
    text: TextConfig,
    activation: Activation,
    architecture: String,
    head: LmHead,
    streams: Vec<Stream>,
    modules: Vec<Module>,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    const CLASS: &str = "BlipForConditionalGeneration";
    unquantised(config)?;
    let architecture = architecture(config, CLASS);
    if architecture != CLASS {
        return Err(unsupported(&format!(
            "architectures has {architecture}, which is not supported in this family (only {CLASS})"
        )));
    }
    let vision = VisionConfig::read(config)?;
    let text = TextConfig::read(config, vision.hidden_size)?;
    let tower = vision.tower(checkpoint)?;
    let pictures = Pictures::new(
        &PICTURES,
        CHANNELS,
        [vision.image_size, vision.patch_size],
        [PIXELS, PATCHES],
    )?;
    let streams = vec![
        Stream::input("pixels"),
        Stream::input("decoder"),
        pictures.patch_stream(),
        pictures.image_stream(),
    ];
    let layers = tower.sizes.layers;
    let first = layers + 2;
    let decoder =
        (0..text.num_hidden_layers).flat_map(|layer| modules("", first + layer, text.linears(layer)));
    let transform = (format!("{TRANSFORM}.dense"), text.hidden_size, text.hidden_size);
    let modules = std::iter::once(pictures.module(&tower, 0))
        .chain(tower.modules(1))
        .chain(decoder)
        .chain(modules("", first + text.num_hidden_layers, [transform]))
        .collect();
    Ok(Box::new(Blip {
        activation: activation("text_config's hidden_act", &text.hidden_act)?,
        head: text.head(checkpoint),
        tower,
        pictures: Rc::new(pictures),
        text,
        architecture,
        streams,
        modules,
    }))
}

impl Blip {
    /// Of the picture's blocks, the first of the decoder's.
    const fn first(&self) -> usize {
        self.tower.sizes.layers + 2
    }

    async fn norm(&self, loader: &Loader<'_>, key: &str) -> Result<LayerNorm> {
        let (width, epsilon) = (self.text.hidden_size, self.text.layer_norm_eps);
        loader.layer_norm(key, width, epsilon).await
    }

    async fn decoder_layer(&self, loader: &Loader<'_>, layer: usize) -> Result<Rc<dyn Block>> {
        let text = &self.text;
        let path = TextConfig::layer(layer);
        let (hidden, wide) = (text.hidden_size, text.intermediate_size);
        let heads = text.num_attention_heads;
        let attention = async |name: &str, widths, sight| {
            let how = Attention {
                sight,
                ..Attention::full(heads, hidden / heads)
            };
            let path = format!("{path}.{name}");
            let layers = MultiHead::read(loader, ("", &path), ATTENTION, (widths, true), how).await?;
            let norm = self.norm(loader, &format!("{path}.output.LayerNorm")).await?;
            Ok::<_, Error>((layers, norm))
        };
        let linear = async |name: &str, d_out, d_in| {
            let name = format!("{path}.{name}");
            let shape = LinearShape::new(d_out, d_in).biased(true);
            loader.linear(name.clone(), &name, shape).await
        };
        Ok(Rc::new(DecoderLayer {
            to_itself: attention(TO_ITSELF, Widths::alike(hidden), Sight::CAUSAL).await?,
            to_image: attention(TO_IMAGE, text.to_image(), Sight::FULL).await?,
            widen: linear("intermediate.dense", wide, hidden).await?,
            activation: self.activation,
            narrow: linear("output.dense", hidden, wide).await?,
            norm: self.norm(loader, &format!("{path}.output.LayerNorm")).await?,
        }))
    }
}

#[async_trait(?Send)]
impl Family for Blip {
    fn facts(&self) -> ModelFacts {
        ModelFacts {
            family: "blip".into(),
            kind: Kind::ImageToText,
            generates: true,
            architecture: self.architecture.clone(),
            hidden_size: self.text.hidden_size,
            layers: self.tower.sizes.layers + self.text.num_hidden_layers,
            heads: self.text.num_attention_heads,
            max_length: self.text.max_position_embeddings,
            vocab_size: self.text.vocab_size,
            picture: Some(self.pictures.facts()),
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.first() + self.text.num_hidden_layers + 1
    }

    fn encoder_blocks(&self) -> usize {
        self.first()
    }

    fn pad_id(&self) -> u32 {
        self.text.pad_token_id
    }

    fn names(&self) -> FamilyNames {
        NAMES
    }

    fn readouts(&self) -> &'static [&'static str] {
        &[]
    }

    /// The tokens that `BlipForConditionalGeneration.generate` hands to its decoder, whatever other files say.
    fn generation(&self) -> Option<GenerationConfig> {
        Some(GenerationConfig {
            stop: vec![self.text.sep_token_id],
            decoder_start: Some(self.text.bos_token_id),
            ..GenerationConfig::default()
        })
    }

    fn head(&self) -> Option<LmHead> {
        Some(self.head.clone())
    }

    fn streams(&self) -> &[Stream] {
        &self.streams
    }

    fn output(&self) -> StreamId {
        DECODER
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, stream: StreamId) -> Result<Tensor<2>> {
        if stream == PIXELS {
            return self.pictures.embed(loader, batch);
        }
        let (text, side) = (&self.text, batch.stream(stream));
        let positions = "text_decoder.bert.embeddings.position_embeddings.weight".to_owned();
        let tables = [
            (WORDS.to_owned(), text.vocab_size, side.ids.as_slice()),
            (positions, text.max_position_embeddings, side.positions.as_slice()),
        ];
        let embedded = loader.embedded(&tables, text.hidden_size).await?;
        let norm = self
            .norm(loader, "text_decoder.bert.embeddings.LayerNorm")
            .await?;
        Ok(loader.compute.layer_norm(embedded, &norm))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let (tower, hidden) = (&self.tower, self.text.hidden_size);
        let layers = tower.sizes.layers;
        match block {
            0 => self.pictures.load(loader, tower).await,
            layer if layer <= layers => tower.layer(loader, layer - 1).await,
            norm if norm == layers + 1 => Ok(Rc::new(LastNorm {
                norm: tower.norm(loader, "post_layernorm").await?,
            })),
            block if block - self.first() < self.text.num_hidden_layers => {
                self.decoder_layer(loader, block - self.first()).await
            }
            _ => {
                let dense = format!("{TRANSFORM}.dense");
                let shape = LinearShape::new(hidden, hidden).biased(true);
                Ok(Rc::new(Transform {
                    dense: loader.linear(dense.clone(), &dense, shape).await?,
                    activation: self.activation,
                    norm: self.norm(loader, &format!("{TRANSFORM}.LayerNorm")).await?,
                }))
            }
        }
    }
}

/// The norm behind the picture's layers, of all rows: what the decoder attends to.
struct LastNorm {
    norm: LayerNorm,
}

#[async_trait(?Send)]
impl Block for LastNorm {
    async fn forward(&self, lanes: &Lanes<'_>, _stack: &Stack<'_>, mut state: State) -> Result<State> {
        let image = state.take(IMAGE)?;
        Ok(state.with(IMAGE, lanes.compute().layer_norm(image, &self.norm)))
    }

    fn linears(&self) -> Vec<&Projection> {
        Vec::new()
    }
}

/// A layer of the decoder; every part's sum with what it read is normalised.
struct DecoderLayer {
    to_itself: (MultiHead, LayerNorm),
    to_image: (MultiHead, LayerNorm),
    widen: Projection,
    activation: Activation,
    narrow: Projection,
    norm: LayerNorm,
}

#[async_trait(?Send)]
impl Block for DecoderLayer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        if !state.has(DECODER) {
            return Err(Error::new(
                Code::SamplesInvalid,
                "the samples have nothing for the decoder to read; a model that writes captions needs one of each picture, or its start token",
            ));
        }
        let x = state.take(DECODER)?;
        let (attention, norm) = &self.to_itself;
        let attended = attention.to_itself(lanes, stack, DECODER, x.clone()).await?;
        let x = compute.layer_norm(x + attended, norm);
        let (attention, norm) = &self.to_image;
        let attended = attention
            .to_other(lanes, stack, [DECODER, IMAGE], x.clone(), &state.rows(IMAGE)?)
            .await?;
        let x = compute.layer_norm(x + attended, norm);
        let wide = lanes.linear(stack, DECODER, &self.widen, x.clone()).await?;
        let wide = compute.activation(self.activation, wide);
        let output = lanes.linear(stack, DECODER, &self.narrow, wide).await?;
        Ok(state.with(DECODER, compute.layer_norm(x + output, &self.norm)))
    }

    fn linears(&self) -> Vec<&Projection> {
        let attentions = [&self.to_itself, &self.to_image];
        let mut linears: Vec<&Projection> = attentions
            .into_iter()
            .flat_map(|(attention, _)| attention.linears())
            .collect();
        linears.extend([&self.widen, &self.narrow]);
        linears
    }
}

/// The dense layer before the head.
struct Transform {
    dense: Projection,
    activation: Activation,
    norm: LayerNorm,
}

#[async_trait(?Send)]
impl Block for Transform {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        let x = state.take(DECODER)?;
        let x = lanes.linear(stack, DECODER, &self.dense, x).await?;
        let x = compute.activation(self.activation, x);
        Ok(state.with(DECODER, compute.layer_norm(x, &self.norm)))
    }

    fn linears(&self) -> Vec<&Projection> {
        vec![&self.dense]
    }
}
