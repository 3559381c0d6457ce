//! ViT (Dosovitskiy et al., ICLR 2021): a picture cut into patches, read by a pre-norm encoder.
//!
//! A convolution makes a row of every patch; a class token goes before them, positions are learned. The classifier reads
//! the class token behind the last norm. A checkpoint of the bare model may have a pooler, which classifiers do not
//! read; it is run where it is there, so that an adapter of it is merged too.
//! Reference: transformers, `models/vit/modeling_vit.py`. Release 5 renamed the layers, but checkpoints keep release 4's
//! names.

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
        streams::{Stream, StreamId, StreamRows},
        vision::{
            pictures::{self, Pictures, Sides},
            tower::{self, FeedForward, QueryKeyValue, Sizes, Tower, first_rows},
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
/// What a classifier reads.
const POOLED: StreamId = StreamId::new(3);
/// What the pooler makes of it.
const POOLER: StreamId = StreamId::new(4);

const NAMES: FamilyNames = FamilyNames {
    prefixes: &["vit.", ""],
    spellings: &[
        (
            "layers.*.attention.q_proj",
            "encoder.layer.*.attention.attention.query",
        ),
        (
            "layers.*.attention.k_proj",
            "encoder.layer.*.attention.attention.key",
        ),
        (
            "layers.*.attention.v_proj",
            "encoder.layer.*.attention.attention.value",
        ),
        (
            "layers.*.attention.o_proj",
            "encoder.layer.*.attention.output.dense",
        ),
        ("layers.*.mlp.fc1", "encoder.layer.*.intermediate.dense"),
        ("layers.*.mlp.fc2", "encoder.layer.*.output.dense"),
        ("layers.*", "encoder.layer.*"),
    ],
};

const PICTURES: pictures::Names = pictures::Names {
    patches: "embeddings.patch_embeddings.projection",
    patch_bias: true,
    class_token: Some("embeddings.cls_token"),
    positions: "embeddings.position_embeddings",
    norm: None,
};

const LAYERS: tower::Names = tower::Names {
    layers: "layers",
    attention_norm: "layernorm_before",
    query_key_value: QueryKeyValue::Split(["attention.q_proj", "attention.k_proj", "attention.v_proj"]),
    attention_output: "attention.o_proj",
    feed_forward_norm: "layernorm_after",
    feed_forward: FeedForward::Plain(["mlp.fc1", "mlp.fc2"]),
    scales: None,
};

const POOLER_DENSE: &str = "pooler.dense";

/// The parts of `config.json` that the forward pass depends on.
#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    image_size: Sides,
    patch_size: Sides,
    num_channels: usize,
    qkv_bias: bool,
    pooler_output_size: Option<usize>,
    pooler_act: String,
    head_dim: Option<usize>,
}

/// The family over one checkpoint.
struct Vit {
    tower: Tower,
    pictures: Rc<Pictures>,
    architecture: String,
    /// The pooler's width and activation, where the checkpoint has a pooler.
    pooler: Option<(usize, Activation)>,
    streams: Vec<Stream>,
    modules: Vec<Module>,
}

/// See [`super::FAMILIES`].
pub(super) fn open(config: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    let defaults = json!({
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3,
        "qkv_bias": true, "pooler_act": "tanh",
    });
    let architecture = architecture(config, "ViTModel");
    let config: Config = parse(&with_defaults(config, defaults))?;
    let sizes = Sizes {
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        hidden: config.hidden_size,
        wide: config.intermediate_size,
    };
    sizes.check()?;
    let pictures = Pictures::new(
        &PICTURES,
        config.num_channels,
        [config.image_size, config.patch_size],
        [PIXELS, PATCHES],
    )?;
    if config
        .head_dim
        .is_some_and(|size| size != sizes.hidden / sizes.heads)
    {
        return Err(invalid(
            "head_dim is not the hidden width over the number of heads",
        ));
    }
    let tower = Tower {
        path: "",
        names: &LAYERS,
        sizes,
        activation: activation("hidden_act", &config.hidden_act)?,
        epsilon: config.layer_norm_eps,
        qkv_bias: config.qkv_bias,
        sight: Sight::FULL,
        stream: IMAGE,
        spelling: Spelling::of(
            checkpoint,
            NAMES,
            "embeddings.cls_token",
            Some("layers.0.layernorm_before.weight"),
        ),
    };
    let has_pooler = checkpoint
        .info(&format!("{}.weight", tower.key(POOLER_DENSE)))
        .is_some();
    let pooler = if has_pooler {
        let width = config.pooler_output_size.unwrap_or(sizes.hidden);
        Some((width, activation("pooler_act", &config.pooler_act)?))
    } else {
        None
    };
    let streams = vec![
        Stream::input("pixels"),
        pictures.patch_stream(),
        pictures.image_stream(),
        Stream::pooled(),
        Stream {
            name: "pooler",
            rows: StreamRows::One,
        },
    ];
    let dense = pooler.map(|(width, _)| tower.module(POOLER_DENSE, [width, sizes.hidden], sizes.layers + 1));
    let modules = std::iter::once(pictures.module(&tower, 0))
        .chain(tower.modules(1))
        .chain(dense)
        .collect();
    Ok(Box::new(Vit {
        tower,
        pictures: Rc::new(pictures),
        architecture,
        pooler,
        streams,
        modules,
    }))
}

#[async_trait(?Send)]
impl Family for Vit {
    fn facts(&self) -> ModelFacts {
        let Sizes {
            layers,
            heads,
            hidden,
            ..
        } = self.tower.sizes;
        ModelFacts {
            family: "vit".into(),
            kind: Kind::ImageEncoder,
            architecture: self.architecture.clone(),
            hidden_size: hidden,
            layers,
            heads,
            has_pooler: self.pooler.is_some(),
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

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, _stream: StreamId) -> Result<Tensor<2>> {
        self.pictures.embed(loader, batch)
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let tower = &self.tower;
        let Sizes { layers, hidden, .. } = tower.sizes;
        match block {
            0 => self.pictures.load(loader, tower).await,
            layer if layer <= layers => tower.layer(loader, layer - 1).await,
            _ => {
                let pooler = match self.pooler {
                    Some((width, activation)) => {
                        let dense = tower.linear(loader, POOLER_DENSE, [width, hidden], true).await?;
                        Some((dense, activation))
                    }
                    None => None,
                };
                Ok(Rc::new(Pool {
                    norm: tower.norm(loader, "layernorm").await?,
                    pooler,
                }))
            }
        }
    }
}

/// The last norm, the class token, and the pooler where there is one.
struct Pool {
    norm: LayerNorm,
    pooler: Option<(Projection, Activation)>,
}

#[async_trait(?Send)]
impl Block for Pool {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        let image = compute.layer_norm(state.take(IMAGE)?, &self.norm);
        let pooled = first_rows(lanes, stack, IMAGE, image.clone());
        state = state.with(IMAGE, image);
        if let Some((dense, activation)) = &self.pooler {
            let rows = lanes.linear(stack, POOLER, dense, pooled.clone()).await?;
            state = state.with(POOLER, compute.activation(*activation, rows));
        }
        Ok(state.with(POOLED, pooled))
    }

    fn linears(&self) -> Vec<&Projection> {
        self.pooler.iter().map(|(dense, _)| dense).collect()
    }
}
