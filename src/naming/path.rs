//! What a layer is called: a [`ModulePath`] by an adapter, a [`CheckpointKey`] by a base, and the [`LayerKey`] under
//! which the names that several programs have for one layer meet.
//!
//! A name in a file is the model's own behind whatever stood around the model when the file was saved: wrappers of
//! `torch.compile` and of data-parallel training, PEFT's own model (twice, where an adapter was put on an adapted
//! model), the class with a head around the bare model, the component of a pipeline. This is the one place where such
//! things are taken off.

use std::{
    borrow::{Borrow, Cow},
    fmt,
    ops::Deref,
};

use crate::naming::{NATIVE, split_component};

/// Parts of a name that are wrappers wherever they stand: of `torch.compile`, FSDP, activation checkpointing and
/// Lightning Fabric.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
];

/// What stands in front of PEFT's names.
pub(crate) const PEFT: &str = "base_model.model.";

/// What `DataParallel` and DeepSpeed put in front of a model's names.
const PARALLEL: &str = "module.";

/// What classes with a head call the model inside (transformers' `base_model_prefix`), and the language model inside a
/// model of text and images in its older and its newer layout. The longer of two that fit comes first.
const CLASSES: &[&str] = &[
    "base_model.",
    "language_model.model.",
    "model.language_model.",
    "model.text_model.",
    "albert.",
    "backbone.",
    "beit.",
    "bert.",
    "biogpt.",
    "canine.",
    "convbert.",
    "convnext.",
    "convnextv2.",
    "data2vec_text.",
    "data2vec_vision.",
    "deberta.",
    "deit.",
    "dinov2.",
    "dinov2_with_registers.",
    "distilbert.",
    "electra.",
    "ernie.",
    "esm.",
    "funnel.",
    "gpt_neox.",
    "hubert.",
    "ibert.",
    "layoutlm.",
    "layoutlmv2.",
    "layoutlmv3.",
    "lilt.",
    "longformer.",
    "luke.",
    "mobilebert.",
    "model.",
    "mpnet.",
    "nomic_bert.",
    "nystromformer.",
    "rembert.",
    "roberta.",
    "roberta_prelayernorm.",
    "roformer.",
    "rwkv.",
    "segformer.",
    "splinter.",
    "swin.",
    "swinv2.",
    "transformer.",
    "vit.",
    "wav2vec2.",
    "wavlm.",
    "yoso.",
];

/// The components of a pipeline that are the image model itself: diffusers' two, and the one of the original code.
const IMAGE: [&str; 3] = ["unet", "transformer", NATIVE];

/// Layers in the blocks of Wan's transformer: its authors' names and diffusers'.
const WAN: [(&str, &str); 12] = [
    ("self_attn.q", "attn1.to_q"),
    ("self_attn.k", "attn1.to_k"),
    ("self_attn.v", "attn1.to_v"),
    ("self_attn.o", "attn1.to_out.0"),
    ("cross_attn.q", "attn2.to_q"),
    ("cross_attn.k", "attn2.to_k"),
    ("cross_attn.v", "attn2.to_v"),
    ("cross_attn.o", "attn2.to_out.0"),
    ("cross_attn.k_img", "attn2.add_k_proj"),
    ("cross_attn.v_img", "attn2.add_v_proj"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
];

/// The name of a layer of Wan's as diffusers has it, or as its authors do; any other layer's as it is.
fn wan(bare: &str, diffusers: bool) -> Cow<'_, str> {
    let layer = || {
        let (block, inner) = bare.strip_prefix("blocks.")?.split_once('.')?;
        let (original, name) = WAN
            .iter()
            .find(|(original, name)| inner == *original || inner == *name)?;
        Some(format!(
            "blocks.{block}.{}",
            if diffusers { name } else { original }
        ))
    };
    layer().map_or(Cow::Borrowed(bare), Cow::Owned)
}

/// A tensor's or module's name without what was wrapped around the model when it was saved.
pub(crate) fn unwrapped(name: &str) -> Cow<'_, str> {
    let mut name = if name.split('.').any(|part| WRAPPERS.contains(&part)) {
        let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
        Cow::Owned(parts.join("."))
    } else {
        Cow::Borrowed(name)
    };
    while let Some(rest) = [PEFT, PARALLEL]
        .iter()
        .find_map(|around| name.strip_prefix(around))
    {
        name = Cow::Owned(rest.to_owned());
    }
    name
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// What an adapter calls a layer, without wrappers: behind the prefix of the class or the component that it was
    /// trained in, as `bert.encoder.layer.0.attention.self.query` or `unet.conv_in`.
    ModulePath
}

name_type! {
    /// What a base calls a tensor, without wrappers, as `model.layers.0.self_attn.q_proj.weight`.
    CheckpointKey
}

name_type! {
    /// What all names of one layer have in common: neither a class nor an image model's component in front, and one
    /// sign between parts, since files of image models have lost the difference of dots and underscores.
    LayerKey
}

impl ModulePath {
    /// The path that a name in an adapter's file means.
    pub fn new(name: &str) -> Self {
        Self(unwrapped(name).into_owned())
    }

    /// The prefix that tells in what the model was wrapped: a class's, or an image model's component; empty for a bare
    /// model's.
    pub fn prefix(&self) -> &str {
        if let Some((component, _)) = split_component(&self.0)
            && (IMAGE.contains(&component) || component.starts_with("text_encoder"))
        {
            return &self.0[..=component.len()];
        }
        let mut classes = CLASSES.iter();
        classes
            .find(|class| self.0.starts_with(**class))
            .copied()
            .unwrap_or("")
    }

    /// The path without its [prefix](Self::prefix).
    pub fn bare(&self) -> &str {
        &self.0[self.prefix().len()..]
    }

    /// The image model's component that the layer is of, if it is of one.
    pub fn image_component(&self) -> Option<&str> {
        let (component, _) = split_component(&self.0)?;
        IMAGE.contains(&component).then_some(component)
    }

    /// Under what the names of this layer meet.
    pub fn key(&self) -> LayerKey {
        // A text encoder is told from the others of its pipeline by its component.
        let of = match self.prefix() {
            text if text.starts_with("text_encoder") => Cow::Borrowed(self.as_str()),
            _ => wan(self.bare(), true),
        };
        LayerKey(of.replace('.', "_"))
    }

    /// The layer's name as a file would have it whose names stand behind `prefix`.
    #[must_use]
    pub fn behind(&self, prefix: &str) -> Self {
        // A text encoder has one prefix, and a flattened name of a model that nothing is known of goes with no other's.
        if self.prefix().starts_with("text_encoder") || !self.bare().contains('.') {
            return self.clone();
        }
        Self(format!("{prefix}{}", wan(self.bare(), prefix == "transformer.")))
    }
}

impl CheckpointKey {
    /// The key that a name in a checkpoint means.
    pub fn new(name: &str) -> Self {
        Self(unwrapped(name).into_owned())
    }

    /// Whether this is the tensor `wanted`: its name, or one of the two behind a class that the other has not.
    pub fn is(&self, wanted: &str) -> bool {
        let ends = |whole: &str, end: &str| whole.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
        &self.0 == wanted || ends(&self.0, wanted) || ends(wanted, &self.0)
    }
}

/// Of `names`, the one most like `name`: with the most parts in common, counted from the end and then from the front.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let parts = |name: &str| -> Vec<String> { name.split(['.', '_']).map(str::to_owned).collect() };
    let wanted = parts(name);
    let common = |other: &[String]| {
        let pairs = |same: &(&String, &String)| same.0 == same.1;
        let ending = wanted
            .iter()
            .rev()
            .zip(other.iter().rev())
            .take_while(pairs)
            .count();
        let shared = wanted.iter().filter(|part| other.contains(part)).count();
        2 * ending + 2 * shared
    };
    // Of equally good ones the shortest, then the first.
    let score = |other: &str| {
        let other = parts(other);
        (common(&other), usize::MAX - other.len())
    };
    let mut best: Option<((usize, usize), &str)> = None;
    for other in names {
        let score = score(other);
        if score.0 > 0 && best.is_none_or(|(known, _)| score > known) {
            best = Some((score, other));
        }
    }
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::{CheckpointKey, ModulePath, nearest};

    #[test]
    fn whatever_was_wrapped_around_a_model_is_taken_off() {
        let path = "model.layers.0.self_attn.q_proj";
        for name in [
            "model.layers.0.self_attn.q_proj",
            "base_model.model.model.layers.0.self_attn.q_proj",
            "base_model.model.base_model.model.model.layers.0.self_attn.q_proj",
            "_orig_mod.base_model.model.model.layers.0.self_attn.q_proj",
            "base_model.model._orig_mod.model.layers.0.self_attn.q_proj",
            "base_model.model.model._orig_mod.layers.0._checkpoint_wrapped_module.self_attn.q_proj",
            "module.base_model.model.model.layers.0.self_attn.q_proj",
            "base_model.model.module._fsdp_wrapped_module.model.layers.0.self_attn.q_proj",
        ] {
            assert_eq!(&*ModulePath::new(name), path, "{name}");
        }
    }

    #[test]
    fn names_of_one_layer_meet() {
        for names in [
            &[
                "model.layers.0.q",
                "layers.0.q",
                "model.language_model.layers.0.q",
                "language_model.model.layers.0.q",
            ][..],
            &["bert.encoder.layer.0.dense", "encoder.layer.0.dense"],
            &["transformer.h.0.attn", "h.0.attn"],
            &[
                "diffusion_model.layers.0.attention.to_q",
                "transformer.layers.0.attention.to_q",
                "diffusion_model.layers_0_attention_to_q",
            ],
            &["unet.conv_in", "conv_in"],
            &[
                "diffusion_model.blocks.3.cross_attn.o",
                "transformer.blocks.3.attn2.to_out.0",
                "blocks.3.cross_attn.o",
            ],
        ] {
            let keys: Vec<_> = names.iter().map(|name| ModulePath::new(name).key()).collect();
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
        }
    }

    #[test]
    fn a_layer_is_named_as_another_file_names_it() {
        let path = ModulePath::new("diffusion_model.blocks.3.ffn.0");
        assert_eq!(
            path.behind("transformer.").as_str(),
            "transformer.blocks.3.ffn.net.0.proj"
        );
        assert_eq!(path.behind("transformer.").behind("diffusion_model."), path);
        assert_eq!(
            ModulePath::new("layers.0.q").behind("model.").as_str(),
            "model.layers.0.q"
        );
        let text = ModulePath::new("text_encoder.text_model.encoder.layers.0.mlp.fc1");
        assert_eq!(text.behind("unet."), text);
    }

    #[test]
    fn different_layers_do_not() {
        for (left, right) in [
            (
                "text_encoder.text_model.encoder.layers.0.mlp.fc1",
                "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
            ),
            (
                "text_model.encoder.layers.0.mlp.fc1",
                "vision_model.encoder.layers.0.mlp.fc1",
            ),
            (
                "encoder.block.0.layer.0.SelfAttention.q",
                "decoder.block.0.layer.0.SelfAttention.q",
            ),
            ("model.encoder.layers.0.fc1", "model.decoder.layers.0.fc1"),
            ("unet.conv_in", "prior.conv_in"),
            ("model.layers.1.q", "model.layers.11.q"),
        ] {
            assert_ne!(
                ModulePath::new(left).key(),
                ModulePath::new(right).key(),
                "{left}, {right}"
            );
        }
    }

    #[test]
    fn a_key_is_found_behind_a_class_that_only_one_side_has() {
        let key = CheckpointKey::new("_orig_mod.model.layers.0.q.weight");
        assert!(key.is("model.layers.0.q.weight") && key.is("layers.0.q.weight"));
        assert!(key.is("lm.model.layers.0.q.weight") && !key.is("ayers.0.q.weight"));
    }

    #[test]
    fn the_nearest_name_shares_the_most_parts() {
        let names = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.self_attn.k_proj",
            "model.layers.1.self_attn.q_proj",
        ];
        let of = |name: &str| nearest(name, names.into_iter());
        assert_eq!(of("transformer.layers.1.attn.q_proj"), Some(names[2]));
        assert_eq!(of("x"), None);
    }
}
