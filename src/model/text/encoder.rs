//! The post-norm encoder: what BERT, RoBERTa and DistilBERT are made of.
//!
//! A layer is norm(x + attention(x)), then norm(x + narrow(act(widen(x)))) of that; positions are learned,
//! and every layer has a bias. Checkpoints of the model itself and of the classes around it (a classifier,
//! a language model head) are read alike. A family is what its configuration turns into [`Settings`]; the
//! last block is [`super::pool`]'s.

use std::rc::Rc;

use async_trait::async_trait;
use burn::tensor::Tensor;
use serde_json::Value;

use crate::{
    compute::{Activation, Attention, LayerNorm},
    error::Result,
    io::Checkpoint,
    model::{
        batch::{Batch, Stack},
        config::{architecture, invalid, only, positive, unquantised},
        family::{Block, Family, Heads, Kind, ModelFacts, Module},
        lanes::Lanes,
        load::{LinearShape, Loader},
        parts::{modules, prefix},
        projection::Projection,
        state::State,
        streams::{Stream, StreamId},
        text::{
            ENCODER_STREAMS, POOLED, TEXT,
            pool::{self, Pooling},
        },
    },
    naming::family::FamilyNames,
};

/// Widths and counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sizes {
    pub(super) vocabulary: usize,
    /// Rows of the table of positions.
    pub(super) positions: usize,
    /// Rows of the table of token types; 0 if there is none.
    pub(super) token_types: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) hidden: usize,
    /// Width of the feed-forward layers.
    pub(super) wide: usize,
}

/// What a family calls the parts of a layer, behind the layer's own path.
pub(super) struct Names {
    /// The list of layers.
    pub(super) layers: &'static str,
    pub(super) query: &'static str,
    pub(super) key: &'static str,
    pub(super) value: &'static str,
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) widen: &'static str,
    pub(super) narrow: &'static str,
    pub(super) output_norm: &'static str,
}

/// BERT's names, which most of its descendants keep.
pub(super) const BERT: Names = Names {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    widen: "intermediate.dense",
    narrow: "output.dense",
    output_norm: "output.LayerNorm",
};

/// What makes one of these families.
pub(super) struct Settings {
    /// Its name in reports.
    pub(super) family: &'static str,
    pub(super) sizes: Sizes,
    pub(super) names: &'static Names,
    /// What may stand before the names of modules in checkpoints and adapters, the usual one first.
    pub(super) prefixes: &'static [&'static str],
    pub(super) activation: Activation,
    /// Added to the variance in every norm.
    pub(super) epsilon: f32,
    pub(super) pad_id: u32,
    /// Whether positions are counted from behind the padding token's id, which has a position of its own
    /// and is not counted (RoBERTa).
    pub(super) positions_behind_padding: bool,
    /// How its classifiers read it.
    pub(super) pool: pool::Settings,
}

impl Settings {
    /// The first row of the table of positions that a token has.
    const fn first_position(&self) -> usize {
        if self.positions_behind_padding {
            self.pad_id as usize + 1
        } else {
            0
        }
    }

    /// The targetable layers of a block: name, outputs, inputs, in the order of the forward pass.
    fn linears(&self, block: usize) -> [(String, usize, usize); 6] {
        let (names, hidden, wide) = (self.names, self.sizes.hidden, self.sizes.wide);
        [
            (names.query, hidden, hidden),
            (names.key, hidden, hidden),
            (names.value, hidden, hidden),
            (names.attention_output, hidden, hidden),
            (names.widen, wide, hidden),
            (names.narrow, hidden, wide),
        ]
        .map(|(suffix, d_out, d_in)| (format!("{}.{block}.{suffix}", names.layers), d_out, d_in))
    }
}

/// The family over one checkpoint.
struct Encoder {
    settings: Settings,
    architecture: String,
    prefix: &'static str,
    pooling: Pooling,
    modules: Vec<Module>,
}

/// The family that `settings` makes of `config`.
///
/// # Errors
/// `model_unsupported` naming an option that all these families share and that is not handled,
/// `config_invalid` for sizes that make no model.
pub(super) fn open(config: &Value, checkpoint: &Checkpoint, settings: Settings) -> Result<Box<dyn Family>> {
    unquantised(config)?;
    only(config, "position_embedding_type", &["absolute".into()])?;
    only(config, "is_decoder", &[false.into()])?;
    let sizes = &settings.sizes;
    let Sizes { hidden, heads, .. } = *sizes;
    positive(&[
        ("the vocabulary", sizes.vocabulary),
        ("the number of layers", sizes.layers),
        ("the number of attention heads", heads),
        ("the hidden width", hidden),
        ("the width of the feed-forward layers", sizes.wide),
    ])?;
    if hidden % heads != 0 {
        return Err(invalid(&format!("{hidden} hidden units make no {heads} heads")));
    }
    if sizes.positions <= settings.first_position() {
        return Err(invalid(&format!(
            "{} positions, of which the first is {}, are none",
            sizes.positions,
            settings.first_position()
        )));
    }
    let prefix = prefix(checkpoint, "embeddings.word_embeddings.weight", settings.prefixes);
    let pooling = Pooling::new(checkpoint, prefix, hidden, settings.pool.clone());
    let modules = (0..sizes.layers)
        .flat_map(|block| modules(prefix, block, settings.linears(block)))
        .chain(pooling.module(sizes.layers))
        .collect();
    Ok(Box::new(Encoder {
        architecture: architecture(config, settings.family),
        prefix,
        pooling,
        modules,
        settings,
    }))
}

#[async_trait(?Send)]
impl Family for Encoder {
    fn facts(&self) -> ModelFacts {
        let sizes = &self.settings.sizes;
        ModelFacts {
            family: self.settings.family.into(),
            kind: Kind::Encoder,
            generates: false,
            architecture: self.architecture.clone(),
            hidden_size: sizes.hidden,
            layers: sizes.layers,
            heads: sizes.heads,
            max_length: sizes.positions - self.settings.first_position(),
            vocab_size: sizes.vocabulary,
            has_pooler: self.pooling.is_in_checkpoint(),
            ..ModelFacts::default()
        }
    }

    fn modules(&self) -> &[Module] {
        &self.modules
    }

    fn blocks(&self) -> usize {
        self.settings.sizes.layers + 1
    }

    fn pad_id(&self) -> u32 {
        self.settings.pad_id
    }

    fn names(&self) -> FamilyNames {
        FamilyNames::prefixed(self.settings.prefixes)
    }

    fn is_readout(&self, head: &str) -> bool {
        self.pooling.has(head)
    }

    fn readouts(&self) -> &'static [&'static str] {
        self.pooling.settings.readouts
    }

    fn readouts_need(&self) -> Option<&'static str> {
        self.pooling.settings.needed
    }

    fn streams(&self) -> &[Stream] {
        ENCODER_STREAMS
    }

    fn output(&self) -> StreamId {
        POOLED
    }

    async fn embed(&self, loader: &Loader<'_>, batch: &Batch, stream: StreamId) -> Result<Tensor<2>> {
        let sizes = &self.settings.sizes;
        let text = batch.stream(stream);
        let positions = self.positions(batch);
        let key = |name: &str| format!("{}embeddings.{name}.weight", self.prefix);
        let mut tables = vec![
            (key("word_embeddings"), sizes.vocabulary, text.ids.as_slice()),
            (key("position_embeddings"), sizes.positions, positions.as_slice()),
        ];
        if sizes.token_types > 0 {
            let types = (
                key("token_type_embeddings"),
                sizes.token_types,
                text.type_ids.as_slice(),
            );
            tables.push(types);
        }
        let embedded = loader.embedded(&tables, sizes.hidden).await?;
        let key = format!("{}embeddings.LayerNorm", self.prefix);
        let norm = loader
            .layer_norm(&key, sizes.hidden, self.settings.epsilon)
            .await?;
        Ok(loader.compute.layer_norm(embedded, &norm))
    }

    async fn load(&self, loader: &Loader<'_>, block: usize, heads: Option<&Heads>) -> Result<Rc<dyn Block>> {
        let Settings {
            sizes,
            names,
            activation,
            epsilon,
            ..
        } = &self.settings;
        if block == sizes.layers {
            let pool = self.pooling.load(loader, heads, self.names());
            return Ok(Rc::new(pool.await?));
        }
        let linear = async |(name, d_out, d_in): (String, usize, usize)| {
            let key = format!("{}{name}", self.prefix);
            let shape = LinearShape::new(d_out, d_in).biased(true);
            loader.linear(name, &key, shape).await
        };
        let norm = async |suffix: &str| {
            let key = format!("{}{}.{block}.{suffix}", self.prefix, names.layers);
            loader.layer_norm(&key, sizes.hidden, *epsilon).await
        };
        let [query, key, value, attention_output, widen, narrow] = self.settings.linears(block);
        Ok(Rc::new(Layer {
            query: linear(query).await?,
            key: linear(key).await?,
            value: linear(value).await?,
            attention_output: linear(attention_output).await?,
            attention_norm: norm(names.attention_norm).await?,
            widen: linear(widen).await?,
            narrow: linear(narrow).await?,
            output_norm: norm(names.output_norm).await?,
            attention: Attention::full(sizes.heads, sizes.hidden / sizes.heads),
            activation: *activation,
        }))
    }
}

impl Encoder {
    /// The row of the table of positions of every token.
    fn positions(&self, batch: &Batch) -> Vec<u32> {
        if self.settings.positions_behind_padding {
            behind_padding(batch, self.settings.pad_id)
        } else {
            batch.stream(TEXT).positions.clone()
        }
    }
}

/// Positions counted from behind the padding token's, as transformers' `create_position_ids_from_input_ids`
/// counts them: whatever has the padding token's id, be it in the middle of a text, stays at that position
/// and is not counted.
fn behind_padding(batch: &Batch, pad: u32) -> Vec<u32> {
    let text = batch.stream(TEXT);
    let ids = &text.ids;
    let mut positions = vec![pad; ids.len()];
    for sequence in &text.sequences {
        let rows = sequence.start..sequence.start + sequence.length;
        let real = rows.filter(|&row| ids[row] != pad);
        real.zip(pad + 1..)
            .for_each(|(row, position)| positions[row] = position);
    }
    positions
}

struct Layer {
    query: Projection,
    key: Projection,
    value: Projection,
    attention_output: Projection,
    attention_norm: LayerNorm,
    widen: Projection,
    narrow: Projection,
    output_norm: LayerNorm,
    attention: Attention,
    activation: Activation,
}

#[async_trait(?Send)]
impl Block for Layer {
    async fn forward(&self, lanes: &Lanes<'_>, stack: &Stack<'_>, mut state: State) -> Result<State> {
        let compute = lanes.compute();
        let rows = TEXT;
        let x = state.take(TEXT)?;
        let projections = [&self.query, &self.key, &self.value];
        let projected = lanes.group(stack, rows, projections, x.clone()).await?;
        let context = lanes.attend(stack, rows, &self.query.name, projected, &self.attention);
        let attended = lanes.linear(stack, rows, &self.attention_output, context).await?;
        let x = compute.layer_norm(attended + x, &self.attention_norm);

        let wide = lanes.linear(stack, rows, &self.widen, x.clone()).await?;
        let wide = compute.activation(self.activation, wide);
        let output = lanes.linear(stack, rows, &self.narrow, wide).await?;
        Ok(state.with(TEXT, compute.layer_norm(output + x, &self.output_norm)))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        error::Code,
        io::MemorySource,
        model::{
            batch::{Sample, longest, micro_batches},
            text::FAMILIES,
        },
    };

    /// A file with one number in each tensor of those names.
    fn checkpoint(names: &[&str]) -> Checkpoint {
        let header: serde_json::Map<String, Value> = names
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let place = json!({"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]});
                ((*name).to_owned(), place)
            })
            .collect();
        let header = Value::Object(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        let data = vec![0; 4 * names.len()];
        let bytes = [&length[..], header.as_bytes(), &data].concat();
        let source = Rc::new(MemorySource::new("model.safetensors", bytes));
        pollster::block_on(Checkpoint::open_source(source)).unwrap()
    }

    /// The family of a tiny configuration of that type with `changes`.
    fn opened(model_type: &str, changes: &Value, checkpoint: &Checkpoint) -> Result<Box<dyn Family>> {
        let mut config = json!({
            "vocab_size": 50, "hidden_size": 16, "intermediate_size": 28, "num_hidden_layers": 3,
            "num_attention_heads": 4, "max_position_embeddings": 64,
        });
        if model_type == "distilbert" {
            config = json!({
                "vocab_size": 50, "dim": 16, "hidden_dim": 28, "n_layers": 3, "n_heads": 4,
                "max_position_embeddings": 64,
            });
        }
        let fields = config.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        let (_, open) = FAMILIES.iter().find(|(name, _)| *name == model_type).unwrap();
        open(&config, checkpoint)
    }

    const TYPES: [&str; 5] = ["bert", "distilbert", "modernbert", "roberta", "xlm-roberta"];

    #[test]
    fn options_that_are_not_handled_are_refused_by_name() {
        let (unsupported, invalid) = (Code::ModelUnsupported, Code::ConfigInvalid);
        let everywhere = [
            (
                json!({"quantization_config": {"quant_method": "awq"}}),
                unsupported,
                "awq",
            ),
            (
                json!({"hidden_act": "mish", "activation": "mish", "hidden_activation": "mish"}),
                unsupported,
                "mish",
            ),
            (
                json!({"num_attention_heads": 3, "n_heads": 3}),
                invalid,
                "make no 3 heads",
            ),
            (
                json!({"num_hidden_layers": 0, "n_layers": 0}),
                invalid,
                "layers is 0",
            ),
            (
                json!({"intermediate_size": "wide", "hidden_dim": "wide"}),
                invalid,
                "wide",
            ),
        ];
        let none = checkpoint(&[]);
        let refused = |model_type: &str, changes: &Value, code: Code, named: &str| {
            let error = opened(model_type, changes, &none).err().unwrap();
            assert_eq!(error.code(), code, "{model_type}: {error}");
            assert!(error.to_string().contains(named), "{model_type}: {error}");
        };
        for model_type in TYPES {
            opened(model_type, &json!({}), &none).map(drop).unwrap();
            for (changes, code, named) in &everywhere {
                refused(model_type, changes, *code, named);
            }
        }
        for model_type in ["bert", "distilbert", "roberta", "xlm-roberta"] {
            let relative = json!({"position_embedding_type": "relative_key"});
            refused(model_type, &relative, unsupported, "position_embedding_type");
            refused(
                model_type,
                &json!({"is_decoder": true}),
                unsupported,
                "is_decoder",
            );
        }
        for (model_type, changes, code, named) in [
            ("roberta", json!({"pad_token_id": null}), invalid, "pad_token_id"),
            ("roberta", json!({"pad_token_id": 63}), invalid, "64 positions"),
            (
                "modernbert",
                json!({"classifier_pooling": "max"}),
                unsupported,
                "classifier_pooling",
            ),
            (
                "modernbert",
                json!({"classifier_activation": "mish"}),
                unsupported,
                "classifier_activation",
            ),
            (
                "modernbert",
                json!({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}),
                unsupported,
                "chunked_attention",
            ),
            (
                "modernbert",
                json!({"layer_types": ["full_attention"]}),
                invalid,
                "layer_types",
            ),
            (
                "modernbert",
                json!({"rope_scaling": {"rope_type": "yarn", "factor": 4}}),
                unsupported,
                "yarn",
            ),
            ("modernbert", json!({"head_dim": 8}), unsupported, "head_dim"),
            (
                "modernbert",
                json!({"global_attn_every_n_layers": 0}),
                invalid,
                "global_attn_every_n_layers",
            ),
        ] {
            refused(model_type, &changes, code, named);
        }
    }

    #[test]
    fn names_are_without_the_prefix_of_any_class() {
        let none = checkpoint(&[]);
        for (model_type, path, name) in [
            ("roberta", "roberta.pooler.dense", "pooler.dense"),
            ("roberta", "classifier.dense", "classifier.dense"),
            (
                "distilbert",
                "distilbert.transformer.layer.0.ffn.lin1",
                "transformer.layer.0.ffn.lin1",
            ),
            ("modernbert", "model.layers.0.attn.Wqkv", "layers.0.attn.Wqkv"),
            ("modernbert", "layers.0.attn.Wqkv", "layers.0.attn.Wqkv"),
            ("modernbert", "head.dense", "head.dense"),
        ] {
            let family = opened(model_type, &json!({}), &none).unwrap();
            assert_eq!(family.canonical(path), name);
        }
    }

    /// The layer behind the pool is the one that the checkpoint has, and adapters may target that.
    #[test]
    fn the_last_layer_is_the_classifiers_or_else_the_poolers() {
        let pooler = "roberta.pooler.dense.weight";
        for (model_type, names, wanted) in [
            ("bert", &["bert.pooler.dense.weight"][..], Some("pooler.dense")),
            ("bert", &["classifier.weight"], None),
            ("roberta", &[pooler], Some("pooler.dense")),
            (
                "roberta",
                &[pooler, "classifier.dense.weight"],
                Some("classifier.dense"),
            ),
            ("distilbert", &["pre_classifier.weight"], Some("pre_classifier")),
            ("modernbert", &["head.dense.weight"], Some("head.dense")),
            ("modernbert", &[], None),
        ] {
            let table = "embeddings.word_embeddings.weight";
            let tables = [format!("bert.{table}"), format!("roberta.{table}")];
            let all: Vec<&str> = names
                .iter()
                .copied()
                .chain(tables.iter().map(String::as_str))
                .collect();
            let family = opened(model_type, &json!({}), &checkpoint(&all)).unwrap();
            let last = family.modules().last().unwrap();
            let found = (last.block + 1 == family.blocks()).then_some(last.name.as_str());
            assert_eq!(found, wanted, "{model_type} {names:?}");
            assert_eq!(family.facts().has_pooler, wanted.is_some());
            if let Some(module) = found {
                assert!(names.contains(&last.key.as_str()));
                assert!(family.is_readout(&format!("{module}.weight")));
            }
        }
    }

    #[test]
    fn padding_stays_at_its_own_position() {
        let samples = [Sample::text(vec![0, 5, 1, 7, 2]), Sample::text(vec![0, 2])];
        let lengths = longest(ENCODER_STREAMS, &[&samples]).unwrap();
        let batches = micro_batches(ENCODER_STREAMS, &[&samples], Some(&lengths), 1, 100).unwrap();
        // transformers 5.23: create_position_ids_from_input_ids of the padded batch.
        assert_eq!(behind_padding(&batches[0], 1), [2, 3, 1, 4, 5, 2, 3, 1, 1, 1]);
    }
}
