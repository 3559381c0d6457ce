//! What a single file may hold that is not LoRA, or not one meaning: each is refused by name.

use iteris_web::error::Code;
use iteris_web::io::{OutDtype, OutTensor, serialize};

use super::images::image_adapter;
use super::{read_files, refused, tensor, weights};

const MODULE: &str = "lora_unet_down_blocks_0_resnets_0_time_emb_proj";

fn factors() -> Vec<OutTensor> {
    vec![
        tensor(&format!("{MODULE}.lora_down.weight"), &[2, 3]),
        tensor(&format!("{MODULE}.lora_up.weight"), &[4, 2]),
    ]
}

fn with(end: &str, shape: &[usize], data: &[f32]) -> Vec<OutTensor> {
    let mut tensors = factors();
    tensors.push(OutTensor {
        name: format!("{MODULE}.{end}"),
        shape: shape.to_vec(),
        data: data.to_vec(),
    });
    tensors
}

#[test]
fn other_kinds_of_adapters_are_refused_by_name() {
    for (end, kind) in [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("oft_blocks", "OFT"),
        ("a1.weight", "GLoRA"),
        ("on_input", "IA3"),
        ("diff", "a full difference of weights"),
        ("w_norm", "a trained normalisation"),
    ] {
        let only = [tensor(&format!("{MODULE}.{end}"), &[2, 2])];
        refused(image_adapter(&only), Code::AdapterUnsupported, &[kind, end]);
        let beside = with(end, &[2, 2], &[1.0; 4]);
        refused(image_adapter(&beside), Code::AdapterUnsupported, &[kind, end]);
    }
}

#[test]
fn tensors_that_belong_to_nothing_are_listed() {
    let mut tensors = factors();
    tensors.push(tensor("emb_params", &[2, 3]));
    refused(image_adapter(&tensors), Code::TensorsUnaccounted, &["emb_params"]);
}

#[test]
fn names_that_are_unknown_are_listed_together() {
    let mut tensors = factors();
    for name in ["lora_unet_a_b", "lora_te_c_d"] {
        tensors.push(tensor(&format!("{name}.lora_down.weight"), &[2, 3]));
        tensors.push(tensor(&format!("{name}.lora_up.weight"), &[4, 2]));
    }
    refused(
        image_adapter(&tensors),
        Code::AdapterUnsupported,
        &["unknown: lora_te_c_d, lora_unet_a_b", "mine.safetensors"],
    );
}

#[test]
fn an_alpha_that_tools_read_differently_is_refused() {
    refused(
        image_adapter(&with("alpha", &[], &[0.0])),
        Code::AdapterUnsupported,
        &["alpha is 0", MODULE],
    );
    refused(
        image_adapter(&with("alpha", &[2], &[1.0, 2.0])),
        Code::ShapeMismatch,
        &["not one number", MODULE],
    );
    assert!(image_adapter(&with("alpha", &[1], &[1.0])).is_ok());
}

#[test]
fn a_dora_along_the_inputs_is_refused_and_one_along_the_outputs_is_not() {
    let inputs = with("dora_scale", &[1, 3], &[1.0; 3]);
    refused(
        image_adapter(&inputs),
        Code::AdapterUnsupported,
        &["scales inputs", MODULE],
    );
    let outputs = image_adapter(&with("dora_scale", &[4, 1], &[1.0; 4])).unwrap();
    assert!(outputs.needs_base());
    refused(
        image_adapter(&with("dora_scale", &[2, 1], &[1.0; 2])),
        Code::ShapeMismatch,
        &["dora_scale", MODULE],
    );
}

#[test]
fn factors_that_do_not_fit_are_refused() {
    refused(
        image_adapter(&factors()[..1]),
        Code::Missing,
        &["no upper factor", MODULE],
    );
    refused(
        image_adapter(&factors()[1..]),
        Code::Missing,
        &["no lower factor", MODULE],
    );
    let mut tensors = factors();
    tensors[1] = tensor(&format!("{MODULE}.lora_up.weight"), &[4, 3]);
    refused(image_adapter(&tensors), Code::ShapeMismatch, &["rank 2", MODULE]);
    let core = with("lora_mid.weight", &[2, 2, 3, 3], &[1.0; 36]);
    assert!(image_adapter(&core).is_ok());
    let core = with("lora_mid.weight", &[2, 3, 3, 3], &[1.0; 54]);
    refused(image_adapter(&core), Code::ShapeMismatch, &["core", MODULE]);
    let mut tensors = factors();
    tensors[0] = tensor(&format!("{MODULE}.lora_down.weight"), &[2]);
    refused(
        image_adapter(&tensors),
        Code::ShapeMismatch,
        &["no layer's", MODULE],
    );
}

#[test]
fn one_module_under_two_names_is_refused() {
    let mut tensors = factors();
    tensors.push(tensor(
        "lora_unet_input_blocks_1_0_emb_layers_1.lora_down.weight",
        &[2, 3],
    ));
    tensors.push(tensor(
        "lora_unet_input_blocks_1_0_emb_layers_1.lora_up.weight",
        &[4, 2],
    ));
    refused(
        image_adapter(&tensors),
        Code::Duplicate,
        &["unet.down_blocks.0.resnets.0.time_emb_proj"],
    );
    let mut tensors = factors();
    tensors.push(tensor(&format!("{MODULE}.lora_A.weight"), &[2, 3]));
    refused(image_adapter(&tensors), Code::Duplicate, &["lora_A", "lora_down"]);
}

#[test]
fn a_fused_layer_that_does_not_divide_is_refused() {
    let name = "lora_unet_double_blocks_0_img_attn_qkv";
    let tensors = [
        tensor(&format!("{name}.lora_down.weight"), &[2, 8]),
        tensor(&format!("{name}.lora_up.weight"), &[25, 2]),
    ];
    refused(image_adapter(&tensors), Code::ShapeMismatch, &["25 x 8", name]);
}

#[test]
fn a_header_that_says_otherwise_is_refused() {
    let module = "unet.down_blocks.0.resnets.0.time_emb_proj";
    let mut tensors = vec![
        tensor(&format!("{module}.lora_A.weight"), &[2, 3]),
        tensor(&format!("{module}.lora_B.weight"), &[4, 2]),
    ];
    let with = |tensors: &[OutTensor], said: &str| {
        let metadata = [(String::from("lora_adapter_metadata"), said.to_owned())].into();
        let bytes = serialize(tensors, OutDtype::F32, &metadata).unwrap();
        read_files(vec![("mine.safetensors", bytes)])
    };
    let adapter = with(&tensors, r#"{"unet.r": 2, "unet.lora_alpha": 6}"#).unwrap();
    assert!((adapter.modules[module].scaling - 3.0).abs() < 1e-12);
    refused(
        with(&tensors, r#"{"unet.r": 4}"#),
        Code::ShapeMismatch,
        &["rank 2", "says 4", module],
    );
    refused(
        with(&tensors, "[]"),
        Code::ConfigInvalid,
        &["lora_adapter_metadata"],
    );
    tensors.push(tensor(&format!("{module}.alpha"), &[]));
    tensors[2].data = vec![2.0];
    refused(
        with(&tensors, r#"{"unet.r": 2, "unet.lora_alpha": 6}"#),
        Code::AdapterUnsupported,
        &["scale of 1", "one of 3", module],
    );
}

#[test]
fn of_several_files_one_has_to_be_chosen() {
    let file = || weights(&factors());
    refused(
        read_files(vec![("a.safetensors", file()), ("b.safetensors", file())]),
        Code::AdapterUnsupported,
        &["a.safetensors, b.safetensors"],
    );
    let ours = read_files(vec![
        ("a.safetensors", file()),
        ("pytorch_lora_weights.safetensors", file()),
    ]);
    assert!(ours.is_ok(), "diffusers' name says which");
}

#[test]
fn pefts_weights_without_their_configuration_are_still_pefts() {
    refused(
        read_files(vec![(
            "adapter_model.safetensors",
            weights(&super::factors("bert.query", 2)),
        )]),
        Code::Missing,
        &["adapter_config.json"],
    );
}
