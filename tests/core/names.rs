//! One layer under several names: what programs and people have wrapped around a model's own names meets, what comes in
//! goes out under names that its program reads, and what meets nothing is said.
//!
//! The files are the field fixtures of `../shared` (`fixtures/field/README.md` says what is right) and small ones made
//! here.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::support::{fixtures, folder, given, largest_difference, run, tensors};
use iteris_web::{
    error::Code,
    io::{ByteSource, FileSource, Folder, MemorySink, MemorySource, OutDtype, OutTensor, serialize},
    jobs::AdapterInput,
    merge::options::{MergeOptions, MethodName},
    model::batch::Sample,
};

/// The field fixtures, or `None` (with a message) where they are absent.
fn field() -> Option<PathBuf> {
    fixtures("field", "README.md")
}

fn input(name: &str, folder: Folder) -> AdapterInput {
    AdapterInput {
        name: name.to_owned(),
        folder,
        samples: None,
        pictures: None,
        weight: 1.0,
        path: None,
    }
}

/// A PEFT adapter of the field fixtures.
fn text(field: &Path, name: &str) -> AdapterInput {
    input(name, folder(&field.join("text").join(name)))
}

/// A single file of the field fixtures.
fn image(field: &Path, name: &str) -> AdapterInput {
    let file = format!("{name}.safetensors");
    let source = FileSource::open(field.join("image").join(&file), file).unwrap();
    input(
        name,
        Folder::new(name, vec![Rc::new(source) as Rc<dyn ByteSource>]).unwrap(),
    )
}

fn average() -> MergeOptions {
    MergeOptions {
        method: MethodName::Average,
        ..MergeOptions::default()
    }
}

/// The one file of weights that was written, and its deltas by its own names of the modules.
struct Written {
    modules: BTreeMap<String, Vec<f32>>,
    shapes: BTreeMap<String, Vec<usize>>,
    card: String,
}

fn written(sink: &MemorySink) -> Written {
    let (_, bytes) = sink
        .files()
        .iter()
        .find(|(name, _)| name.ends_with(".safetensors") && !name.starts_with("heads/"))
        .unwrap();
    let card = sink
        .files()
        .iter()
        .find(|(name, _)| *name == "README.md")
        .unwrap();
    Written {
        modules: deltas(bytes),
        shapes: shapes(bytes),
        card: String::from_utf8(card.1.clone()).unwrap(),
    }
}

const ENDS: [(&str, &str); 3] = [
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
];

/// The tensors' shapes.
fn shapes(bytes: &[u8]) -> BTreeMap<String, Vec<usize>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let file = tensors(&path);
    let names = file.names();
    names
        .into_iter()
        .map(|name| (name.clone(), file.get(&name).0))
        .collect()
}

/// What every module's delta makes of a fixed vector, with its alpha if it has one, by the name that the file has of
/// it: two changes that differ give different vectors, and no matrix of a real width need be multiplied out.
fn deltas(bytes: &[u8]) -> BTreeMap<String, Vec<f32>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let file = tensors(&path);
    let mut found = BTreeMap::new();
    for name in file.names() {
        let Some((module, up)) = ENDS
            .iter()
            .find_map(|(down, up)| Some((name.strip_suffix(down)?, up)))
        else {
            continue;
        };
        let (a, b) = (file.get(&name), file.get(&format!("{module}{up}")));
        let rank = a.0[0];
        let (lower, upper) = (a.1.chunks_exact(a.1.len() / rank), b.1.chunks_exact(rank));
        let inner: Vec<f64> = lower.map(|row| dot(row, (0..).map(probe))).collect();
        let alpha = format!("{module}.alpha");
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let scale = if file.has(&alpha) {
            file.get(&alpha).1[0] / rank as f32
        } else {
            1.0
        };
        #[expect(clippy::cast_possible_truncation, reason = "compared to 1e-5")]
        let delta = upper
            .map(|row| scale * dot(row, inner.iter().copied()) as f32)
            .collect();
        found.insert(module.to_owned(), delta);
    }
    found
}

/// The numbers of the fixed vector.
fn probe(at: u32) -> f64 {
    f64::from(at * 7919 % 1009) / 1009.0 - 0.5
}

fn dot(row: &[f32], other: impl Iterator<Item = f64>) -> f64 {
    row.iter().zip(other).map(|(x, y)| f64::from(*x) * y).sum()
}

/// The deltas of a PEFT adapter of the fixtures, by the end of their names behind `layers.` or `layer.`.
fn own_deltas(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let config = crate::support::json(&folder.join("adapter_config.json"));
    let scale = config["lora_alpha"].as_f64().unwrap() / config["r"].as_f64().unwrap();
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "a scale")]
    let scaled = |delta: Vec<f32>| delta.iter().map(|x| (scale * f64::from(*x)) as f32).collect();
    deltas(&bytes)
        .into_iter()
        .map(|(module, delta)| (bare(&module).to_owned(), scaled(delta)))
        .collect()
}

fn bare(module: &str) -> &str {
    let at = module.find("layers.").or_else(|| module.find("layer."));
    &module[at.unwrap_or(0)..]
}

#[test]
fn every_wrapping_of_a_language_models_names_is_one_layer() {
    let Some(field) = field() else { return };
    let second = own_deltas(&field.join("text/a2"));
    for name in ["k_origmod_front", "k_double", "k_automodel"] {
        let first = own_deltas(&field.join("text").join(name));
        for base in [None, Some(folder(&field.join("text/llama")))] {
            let with_base = base.is_some();
            let options = MergeOptions {
                rank: Some(12),
                ..average()
            };
            let (sink, report) = run(base, vec![text(&field, name), text(&field, "a2")], options).unwrap();
            let written = written(&sink);
            assert_eq!(report.layers.len(), 14, "{name} {with_base}");
            assert_eq!(written.modules.len(), 14);
            for (module, delta) in &written.modules {
                assert!(module.starts_with("base_model.model.model.layers."), "{module}");
                let of = |own: &BTreeMap<String, Vec<f32>>| own.get(bare(module)).cloned();
                let zeros = vec![0.0; delta.len()];
                let (one, two) = (of(&first).unwrap_or(zeros), of(&second).unwrap());
                let half: Vec<f32> = one.iter().zip(&two).map(|(one, two)| (one + two) / 2.0).collect();
                assert!(
                    largest_difference(delta, &half) < 1e-5,
                    "{name} {with_base} {module}"
                );
            }
            // Ten of a2's modules are not in the other; a base would have them.
            let said = report
                .notes
                .iter()
                .any(|note| note.starts_with("a2: 10 of its 14 modules"));
            assert_eq!(said, !with_base, "{:?}", report.notes);
        }
    }
}

/// A PEFT adapter of the fixtures with its modules under other names.
fn renamed(field: &Path, name: &str, rename: impl Fn(&str) -> String) -> AdapterInput {
    let at = field.join("text").join(name);
    let file = tensors(&at.join("adapter_model.safetensors"));
    let tensors: Vec<OutTensor> = file
        .names()
        .iter()
        .map(|name| {
            let (shape, data) = file.get(name);
            let name = rename(name);
            OutTensor { name, shape, data }
        })
        .collect();
    let weights = serialize(&tensors, OutDtype::F32, &BTreeMap::new()).unwrap();
    let config = std::fs::read(at.join("adapter_config.json")).unwrap();
    let sources: Vec<Rc<dyn ByteSource>> = vec![
        Rc::new(MemorySource::new("adapter_model.safetensors", weights)),
        Rc::new(MemorySource::new("adapter_config.json", config)),
    ];
    input(&format!("{name}-renamed"), Folder::new(name, sources).unwrap())
}

#[test]
fn classes_and_wrappers_of_other_programs_are_the_same_layer_too() {
    let Some(field) = field() else { return };
    let own = own_deltas(&field.join("text/a2"));
    for around in [
        "base_model.model.model.language_model.layers.",
        "base_model.model.language_model.model.layers.",
        "module.base_model.model.model.layers.",
        "base_model.model._fsdp_wrapped_module.model.layers.",
        "base_model.model.model._orig_mod.layers.",
        "model.layers.",
    ] {
        let other = || {
            renamed(&field, "a2", |name| {
                name.replace("base_model.model.model.layers.", around)
            })
        };
        for base in [None, Some(folder(&field.join("text/llama")))] {
            let (sink, report) = run(base, vec![text(&field, "a2"), other()], average()).unwrap();
            assert_eq!(report.layers.len(), 14, "{around}");
            assert!(report.notes.iter().all(|note| !note.contains("no other adapter")));
            // The average of one and the same is itself.
            for (module, delta) in written(&sink).modules {
                assert!(module.starts_with("base_model.model.model.layers."), "{module}");
                assert!(
                    largest_difference(&delta, &own[bare(&module)]) < 1e-5,
                    "{around} {module}"
                );
            }
        }
    }
}

#[test]
fn the_adapter_with_the_head_gives_the_result_its_class() {
    let Some(field) = field() else { return };
    let ids = |first: u32| -> Vec<Sample> {
        (0..4)
            .map(|sample| Sample::text((0..9).map(|at| (first + sample * 5 + at * 3) % 40).collect()))
            .collect()
    };
    for (order, method) in [
        (["bert_auto", "bert_cls"], MethodName::Iteris),
        (["bert_auto", "bert_cls"], MethodName::Average),
        (["bert_cls", "bert_auto"], MethodName::Iteris),
    ] {
        let adapters = order.map(|name| AdapterInput {
            samples: (method == MethodName::Iteris)
                .then(|| given(ids(if name == "bert_cls" { 1 } else { 2 }))),
            ..text(&field, name)
        });
        let base = Some(folder(&field.join("text/bert")));
        let options = MergeOptions {
            method,
            ..MergeOptions::default()
        };
        let (sink, report) = run(base, adapters.into(), options).unwrap();
        let written = written(&sink);
        assert_eq!(report.layers.len(), 4);
        assert!(
            written
                .modules
                .keys()
                .all(|module| module.starts_with("base_model.model.bert.encoder.layer.")),
            "{:?}",
            written.modules.keys()
        );
        assert!(
            written.card.contains("AutoModelForSequenceClassification"),
            "{}",
            written.card
        );
        assert!(written.card.contains("heads/bert_cls.safetensors"));
        assert!(sink.file("heads/bert_cls.safetensors").is_some());
    }
}

#[test]
fn adapters_of_the_bare_model_stay_the_bare_models() {
    let Some(field) = field() else { return };
    let base = Some(folder(&field.join("text/llama")));
    let (sink, _) = run(base, vec![text(&field, "k_automodel")], average()).unwrap();
    let written = written(&sink);
    assert!(
        written
            .modules
            .keys()
            .all(|module| module.starts_with("base_model.model.layers."))
    );
    assert!(written.card.contains("import AutoModel\n"), "{}", written.card);
}

/// Merges two files, checks how many layers there are, and gives what was written.
fn merged(field: &Path, names: &[&str], layers: usize) -> Written {
    let adapters = names.iter().map(|name| image(field, name)).collect();
    let (sink, report) = run(None, adapters, average()).unwrap();
    assert_eq!(report.layers.len(), layers, "{names:?}");
    written(&sink)
}

fn modules_in(field: &Path, name: &str) -> BTreeSet<String> {
    let bytes = std::fs::read(field.join("image").join(format!("{name}.safetensors"))).unwrap();
    deltas(&bytes).into_keys().collect()
}

#[test]
fn comfyuis_and_diffusers_names_are_one_layer() {
    let Some(field) = field() else { return };
    for (comfy, diffusers, layers) in [
        ("qwen_aitk", "qwen_diffusers", 14),
        ("ltx_comfy", "ltx_diffusers", 10),
    ] {
        let one = merged(&field, &[comfy, diffusers], layers);
        assert_eq!(
            one.modules.keys().cloned().collect::<BTreeSet<_>>(),
            modules_in(&field, comfy)
        );
        let other = merged(&field, &[diffusers, comfy], layers);
        assert_eq!(
            other.modules.keys().cloned().collect::<BTreeSet<_>>(),
            modules_in(&field, diffusers)
        );
        for (module, delta) in &one.modules {
            let same = other.modules[&module.replace("diffusion_model.", "transformer.")].clone();
            assert!(largest_difference(delta, &same) < 1e-6, "{module}");
        }
    }
}

#[test]
fn the_spelling_that_came_in_goes_out() {
    let Some(field) = field() else { return };
    for name in [
        "ltx_comfy",
        "flux2_comfy",
        "z_flat",
        "lumina_kohya",
        "wan_bare",
        "flux_fal",
        "qwen_aitk",
        "flux_kohya",
    ] {
        let bytes = std::fs::read(field.join("image").join(format!("{name}.safetensors"))).unwrap();
        let own = deltas(&bytes);
        let (sink, _) = run(None, vec![image(&field, name)], average()).unwrap();
        let out = written(&sink);
        assert_eq!(
            out.modules.keys().collect::<Vec<_>>(),
            own.keys().collect::<Vec<_>>(),
            "{name}"
        );
        for (module, delta) in &out.modules {
            let largest = own[module].iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            assert!(
                largest_difference(delta, &own[module]) <= 1e-5 * f64::from(largest).max(1e-3),
                "{name} {module}"
            );
        }
    }
}

#[test]
fn xlabs_blocks_are_those_of_flux() {
    let Some(field) = field() else { return };
    let both = merged(&field, &["flux_xlabs", "flux_fal"], 34);
    let own = std::fs::read(field.join("image/flux_xlabs.safetensors")).unwrap();
    assert_eq!(shapes(&own).len(), 16);
    assert!(
        both.modules
            .keys()
            .any(|module| module.ends_with("double_blocks.0.txt_attn.qkv")),
        "{:?}",
        both.modules.keys()
    );
}

#[test]
fn a_convolution_over_one_pixel_is_a_linear_layer() {
    let Some(field) = field() else { return };
    let module = "lora_unet_mid_block_attentions_0_proj_in";
    for names in [["sd15_a", "sd15_linproj"], ["sd15_linproj", "sd15_a"]] {
        let both = merged(&field, &names, 42);
        let shape = &both.shapes[&format!("{module}.lora_down.weight")];
        assert_eq!(shape[1..], [1280, 1, 1], "the model has a convolution there");
    }
}

#[test]
fn adapters_of_two_models_are_refused() {
    let Some(field) = field() else { return };
    for names in [["sd15_a", "flux_kohya"], ["flux_kohya", "sd15_a"]] {
        let adapters = names.map(|name| image(&field, name)).into();
        let error = run(None, adapters, average()).err().unwrap();
        assert_eq!(error.code(), Code::ShapeMismatch);
        assert!(error.to_string().contains("not of one base model"), "{error}");
    }
}

/// A file of factors of rank 1, all of 4 x 4 layers, under these modules' names.
fn file(name: &str, modules: &[&str], ends: (&str, &str)) -> AdapterInput {
    let tensor = |module: &str, end: &str, shape: Vec<usize>| OutTensor {
        name: format!("{module}{end}"),
        shape,
        data: vec![1.0, 2.0, 3.0, 4.0],
    };
    let tensors: Vec<OutTensor> = modules
        .iter()
        .flat_map(|module| {
            [
                tensor(module, ends.0, vec![1, 4]),
                tensor(module, ends.1, vec![4, 1]),
            ]
        })
        .collect();
    let bytes = serialize(&tensors, OutDtype::F32, &BTreeMap::new()).unwrap();
    let source: Rc<dyn ByteSource> = Rc::new(MemorySource::new("x.safetensors", bytes));
    input(name, Folder::new(name, vec![source]).unwrap())
}

#[test]
fn wans_layers_have_two_names() {
    let original = file(
        "original",
        &[
            "diffusion_model.blocks.0.self_attn.o",
            "diffusion_model.blocks.0.ffn.2",
        ],
        ENDS[0],
    );
    let diffusers = file(
        "diffusers",
        &[
            "transformer.blocks.0.attn1.to_out.0",
            "transformer.blocks.1.ffn.net.2",
        ],
        ENDS[0],
    );
    let (sink, report) = run(None, vec![original, diffusers], average()).unwrap();
    assert_eq!(report.layers.len(), 3);
    let written = written(&sink);
    let names: Vec<&str> = written.modules.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "diffusion_model.blocks.0.ffn.2",
            "diffusion_model.blocks.0.self_attn.o",
            "diffusion_model.blocks.1.ffn.2"
        ]
    );
}

#[test]
fn a_model_that_nothing_is_known_of_meets_in_any_spelling() {
    let flat = file(
        "flat",
        &["lora_unet_blob_3_to_q", "lora_unet_blob_4_to_q"],
        ENDS[1],
    );
    let dotted = file(
        "dotted",
        &["diffusion_model.blob.3.to_q", "diffusion_model.blob.5.to_q"],
        ENDS[0],
    );
    let (sink, report) = run(None, vec![dotted, flat], average()).unwrap();
    assert_eq!(report.layers.len(), 3);
    let notes = report.notes.join("\n");
    assert!(
        notes.contains("dotted: 1 of its 2 modules") && notes.contains("flat: 1 of its 2 modules"),
        "{notes}"
    );
    assert!(notes.contains("nearest: "), "{notes}");
    let written = written(&sink);
    let names: Vec<&str> = written.modules.keys().map(String::as_str).collect();
    assert!(names.contains(&"diffusion_model.blob.3.to_q"), "{names:?}");
}
