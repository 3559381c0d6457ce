//! Classes without a head: a model of pictures and texts says which of some texts a picture is most like.

use std::collections::BTreeMap;

use crate::{
    compare::{
        Contest, Pooled,
        classify::{Classes, cosine},
        said::Chances,
    },
    compute::narrow,
    error::{Code, Error, Result},
    model::{
        Model,
        batch::{Input, Sample},
    },
};

/// The texts that pictures are held against, as samples; none where there are no classes, or the model reads no texts.
///
/// # Errors
/// [`Code::OptionInvalid`] for a text that the model cannot read.
pub(super) fn texts(contest: &Contest<'_>) -> Result<Option<Vec<Sample>>> {
    let model = contest.model;
    if contest.classes.is_empty() || model.family.similarity().is_none() {
        return Ok(None);
    }
    let facts = model.family.facts();
    let text = |class: &super::Class| {
        let wrong = facts
            .unknown_token(&class.ids)
            .or_else(|| facts.too_long(class.ids.len()));
        match wrong {
            Some(what) => Err(Error::new(
                Code::OptionInvalid,
                format!(
                    "the class \"{}\" cannot be read: {what}; give a shorter text",
                    class.name
                ),
            )),
            None => Ok(Sample::of(Input::absent()).and_tokens(class.ids.clone())),
        }
    };
    contest.classes.iter().map(text).collect::<Result<_>>().map(Some)
}

/// What every variant says of every picture, by embeddings of pictures and of texts.
///
/// # Errors
/// Whatever reading the models' scales reports.
pub(super) async fn classes(contest: &Contest<'_>, pictures: &[Pooled], texts: &[Pooled]) -> Result<Classes> {
    let width = contest.model.family.features_width(&BTreeMap::new());
    let lanes = 2 + contest.adapters.len();
    let base = Likeness::of(contest.model).await?;
    let mut logits = Vec::with_capacity(pictures.len());
    for (variant, (pictures, texts)) in pictures.iter().zip(texts).enumerate() {
        let own = match variant
            .checked_sub(lanes)
            .and_then(|whole| contest.models.get(whole))
        {
            Some((_, model)) => Likeness::of(model).await?,
            None => base,
        };
        logits.push(own.logits(pictures, texts, width));
    }
    Ok(Classes {
        names: contest.classes.iter().map(|class| class.name.clone()).collect(),
        logits,
        chances: match base.bias {
            Some(_) => Chances::Each,
            None => Chances::OneOf,
        },
    })
}

/// exp(scale) cos(picture, text) + bias.
#[derive(Clone, Copy)]
struct Likeness {
    factor: f64,
    bias: Option<f64>,
}

impl Likeness {
    async fn of(model: &Model) -> Result<Self> {
        let Some(keys) = model.family.similarity() else {
            return Err(Error::new(
                Code::Internal,
                "a model without texts was asked how alike they are to pictures",
            ));
        };
        let first = async |key: &str| -> Result<f64> {
            let numbers = model.checkpoint.f32(key).await?;
            Ok(numbers.first().copied().map_or(0.0, f64::from))
        };
        Ok(Self {
            factor: first(&keys.scale).await?.exp(),
            bias: match &keys.bias {
                Some(key) => Some(first(key).await?),
                None => None,
            },
        })
    }

    /// (pictures x texts)
    fn logits(self, pictures: &[f32], texts: &[f32], width: usize) -> Vec<f32> {
        let (bias, factor) = (self.bias.unwrap_or(0.0), self.factor);
        let row = |picture| {
            let texts = texts.chunks_exact(width);
            texts.map(move |text| narrow(factor * cosine(picture, text) + bias))
        };
        pictures.chunks_exact(width).flat_map(row).collect()
    }
}
