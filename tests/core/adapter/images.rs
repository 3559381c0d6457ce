//! Adapters of image models: the goldens mean what diffusers and PEFT compute of them, and come back as they were.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use iteris_web::adapter::{Adapter, Format, LayerKind, Lora, fitting};
use iteris_web::error::Code;
use iteris_web::io::{
    ByteSource, Checkpoint, Dtype, FileSource, Folder, MemorySource, OutDtype, OutTensor, serialize,
};
use iteris_web::naming::BaseNames;
use pollster::block_on;

use super::{
    QUERY, config, factors, read, refused,
    whole::{Loaded, WholeFile, diffusers_file, kohya_file, lone, of_file, shapes},
};

/// Products are compared in f64; diffusers' side was rounded to f32, and its converters fold the scale in f32.
const TOLERANCE: f64 = 2e-6;

fn file(case: &str, name: &str) -> Rc<dyn ByteSource> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/data/images/{case}/{name}"));
    Rc::new(FileSource::open(path, name).unwrap())
}

fn golden(case: &str) -> Loaded {
    let folder = Folder::new(case, vec![file(case, "adapter.safetensors")]).unwrap();
    Loaded::read(case, &folder).unwrap()
}

fn tensors_of(source: Rc<dyn ByteSource>) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let checkpoint = block_on(Checkpoint::open_source(source)).unwrap();
    let infos = checkpoint.infos();
    infos
        .map(|info| {
            let data = block_on(checkpoint.f32(&info.name)).unwrap();
            (info.name.clone(), (info.shape.clone(), data))
        })
        .collect()
}

/// `scaling * b a`, row by row.
fn delta(lora: &Lora) -> Vec<f64> {
    let mut product = Vec::with_capacity(lora.d_out * lora.d_in);
    for row in lora.b.chunks_exact(lora.rank) {
        for column in 0..lora.d_in {
            let sum: f64 = row
                .iter()
                .enumerate()
                .map(|(k, &b)| f64::from(b) * f64::from(lora.a[k * lora.d_in + column]))
                .sum();
            product.push(lora.scaling * sum);
        }
    }
    product
}

#[track_caller]
fn close(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let norm = wanted.iter().map(|x| x * x).sum::<f64>().sqrt();
    let error = found
        .iter()
        .zip(wanted)
        .map(|(x, y)| (x - y) * (x - y))
        .sum::<f64>()
        .sqrt();
    assert!(
        norm > 0.0 && error <= tolerance * norm,
        "{what}: {error} of {norm}"
    );
}

fn layer_of(shape: &[usize]) -> LayerKind {
    match shape {
        [_, channels, kernel @ ..] if !kernel.is_empty() => LayerKind::Conv {
            channels: *channels,
            kernel: kernel.to_vec(),
        },
        _ => LayerKind::Linear,
    }
}

#[test]
fn modules_and_products_are_those_of_diffusers_and_peft() {
    for (case, format) in [
        ("sd15", Format::Kohya),
        ("sdxl", Format::Kohya),
        ("flux", Format::Kohya),
        ("dora", Format::Kohya),
        ("tucker", Format::Kohya),
        ("old", Format::Diffusers),
        ("pipeline", Format::Diffusers),
    ] {
        let adapter = golden(case);
        assert_eq!(adapter.format, format, "{case}");
        let expected = tensors_of(file(case, "expected.safetensors"));
        let wanted: Vec<&str> = expected
            .keys()
            .filter_map(|key| key.strip_suffix("/delta"))
            .collect();
        assert_eq!(adapter.modules.keys().collect::<Vec<_>>(), wanted, "{case}");
        for (path, lora) in &adapter.modules {
            let (shape, numbers) = &expected[&format!("{path}/delta")];
            let numbers: Vec<f64> = numbers.iter().copied().map(f64::from).collect();
            close(&delta(lora), &numbers, TOLERANCE, path);
            assert_eq!(lora.layer, layer_of(shape), "{path}");
            let magnitude = expected
                .get(&format!("{path}/magnitude"))
                .map(|(_, numbers)| numbers);
            assert_eq!(lora.magnitude.as_ref(), magnitude, "{path}");
        }
    }
}

#[test]
fn a_lone_adapter_of_kohyas_comes_back_bit_by_bit() {
    for case in ["sd15", "sdxl", "flux"] {
        let original = tensors_of(file(case, "adapter.safetensors"));
        let adapter = golden(case);
        let modules = lone(&adapter, 1.0).unwrap();
        let written = kohya_file(&modules, &[&adapter], OutDtype::F32).unwrap();
        let mut found: BTreeMap<&str, &OutTensor> = written
            .tensors
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        for (name, (shape, numbers)) in &original {
            let tensor = found
                .remove(name.as_str())
                .unwrap_or_else(|| panic!("{name} is not written"));
            assert_eq!(&tensor.shape, shape, "{name}");
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&tensor.data), bits(numbers), "{name}");
        }
        // An alpha that the file left out is written, as the rank.
        for (name, tensor) in found {
            let module = name.strip_suffix(".alpha").expect(name);
            let rank = original[&format!("{module}.lora_down.weight")].0[0];
            assert_eq!(tensor.data, [rank as f32], "{name}");
        }
    }
}

#[test]
fn a_file_of_halves_comes_back_as_the_same_halves() {
    let adapter = golden("sdxl");
    let first = kohya_file(&lone(&adapter, 1.0).unwrap(), &[&adapter], OutDtype::F16).unwrap();
    let halved = of_file(&first, OutDtype::F16);
    assert_eq!(halved.dtype, Dtype::F16);
    let second = kohya_file(&lone(&halved, 1.0).unwrap(), &[&halved], OutDtype::F16).unwrap();
    let bytes = |file: &WholeFile| serialize(&file.tensors, OutDtype::F16, &file.metadata).unwrap();
    assert_eq!(bytes(&first), bytes(&second));
}

#[test]
fn a_weight_goes_into_alpha_alone() {
    let adapter = golden("sd15");
    let modules = lone(&adapter, -0.5).unwrap();
    let again = of_file(
        &kohya_file(&modules, &[&adapter], OutDtype::F32).unwrap(),
        OutDtype::F32,
    );
    for (path, lora) in &adapter.modules {
        assert_eq!(
            (&again.modules[path].a, &again.modules[path].b),
            (&lora.a, &lora.b)
        );
        assert!(
            (again.modules[path].scaling + 0.5 * lora.scaling).abs() < 1e-6 * lora.scaling,
            "{path}"
        );
    }
}

#[test]
fn every_format_is_written_from_every_other_and_read_back() {
    for case in ["sd15", "sdxl", "flux", "tucker", "old", "pipeline"] {
        let adapter = golden(case);
        let modules = lone(&adapter, 1.0).unwrap();
        assert_eq!(
            fitting(&shapes(&modules)),
            [Format::Kohya, Format::Diffusers],
            "{case}"
        );
        let kohya = of_file(
            &kohya_file(&modules, &[&adapter], OutDtype::F32).unwrap(),
            OutDtype::F32,
        );
        let diffusers = of_file(&diffusers_file(&modules).unwrap(), OutDtype::F32);
        assert_eq!(
            (kohya.format, diffusers.format),
            (Format::Kohya, Format::Diffusers)
        );
        for again in [kohya, diffusers] {
            assert_eq!(
                again.modules.keys().collect::<Vec<_>>(),
                modules.keys().collect::<Vec<_>>()
            );
            for (path, lora) in &modules {
                close(&delta(&again.modules[path]), &delta(lora), 1e-6, path);
                assert_eq!(again.modules[path].layer, lora.layer, "{path}");
            }
        }
    }
}

#[test]
fn a_base_model_settles_names_that_no_vocabulary_has() {
    let names = ["unet.weird_block.0.inner_layer.weight", "unet.conv_in.weight"];
    let base = BaseNames::new(names.into_iter());
    let tensors = vec![
        super::tensor("lora_unet_weird_block_0_inner_layer.lora_down.weight", &[2, 3]),
        super::tensor("lora_unet_weird_block_0_inner_layer.lora_up.weight", &[4, 2]),
    ];
    let source: Rc<dyn ByteSource> = Rc::new(MemorySource::new("mine.safetensors", super::weights(&tensors)));
    let folder = Folder::new("mine", vec![source]).unwrap();
    let adapter = block_on(Adapter::read_for("mine", &folder, Some(&base))).unwrap();
    assert_eq!(
        adapter.modules.keys().collect::<Vec<_>>(),
        ["unet.weird_block.0.inner_layer"]
    );
    // Without one, the flattened name itself is what other adapters of the model have in common with it.
    let adapter = block_on(Adapter::read("mine", &folder)).unwrap();
    assert_eq!(
        adapter.modules.keys().collect::<Vec<_>>(),
        ["diffusion_model.weird_block_0_inner_layer"]
    );
}

/// The two factors of a layer of 8 inputs, and an alpha.
fn layer(name: &str, d_out: usize, rank: usize, d_in: usize) -> Vec<OutTensor> {
    let mut tensors = vec![
        super::tensor(&format!("{name}.lora_down.weight"), &[rank, d_in]),
        super::tensor(&format!("{name}.lora_up.weight"), &[d_out, rank]),
        super::tensor(&format!("{name}.alpha"), &[]),
    ];
    tensors[2].data = vec![3.0];
    tensors
}

pub(super) fn image_adapter(tensors: &[OutTensor]) -> iteris_web::error::Result<Loaded> {
    super::read_files(vec![("mine.safetensors", super::weights(tensors))])
}

#[test]
fn flux_single_blocks_are_taken_apart_and_put_together() {
    let tensors = layer("lora_unet_single_blocks_3_linear1", 56, 2, 8);
    let adapter = image_adapter(&tensors).unwrap();
    let sizes: Vec<(&str, usize)> = adapter
        .modules
        .iter()
        .map(|(path, lora)| (path.as_str(), lora.d_out))
        .collect();
    assert_eq!(
        sizes,
        [
            ("transformer.single_transformer_blocks.3.attn.to_k", 8),
            ("transformer.single_transformer_blocks.3.attn.to_q", 8),
            ("transformer.single_transformer_blocks.3.attn.to_v", 8),
            ("transformer.single_transformer_blocks.3.proj_mlp", 32),
        ]
    );
    let whole = kohya_file(&lone(&adapter, 1.0).unwrap(), &[&adapter], OutDtype::F32).unwrap();
    for (tensor, found) in tensors
        .iter()
        .zip([&whole.tensors[0], &whole.tensors[1], &whole.tensors[2]])
    {
        assert_eq!(tensor, found);
    }
    // Without the first part, the others keep their rows, and directions of their own.
    let mut modules = lone(&adapter, 1.0).unwrap();
    modules.remove("transformer.single_transformer_blocks.3.attn.to_q");
    modules
        .get_mut("transformer.single_transformer_blocks.3.proj_mlp")
        .unwrap()
        .scaling = 0.25;
    let again = of_file(
        &kohya_file(&modules, &[&adapter], OutDtype::F32).unwrap(),
        OutDtype::F32,
    );
    for (path, lora) in &modules {
        close(&delta(&again.modules[path]), &delta(lora), 1e-6, path);
    }
    let absent = &again.modules["transformer.single_transformer_blocks.3.attn.to_q"];
    assert!(delta(absent).iter().all(|&value| value == 0.0));
}

#[test]
fn names_that_later_models_took_from_flux_stay_their_own() {
    // Flux.2's feed-forward layers are gated: six times as wide as the stream, not four.
    let mut tensors = layer("lora_unet_double_blocks_0_img_mlp_0", 48, 2, 8);
    tensors.extend(layer("lora_unet_double_blocks_0_img_attn_qkv", 24, 2, 8));
    let adapter = image_adapter(&tensors).unwrap();
    let paths: Vec<&str> = adapter
        .modules
        .keys()
        .map(iteris_web::naming::ModulePath::as_str)
        .collect();
    assert_eq!(
        paths,
        [
            "diffusion_model.double_blocks.0.img_attn.qkv",
            "diffusion_model.double_blocks.0.img_mlp.0"
        ]
    );
    let modules = lone(&adapter, 1.0).unwrap();
    assert_eq!(fitting(&shapes(&modules)), [Format::Kohya]);
    refused(
        diffusers_file(&modules),
        Code::OptionInvalid,
        &["choose kohya", "diffusion_model.double_blocks"],
    );
    let written = kohya_file(&modules, &[&adapter], OutDtype::F32).unwrap();
    assert!(
        written
            .tensors
            .iter()
            .any(|tensor| tensor.name == "lora_unet_double_blocks_0_img_mlp_0.lora_up.weight")
    );
}

#[test]
fn t5_is_fluxs_second_encoder_and_stable_diffusions_third() {
    let t5 = layer("lora_te3_encoder_block_0_layer_0_SelfAttention_q", 8, 2, 8);
    let mut flux = t5.clone();
    flux.extend(layer("lora_unet_double_blocks_0_img_attn_proj", 8, 2, 8));
    let adapter = image_adapter(&flux).unwrap();
    let path = "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q";
    assert!(adapter.modules.contains_key(path));
    let written = kohya_file(&lone(&adapter, 1.0).unwrap(), &[], OutDtype::F32).unwrap();
    assert!(
        written
            .tensors
            .iter()
            .any(|tensor| tensor.name.starts_with("lora_te3_encoder_block_0"))
    );
    assert!(
        image_adapter(&t5)
            .unwrap()
            .modules
            .contains_key(path.replace("_2", "_3").as_str())
    );
}

#[test]
fn an_alpha_that_a_narrow_type_cannot_hold_is_made_up_for_in_the_factor() {
    let adapter = image_adapter(&layer("lora_unet_conv_out", 4, 301, 8)).unwrap();
    let mut modules = lone(&adapter, 1.0).unwrap();
    modules.values_mut().for_each(|lora| lora.scaling = 1.0);
    let again = of_file(
        &kohya_file(&modules, &[], OutDtype::Bf16).unwrap(),
        OutDtype::Bf16,
    );
    // bf16 has 8 bits, and the product adds up 301 of its roundings.
    close(
        &delta(&again.modules["unet.conv_out"]),
        &delta(&modules["unet.conv_out"]),
        1e-3,
        "bf16",
    );
}

#[test]
fn only_peft_has_names_for_a_language_model() {
    let adapter = read(&config(&[]), &factors(QUERY, 2)).unwrap();
    let modules = lone(&adapter, 1.0).unwrap();
    assert_eq!(fitting(&shapes(&modules)), [Format::Peft]);
    refused(
        kohya_file(&modules, &[&adapter], OutDtype::F32),
        Code::OptionInvalid,
        &["choose peft", QUERY],
    );
    refused(
        diffusers_file(&modules),
        Code::OptionInvalid,
        &["choose peft", QUERY],
    );
    // CLIP's encoder is one that image models have.
    let clip = "text_model.encoder.layers.0.self_attn.q_proj";
    let adapter = read(&config(&[]), &factors(clip, 2)).unwrap();
    let modules = lone(&adapter, 1.0).unwrap();
    assert_eq!(
        fitting(&shapes(&modules)),
        [Format::Peft, Format::Kohya, Format::Diffusers]
    );
    let again = of_file(
        &kohya_file(&modules, &[&adapter], OutDtype::F32).unwrap(),
        OutDtype::F32,
    );
    close(
        &delta(&again.modules[format!("text_encoder.{clip}").as_str()]),
        &delta(&modules[clip]),
        1e-6,
        clip,
    );
}

#[test]
fn more_than_plain_factors_is_no_lone_adapters_result() {
    let adapter = golden("dora");
    assert!(adapter.needs_base());
    assert_eq!(lone(&adapter, 1.0), None);
}
