//! CLIP, SigLIP and DINOv2 end to end, whole models and towers by themselves: rows, embeddings, logits and merged deltas
//! against transformers' numbers and an f64 oracle's, in every spelling of their names.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "token ids in a file of numbers"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::support::{
    Tensors, adapter, devices, fixtures, folder, given, goldens, json, largest_difference, product,
    relative_error, run_on, tensors, written_deltas,
};
use iteris_web::{
    adapter::Adapter,
    binding::{Base, ReadAdapter, lanes::lane_deltas},
    compute::Compute,
    delta::{DeviceDelta, on_device},
    error::Code,
    jobs::logits::logits,
    merge::options::{MergeOptions, Schedule},
    model::{
        Pass, Steps,
        batch::{Input, Padding, Sample},
        lanes::Hook,
        streams::StreamId,
    },
    pictures::Pixels,
    progress::Silent,
};

/// Of merged deltas, relative Frobenius error: f32 features move them by up to 1e-4.
const DELTAS: f64 = 2e-4;
/// Of what a forward pass gives: f32 against f64.
const FORWARD: f64 = 6e-5;

/// Streams of a model of pictures and texts: the text's rows, then both embeddings.
const BOTH: [usize; 3] = [1, 4, 6];
/// Of pictures alone: rows, then the embedding.
const PICTURES: [usize; 2] = [2, 3];
/// Of texts alone.
const TEXTS: [usize; 2] = [0, 1];

/// Preprocessed pictures (samples x channels x height x width).
fn pictures((shape, data): &(Vec<usize>, Vec<f32>)) -> Vec<Input> {
    let &[_, channels, height, width] = &shape[..] else {
        panic!("{shape:?}")
    };
    data.chunks_exact(channels * height * width)
        .map(|data| {
            Input::Grid(Pixels {
                channels,
                height,
                width,
                data: data.to_vec(),
            })
        })
        .collect()
}

/// Texts that lie one behind the other.
fn texts(file: &Tensors, tag: &str) -> Vec<Vec<u32>> {
    let (_, ids) = file.get(&format!("ids.{tag}"));
    let mut ids = ids.into_iter().map(|id| id as u32);
    let (_, lengths) = file.get(&format!("lengths.{tag}"));
    let own = |length: f32| ids.by_ref().take(length as usize).collect();
    lengths.into_iter().map(own).collect()
}

/// The samples of a golden: pictures, texts, or pictures with their texts.
fn samples(file: &Tensors, tag: &str) -> Vec<Sample> {
    let pixels = format!("pixels.{tag}");
    let texts = || texts(file, tag).into_iter();
    match (file.has(&pixels), file.has(&format!("ids.{tag}"))) {
        (true, true) => {
            let pairs = pictures(&file.get(&pixels)).into_iter().zip(texts());
            pairs
                .map(|(picture, ids)| Sample::of(picture).and_tokens(ids))
                .collect()
        }
        (true, false) => pictures(&file.get(&pixels)).into_iter().map(Sample::of).collect(),
        (false, _) => texts().map(Sample::text).collect(),
    }
}

/// The base with the deltas of one adapter.
struct Own(BTreeMap<String, Rc<DeviceDelta>>);

impl Hook for Own {
    fn variants(&self) -> usize {
        1
    }
    fn tasks(&self) -> usize {
        1
    }
    fn delta(&self, layer: &str, _task: usize, _variant: usize) -> Option<Rc<DeviceDelta>> {
        self.0.get(layer).cloned()
    }
}

/// The rows of streams behind the last block, each sample's behind the one before; none of a stream that has none.
fn states(
    compute: &Compute,
    base: &Path,
    own: Option<&Path>,
    samples: &[Sample],
    streams: &[usize],
) -> Vec<Option<Vec<f32>>> {
    pollster::block_on(async {
        let base = Base::open(Some(folder(base))).await.unwrap();
        let deltas = match own {
            Some(path) => {
                let read = ReadAdapter::alone(Adapter::read("own", &folder(path)).await.unwrap());
                lane_deltas(&base, &read).await.unwrap()
            }
            None => BTreeMap::new(),
        };
        let model = base.model("a test").unwrap();
        let targeted: BTreeSet<String> = deltas.keys().cloned().collect();
        let blocks = model.family.blocks();
        let steps = Steps::new("forward", blocks);
        let pass = Pass {
            compute,
            targeted: &targeted,
            keep_host: false,
            until: blocks,
            heads: None,
            observer: &Silent,
            steps: &steps,
        };
        let hook = Own(on_device(&deltas, compute));
        // One by one, since micro-batches take samples in the order of their sizes.
        let mut found = vec![None; streams.len()];
        for sample in samples.chunks(1) {
            let batches = model.micro_batches(&[sample], Padding::Exclude, 1000).unwrap();
            for (state, _) in model.run(&pass, &batches, &hook).await.unwrap() {
                for (found, &stream) in found.iter_mut().zip(streams) {
                    if let Some(rows) = state.get(StreamId::new(stream)) {
                        let rows = compute.read(rows).await.unwrap();
                        found.get_or_insert_with(Vec::new).extend(rows);
                    }
                }
            }
        }
        found
    })
}

fn assert_near(found: Option<&Vec<f32>>, file: &Tensors, wanted: &str, at: &str) {
    let found = found.unwrap_or_else(|| panic!("{at}: no {wanted}"));
    let worst = largest_difference(found, &file.get(wanted).1);
    assert!(worst < FORWARD, "{at}, {wanted}: {worst:.1e}");
}

fn schedule(name: &str) -> MergeOptions {
    MergeOptions {
        schedule: if name == "sweep" {
            Schedule::Sweep
        } else {
            Schedule::Iterate
        },
        max_iter: name
            .strip_prefix("iterate")
            .map_or(1, |passes| passes.parse().unwrap()),
        ..MergeOptions::default()
    }
}

fn root(name: &str) -> PathBuf {
    goldens().join("towers").join(name)
}

/// Holds the merges of a golden's two adapters against the oracle's. `written` is what a module is called in the file
/// that is written.
fn check_merges(name: &str, base: &str, adapters: [&str; 2], written: impl Fn(&str) -> String) {
    let root = root(name);
    let file = tensors(&root.join("expected.safetensors"));
    let merged = tensors(&root.join("merged.safetensors"));
    for compute in devices() {
        for schedule in ["sweep", "iterate3"] {
            let inputs = adapters
                .iter()
                .zip(["a", "b"])
                .map(|(path, tag)| adapter(tag, &root.join(path), samples(&file, tag), 1.0));
            let base = Some(folder(&root.join(base)));
            let (sink, _) = run_on(base, &compute, inputs.collect(), self::schedule(schedule)).unwrap();
            let found = written_deltas(sink.file("adapter_model.safetensors").unwrap());
            let modules = json(&root.join("facts.json"))["modules"].clone();
            for module in modules.as_array().unwrap() {
                let module = module.as_str().unwrap();
                let wanted = merged.get(&format!("{schedule}.{module}")).1;
                let error = relative_error(&found(&written(module)), &wanted);
                assert!(
                    error < DELTAS,
                    "{name}, {adapters:?}, {schedule}, {module}: {error:.1e}"
                );
            }
        }
    }
}

#[test]
fn both_towers_give_transformers_embeddings_with_and_without_adapters() {
    for name in ["clip", "siglip"] {
        let root = root(name);
        let file = tensors(&root.join("expected.safetensors"));
        for compute in devices() {
            for tag in ["a", "b"] {
                for (variant, own) in [("base", None), ("own", Some(root.join(tag)))] {
                    let samples = samples(&file, tag);
                    let found = states(&compute, &root.join("base"), own.as_deref(), &samples, &BOTH);
                    for (found, what) in found.iter().zip(["text", "image_embeds", "text_embeds"]) {
                        assert_near(found.as_ref(), &file, &format!("{tag}.{variant}.{what}"), name);
                    }
                }
            }
        }
    }
}

#[test]
fn the_similarity_that_a_family_tells_is_transformers() {
    for name in ["clip", "siglip"] {
        let root = root(name);
        let file = tensors(&root.join("expected.safetensors"));
        let found = states(
            &Compute::cpu(),
            &root.join("base"),
            None,
            &samples(&file, "a"),
            &BOTH[1..],
        );
        let rows = |at: usize, width: usize| -> Vec<Vec<f32>> {
            let normal = |row: &[f32]| {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter().map(|x| x / norm).collect()
            };
            found[at]
                .as_ref()
                .unwrap()
                .chunks_exact(width)
                .map(normal)
                .collect()
        };
        pollster::block_on(async {
            let model = iteris_web::model::open(folder(&root.join("base"))).await.unwrap();
            let similarity = model.family.similarity().unwrap();
            let scale = model.checkpoint.f32(&similarity.scale).await.unwrap()[0].exp();
            let bias = match &similarity.bias {
                Some(key) => model.checkpoint.f32(key).await.unwrap()[0],
                None => 0.0,
            };
            assert_eq!(similarity.bias.is_some(), name == "siglip");
            let width = model.family.features_width(&BTreeMap::new());
            assert_eq!(model.family.output(), StreamId::new(BOTH[1]));
            assert_eq!(model.family.text_output(), Some(StreamId::new(BOTH[2])));
            assert_eq!(model.family.text_stream(), Some(StreamId::new(1)));
            let (images, texts) = (rows(0, width), rows(1, width));
            let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let pairs = images
                .iter()
                .flat_map(|image| texts.iter().map(move |text| (image, text)));
            let logits: Vec<f32> = pairs
                .map(|(image, text)| scale * cosine(image, text) + bias)
                .collect();
            assert_near(Some(&logits), &file, "a.base.logits_per_image", name);
        });
    }
}

#[test]
fn either_tower_goes_without_the_other() {
    for name in ["clip", "siglip"] {
        let root = root(name);
        let file = tensors(&root.join("expected.safetensors"));
        let own = root.join("b");
        for compute in devices() {
            let alone = pictures(&file.get("pixels.b")).into_iter().map(Sample::of);
            let alone: Vec<Sample> = alone.collect();
            let found = states(&compute, &root.join("base"), Some(&own), &alone, &BOTH[1..]);
            assert_near(found[0].as_ref(), &file, "b.own.image_embeds", name);
            assert_eq!(found[1], None);
            let alone = texts(&file, "b").into_iter();
            let alone: Vec<Sample> = alone
                .map(|ids| Sample::of(Input::absent()).and_tokens(ids))
                .collect();
            let found = states(&compute, &root.join("base"), Some(&own), &alone, &BOTH[1..]);
            assert_eq!(found[0], None);
            assert_near(found[1].as_ref(), &file, "b.own.text_embeds", name);
        }
    }
}

#[test]
fn classifiers_of_pictures_read_the_mean_of_the_patches() {
    for name in ["clip", "siglip"] {
        let root = root(name);
        let file = tensors(&root.join("expected.safetensors"));
        let samples: Vec<Sample> = pictures(&file.get("pixels.a"))
            .into_iter()
            .map(Sample::of)
            .collect();
        for compute in devices() {
            // A classifier's own file, and an adapter with a classifier over the whole model's.
            for (base, own) in [("classifier", None), ("base", Some("classifying"))] {
                let adapter = own.map(|own| folder(&root.join(own)));
                let base_folder = folder(&root.join(base));
                let given = given(samples.clone());
                let (_, found) =
                    pollster::block_on(logits(base_folder, adapter, None, &given, &compute)).unwrap();
                let wanted = format!("{}.logits", own.unwrap_or(base));
                assert_near(Some(&found), &file, &wanted, name);
            }
        }
    }
}

#[test]
fn towers_by_themselves_equal_transformers_in_both_spellings() {
    for (name, streams) in [
        ("clip_vision_model", PICTURES),
        ("clip_text_model", TEXTS),
        ("siglip_vision_model", PICTURES),
        ("siglip_text_model", TEXTS),
    ] {
        let root = root(name);
        let file = tensors(&root.join("expected.safetensors"));
        for compute in devices() {
            for base in ["base", "base-v4"] {
                for (tag, own) in [
                    ("a", None),
                    ("a", Some("a")),
                    ("a", Some("a-v4")),
                    ("b", Some("b")),
                ] {
                    let variant = if own.is_some() { "own" } else { "base" };
                    let own = own.map(|own| root.join(own));
                    let samples = samples(&file, tag);
                    let found = states(&compute, &root.join(base), own.as_deref(), &samples, &streams);
                    for (found, what) in found.iter().zip(["rows", "pooled"]) {
                        assert_near(found.as_ref(), &file, &format!("{tag}.{variant}.{what}"), name);
                    }
                }
            }
            let projected = root.join("projected");
            if projected.is_dir() {
                let found = states(&compute, &projected, None, &samples(&file, "b"), &streams[1..]);
                assert_near(found[0].as_ref(), &file, "projected", name);
            }
        }
    }
}

#[test]
fn merges_of_two_towers_equal_the_oracle() {
    for name in ["clip", "siglip"] {
        check_merges(name, "base", ["a", "b"], str::to_owned);
    }
}

#[test]
fn merges_of_towers_by_themselves_equal_the_oracle_whatever_the_spelling() {
    for name in [
        "clip_vision_model",
        "clip_text_model",
        "siglip_vision_model",
        "siglip_text_model",
    ] {
        let side = if name.contains("vision") { "vision" } else { "text" };
        let old = |module: &str| format!("base_model.model.{side}_model.{module}");
        let new = |module: &str| format!("base_model.model.{module}");
        check_merges(name, "base", ["a", "b"], new);
        check_merges(name, "base-v4", ["a-v4", "b-v4"], old);
        // Of two spellings that leads which has the name of a class around the tower.
        check_merges(name, "base-v4", ["a", "b-v4"], old);
        check_merges(name, "base", ["a-v4", "b"], old);
    }
}

#[test]
fn pictures_of_any_size_go_through_dinov2() {
    let root = root("dinov2");
    let file = tensors(&root.join("expected.safetensors"));
    let sizes = ["own", "a", "b", "small", "square", "long"];
    for compute in devices() {
        for base in ["base", "base-v5"] {
            for size in sizes {
                let found = states(&compute, &root.join(base), None, &samples(&file, size), &[2]);
                assert_near(found[0].as_ref(), &file, &format!("{size}.base.rows"), base);
            }
        }
        // Of several sizes at once.
        let all = sizes.iter().flat_map(|size| samples(&file, size)).collect();
        let base = folder(&root.join("base"));
        let (labels, found) = pollster::block_on(logits(base, None, None, &given(all), &compute)).unwrap();
        assert_eq!(labels, 5);
        for (found, size) in found.chunks_exact(3 * labels).zip(sizes) {
            assert_near(
                Some(&found.to_vec()),
                &file,
                &format!("{size}.base.logits"),
                "mixed",
            );
        }
        for tag in ["a", "b"] {
            for adapter in [tag.to_owned(), format!("{tag}-v4")] {
                let (base, own) = (folder(&root.join("base-v5")), folder(&root.join(&adapter)));
                let given = given(samples(&file, tag));
                let (_, found) = pollster::block_on(logits(base, Some(own), None, &given, &compute)).unwrap();
                assert_near(Some(&found), &file, &format!("{tag}.own.logits"), &adapter);
            }
        }
        for base in ["gated", "gated-v5"] {
            let found = states(&compute, &root.join(base), None, &samples(&file, "b"), &[2]);
            assert_near(found[0].as_ref(), &file, "gated.rows", base);
        }
    }
}

#[test]
fn merges_of_dinov2_equal_the_oracle_whatever_the_spelling() {
    let new = |module: &str| format!("dinov2.{module}");
    let old = |module: &str| {
        let module = module
            .replace("attention.o_proj", "attention.output.dense")
            .replace("attention.q_proj", "attention.attention.query")
            .replace("attention.k_proj", "attention.attention.key")
            .replace("attention.v_proj", "attention.attention.value");
        format!("dinov2.{module}")
    };
    check_merges("dinov2", "base", ["a", "b"], new);
    check_merges("dinov2", "base-v5", ["a-v4", "b-v4"], old);
}

/// The samples of the CLIP fixture as transformers' processor has made them.
fn of_fixture(golden: &Tensors, task: &str) -> Vec<Sample> {
    let (shape, ids) = golden.get(&format!("{task}.input_ids"));
    let (_, mask) = golden.get(&format!("{task}.attention_mask"));
    let rows = ids.chunks_exact(shape[1]).zip(mask.chunks_exact(shape[1]));
    let texts = rows.map(|(ids, mask)| {
        let attended = ids.iter().zip(mask).filter(|(_, mask)| **mask > 0.0);
        attended.map(|(id, _)| *id as u32).collect()
    });
    pictures(&golden.get(&format!("{task}.pixel_values")))
        .into_iter()
        .zip(texts)
        .map(|(picture, ids)| Sample::of(picture).and_tokens(ids))
        .collect()
}

#[test]
fn the_fixtures_of_clip_are_computed_and_merged_as_the_oracle_does() {
    let Some(root) = fixtures("images/clip", "golden.safetensors") else {
        return;
    };
    let golden = tensors(&root.join("golden.safetensors"));
    let expected = tensors(&root.join("expected.a-b.safetensors"));
    let normal = |rows: &[f32]| -> Vec<f32> {
        let one = |row: &[f32]| {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter().map(|x| x / norm).collect::<Vec<_>>()
        };
        rows.chunks_exact(24).flat_map(one).collect()
    };
    for compute in devices() {
        for task in ["a", "b"] {
            for (variant, own) in [("base", None), ("own", Some(root.join(task)))] {
                let samples = of_fixture(&golden, task);
                let found = states(&compute, &root.join("base"), own.as_deref(), &samples, &BOTH[1..]);
                for (found, side) in found.iter().zip(["image", "text"]) {
                    let found = found.as_deref().map(normal);
                    assert_near(
                        found.as_ref(),
                        &golden,
                        &format!("{task}.out.{variant}.{side}_embeds"),
                        task,
                    );
                }
            }
        }
    }
    for name in ["sweep", "iterate1", "iterate3"] {
        let inputs = ["a", "b"].map(|task| adapter(task, &root.join(task), of_fixture(&golden, task), 1.0));
        let base = Some(folder(&root.join("base")));
        let (sink, _) = run_on(base, &Compute::cpu(), inputs.into(), schedule(name)).unwrap();
        let found = written_deltas(sink.file("adapter_model.safetensors").unwrap());
        for module in json(&root.join("facts.json"))["modules"].as_array().unwrap() {
            let module = module.as_str().unwrap();
            let factor = |side: &str| expected.get(&format!("{name}/{module}.lora_{side}"));
            let wanted = product(&factor("B"), &factor("A"));
            let error = relative_error(&found(&format!("base_model.model.{module}")), &wanted);
            assert!(error < DELTAS, "{name}, {module}: {error:.1e}");
        }
    }
}

/// A folder of a golden with changes of its configuration.
fn opened(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> Result<(), (Code, String)> {
    let directory = tempfile::tempdir().unwrap();
    let base = root(name);
    std::fs::copy(
        base.join("model.safetensors"),
        directory.path().join("model.safetensors"),
    )
    .unwrap();
    let mut config = json(&base.join("config.json"));
    change(&mut config);
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let opened = pollster::block_on(iteris_web::model::open(folder(directory.path())));
    opened
        .map(|_| ())
        .map_err(|error| (error.code(), error.to_string()))
}

#[test]
fn options_that_are_not_handled_are_refused_by_name() {
    use serde_json::json;
    let (unsupported, invalid) = (Code::ModelUnsupported, Code::ConfigInvalid);
    for (name, pointer, value, code, word) in [
        (
            "clip/base",
            "/vision_config/hidden_act",
            json!("mish"),
            unsupported,
            "mish",
        ),
        (
            "clip/base",
            "/text_config/model_type",
            json!("roberta"),
            unsupported,
            "roberta",
        ),
        (
            "clip/base",
            "/vision_config/num_attention_heads",
            json!(5),
            invalid,
            "5 heads",
        ),
        (
            "clip/base",
            "/vision_config/patch_size",
            json!(21),
            invalid,
            "no patch",
        ),
        (
            "clip/base",
            "/text_config/eos_token_id",
            json!([1, 2]),
            invalid,
            "eos_token_id",
        ),
        (
            "siglip/base",
            "/text_config/pad_token_id",
            json!(30),
            invalid,
            "pad_token_id",
        ),
        (
            "siglip/base",
            "/vision_config/model_type",
            json!("siglip2_vision_model"),
            unsupported,
            "siglip2",
        ),
        (
            "siglip_text_model/base",
            "/vocab_size",
            json!(0),
            invalid,
            "vocabulary",
        ),
        ("dinov2/base", "/mlp_ratio", json!(0), invalid, "mlp_ratio"),
        (
            "dinov2/base",
            "/quantization_config",
            json!({"quant_method": "awq"}),
            unsupported,
            "awq",
        ),
    ] {
        let (found, what) = opened(name, |config| {
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[last] = value.clone();
        })
        .unwrap_err();
        assert_eq!(found, code, "{name}, {pointer}: {what}");
        assert!(what.contains(word), "{name}, {pointer}: {what}");
    }
    assert_eq!(opened("clip/base", |_| ()), Ok(()));
    // What older releases have written beside `text_config` outranks it.
    let dict = |config: &mut serde_json::Value| config["text_config_dict"] = json!({"hidden_act": "mish"});
    assert!(opened("clip/base", dict).unwrap_err().1.contains("mish"));
}

#[test]
fn a_picture_without_positions_of_its_size_is_refused() {
    let refused = |name: &str, height: usize, width: usize| {
        let data = vec![0.5; 3 * height * width];
        let pixels = Pixels {
            channels: 3,
            height,
            width,
            data,
        };
        let given = given(vec![Sample::of(Input::Grid(pixels))]);
        let base = folder(&root(name));
        pollster::block_on(logits(base, None, None, &given, &Compute::cpu())).unwrap_err()
    };
    // SigLIP reads pictures of one size; a picture smaller than a patch is none for DINOv2 either.
    for (error, word) in [
        (refused("siglip/classifier", 14, 18), "18 x 14"),
        (refused("dinov2/base", 4, 40), "patch"),
    ] {
        assert_eq!(error.code(), Code::SamplesInvalid);
        assert!(error.to_string().contains(word), "{error}");
    }
}
