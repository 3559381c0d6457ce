//! What torch wrote is read as torch reads it, from both of its containers.

use std::rc::Rc;

use iteris_web::adapter::{Adapter, AdapterFacts, Lora};
use iteris_web::error::{Code, Result};
use iteris_web::io::{ByteSource, Checkpoint, Folder, MemorySource, sha256};
use iteris_web::naming::ModulePath;
use iteris_web::progress::Pace;
use pollster::block_on;

use crate::bytes::{Parts, archive, dictionary};
use crate::{data, golden, open, refused};

fn safetensors(bytes: Vec<u8>) -> Checkpoint {
    block_on(Checkpoint::open_source(Rc::new(MemorySource::new("x", bytes)))).unwrap()
}

fn folder(files: &[(&str, Vec<u8>)]) -> Folder {
    let files = files
        .iter()
        .map(|(name, bytes)| Rc::new(MemorySource::new(*name, bytes.clone())) as Rc<dyn ByteSource>);
    Folder::new("the folder", files.collect()).unwrap()
}

#[track_caller]
fn same_tensors(read: &Checkpoint, expected: &Checkpoint) {
    assert_eq!(
        read.names().collect::<Vec<_>>(),
        expected.names().collect::<Vec<_>>()
    );
    for wanted in expected.infos() {
        let name = &wanted.name;
        let info = read.info(name).unwrap();
        assert_eq!((&info.shape, info.dtype), (&wanted.shape, wanted.dtype), "{name}");
        assert_eq!(
            block_on(read.bytes(name)).unwrap(),
            block_on(expected.bytes(name)).unwrap(),
            "{name}"
        );
        let numbers = block_on(expected.f32(name)).unwrap();
        assert_eq!(block_on(read.f32(name)).unwrap(), numbers, "{name}");
        // Every part of it, as an embedding's rows are asked for.
        for begin in 0..=numbers.len() {
            for end in begin..=numbers.len() {
                assert_eq!(
                    block_on(read.f32_range(name, begin..end)).unwrap(),
                    numbers[begin..end],
                    "{name}, {begin}..{end}"
                );
            }
        }
    }
}

#[test]
fn tensors_of_every_type_and_layout_are_read_as_torch_reads_them() {
    let expected = safetensors(golden("expected.safetensors"));
    assert_eq!(expected.names().len(), 26);
    for file in ["zip.bin", "protocol4.bin", "legacy.bin"] {
        let checkpoint = open(golden(file)).unwrap();
        same_tensors(&checkpoint, &expected);
        assert_eq!(checkpoint.file_bytes(), golden(file).len() as u64);
        let strided: Vec<&str> = checkpoint
            .infos()
            .filter(|info| info.strides.is_some())
            .map(|info| info.name.as_str())
            .collect();
        assert_eq!(
            strided,
            [
                "channels last",
                "columns",
                "convolution",
                "every other",
                "one row of a transposed",
                "part of transposed",
                "transposed",
                "transposed half"
            ],
            "{file}"
        );
        // Tied weights are one storage in the file, and stay one.
        let range = |name: &str| checkpoint.info(name).unwrap().range.clone();
        assert_eq!(range("whole"), range("tied"));
        assert_eq!(range("whole"), range("alias"));
        assert_eq!(
            range("rows"),
            range("whole").start + 24..range("whole").start + 72
        );
    }
}

#[test]
fn a_state_dict_with_its_metadata_is_read() {
    let expected = safetensors(golden("state.safetensors"));
    for file in ["state.bin", "state-legacy.bin"] {
        same_tensors(&open(golden(file)).unwrap(), &expected);
    }
}

#[test]
fn an_adapter_saved_as_a_pickle_is_the_same_adapter() {
    let goldens = data("../../goldens/data/adapters/qv");
    let adapter = |weights: &str, bytes: Vec<u8>| {
        let config = std::fs::read(goldens.join("adapter_config.json")).unwrap();
        let folder = folder(&[("adapter_config.json", config), (weights, bytes)]);
        block_on(Adapter::read("qv", &folder)).unwrap()
    };
    let pickled = adapter("adapter_model.bin", golden("adapter_model.bin"));
    let weights = std::fs::read(goldens.join("adapter_model.safetensors")).unwrap();
    let expected = adapter("adapter_model.safetensors", weights);
    assert_eq!(pickled.bytes, golden("adapter_model.bin").len() as u64);
    let facts = AdapterFacts {
        bytes: expected.bytes,
        ..pickled.facts()
    };
    assert_eq!(facts, expected.facts());
    let loaded = |adapter: &Adapter| -> Vec<(ModulePath, Lora)> {
        let modules = adapter.modules.iter();
        modules
            .map(|(path, module)| (path.clone(), block_on(module.load()).unwrap()))
            .collect()
    };
    assert_eq!(loaded(&pickled), loaded(&expected));
    assert!(pickled.heads.keys().eq(expected.heads.keys()));
    for (head, own) in &pickled.heads {
        let [own, other] = [own, &expected.heads[head]].map(|head| block_on(head.load()).unwrap());
        assert_eq!(own, other, "{head}");
    }
}

#[test]
fn safetensors_are_read_where_there_are_both() {
    let both = folder(&[
        ("adapter_model.bin", b"not read".to_vec()),
        ("adapter_model.safetensors", golden("state.safetensors")),
    ]);
    let checkpoint = block_on(Checkpoint::open(&both, "adapter_model")).unwrap();
    assert_eq!(checkpoint.names().len(), 4);
}

#[test]
fn a_pickled_model_is_read_whole_and_in_shards() {
    let whole = folder(&[("pytorch_model.bin", golden("state.bin"))]);
    let checkpoint = block_on(Checkpoint::open(&whole, "model")).unwrap();
    same_tensors(&checkpoint, &safetensors(golden("state.safetensors")));

    let w = archive(&Parts::default().pickle());
    let sharded = |map: &str| -> Result<Checkpoint> {
        let index = format!(r#"{{"weight_map": {map}}}"#).into_bytes();
        let files = folder(&[
            ("pytorch_model.bin.index.json", index),
            ("pytorch_model-1-of-2.bin", golden("state-legacy.bin")),
            ("pytorch_model-2-of-2.bin", w.clone()),
        ]);
        block_on(Checkpoint::open(&files, "model"))
    };
    let (one, two) = ("pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin");
    let checkpoint = sharded(&format!(r#"{{"0.weight": "{one}", "w": "{two}"}}"#)).unwrap();
    assert_eq!(checkpoint.names().len(), 5);
    assert_eq!(block_on(checkpoint.f32("w")).unwrap(), [1.5, -2.0]);
    assert_eq!(
        block_on(checkpoint.f32("0.bias")).unwrap(),
        [-1.5, -1.25, -1.0, -0.75]
    );
    let digest = block_on(sha256(checkpoint.sources()[1].as_ref(), &Pace::unwatched())).unwrap();
    assert_eq!((digest.name.as_str(), digest.bytes), (two, w.len() as u64));
    let error = sharded(&format!(r#"{{"0.weight": "{two}"}}"#)).unwrap_err();
    assert_eq!(error.code(), Code::Missing);
}

/// What torch saves and the merge would get wrong, or cannot know the meaning of.
#[test]
fn what_torch_saves_beside_plain_tensors_is_refused_by_name() {
    for (file, part) in [
        ("expanded", "repeats its elements"),
        ("negated", "a tensor of a kind that is not read"),
        ("complex", "torch.ComplexFloatStorage"),
        ("eight-bits", "torch._utils._rebuild_tensor_v3"),
        ("sparse", "torch._utils._rebuild_sparse_tensor"),
        ("nested", "no tensor (state_dict)"),
        ("list", "not of a dictionary"),
        ("module", "torch.nn.modules.linear.Linear"),
        ("number", "no tensor (step)"),
        ("attribute", "torch._utils._rebuild_parameter_with_state"),
    ] {
        refused(golden(&format!("refused/{file}.bin")), Code::PickleRefused, part);
    }
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let tensor = Parts::default().tensor();
    refused(
        archive(&dictionary(&[("w", &tensor), ("w", &tensor)])),
        Code::Duplicate,
        "names a tensor twice",
    );
}
