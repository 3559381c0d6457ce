//! DINOv2 (Oquab et al., TMLR 2024): ViT whose layers scale what they add, over pictures of any size.
//!
//! Positions are interpolated to the patches of a picture. A classifier reads the class token beside the mean of the
//! patches. The largest model has gated feed-forward layers, which release 4 of transformers keeps in one weight
//! (`weights_in`) and release 5 in two.
//! Reference: transformers, `models/dinov2/modeling_dinov2.py`. Release 5 renamed the layers, but checkpoints keep release
//! 4's names.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compute::{Activation, LayerNorm, Sight},
    error::Result,
    io::Checkpoint,
    model::{
        batch::{Batch, Stack},
        config::{activation, architecture, invalid, parse, unquantised, with_defaults},
        family::{Block, Family, Heads, Kind, ModelFacts, Module},
        lanes::Lanes,
        load::Loader,
        parts::Spelling,
        projection::Projection,
        state::State,
        streams::{Stream, StreamId},
        vision::{
            pictures::{self, Pictures, Sides},
            tower::{self, FeedForward, QueryKeyValue, Sizes, Tower, first_rows, mean_rows},
        },
    },
    naming::family::FamilyNames,
};

/// The picture, a row a pixel.
const PIXELS: StreamId = StreamId::new(0);
/// A row a patch.
const PATCHES: StreamId = StreamId::new(1);
/// The class token and the patches.
const IMAGE: StreamId = StreamId::new(2);
/// The class token beside the mean of the patches.
const POOLED: StreamId = StreamId::new(3);

const NAMES: FamilyNames = FamilyNames {
    prefixes: &["dinov2.", ""],
    spellings: &[
        (
            "encoder.layer.*.attention.q_proj",
            "encoder.layer.*.attention.attention.query",
        ),
        (
            "encoder.layer.*.attention.k_proj",
            "encoder.layer.*.attention.attention.key",
        ),
        (
            "encoder.layer.*.attention.v_proj",
            "encoder.layer.*.attention.attention.value",
        ),
        (
            "encoder.layer.*.attention.o_proj",
            "encoder.layer.*.attention.output.dense",
        ),
        ("encoder.layer.*.mlp.down_proj", "encoder.layer.*.mlp.weights_out"),
    ],
};

const PICTURES: pictures::Names = pictures::Names {
    patches: "embeddings.patch_embeddings.projection",
    patch_bias: true,
    class_token: Some("embeddings.cls_token"),
    positions: "embeddings.position_embeddings",
    norm: None,
};

const fn layers(feed_forward: FeedForward<&'static str>) -> tower::Names {
    tower::Names {
        layers: "encoder.layer",
        attention_norm: "norm1",
        query_key_value: QueryKeyValue::Split(["attention.q_proj", "attention.k_proj", "attention.v_proj"]),
        attention_output: "attention.o_proj",
        feed_forward_norm: "norm2",
        feed_forward,
        scales: Some(["layer_scale1.lambda1", "layer_scale2.lambda1"]),
    }
}

const PLAIN: tower::Names = layers(FeedForward::Plain(["mlp.fc1", "mlp.fc2"]));
const GATED: tower::Names = layers(FeedForward::Gated([
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
]));
const GATED_FUSED: tower::Names = layers(FeedForward::GatedFused(["mlp.weights_in", "mlp.down_proj"]));

/// The parts of `config.json` that the forward pass depends on.
#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    mlp_ratio: f64,
    hidden_act: String,
    layer_norm_eps: f32,
    image_size: Sides,
    patch_size: Sides,
    num_channels: usize,
    qkv_bias: bool,
    use_swiglu_ffn: bool,
    head_dim: Option<usize>,
}

/// The family over one checkpoint.
struct Dinov2 {
    tower: Tower,
    pictures: Rc<Pictures>,
    architecture: String,
    streams: Vec<Stream>,
    modules: Vec<Module>,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    let defaults = json!({
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4, "hidden_act": "gelu",
        "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 14, "num_channels": 3, "qkv_bias": true,
        "use_swiglu_ffn": false,
    });
    let architecture = architecture(config, "Dinov2Model");
    let config: Config = parse(&with_defaults(config, defaults))?;
    let sizes = Sizes {
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        hidden: config.hidden_size,
        wide: wide(&config)?,
    };
    sizes.check()?;
    let pictures = Pictures {
        any_size: true,
        ..Pictures::new(
            &PICTURES,
            config.num_channels,
            [config.image_size, config.patch_size],
            [PIXELS, PATCHES],
        )?
    };
    if config
        .head_dim
        .is_some_and(|size| size != sizes.hidden / sizes.heads)
    {
        return Err(invalid(
            "head_dim is not the hidden width over the number of heads",
        ));
    }
    let spelling = Spelling::of(
        checkpoint,
        NAMES,
        "embeddings.cls_token",
        Some("encoder.layer.0.attention.q_proj.weight"),
    );
    let fused = spelling.key("encoder.layer.0.mlp.weights_in.weight");
    let tower = Tower {
        path: "",
        names: match config.use_swiglu_ffn {
            false => &PLAIN,
            true if checkpoint.info(&fused).is_some() => &GATED_FUSED,
            true => &GATED,
        },
        sizes,
        activation: if config.use_swiglu_ffn {
            Activation::Silu
        } else {
            activation("hidden_act", &config.hidden_act)?
        },
        epsilon: config.layer_norm_eps,
        qkv_bias: config.qkv_bias,
        sight: Sight::FULL,
        stream: IMAGE,
        spelling,
    };
    Ok(Box::new(Dinov2 {
        streams: vec![
            Stream::input("pixels"),
            pictures.patch_stream(),
            pictures.image_stream(),
            Stream::pooled(),
        ],
        modules: std::iter::once(pictures.module(&tower, 0))
            .chain(tower.modules(1))
            .collect(),
        tower,
        pictures: Rc::new(pictures),
        architecture,
    }))
}

/// Width of the feed-forward layers; of gated ones two thirds, rounded up to a multiple of 8.
fn wide(config: &Config) -> Result<usize> {
    let wide = (config.hidden_size as f64 * config.mlp_ratio).floor();
    if !(1.0..1e9).contains(&wide) {
        return Err(invalid(&format!(
            "mlp_ratio {} makes no width of feed-forward layers",
            config.mlp_ratio
        )));
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above"
    )]
    let wide = wide as usize;
    Ok(if config.use_swiglu_ffn {
        (wide * 2 / 3).next_multiple_of(8)
    } else {
        wide
    })
}

#[async_trait(?Send)]
impl Family for Dinov2 {
    fn facts(&self) -> ModelFacts {
        let Sizes {
            layers,
            heads,
            hidden,
            ..
        } = self.tower.sizes;
        ModelFacts {
            family: "dinov2".into(),
            kind: Kind::ImageEncoder,
            architecture: self.architecture.clone(),
            hidden_size: hidden,
            layers,
            heads,
            picture: Some(self.pictures.facts()),
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.tower.sizes.layers + 2
    }

    fn pad_id(&self) -> u32 {
        0
    }

    fn names(&self) -> FamilyNames {
        NAMES
    }

    fn readouts(&self) -> &'static [&'static str] {
        &["classifier"]
    }

    fn streams(&self) -> &[Stream] {
        &self.streams
    }

    fn output(&self) -> StreamId {
        POOLED
    }

    fn features_width(&self, _heads: &Heads) -> usize {
        2 * self.tower.sizes.hidden
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, _stream: StreamId) -> Result<Tensor<2>> {
        self.pictures.embed(loader, batch)
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        match block {
            0 => self.pictures.load(loader, &self.tower).await,
            layer if layer <= self.tower.sizes.layers => self.tower.layer(loader, layer - 1).await,
            _ => Ok(Rc::new(Pool {
                norm: self.tower.norm(loader, "layernorm").await?,
            })),
        }
    }
}

/// The last norm, then the class token beside the mean of the patches.
struct Pool {
    norm: LayerNorm,
}

#[async_trait(?Send)]
impl Block for Pool {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let image = lanes.compute().layer_norm(state.take(IMAGE)?, &self.norm);
        let pooled = vec![
            first_rows(lanes, stack, IMAGE, image.clone()),
            mean_rows(stack, IMAGE, image.clone(), 1),
        ];
        Ok(state.with(IMAGE, image).with(POOLED, Tensor::cat(pooled, 1)))
    }

    fn linears(&self) -> Vec<&Projection> {
        Vec::new()
    }
}
