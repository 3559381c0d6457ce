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
    compute::{Activation, Attention, Grid, LayerNorm, Windows},
    error::{Code, Error, Result},
    io::Checkpoint,
    model::{
        batch::{Batch, Stack},
        config::{activation, architecture, invalid, parse, positive, unquantised, with_defaults},
        family::{Block, Family, Heads, Kind, ModelFacts, Module, PictureFacts},
        lanes::Lanes,
        load::{LinearShape, Loader},
        parts::prefix,
        projection::Projection,
        state::State,
        streams::{Stream, StreamId, StreamRows},
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

const PATCH_PROJECTION: &str = "embeddings.patch_embeddings.projection";
const POOLER_DENSE: &str = "pooler.dense";

/// One number, or one a side; height first.
#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Sides {
    Both(usize),
    Each([usize; 2]),
}

impl Sides {
    const fn each(self) -> [usize; 2] {
        match self {
            Self::Both(side) => [side; 2],
            Self::Each(sides) => sides,
        }
    }
}

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
    config: Config,
    activation: Activation,
    architecture: String,
    prefix: &'static str,
    /// Whether the checkpoint has release 4's names.
    other_spelling: bool,
    /// The pooler's activation, where the checkpoint has a pooler.
    pooler: Option<Activation>,
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
    let ([height, width], [patch_height, patch_width]) = (config.image_size.each(), config.patch_size.each());
    positive(&[
        ("the hidden width", config.hidden_size),
        ("the number of layers", config.num_hidden_layers),
        ("the number of attention heads", config.num_attention_heads),
        ("the width of the feed-forward layers", config.intermediate_size),
        ("the number of channels", config.num_channels),
        ("a side of a patch", patch_height.min(patch_width)),
    ])?;
    if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
        return Err(invalid(&format!(
            "{} hidden units make no {} heads",
            config.hidden_size, config.num_attention_heads
        )));
    }
    let head_size = config.hidden_size / config.num_attention_heads;
    if config.head_dim.is_some_and(|size| size != head_size) {
        return Err(invalid(
            "head_dim is not the hidden width over the number of heads",
        ));
    }
    if height < patch_height || width < patch_width {
        return Err(invalid(&format!(
            "a picture of {width} x {height} has no patch of {patch_width} x {patch_height}"
        )));
    }
    let windows = Windows {
        kernel: [patch_height, patch_width],
        stride: [patch_height, patch_width],
        padding: [0, 0],
    };
    let prefix = prefix(checkpoint, "embeddings.cls_token", NAMES.prefixes);
    let old = format!("{prefix}encoder.layer.0.layernorm_before.weight");
    let has_pooler = checkpoint
        .info(&format!("{prefix}{POOLER_DENSE}.weight"))
        .is_some();
    let mut vit = Vit {
        activation: activation("hidden_act", &config.hidden_act)?,
        pooler: if has_pooler {
            Some(activation("pooler_act", &config.pooler_act)?)
        } else {
            None
        },
        architecture,
        prefix,
        other_spelling: checkpoint.info(&old).is_some(),
        streams: vec![
            Stream::input("pixels"),
            Stream {
                name: "patches",
                rows: StreamRows::Windows(PIXELS, windows),
            },
            Stream {
                name: "image",
                rows: StreamRows::Behind(1, PATCHES),
            },
            Stream::pooled(),
            Stream {
                name: "pooler",
                rows: StreamRows::One,
            },
        ],
        modules: Vec::new(),
        config,
    };
    vit.modules = vit.list_modules(windows);
    Ok(Box::new(vit))
}

impl Vit {
    /// The checkpoint's key of a tensor or module.
    fn key(&self, name: &str) -> String {
        if self.other_spelling {
            format!("{}{}", self.prefix, NAMES.other_spelling(name))
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// The linear layers of a block: name, outputs, inputs, bias, in the order of the forward pass.
    fn linears(&self, layer: usize) -> [(String, usize, usize, bool); 6] {
        let (hidden, wide, bias) = (
            self.config.hidden_size,
            self.config.intermediate_size,
            self.config.qkv_bias,
        );
        [
            ("attention.q_proj", hidden, hidden, bias),
            ("attention.k_proj", hidden, hidden, bias),
            ("attention.v_proj", hidden, hidden, bias),
            ("attention.o_proj", hidden, hidden, true),
            ("mlp.fc1", wide, hidden, true),
            ("mlp.fc2", hidden, wide, true),
        ]
        .map(|(name, d_out, d_in, bias)| (format!("layers.{layer}.{name}"), d_out, d_in, bias))
    }

    fn pooler_width(&self) -> usize {
        self.config.pooler_output_size.unwrap_or(self.config.hidden_size)
    }

    fn list_modules(&self, windows: Windows) -> Vec<Module> {
        let hidden = self.config.hidden_size;
        let module = |name: &str, d_out, d_in, block| Module {
            name: name.to_owned(),
            key: format!("{}.weight", self.key(name)),
            d_out,
            d_in,
            block,
            transposed: false,
            windows: None,
        };
        let patches = Module {
            windows: Some(windows),
            ..module(
                PATCH_PROJECTION,
                hidden,
                self.config.num_channels * windows.places(),
                0,
            )
        };
        let layers = self.config.num_hidden_layers;
        let linears = (0..layers).flat_map(|layer| {
            self.linears(layer)
                .map(|(name, d_out, d_in, _)| module(&name, d_out, d_in, layer + 1))
        });
        let pooler = self
            .pooler
            .map(|_| module(POOLER_DENSE, self.pooler_width(), hidden, layers + 1));
        std::iter::once(patches).chain(linears).chain(pooler).collect()
    }

    fn grid(&self) -> Grid {
        let [height, width] = self.config.image_size.each();
        Grid { height, width }
    }

    fn windows(&self) -> Windows {
        let sides = self.config.patch_size.each();
        Windows {
            kernel: sides,
            stride: sides,
            padding: [0, 0],
        }
    }
}

#[async_trait(?Send)]
impl Family for Vit {
    fn facts(&self) -> ModelFacts {
        let Grid { height, width } = self.grid();
        ModelFacts {
            family: "vit".into(),
            kind: Kind::ImageEncoder,
            architecture: self.architecture.clone(),
            hidden_size: self.config.hidden_size,
            layers: self.config.num_hidden_layers,
            heads: self.config.num_attention_heads,
            has_pooler: self.pooler.is_some(),
            picture: Some(PictureFacts {
                channels: self.config.num_channels,
                height,
                width,
            }),
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.config.num_hidden_layers + 2
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

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, stream: StreamId) -> Result<Tensor<2>> {
        let pixels = batch.stream(stream);
        let channels = self.config.num_channels;
        let wanted = self.grid();
        let other = pixels.grids.iter().find(|grid| **grid != Some(wanted));
        if let Some(found) = other {
            let found = found.map_or("no picture".into(), |grid| {
                format!("{} x {}", grid.width, grid.height)
            });
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "a sample is {found}, the model reads pictures of {} x {}; preprocessor_config.json and config.json are of different models",
                    wanted.width, wanted.height
                ),
            ));
        }
        if pixels.numbers.len() != pixels.rows * channels {
            return Err(Error::new(
                Code::SamplesInvalid,
                format!(
                    "the samples have {} numbers a pixel, the model reads {channels} channels",
                    pixels.numbers.len() / pixels.rows.max(1)
                ),
            ));
        }
        Ok(loader
            .compute
            .tensor(pixels.numbers.clone(), pixels.rows, channels))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, _heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let (config, hidden) = (&self.config, self.config.hidden_size);
        let linear = async |name: String, d_out, d_in, bias| {
            let key = self.key(&name);
            let shape = LinearShape::new(d_out, d_in).biased(bias);
            loader.linear(name, &key, shape).await
        };
        let norm = async |name: &str| {
            loader
                .layer_norm(&self.key(name), hidden, config.layer_norm_eps)
                .await
        };
        if block == 0 {
            let windows = self.windows();
            let patches = windows.over(self.grid()).map_or(0, Grid::places);
            return Ok(Rc::new(Embeddings {
                patches: loader
                    .convolution(
                        PATCH_PROJECTION.to_owned(),
                        &self.key(PATCH_PROJECTION),
                        [hidden, config.num_channels],
                        windows,
                    )
                    .await?,
                class_token: loader
                    .parameter(&self.key("embeddings.cls_token"), &[1, 1, hidden])
                    .await?,
                positions: loader
                    .parameter(
                        &self.key("embeddings.position_embeddings"),
                        &[1, patches + 1, hidden],
                    )
                    .await?,
            }));
        }
        let layer = block - 1;
        if layer == config.num_hidden_layers {
            let pooler = match self.pooler {
                Some(activation) => {
                    let dense = linear(POOLER_DENSE.to_owned(), self.pooler_width(), hidden, true).await?;
                    Some((dense, activation))
                }
                None => None,
            };
            return Ok(Rc::new(Pool {
                norm: norm("layernorm").await?,
                pooler,
            }));
        }
        let [query, key, value, output, widen, narrow] = self.linears(layer);
        let read = async |(name, d_out, d_in, bias): (String, usize, usize, bool)| {
            linear(name, d_out, d_in, bias).await
        };
        Ok(Rc::new(Layer {
            attention_norm: norm(&format!("layers.{layer}.layernorm_before")).await?,
            query: read(query).await?,
            key: read(key).await?,
            value: read(value).await?,
            attention_output: read(output).await?,
            feed_forward_norm: norm(&format!("layers.{layer}.layernorm_after")).await?,
            widen: read(widen).await?,
            narrow: read(narrow).await?,
            attention: Attention::full(config.num_attention_heads, hidden / config.num_attention_heads),
            activation: self.activation,
        }))
    }
}

/// From pixels to the rows of a picture.
struct Embeddings {
    patches: Projection,
    class_token: Vec<f32>,
    /// (1 + patches x hidden)
    positions: Vec<f32>,
}

#[async_trait(?Send)]
impl Block for Embeddings {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        let pixels = state.take(PIXELS)?;
        let patches = lanes
            .convolve(stack, [PIXELS, PATCHES], &self.patches, pixels)
            .await?;
        let hidden = self.class_token.len();
        let rows = self.positions.len() / hidden;
        let pictures = patches.dims()[0] / (rows - 1);
        let class_token = compute
            .tensor(self.class_token.clone(), 1, hidden)
            .reshape([1, 1, hidden])
            .repeat_dim(0, pictures);
        let positions = compute
            .tensor(self.positions.clone(), rows, hidden)
            .reshape([1, rows, hidden]);
        let patches = patches.reshape([pictures, rows - 1, hidden]);
        let image = Tensor::<3>::cat(vec![class_token, patches], 1) + positions;
        Ok(state.with(IMAGE, image.reshape([pictures * rows, hidden])))
    }

    fn linears(&self) -> Vec<&Projection> {
        vec![&self.patches]
    }
}

/// One layer: x + attention(norm(x)), then x + narrow(act(widen(norm(x)))) of that.
struct Layer {
    attention_norm: LayerNorm,
    query: Projection,
    key: Projection,
    value: Projection,
    attention_output: Projection,
    feed_forward_norm: LayerNorm,
    widen: Projection,
    narrow: Projection,
    attention: Attention,
    activation: Activation,
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        let x = state.take(IMAGE)?;
        let normed = compute.layer_norm(x.clone(), &self.attention_norm);
        let projections = [&self.query, &self.key, &self.value];
        let projected = lanes.group(stack, IMAGE, projections, normed).await?;
        let context = lanes.attend(stack, IMAGE, &self.query.name, projected, &self.attention);
        let x = lanes
            .linear(stack, IMAGE, &self.attention_output, context)
            .await?
            + x;
        let normed = compute.layer_norm(x.clone(), &self.feed_forward_norm);
        let wide = lanes.linear(stack, IMAGE, &self.widen, normed).await?;
        let wide = compute.activation(self.activation, wide);
        let output = lanes.linear(stack, IMAGE, &self.narrow, wide).await?;
        Ok(state.with(IMAGE, output + x))
    }

    fn linears(&self) -> Vec<&Projection> {
        vec![
            &self.query,
            &self.key,
            &self.value,
            &self.attention_output,
            &self.widen,
            &self.narrow,
        ]
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
        let first: Vec<usize> = stack
            .sequences(IMAGE)
            .iter()
            .map(|sequence| sequence.start)
            .collect();
        let pooled = image.clone().select(0, compute.indices(&first));
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
