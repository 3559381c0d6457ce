//! Models of one tower or two: pictures, texts, or both in one space of embeddings (CLIP, SigLIP).
//!
//! The picture's tower comes first, then what makes one row of it, then the text's. Each may be run without the other. A
//! classifier reads the mean of the patches: of a checkpoint that has one, or where a task brings its own.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde_json::Value;

use crate::{
    compute::{Activation, Attention, LayerNorm},
    error::{Code, Error, Result},
    io::Checkpoint,
    model::{
        batch::{Batch, Stack},
        config::architecture,
        family::{Block, Family, Heads, Kind, ModelFacts, Module, Similarity},
        lanes::Lanes,
        load::{LinearShape, Loader},
        projection::Projection,
        state::State,
        streams::{Stream, StreamId, StreamRows},
        vision::{
            pictures::Pictures,
            texts::{self, Texts},
            tower::{Tower, first_rows, mean_rows},
        },
    },
    naming::family::FamilyNames,
};

/// The linear layer that a classifier of pictures is, in a checkpoint or an adapter.
const CLASSIFIER: &str = "classifier";

/// A linear layer that makes the embedding of a tower's one row.
pub(super) struct Projected {
    pub(super) name: &'static str,
    /// Whether that is a name of the tower's own, not one of the model around it.
    pub(super) inside: bool,
    pub(super) width: usize,
    pub(super) bias: bool,
}

/// What makes one row of a picture.
pub(super) enum PictureEnd {
    /// The norm of the class token.
    ClassToken,
    /// The norm of all rows, and, where there is a head, attention of one learned query to them.
    Attention { head: bool },
}

/// The tower of pictures.
pub(super) struct Vision {
    pub(super) tower: Tower,
    pub(super) pictures: Rc<Pictures>,
    pub(super) end: PictureEnd,
    pub(super) projection: Option<Projected>,
}

/// The tower of texts.
pub(super) struct Language {
    pub(super) tower: Tower,
    pub(super) texts: Texts,
    pub(super) projection: Option<Projected>,
}

/// Where a model's streams are.
pub(super) struct Places {
    pub(super) pixels: StreamId,
    pub(super) patches: StreamId,
    pub(super) image: StreamId,
    pub(super) text: StreamId,
    image_embeds: StreamId,
    /// The mean of the patches.
    mean: StreamId,
    text_embeds: StreamId,
}

impl Places {
    /// Inputs come first.
    const fn new(base: usize, text: usize) -> Self {
        Self {
            pixels: StreamId::new(0),
            patches: StreamId::new(base),
            image: StreamId::new(base + 1),
            image_embeds: StreamId::new(base + 2),
            mean: StreamId::new(base + 3),
            text: StreamId::new(text),
            text_embeds: StreamId::new(base + 4),
        }
    }

    /// Of pictures and texts.
    pub(super) const BOTH: Self = Self::new(2, 1);
    /// Of pictures alone.
    pub(super) const PICTURES: Self = Self::new(1, 0);
    /// Of texts alone.
    pub(super) const TEXTS: Self = Self {
        text_embeds: StreamId::new(1),
        ..Self::new(0, 0)
    };
}

/// What makes one of these families.
pub(super) struct Settings {
    /// Its name in reports.
    pub(super) family: &'static str,
    pub(super) names: FamilyNames,
    pub(super) places: Places,
    pub(super) vision: Option<Vision>,
    pub(super) language: Option<Language>,
    /// Whether the similarity has a bias beside its scale.
    pub(super) similarity_bias: bool,
}

/// The family over one checkpoint.
struct Towers {
    settings: Settings,
    architecture: String,
    similarity: Option<Similarity>,
    /// Whether the checkpoint is a classifier's.
    classifies: bool,
    streams: Vec<Stream>,
    modules: Vec<Module>,
}

/// The family that `settings` make; `class` is the class that transformers has for it.
pub(super) fn open(
    config: &Value,
    checkpoint: &Checkpoint,
    class: &str,
    settings: Settings,
) -> Box<dyn Family> {
    let one = |name: &'static str| Stream {
        name,
        rows: StreamRows::One,
    };
    let (mut inputs, mut others, mut modules) = (Vec::new(), Vec::new(), Vec::new());
    let mut block = 0;
    if let Some(Vision {
        tower,
        pictures,
        end,
        projection,
    }) = &settings.vision
    {
        inputs.push(Stream::input("pixels"));
        others.extend([
            pictures.patch_stream(),
            pictures.image_stream(),
            one("image_embeds"),
            one("mean"),
        ]);
        modules.push(pictures.module(tower, 0));
        modules.extend(tower.modules(1));
        block = tower.sizes.layers + 1;
        if matches!(end, PictureEnd::Attention { head: true }) {
            let linears = head_linears(tower);
            modules.extend(linears.map(|(name, [d_out, d_in])| tower.module(name, [d_out, d_in], block)));
        }
        modules.extend(projected(projection.as_ref(), tower, block));
        block += 1;
    }
    if let Some(Language {
        tower,
        texts,
        projection,
    }) = &settings.language
    {
        inputs.push(Stream {
            name: "text",
            rows: if texts.filled {
                StreamRows::Filled(texts.positions)
            } else {
                StreamRows::Input
            },
        });
        others.push(one("text_embeds"));
        modules.extend(tower.modules(block));
        block += tower.sizes.layers;
        modules.extend(projected(projection.as_ref(), tower, block));
    }
    let scale = "logit_scale";
    let similarity = checkpoint.info(scale).map(|_| Similarity {
        scale: scale.to_owned(),
        bias: settings.similarity_bias.then(|| "logit_bias".to_owned()),
    });
    let architecture = architecture(config, class);
    let classifies = architecture.ends_with("ForImageClassification");
    Box::new(Towers {
        architecture,
        similarity,
        classifies,
        streams: inputs.into_iter().chain(others).collect(),
        modules,
        settings,
    })
}

/// The module that a projection is.
fn projected(projection: Option<&Projected>, tower: &Tower, block: usize) -> Option<Module> {
    let &Projected {
        name, width, inside, ..
    } = projection?;
    let shape = [width, tower.sizes.hidden];
    Some(if inside {
        tower.module(name, shape, block)
    } else {
        tower.spelling.bare().module(name, shape, block)
    })
}

impl Towers {
    /// The block behind the picture's tower, where there is one.
    fn picture_end(&self) -> Option<usize> {
        self.settings
            .vision
            .as_ref()
            .map(|vision| vision.tower.sizes.layers + 1)
    }

    /// Whether a classifier reads the last block's rows.
    fn has_classifier(&self, heads: Option<&Heads>) -> bool {
        let own = heads.is_some_and(|heads| heads.contains_key(&format!("{CLASSIFIER}.weight")));
        self.settings.vision.is_some() && (self.classifies || own)
    }

    async fn load_picture_end(&self, loader: &Loader<'_>, vision: &Vision) -> Result<Rc<dyn Block>> {
        let Vision {
            tower,
            pictures,
            end,
            projection,
        } = vision;
        let Places {
            image,
            image_embeds,
            mean,
            ..
        } = self.settings.places;
        let head = match end {
            PictureEnd::Attention { head: true } => Some(PoolingHead::load(loader, tower).await?),
            PictureEnd::Attention { head: false } | PictureEnd::ClassToken => None,
        };
        Ok(Rc::new(End {
            image,
            embeds: image_embeds,
            mean,
            tokens: pictures.tokens(),
            norm: tower.norm(loader, "post_layernorm").await?,
            norms_all: matches!(end, PictureEnd::Attention { .. }),
            keeps_rows: self.settings.language.is_none(),
            head,
            projection: load_projected(loader, projection.as_ref(), tower).await?,
        }))
    }

    async fn load_block(&self, loader: &Loader<'_>, block: usize) -> Result<Rc<dyn Block>> {
        let mut block = block;
        if let (Some(end), Some(vision)) = (self.picture_end(), &self.settings.vision) {
            match block {
                0 => return vision.pictures.load(loader, &vision.tower).await,
                layer if layer < end => return vision.tower.layer(loader, layer - 1).await,
                layer if layer == end => return self.load_picture_end(loader, vision).await,
                _ => block -= end + 1,
            }
        }
        let Some(Language {
            tower,
            texts,
            projection,
        }) = &self.settings.language
        else {
            return Err(no_such("block", block));
        };
        if block < tower.sizes.layers {
            return tower.layer(loader, block).await;
        }
        Ok(Rc::new(texts::End {
            text: tower.stream,
            embeds: self.settings.places.text_embeds,
            norm: tower.norm(loader, "final_layer_norm").await?,
            pooled: texts.pooled,
            projection: load_projected(loader, projection.as_ref(), tower).await?,
        }))
    }
}

fn no_such(what: &str, at: usize) -> Error {
    Error::new(Code::Internal, format!("the model has no {what} {at}"))
}

async fn load_projected(
    loader: &Loader<'_>,
    projection: Option<&Projected>,
    tower: &Tower,
) -> Result<Option<Projection>> {
    let Some(&Projected {
        name,
        width,
        bias,
        inside,
    }) = projection
    else {
        return Ok(None);
    };
    let hidden = tower.sizes.hidden;
    let projection = if inside {
        tower.linear(loader, name, [width, hidden], bias).await?
    } else {
        let shape = LinearShape::new(width, hidden).biased(bias);
        let key = tower.spelling.bare().key(name);
        loader.linear(name.to_owned(), &key, shape).await?
    };
    Ok(Some(projection))
}

#[async_trait(?Send)]
impl Family for Towers {
    fn facts(&self) -> ModelFacts {
        let Settings {
            family,
            vision,
            language,
            ..
        } = &self.settings;
        let towers = [
            vision.as_ref().map(|vision| &vision.tower),
            language.as_ref().map(|language| &language.tower),
        ];
        let layers = towers.iter().flatten().map(|tower| tower.sizes.layers).sum();
        let first = towers.into_iter().flatten().next().map(|tower| tower.sizes);
        let texts = language.as_ref().map(|language| &language.texts);
        ModelFacts {
            family: (*family).into(),
            kind: match (vision, language) {
                (Some(_), Some(_)) => Kind::ImageTextEncoder,
                (Some(_), None) => Kind::ImageEncoder,
                (None, _) => Kind::Encoder,
            },
            architecture: self.architecture.clone(),
            hidden_size: first.map_or(0, |sizes| sizes.hidden),
            layers,
            heads: first.map_or(0, |sizes| sizes.heads),
            max_length: texts.map_or(0, |texts| texts.positions),
            vocab_size: texts.map_or(0, |texts| texts.vocabulary),
            picture: vision.as_ref().map(|vision| vision.pictures.facts()),
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        let texts = self.settings.language.as_ref();
        self.picture_end().map_or(0, |end| end + 1)
            + texts.map_or(0, |language| language.tower.sizes.layers + 1)
    }

    fn encoder_blocks(&self) -> usize {
        self.picture_end().map_or(0, |end| end + 1)
    }

    fn pad_id(&self) -> u32 {
        let texts = self.settings.language.as_ref();
        texts.map_or(0, |language| language.texts.pad_id)
    }

    fn names(&self) -> FamilyNames {
        self.settings.names
    }

    fn readouts(&self) -> &'static [&'static str] {
        if self.settings.vision.is_some() {
            &[CLASSIFIER]
        } else {
            &[]
        }
    }

    fn streams(&self) -> &[Stream] {
        &self.streams
    }

    fn output(&self) -> StreamId {
        let places = &self.settings.places;
        if self.settings.vision.is_some() {
            places.image_embeds
        } else {
            places.text_embeds
        }
    }

    fn features_width(&self, heads: &Heads) -> usize {
        let (tower, projection) = match (&self.settings.vision, &self.settings.language) {
            (Some(vision), _) => (&vision.tower, &vision.projection),
            (None, Some(language)) => (&language.tower, &language.projection),
            (None, None) => return 0,
        };
        match projection {
            Some(projection) if !self.has_classifier(Some(heads)) => projection.width,
            _ => tower.sizes.hidden,
        }
    }

    fn text_stream(&self) -> Option<StreamId> {
        let Settings {
            places,
            vision,
            language,
            ..
        } = &self.settings;
        (vision.is_some() && language.is_some()).then_some(places.text)
    }

    fn text_output(&self) -> Option<StreamId> {
        self.text_stream().map(|_| self.settings.places.text_embeds)
    }

    fn similarity(&self) -> Option<Similarity> {
        self.text_stream().and_then(|_| self.similarity.clone())
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, stream: StreamId) -> Result<Tensor<2>> {
        let pictures = self.settings.vision.as_ref().map(|vision| &vision.pictures);
        if let Some(pictures) = pictures.filter(|pictures| pictures.pixels == stream) {
            return pictures.embed(loader, batch);
        }
        match &self.settings.language {
            Some(Language { tower, texts, .. }) => texts.embed(loader, tower, batch).await,
            None => Err(no_such("stream of inputs", stream.index())),
        }
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let loaded = self.load_block(loader, block).await?;
        if block + 1 == self.blocks() && self.has_classifier(heads) {
            let Places {
                mean, image_embeds, ..
            } = self.settings.places;
            return Ok(Rc::new(Classified {
                block: loaded,
                mean,
                output: image_embeds,
            }));
        }
        Ok(loaded)
    }
}

/// The block behind the picture's tower.
struct End {
    image: StreamId,
    embeds: StreamId,
    mean: StreamId,
    /// Rows before the patches.
    tokens: usize,
    norm: LayerNorm,
    /// Whether all rows go through the norm, not the first alone.
    norms_all: bool,
    /// Whether the rows stay when their one row is made: behind them a text's tower would only hold on to them.
    keeps_rows: bool,
    head: Option<PoolingHead>,
    projection: Option<Projection>,
}

#[async_trait(?Send)]
impl Block for End {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        if !state.has(self.image) {
            return Ok(state);
        }
        let compute = lanes.compute();
        let mut image = state.take(self.image)?;
        if self.norms_all {
            image = compute.layer_norm(image, &self.norm);
        }
        let mean = mean_rows(stack, self.image, image.clone(), self.tokens);
        let mut embeds = match &self.head {
            Some(head) => {
                head.forward(lanes, stack, [self.embeds, self.image], image.clone())
                    .await?
            }
            None if self.norms_all => mean.clone(),
            None => compute.layer_norm(first_rows(lanes, stack, self.image, image.clone()), &self.norm),
        };
        if let Some(projection) = &self.projection {
            embeds = lanes.linear(stack, self.embeds, projection, embeds).await?;
        }
        if self.keeps_rows {
            state = state.with(self.image, image);
        }
        Ok(state.with(self.mean, mean).with(self.embeds, embeds))
    }

    fn linears(&self) -> Vec<&Projection> {
        let head = self.head.iter().flat_map(PoolingHead::linears);
        head.chain(&self.projection).collect()
    }
}

/// Attention of one learned query to the rows of a picture, then x + narrow(act(widen(norm(x)))) of that.
struct PoolingHead {
    /// (1 x hidden)
    probe: Vec<f32>,
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    norm: LayerNorm,
    widen: Projection,
    narrow: Projection,
    attention: Attention,
    activation: Activation,
}

/// The layers of [`PoolingHead`] that adapters may target: name, outputs and inputs.
fn head_linears(tower: &Tower) -> impl Iterator<Item = (&'static str, [usize; 2])> {
    let (hidden, wide) = (tower.sizes.hidden, tower.sizes.wide);
    [
        ("head.attention.out_proj", [hidden, hidden]),
        ("head.mlp.fc1", [wide, hidden]),
        ("head.mlp.fc2", [hidden, wide]),
    ]
    .into_iter()
}

impl PoolingHead {
    async fn load(loader: &Loader<'_>, tower: &Tower) -> Result<Self> {
        let (hidden, heads) = (tower.sizes.hidden, tower.sizes.heads);
        let keys = ["weight", "bias"].map(|what| tower.key(&format!("head.attention.in_proj_{what}")));
        let packed = async |part: usize| {
            // `nn.MultiheadAttention` keeps the three in one parameter, which no adapter targets.
            let name = tower.name(&format!("head.attention.in_proj.{part}"));
            let outputs = part * hidden..(part + 1) * hidden;
            let keys = [keys[0].as_str(), keys[1].as_str()];
            loader.outputs(name, keys, [3 * hidden, hidden], outputs).await
        };
        let linear = async |(name, shape): (&str, [usize; 2])| tower.linear(loader, name, shape, true).await;
        let mut linears = Vec::new();
        for named in head_linears(tower) {
            linears.push(linear(named).await?);
        }
        let Ok([output, widen, narrow]) = <[Projection; 3]>::try_from(linears) else {
            unreachable!("three are listed")
        };
        Ok(Self {
            probe: loader.table(&tower.key("head.probe"), &[1, hidden]).await?,
            query: packed(0).await?,
            key: packed(1).await?,
            value: packed(2).await?,
            output,
            norm: tower.norm(loader, "head.layernorm").await?,
            widen,
            narrow,
            attention: Attention::full(heads, hidden / heads),
            activation: tower.activation,
        })
    }

    async fn forward(
        &self,
        lanes: &Lanes<'_>,
        stack: &Stack<'_>,
        [embeds, image]: [StreamId; 2],
        rows: Tensor<2>,
    ) -> Result<Tensor<2>> {
        let compute = lanes.compute();
        let pictures = stack.sequences(image).len();
        let probe = compute.tensor(self.probe.clone(), 1, self.probe.len());
        let query = lanes
            .linear(stack, embeds, &self.query, probe.repeat_dim(0, pictures))
            .await?;
        let keys_values = async || lanes.group(stack, image, [&self.key, &self.value], rows).await;
        let context = lanes
            .attend_to(
                stack,
                [embeds, image],
                &self.query.name,
                query,
                keys_values,
                &self.attention,
            )
            .await?;
        let x = lanes.linear(stack, embeds, &self.output, context).await?;
        let normed = compute.layer_norm(x.clone(), &self.norm);
        let wide = lanes.linear(stack, embeds, &self.widen, normed).await?;
        let wide = compute.activation(self.activation, wide);
        Ok(lanes.linear(stack, embeds, &self.narrow, wide).await? + x)
    }

    fn linears(&self) -> Vec<&Projection> {
        vec![&self.output, &self.widen, &self.narrow]
    }
}

/// The last block where a classifier reads the mean of the patches in the place of the picture's embedding.
struct Classified {
    block: Rc<dyn Block>,
    mean: StreamId,
    output: StreamId,
}

#[async_trait(?Send)]
impl Block for Classified {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, state: State) -> Result<State> {
        let mut state = self.block.forward(lanes, stack, state).await?;
        if !state.has(self.mean) {
            return Ok(state);
        }
        let mean = state.take(self.mean)?;
        Ok(state.with(self.output, mean))
    }

    fn linears(&self) -> Vec<&Projection> {
        self.block.linears()
    }
}
