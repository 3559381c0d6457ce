//! `generation_config.json`: how a model begins and ends what it writes.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::{Code, Error, Result},
    io::Folder,
};

/// The settings that greedy generation depends on, from `generation_config.json` or, where that is
/// absent or silent, from `config.json`. Sampling settings are the caller's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end an answer.
    pub stop: Vec<u32>,
    /// The beginning-of-sequence token.
    pub bos: Option<u32>,
    /// The first input of an encoder-decoder's decoder.
    pub decoder_start: Option<u32>,
    /// The first token of every answer, whatever the logits say (BART).
    pub forced_bos: Option<u32>,
    /// The last token of an answer that reaches the most tokens.
    pub forced_eos: Option<u32>,
    /// No stop token before this many tokens of an answer, prompt not counted.
    pub min_new_tokens: usize,
    /// No stop token before this many tokens in all (a decoder's start token or a prompt counted).
    pub min_length: usize,
    /// Factor against tokens that have been read or written (Keskar et al., 2019).
    pub repetition_penalty: Option<f64>,
    /// No run of this many tokens twice; 0 for no such rule.
    pub no_repeat_ngram_size: usize,
    /// Tokens that are never written.
    pub suppressed: Vec<u32>,
    /// Tokens that are never written first.
    pub suppressed_first: Vec<u32>,
}

#[derive(Default, Deserialize)]
struct File {
    eos_token_id: Option<Ids>,
    bos_token_id: Option<Ids>,
    decoder_start_token_id: Option<Ids>,
    forced_bos_token_id: Option<Ids>,
    forced_eos_token_id: Option<Ids>,
    min_new_tokens: Option<usize>,
    min_length: Option<usize>,
    repetition_penalty: Option<f64>,
    no_repeat_ngram_size: Option<usize>,
    suppress_tokens: Option<Vec<u32>>,
    begin_suppress_tokens: Option<Vec<u32>>,
}

/// One id or several.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Several(Vec<u32>),
}

impl Ids {
    fn all(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }

    fn first(self) -> Option<u32> {
        self.all().first().copied()
    }
}

impl GenerationConfig {
    /// Reads the files of a base model; `config` is its `config.json`.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`] for values of another kind than these.
    pub async fn read(folder: &Folder, config: &Value) -> Result<Self> {
        let parse = |value: &Value, file: &str| {
            File::deserialize(value).map_err(|error| {
                Error::new(Code::ConfigInvalid, format!("{file} of the base model: {error}"))
            })
        };
        let own: Option<Value> = folder.read_json("generation_config.json").await?;
        let main = own
            .as_ref()
            .map(|value| parse(value, "generation_config.json"))
            .transpose()?;
        // transformers reads generation settings of config.json only where there is no file for them, but
        // a few hub checkpoints have the ids in one place alone.
        let legacy = parse(config, "config.json")?;
        let settings = |file: &File| Self {
            min_new_tokens: file.min_new_tokens.unwrap_or(0),
            min_length: file.min_length.unwrap_or(0),
            repetition_penalty: file.repetition_penalty.filter(|penalty| *penalty > 0.0),
            no_repeat_ngram_size: file.no_repeat_ngram_size.unwrap_or(0),
            suppressed: file.suppress_tokens.clone().unwrap_or_default(),
            suppressed_first: file.begin_suppress_tokens.clone().unwrap_or_default(),
            forced_bos: file.forced_bos_token_id.clone().and_then(Ids::first),
            forced_eos: file.forced_eos_token_id.clone().and_then(Ids::first),
            ..Self::default()
        };
        let id = |of: fn(&File) -> Option<Ids>| main.as_ref().and_then(of).or_else(|| of(&legacy));
        Ok(Self {
            stop: id(|file| file.eos_token_id.clone())
                .map(Ids::all)
                .unwrap_or_default(),
            bos: id(|file| file.bos_token_id.clone()).and_then(Ids::first),
            decoder_start: id(|file| file.decoder_start_token_id.clone()).and_then(Ids::first),
            ..settings(main.as_ref().unwrap_or(&legacy))
        })
    }
}
