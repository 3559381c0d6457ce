//! A merged base model: the base's files with the changes in them and nothing else touched.

use std::{collections::BTreeMap, ops::Range};

use iteris_web::{
    compute::Compute,
    error::{Code, Result},
    io::{Checkpoint, Dtype, DtypeChoice, Folder, MemorySink, OutDtype, Sink},
    jobs::merge::{MergeRequest, merge},
    merge::options::{MergeOptions, OutputKind},
    progress::Silent,
};

use super::{
    Raw, adapter, file, files, golden, input, json_of, mixed, numbers, opened, options, raw, refused, run,
    tiny, written,
};
use crate::support::{relative_error, written_deltas};

fn whole() -> MergeOptions {
    MergeOptions {
        output: OutputKind::Base,
        ..options()
    }
}

fn reopened(folder: &Folder, stem: &str) -> Checkpoint {
    pollster::block_on(Checkpoint::open(folder, stem)).unwrap()
}

#[test]
fn shards_hold_what_the_single_file_holds_and_the_index_says_where() {
    let adapters = || vec![golden("qv"), golden("all")];
    let (single, _) = run(Some(tiny()), adapters(), whole()).unwrap();
    let limit = 8000;
    let (shards, report) = run(
        Some(tiny()),
        adapters(),
        MergeOptions {
            max_shard_bytes: Some(limit),
            ..whole()
        },
    )
    .unwrap();
    let wanted = raw(&opened(&file(&single, "model.safetensors")));
    let folder = written(&shards);
    assert_eq!(raw(&reopened(&folder, "model")), wanted);
    assert!(single.file("model.safetensors.index.json").is_none());
    assert!(shards.file("model.safetensors").is_none());

    let index = json_of(&shards, "model.safetensors.index.json");
    let total: usize = wanted.values().map(|(.., bytes)| bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), wanted.len());
    let names: Vec<&str> = folder
        .names()
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    let names: Vec<&str> = names
        .into_iter()
        .filter(|name| !name.starts_with("heads/"))
        .collect();
    assert!(names.len() > 2, "{names:?}");
    for (at, name) in names.iter().enumerate() {
        assert_eq!(
            *name,
            format!("model-{:05}-of-{:05}.safetensors", at + 1, names.len())
        );
        let held = raw(&opened(&file(&shards, name)));
        let bytes: usize = held.values().map(|(.., bytes)| bytes.len()).sum();
        assert!(bytes as u64 <= limit || held.len() == 1, "{name}: {bytes}");
        for tensor in held.keys() {
            assert_eq!(map[tensor], **name, "{tensor}");
        }
    }
    for digest in &report.output {
        assert_eq!(
            digest.bytes,
            file(&shards, &digest.name).len() as u64,
            "{}",
            digest.name
        );
    }
}

/// The tiny base with tensors of every type.
fn of_all_types() -> (Folder, Raw) {
    let mut tensors = raw(&reopened(&tiny(), "model"));
    let names: Vec<String> = tensors.keys().cloned().collect();
    let source = reopened(&tiny(), "model");
    for (at, name) in names.iter().enumerate() {
        let data = pollster::block_on(source.f32(name)).unwrap();
        let shape = tensors[name].1.clone();
        let tensor = match at / 2 % 4 {
            0 => numbers(OutDtype::F32, &shape, &data),
            1 => numbers(OutDtype::F16, &shape, &data),
            2 => numbers(OutDtype::Bf16, &shape, &data),
            _ => {
                let bytes = data
                    .iter()
                    .flat_map(|&x| (f64::from(x) / 3.0 * 3.0).to_le_bytes());
                (Dtype::F64, shape, bytes.collect())
            }
        };
        tensors.insert(name.clone(), tensor);
    }
    let ids: Vec<u8> = (0..64_i64).flat_map(i64::to_le_bytes).collect();
    tensors.insert("embeddings.position_ids".into(), (Dtype::I64, vec![1, 64], ids));
    let folder = files(
        "mixed",
        vec![("config.json", config()), ("model.safetensors", mixed(&tensors))],
    );
    (folder, tensors)
}

fn config() -> Vec<u8> {
    let source = tiny().find("config.json").unwrap();
    pollster::block_on(source.read(0..source.len())).unwrap()
}

/// A tensor's numbers.
fn values((dtype, _, bytes): &(Dtype, Vec<usize>, Vec<u8>)) -> Vec<f64> {
    match dtype {
        Dtype::F64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&b| f64::from_le_bytes(b))
            .collect(),
        _ => {
            let one = Raw::from([(
                "x".to_owned(),
                (*dtype, vec![bytes.len() * 8 / dtype.bitsize()], bytes.clone()),
            )]);
            let read = pollster::block_on(opened(&mixed(&one)).f32("x")).unwrap();
            read.into_iter().map(f64::from).collect()
        }
    }
}

#[test]
fn every_tensor_keeps_its_type_and_all_but_the_targets_their_bytes() {
    let (folder, before) = of_all_types();
    let (adapter_sink, report) = run(Some(folder.clone()), vec![golden("all")], options()).unwrap();
    let delta = written_deltas(&file(&adapter_sink, "adapter_model.safetensors"));
    let (sink, _) = run(Some(folder), vec![golden("all")], whole()).unwrap();
    let after = raw(&opened(&file(&sink, "model.safetensors")));
    assert!(after.keys().eq(before.keys()));
    let mut changed = BTreeMap::new();
    for (name, tensor) in &before {
        let found = &after[name];
        assert_eq!((found.0, &found.1), (tensor.0, &tensor.1), "{name}");
        let module = name.strip_suffix(".weight").unwrap_or("");
        if !report.layers.iter().any(|layer| layer.module == module) {
            assert_eq!(found.2, tensor.2, "{name} is no merged module and has changed");
            continue;
        }
        *changed.entry(format!("{}", tensor.0)).or_insert(0) += 1;
        // Half of the last of a type's significant bits; f64 takes a change whose products are summed in f32.
        let tolerance = match tensor.0 {
            Dtype::F16 => 1.0 / 2048.0,
            Dtype::BF16 => 1.0 / 256.0,
            _ => 1e-6,
        };
        for ((found, before), delta) in values(found).iter().zip(values(tensor)).zip(delta(module)) {
            let wanted = before + f64::from(delta);
            let error = (found - wanted).abs();
            let size = wanted
                .abs()
                .max(before.abs())
                .max(f64::from(delta).abs())
                .max(1e-3);
            assert!(error <= tolerance * size, "{name}: {found} for {wanted}");
        }
    }
    assert_eq!(
        changed.keys().collect::<Vec<_>>(),
        ["BF16", "F16", "F32", "F64"],
        "{changed:?}"
    );
    assert_eq!(file(&sink, "config.json"), config());
}

#[test]
fn a_chosen_type_is_that_of_all_floats_and_the_configuration_says_so() {
    let (folder, before) = of_all_types();
    let bf16 = MergeOptions {
        dtype: DtypeChoice::Bf16,
        ..whole()
    };
    let (sink, _) = run(Some(folder), vec![golden("qv")], bf16).unwrap();
    let after = raw(&opened(&file(&sink, "model.safetensors")));
    for (name, (dtype, shape, bytes)) in &after {
        let own = &before[name];
        assert_eq!(shape, &own.1);
        if own.0 == Dtype::I64 {
            assert_eq!((dtype, bytes), (&own.0, &own.2));
        } else {
            assert_eq!(*dtype, Dtype::BF16, "{name}");
        }
    }
    let own: serde_json::Value = serde_json::from_slice(&config()).unwrap();
    let found = json_of(&sink, "config.json");
    let mut typed = 0;
    for (name, value) in own.as_object().unwrap() {
        if matches!(name.as_str(), "dtype" | "torch_dtype") {
            assert_eq!(found[name], "bfloat16");
            typed += 1;
        } else {
            assert_eq!(&found[name], value, "{name}");
        }
    }
    assert_eq!(typed, 1, "the golden's configuration names its type");
}

#[test]
fn an_f16_base_that_cannot_hold_a_sum_is_refused() {
    let tensors = Raw::from([(
        "lin.weight".to_owned(),
        numbers(OutDtype::F16, &[1, 2], &[65504.0, 1.0]),
    )]);
    let base = files("base", vec![("some.safetensors", mixed(&tensors))]);
    let adapters = vec![input("one", adapter(&[("lin", 1, 2)]), 100.0)];
    refused(
        Some(base),
        adapters,
        whole(),
        Code::OptionInvalid,
        &["f16", "lin.weight"],
    );
}

#[test]
fn shards_stay_as_they_came_unless_another_size_is_asked_for() {
    let (folder, tensors) = of_all_types();
    let half = tensors.len() / 2;
    let part = |from: usize, to: usize| -> Raw {
        let some = tensors.iter().skip(from).take(to - from);
        some.map(|(name, tensor)| (name.clone(), tensor.clone()))
            .collect()
    };
    let (first, second) = (part(0, half), part(half, tensors.len()));
    let places = first
        .keys()
        .map(|name| (name, "model-00001-of-00002.safetensors"));
    let places = places.chain(
        second
            .keys()
            .map(|name| (name, "model-00002-of-00002.safetensors")),
    );
    let map: serde_json::Map<String, serde_json::Value> =
        places.map(|(name, file)| (name.clone(), file.into())).collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    let sharded = || {
        files(
            "sharded",
            vec![
                ("config.json", config()),
                ("model-00001-of-00002.safetensors", mixed(&first)),
                ("model-00002-of-00002.safetensors", mixed(&second)),
                ("model.safetensors.index.json", index.to_string().into_bytes()),
            ],
        )
    };
    let (one, _) = run(Some(folder), vec![golden("qv")], whole()).unwrap();
    let wanted = raw(&opened(&file(&one, "model.safetensors")));

    let (kept, _) = run(Some(sharded()), vec![golden("qv")], whole()).unwrap();
    assert_eq!(raw(&reopened(&written(&kept), "model")), wanted);
    assert_eq!(
        json_of(&kept, "model.safetensors.index.json")["weight_map"],
        index["weight_map"]
    );

    let joined = MergeOptions {
        max_shard_bytes: Some(1 << 30),
        ..whole()
    };
    let (joined, _) = run(Some(sharded()), vec![golden("qv")], joined).unwrap();
    assert_eq!(raw(&opened(&file(&joined, "model.safetensors"))), wanted);
    assert!(joined.file("model.safetensors.index.json").is_none());
}

#[test]
fn tokenizer_and_templates_go_along_and_other_weights_do_not() {
    let model = tiny().find("model.safetensors").unwrap();
    let weights = pollster::block_on(model.read(0..model.len())).unwrap();
    let along: Vec<(&str, Vec<u8>)> = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "chat_template.jinja",
        "generation_config.json",
        "LICENSE",
    ]
    .map(|name| (name, format!("{{\"file\": \"{name}\"}}").into_bytes()))
    .into();
    let mut all = along.clone();
    all.push(("config.json", config()));
    all.push(("model.safetensors", weights));
    for other in [
        "README.md",
        "pytorch_model.bin",
        "model.gguf",
        "training_args.bin",
        "notes.txt",
    ] {
        all.push((other, b"x".to_vec()));
    }
    let (sink, report) = run(Some(files("base", all)), vec![golden("qv")], whole()).unwrap();
    for (name, bytes) in &along {
        assert_eq!(&file(&sink, name), bytes, "{name}");
        assert!(report.output.iter().any(|digest| digest.name == *name), "{name}");
    }
    for other in [
        "pytorch_model.bin",
        "model.gguf",
        "training_args.bin",
        "notes.txt",
    ] {
        assert!(sink.file(other).is_none(), "{other}");
    }
    assert_ne!(
        file(&sink, "README.md"),
        b"x",
        "the card is the merged model's own"
    );
}

/// A linear layer's weight of zeros.
fn zeros(dtype: OutDtype, d_out: usize, d_in: usize) -> (Dtype, Vec<usize>, Vec<u8>) {
    numbers(dtype, &[d_out, d_in], &vec![0.0; d_out * d_in])
}

#[test]
fn a_base_in_parts_keeps_its_folders_and_a_lone_file_its_name() {
    let unet = Raw::from([
        ("down.to_q.weight".to_owned(), zeros(OutDtype::F16, 2, 3)),
        (
            "down.to_q.bias".to_owned(),
            numbers(OutDtype::F16, &[2], &[1.0, 2.0]),
        ),
    ]);
    let text = Raw::from([("text_model.fc.weight".to_owned(), zeros(OutDtype::F32, 4, 2))]);
    let vae = Raw::from([("conv.weight".to_owned(), numbers(OutDtype::Bf16, &[1], &[7.0]))]);
    let base = files(
        "pipeline",
        vec![
            (
                "model_index.json",
                br#"{"_class_name": "StableDiffusionPipeline"}"#.to_vec(),
            ),
            ("unet/config.json", b"{}".to_vec()),
            ("unet/diffusion_pytorch_model.safetensors", mixed(&unet)),
            ("text_encoder/config.json", b"{}".to_vec()),
            ("text_encoder/model.safetensors", mixed(&text)),
            ("vae/diffusion_pytorch_model.safetensors", mixed(&vae)),
            ("tokenizer/merges.txt", b"a b".to_vec()),
        ],
    );
    let lora = adapter(&[("text_encoder.text_model.fc", 4, 2), ("unet.down.to_q", 2, 3)]);
    let (sink, report) = run(Some(base), vec![input("style", lora, 0.5)], whole()).unwrap();
    assert_eq!(report.layers.len(), 2);
    let found = raw(&opened(&file(&sink, "unet/diffusion_pytorch_model.safetensors")));
    assert_eq!(
        found["down.to_q.weight"],
        numbers(OutDtype::F16, &[2, 3], &[1.0; 6])
    );
    assert_eq!(found["down.to_q.bias"], unet["down.to_q.bias"]);
    let found = raw(&opened(&file(&sink, "text_encoder/model.safetensors")));
    assert_eq!(
        found["text_model.fc.weight"],
        numbers(OutDtype::F32, &[4, 2], &[0.5; 8])
    );
    assert_eq!(
        raw(&opened(&file(&sink, "vae/diffusion_pytorch_model.safetensors"))),
        vae
    );
    for name in ["model_index.json", "unet/config.json", "tokenizer/merges.txt"] {
        assert!(sink.file(name).is_some(), "{name}");
    }

    let lone = Raw::from([("model.down.to_q.weight".to_owned(), zeros(OutDtype::F32, 2, 3))]);
    let base = files("checkpoint", vec![("dream_v8.safetensors", mixed(&lone))]);
    let lora = adapter(&[("down.to_q", 2, 3)]);
    let (sink, _) = run(Some(base), vec![input("style", lora, 1.0)], whole()).unwrap();
    let found = raw(&opened(&file(&sink, "dream_v8.safetensors")));
    assert_eq!(
        found["model.down.to_q.weight"],
        numbers(OutDtype::F32, &[2, 3], &[1.0; 6])
    );
}

#[test]
fn a_base_cut_to_a_rank_has_the_change_of_the_adapter_cut_to_it() {
    let cut = |output| MergeOptions {
        rank: Some(1),
        output,
        ..options()
    };
    let adapters = || vec![golden("qv"), golden("all")];
    let (adapter, of_adapter) = run(Some(tiny()), adapters(), cut(OutputKind::Adapter)).unwrap();
    let (sink, of_base) = run(Some(tiny()), adapters(), cut(OutputKind::Base)).unwrap();
    let delta = written_deltas(&file(&adapter, "adapter_model.safetensors"));
    let (before, after) = (
        reopened(&tiny(), "model"),
        opened(&file(&sink, "model.safetensors")),
    );
    for (layer, other) in of_base.layers.iter().zip(&of_adapter.layers) {
        assert_eq!((layer.rank, layer.error), (1, other.error), "{}", layer.module);
        assert!(
            layer.error.unwrap() > 1e-3,
            "two adapters have no change of rank 1"
        );
        let name = before
            .names()
            .find(|name| name.ends_with(&format!("{}.weight", layer.module)));
        let name = name.unwrap();
        let read = |checkpoint: &Checkpoint| pollster::block_on(checkpoint.f32(name)).unwrap();
        let moved: Vec<f32> = read(&after)
            .iter()
            .zip(read(&before))
            .map(|(a, b)| a - b)
            .collect();
        // Weights of size 1 lose the change's last places.
        let error = relative_error(&moved, &delta(&layer.module));
        assert!(error < 1e-4, "{name}: {error:e}");
    }
}

#[test]
fn a_base_that_nothing_can_be_added_to_is_refused() {
    let adapters = || vec![input("one", adapter(&[("lin", 2, 3)]), 1.0)];
    refused(None, adapters(), whole(), Code::Missing, &["base model"]);
    let packed = Raw::from([("lin.weight".to_owned(), (Dtype::U8, vec![2, 3], vec![1; 6]))]);
    let base = files("quantised", vec![("x.safetensors", mixed(&packed))]);
    refused(
        Some(base),
        adapters(),
        whole(),
        Code::DtypeUnsupported,
        &["U8", "lin.weight"],
    );
    let none = MergeOptions {
        max_shard_bytes: Some(0),
        ..whole()
    };
    refused(
        Some(tiny()),
        vec![golden("qv")],
        none,
        Code::OptionInvalid,
        &["maxShardBytes"],
    );
}

/// Keeps how much was given at once, by file.
#[derive(Default)]
struct Widest(BTreeMap<String, usize>);

#[async_trait::async_trait(?Send)]
impl Sink for Widest {
    async fn write(&mut self, file: &str, bytes: &[u8]) -> Result<()> {
        let widest = self.0.entry(file.to_owned()).or_default();
        *widest = bytes.len().max(*widest);
        Ok(())
    }

    async fn read(&mut self, _file: &str, _range: Range<u64>) -> Result<Vec<u8>> {
        panic!("a merged base model needs no second look")
    }

    async fn remove(&mut self, _file: &str) -> Result<()> {
        panic!("a merged base model leaves nothing behind")
    }
}

#[test]
fn a_model_is_written_some_rows_at_a_time() {
    let (d_out, d_in) = (2400, 3000);
    let elements = d_out * d_in;
    let weight: Vec<f32> = (0..elements).map(|at| (at % 1009) as f32).collect();
    let base = || {
        let tensors = BTreeMap::from([
            (
                "a.weight".to_owned(),
                numbers(OutDtype::F32, &[d_out, d_in], &weight),
            ),
            (
                "b.weight".to_owned(),
                numbers(OutDtype::F32, &[d_out, d_in], &weight),
            ),
        ]);
        files("base", vec![("x.safetensors", mixed(&tensors))])
    };
    let request = |options: MergeOptions| MergeRequest {
        base: Some(base()),
        base_path: None,
        device_why: None,
        // Its change is 1 everywhere.
        adapters: vec![input("one", adapter(&[("a", d_out, d_in)]), 1.0)],
        options,
    };
    for (dtype, bytes) in [(DtypeChoice::Auto, 4), (DtypeChoice::F16, 2)] {
        let options = MergeOptions { dtype, ..whole() };
        let (mut pieces, mut all) = (Widest::default(), MemorySink::default());
        pollster::block_on(merge(
            request(options.clone()),
            &Compute::cpu(),
            &Silent,
            &mut pieces,
        ))
        .unwrap();
        pollster::block_on(merge(request(options), &Compute::cpu(), &Silent, &mut all)).unwrap();
        let widest = pieces.0["x.safetensors"];
        assert!(widest < 17 << 20 && widest < elements * bytes, "{widest}");
        let found = opened(&file(&all, "x.safetensors"));
        let close = |name: &str, wanted: &dyn Fn(usize) -> f32| {
            let found = pollster::block_on(found.f32(name)).unwrap();
            assert_eq!(found.len(), elements);
            // f16 has 11 bits.
            let off = |(at, x): (usize, &f32)| (x - wanted(at)).abs() > 1e-3 * wanted(at).abs();
            assert!(!found.iter().enumerate().any(off), "{name}");
        };
        close("a.weight", &|at| weight[at] + 1.0);
        close("b.weight", &|at| weight[at]);
    }
}
