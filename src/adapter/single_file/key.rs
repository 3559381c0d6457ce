//! What the names of an image adapter's tensors mean.
//!
//! Five tools have written them in a dozen ways: `X.lora_down.weight`, `X.lora_A.weight`, `X.lora.down.weight`,
//! `X.processor.to_q_lora.down.weight`, `X.lora_linear_layer.down.weight`. The thing that can go wrong is a
//! variant of LoRA taken for LoRA, so the variants' own tensors are known too, and refused by their name.

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The factor A: `lora_down`, `lora_A`.
    Down,
    /// The factor B: `lora_up`, `lora_B`.
    Up,
    /// The core of a Tucker decomposition between them.
    Mid,
    /// The alpha, a scalar.
    Alpha,
    /// LyCORIS' name of DoRA's magnitude, with the axes of the weight.
    DoraScale,
    /// DoRA's magnitude as PEFT has it.
    Magnitude,
    /// A bias of B.
    Bias,
}

/// The meaning of a tensor's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A tensor of a module's update.
    Part { module: String, role: Role },
    /// A tensor of another kind of adapter, and which.
    Refused(&'static str),
    /// Anything else.
    Other,
}

/// What follows a module's name, by role. `_lora` belongs to the module's name in diffusers' oldest files.
const ROLES: [(&str, Role); 22] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".dora_scale", Role::DoraScale),
    (".lora_magnitude_vector", Role::Magnitude),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    (".lora_magnitude_vector.default.weight", Role::Magnitude),
    (".lora_B.bias", Role::Bias),
    (".lora_up.bias", Role::Bias),
];

/// Ends of names of other kinds of adapters. A `*` ends a name's start.
const REFUSED: [(&str, &str); 22] = [
    (".hada_*", "LoHa"),
    (".lokr_*", "LoKr"),
    (".oft_*", "OFT"),
    (".boft_*", "BOFT"),
    (".rescale", "OFT"),
    (".a1.weight", "GLoRA"),
    (".a2.weight", "GLoRA"),
    (".b1.weight", "GLoRA"),
    (".b2.weight", "GLoRA"),
    (".bm.weight", "GLoRA"),
    (".on_input", "IA3"),
    (".diff", "a full difference of weights"),
    (".diff_b", "a difference of biases"),
    (".w_norm", "a trained normalisation"),
    (".b_norm", "a trained normalisation"),
    (".set_weight", "a replaced weight"),
    (".reshape_weight", "a weight of another shape"),
    (".bias_*", "a sparse bias"),
    (".scalar", "an unfolded scalar of LyCORIS"),
    (".lora_embedding_A", "an adapted embedding"),
    (".lora_embedding_B", "an adapted embedding"),
    (".glora_*", "GLoRA"),
];

impl Key {
    /// The meaning of a tensor's name. The module's name is left as the file has it, but for what the ways of
    /// writing have put into it.
    pub(super) fn of(name: &str) -> Self {
        if let Some((module, role)) = xlabs(name) {
            return Self::Part { module, role };
        }
        let Some((module, role)) = split(name) else {
            let refused = REFUSED.iter().find(|(end, _)| match end.strip_suffix('*') {
                Some(start) => {
                    name.rsplit_once('.')
                        .is_some_and(|(_, last)| last.starts_with(&start[1..]))
                        || name.contains(start) && name.ends_with(".weight")
                }
                None => name.ends_with(end),
            });
            return refused.map_or(Self::Other, |(_, what)| Self::Refused(what));
        };
        // An alpha may follow the factor it belongs to.
        let (module, old) = match role {
            Role::Alpha => split(module).map_or((module, false), |(inner, _)| (inner, is_old(module))),
            _ => (module, is_old(name)),
        };
        if module.is_empty() {
            return Self::Other;
        }
        Self::Part {
            module: modern(module, old),
            role,
        }
    }
}

/// The module and the role of a tensor of XLabs' trainer for Flux.1, which numbers the two streams of a double block:
/// `double_blocks.0.processor.qkv_lora2.down.weight`.
fn xlabs(name: &str) -> Option<(String, Role)> {
    let (block, rest) = name.split_once(".processor.")?;
    let block = block.strip_prefix("diffusion_model.").unwrap_or(block);
    if !block.starts_with("double_blocks.") {
        return None;
    }
    let (layer, rest) = rest.split_once("_lora")?;
    let (stream, side) = rest.split_once('.')?;
    let stream = match stream {
        "1" => "img",
        "2" => "txt",
        _ => return None,
    };
    let role = match side {
        "down.weight" => Role::Down,
        "up.weight" => Role::Up,
        _ => return None,
    };
    matches!(layer, "qkv" | "proj").then(|| (format!("{block}.{stream}_attn.{layer}"), role))
}

/// Whether a tensor's name is of XLabs' making, so that no program reads its spelling but XLabs' own.
pub(super) fn is_xlabs(name: &str) -> bool {
    xlabs(name).is_some()
}

/// A name's module and role; of several that fit, the longest end.
fn split(name: &str) -> Option<(&str, Role)> {
    ROLES
        .iter()
        .filter_map(|(end, role)| Some((name.strip_suffix(end)?, *role)))
        .min_by_key(|(module, _)| module.len())
}

/// Whether a name has the `_lora` of diffusers' oldest files.
fn is_old(name: &str) -> bool {
    name.ends_with("_lora.down.weight") || name.ends_with("_lora.up.weight")
}

/// Today's name of a module that an old file calls `module`.
fn modern(module: &str, old: bool) -> String {
    let module = module.replace(".processor.", ".");
    let Some((stem, last)) = module.rsplit_once('.') else {
        return module;
    };
    let text = stem.ends_with("self_attn");
    let name = match last {
        "to_q" if text => "q_proj",
        "to_k" if text => "k_proj",
        "to_v" if text => "v_proj",
        "to_out" if text => "out_proj",
        // The projection is the first of two modules; the other is dropout.
        "to_out" if old || stem.ends_with("attn1") || stem.ends_with("attn2") => "to_out.0",
        _ => return module,
    };
    format!("{stem}.{name}")
}

#[cfg(test)]
mod tests {
    use super::{Key, Role};

    #[track_caller]
    fn is(name: &str, module: &str, role: Role) {
        let module = module.to_owned();
        assert_eq!(Key::of(name), Key::Part { module, role }, "{name}");
    }

    #[test]
    fn every_way_of_writing_is_known() {
        is("lora_unet_x_y.lora_down.weight", "lora_unet_x_y", Role::Down);
        is("lora_unet_x_y.lora_mid.weight", "lora_unet_x_y", Role::Mid);
        is("lora_unet_x_y.alpha", "lora_unet_x_y", Role::Alpha);
        is("lora_unet_x_y.dora_scale", "lora_unet_x_y", Role::DoraScale);
        is(
            "diffusion_model.x.y.lora_A.weight",
            "diffusion_model.x.y",
            Role::Down,
        );
        is(
            "diffusion_model.x.y.lora_B.default.weight",
            "diffusion_model.x.y",
            Role::Up,
        );
        is("unet.x.attn1.to_q.lora.up.weight", "unet.x.attn1.to_q", Role::Up);
        is(
            "unet.x.attn1.processor.to_q_lora.down.weight",
            "unet.x.attn1.to_q",
            Role::Down,
        );
        is(
            "unet.x.attn1.processor.to_out_lora.down.weight",
            "unet.x.attn1.to_out.0",
            Role::Down,
        );
        is(
            "unet.x.attn2.to_out.lora_magnitude_vector",
            "unet.x.attn2.to_out.0",
            Role::Magnitude,
        );
        is(
            "unet.x.attn1.to_out.0.lora_A.weight",
            "unet.x.attn1.to_out.0",
            Role::Down,
        );
        is(
            "text_encoder.x.self_attn.q_proj.lora_linear_layer.down.weight",
            "text_encoder.x.self_attn.q_proj",
            Role::Down,
        );
        is(
            "text_encoder.x.self_attn.to_out_lora.up.weight",
            "text_encoder.x.self_attn.out_proj",
            Role::Up,
        );
        is(
            "text_encoder.x.mlp.fc1.lora_B.bias",
            "text_encoder.x.mlp.fc1",
            Role::Bias,
        );
    }

    #[test]
    fn an_alpha_is_its_modules_wherever_it_is_written() {
        is("unet.x.attn1.to_q.alpha", "unet.x.attn1.to_q", Role::Alpha);
        is(
            "unet.x.attn1.processor.to_out_lora.down.weight.alpha",
            "unet.x.attn1.to_out.0",
            Role::Alpha,
        );
    }

    #[test]
    fn other_kinds_of_adapters_are_told_by_name() {
        for (name, what) in [
            ("lora_unet_x.hada_w1_a", "LoHa"),
            ("lora_unet_x.lokr_w2_b", "LoKr"),
            ("lora_unet_x.oft_blocks", "OFT"),
            ("lora_unet_x.a1.weight", "GLoRA"),
            ("lora_unet_x.on_input", "IA3"),
            ("diffusion_model.x.diff", "difference of weights"),
            ("diffusion_model.x.diff_b", "difference of biases"),
            ("lora_unet_x.w_norm", "normalisation"),
        ] {
            assert!(
                matches!(Key::of(name), Key::Refused(found) if found.contains(what)),
                "{name}"
            );
        }
    }

    #[test]
    fn what_has_no_module_or_no_role_is_something_else() {
        for name in [
            "",
            ".alpha",
            ".lora_down.weight",
            "lora_down.weight",
            "x.weight",
            "unet.x.bias",
            "emb_params",
        ] {
            assert_eq!(Key::of(name), Key::Other, "{name}");
        }
    }
}
