//! One file: every number is read right, and every lie of a header is refused by name.

use std::collections::BTreeMap;
use std::rc::Rc;

use iteris_web::error::Code;
use iteris_web::io::{ByteSource, Checkpoint, MemorySource, OutDtype, OutTensor, serialize};
use pollster::block_on;
use serde_json::json;

use super::{Watched, entry, folder, metadata, open, raw, refused, tensors};

#[test]
fn every_numeric_type_is_widened() {
    let bf16 = half::bf16::from_f32(-1.5).to_le_bytes();
    let f16 = half::f16::from_f32(-1.5).to_le_bytes();
    let cases: Vec<(&str, Vec<u8>, f32)> = vec![
        ("F64", (-1.5_f64).to_le_bytes().to_vec(), -1.5),
        ("F32", (-1.5_f32).to_le_bytes().to_vec(), -1.5),
        ("F16", f16.to_vec(), -1.5),
        ("BF16", bf16.to_vec(), -1.5),
        ("I64", (-7_i64).to_le_bytes().to_vec(), -7.0),
        ("I32", (-7_i32).to_le_bytes().to_vec(), -7.0),
        ("I16", (-7_i16).to_le_bytes().to_vec(), -7.0),
        ("I8", (-7_i8).to_le_bytes().to_vec(), -7.0),
        ("U64", 300_u64.to_le_bytes().to_vec(), 300.0),
        ("U32", 300_u32.to_le_bytes().to_vec(), 300.0),
        ("U16", 300_u16.to_le_bytes().to_vec(), 300.0),
        ("U8", vec![200], 200.0),
        ("BOOL", vec![1], 1.0),
    ];
    for (dtype, bytes, value) in cases {
        let header = json!({ "t": entry(dtype, &[1], 0, bytes.len() as u64) }).to_string();
        let checkpoint = open(raw(&header, &bytes)).unwrap();
        assert_eq!(block_on(checkpoint.f32("t")).unwrap(), [value], "{dtype}");
        assert_eq!(block_on(checkpoint.bytes("t")).unwrap(), bytes, "{dtype}");
        let own = block_on(checkpoint.own_range("t", 0..1)).unwrap();
        let mut widened = vec![9.0];
        (own.widen)(&own.bytes, &mut widened);
        assert_eq!(widened, [9.0, value], "{dtype}");
        assert_eq!((own.element_bytes, &own.bytes), (bytes.len(), &bytes), "{dtype}");
        assert_eq!(
            checkpoint.info("t").unwrap().is_float(),
            dtype.contains('F'),
            "{dtype}"
        );
    }
}

#[test]
fn quantised_weights_are_refused_when_they_are_read() {
    let checkpoint = open(raw(
        &json!({ "t": entry("F8_E4M3", &[2], 0, 2) }).to_string(),
        &[0; 2],
    ))
    .unwrap();
    refused(
        block_on(checkpoint.f32("t")),
        Code::DtypeUnsupported,
        &["F8_E4M3", "unquantised", "t"],
    );
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let file = |dtype: &str, bytes: Vec<u8>| {
        let shape = [if dtype == "F16" { 3 } else { 1 }];
        open(raw(
            &json!({ "q.weight": entry(dtype, &shape, 0, bytes.len() as u64) }).to_string(),
            &bytes,
        ))
        .unwrap()
    };
    let halves: Vec<u8> = [1.0, 2.0, f32::NAN]
        .iter()
        .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
        .collect();
    let nan = file("F16", halves);
    refused(
        block_on(nan.f32("q.weight")),
        Code::NotFinite,
        &["Element 2", "NaN", "m.safetensors", "q.weight"],
    );
    refused(
        block_on(nan.f32_range("q.weight", 1..3)),
        Code::NotFinite,
        &["Element 2"],
    );
    assert_eq!(block_on(nan.f32_range("q.weight", 0..2)).unwrap(), [1.0, 2.0]);
    refused(
        block_on(nan.own_range("q.weight", 1..3)).map(|own| own.bytes),
        Code::NotFinite,
        &["Element 2", "NaN", "m.safetensors", "q.weight"],
    );
    assert_eq!(block_on(nan.own_range("q.weight", 0..2)).unwrap().bytes.len(), 4);
    let infinite = file("F32", f32::NEG_INFINITY.to_le_bytes().to_vec());
    refused(
        block_on(infinite.f32("q.weight")),
        Code::NotFinite,
        &["Element 0", "-inf"],
    );
    let beyond_f32 = file("F64", 1e300_f64.to_le_bytes().to_vec());
    refused(block_on(beyond_f32.f32("q.weight")), Code::NotFinite, &["as f32"]);
}

#[test]
fn only_the_bytes_that_are_wanted_are_read() {
    // 5 Mi floats are 20 MiB: two pieces.
    let elements = 5 << 20;
    let big = OutTensor {
        name: "big".into(),
        shape: vec![elements],
        data: vec![1.0; elements],
    };
    let bytes = serialize(&[big, tensors().remove(0)], OutDtype::F32, &BTreeMap::new()).unwrap();
    let watched = Rc::new(Watched {
        inner: MemorySource::new("w", bytes),
        reads: Default::default(),
    });
    let checkpoint = block_on(Checkpoint::open_source(Rc::clone(&watched) as Rc<dyn ByteSource>)).unwrap();
    let header: u64 = watched
        .reads
        .borrow_mut()
        .drain(..)
        .map(|range| range.end - range.start)
        .sum();
    assert!(header < 1000, "{header} bytes were read for the header");

    let range = checkpoint.info("b").unwrap().range.clone();
    assert_eq!(block_on(checkpoint.f32("b")).unwrap(), tensors()[0].data);
    assert_eq!(
        block_on(checkpoint.f32_range("b", 3..6)).unwrap(),
        tensors()[0].data[3..]
    );
    let reads: Vec<_> = watched.reads.borrow_mut().drain(..).collect();
    assert_eq!(reads, [range.clone(), range.start + 12..range.end]);

    assert_eq!(block_on(checkpoint.f32("big")).unwrap().len(), elements);
    let pieces: Vec<u64> = watched
        .reads
        .borrow()
        .iter()
        .map(|range| range.end - range.start)
        .collect();
    assert_eq!(pieces, [16 << 20, 4 << 20]);

    watched.reads.borrow_mut().clear();
    let own = block_on(checkpoint.own_range("big", 1..elements)).unwrap();
    let start = checkpoint.info("big").unwrap().range.start + 4;
    assert_eq!(
        *watched.reads.borrow(),
        [
            start..start + (16 << 20),
            start + (16 << 20)..start + (20 << 20) - 4
        ]
    );
    assert!(
        own.bytes
            .as_chunks::<4>()
            .0
            .iter()
            .all(|&one| f32::from_le_bytes(one) == 1.0)
    );
    assert_eq!(own.bytes.len(), 4 * (elements - 1));
}

#[test]
fn numbers_behind_the_first_piece_are_checked_and_named_by_their_place() {
    // As bytes of f16, infinity lies in the second piece of 16 MiB.
    let (elements, bad) = (9 << 20, (8 << 20) + 5000);
    let mut bytes = vec![0; 2 * elements];
    bytes[2 * bad..2 * bad + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    let header = json!({ "t": entry("F16", &[elements as u64], 0, bytes.len() as u64) }).to_string();
    let checkpoint = open(raw(&header, &bytes)).unwrap();
    refused(
        block_on(checkpoint.own_range("t", 0..elements)).map(|own| own.bytes),
        Code::NotFinite,
        &[&format!("Element {bad} is inf")],
    );
    assert!(block_on(checkpoint.own_range("t", 0..bad)).is_ok());
}

#[test]
fn a_range_outside_a_tensor_or_a_file_is_an_error() {
    let checkpoint = open(serialize(&tensors(), OutDtype::F32, &BTreeMap::new()).unwrap()).unwrap();
    refused(block_on(checkpoint.f32_range("b", 5..7)), Code::Internal, &["b"]);
    refused(
        block_on(checkpoint.f32("absent")),
        Code::Missing,
        &["m.safetensors", "absent"],
    );
    let file = MemorySource::new("f", vec![0; 4]);
    refused(block_on(file.read(2..5)), Code::FileTruncated, &["4 bytes", "f"]);
    #[allow(
        clippy::reversed_empty_ranges,
        reason = "a caller's mistake is what is tested"
    )]
    let backwards = 3..2;
    refused(block_on(file.read(backwards)), Code::FileTruncated, &["f"]);
}

#[test]
fn a_file_that_is_cut_short_is_refused_at_every_length() {
    let whole = serialize(&tensors(), OutDtype::F32, &metadata()).unwrap();
    let header_bytes = whole.len() - 7 * 4;
    for length in 0..whole.len() {
        let code = if length < 8 || length >= header_bytes {
            Code::FileTruncated
        } else {
            Code::HeaderInvalid
        };
        refused(
            open(whole[..length].to_vec()),
            code,
            &["m.safetensors", "fetch it again"],
        );
    }
}

#[test]
fn a_header_length_beyond_the_file_is_refused() {
    let mut file = raw("{}", &[]);
    file[0] = 200;
    refused(
        open(file.clone()),
        Code::HeaderInvalid,
        &["200 bytes", "whole file has 10", "m.safetensors"],
    );
    file[7] = 0x70;
    refused(open(file), Code::HeaderInvalid, &["100000000", "m.safetensors"]);
}

#[test]
fn a_header_that_is_no_header_is_refused() {
    for header in [
        "",
        "[]",
        "null",
        "{",
        "{\"a\": 1}",
        "{\"a\": {}}",
        "not json",
        " {}",
    ] {
        refused(open(raw(header, &[])), Code::HeaderInvalid, &["m.safetensors"]);
    }
    let mut not_utf8 = raw("{\"aa\":{}}", &[]);
    not_utf8[10] = 0xff;
    refused(open(not_utf8), Code::HeaderInvalid, &["m.safetensors"]);
    for (what, value) in [
        (
            "shape",
            json!({ "dtype": "F32", "shape": [-1], "data_offsets": [0, 4] }),
        ),
        (
            "shape",
            json!({ "dtype": "F32", "shape": "1", "data_offsets": [0, 4] }),
        ),
        (
            "offsets",
            json!({ "dtype": "F32", "shape": [1], "data_offsets": [0] }),
        ),
        (
            "offsets",
            json!({ "dtype": "F32", "shape": [1], "data_offsets": [0.5, 4] }),
        ),
        (
            "dtype",
            json!({ "dtype": 32, "shape": [1], "data_offsets": [0, 4] }),
        ),
        ("no dtype", json!({ "shape": [1], "data_offsets": [0, 4] })),
    ] {
        let bad = open(raw(&json!({ "w.bias": value }).to_string(), &[0; 4]));
        assert!(bad.is_err(), "{what}");
        refused(bad, Code::HeaderInvalid, &["w.bias", "m.safetensors"]);
    }
    refused(
        open(raw(r#"{"__metadata__":{"format":1}}"#, &[])),
        Code::HeaderInvalid,
        &["m.safetensors", "string"],
    );
}

#[test]
fn an_unknown_element_type_is_named() {
    refused(
        open(raw(
            &json!({ "w": entry("F31", &[1], 0, 4) }).to_string(),
            &[0; 4],
        )),
        Code::DtypeUnsupported,
        &["F31", "m.safetensors", "w"],
    );
}

#[test]
fn a_shape_that_does_not_fit_its_bytes_is_refused() {
    let file = |shape: &[u64], end: u64| {
        open(raw(
            &json!({ "w": entry("F32", shape, 0, end) }).to_string(),
            &[0; 16],
        ))
    };
    refused(
        file(&[3], 16),
        Code::HeaderInvalid,
        &["12 bytes", "16 are set aside", "m.safetensors", "w"],
    );
    refused(file(&[], 16), Code::HeaderInvalid, &["4 bytes"]);
    refused(file(&[5], 16), Code::HeaderInvalid, &["20 bytes"]);
    assert!(file(&[2, 2], 16).is_ok());
    // Half a byte: four bits do not fill one.
    refused(
        open(raw(&json!({ "w": entry("F4", &[3], 0, 1) }).to_string(), &[0; 1])),
        Code::HeaderInvalid,
        &["set aside", "w"],
    );
}

#[test]
fn sizes_and_offsets_that_overflow_are_refused() {
    let one = |dtype: &str, shape: &[u64], begin: u64, end: u64| {
        open(raw(
            &json!({ "w": entry(dtype, shape, begin, end) }).to_string(),
            &[0; 4],
        ))
    };
    refused(
        one("F32", &[1 << 32, 1 << 32], 0, 4),
        Code::HeaderInvalid,
        &["overflows", "w"],
    );
    refused(
        one("F32", &[u64::MAX], 0, 4),
        Code::HeaderInvalid,
        &["overflows", "w"],
    );
    refused(
        one("U8", &[1 << 61], 0, 4),
        Code::HeaderInvalid,
        &["overflows", "w"],
    );
    refused(
        one("U8", &[1 << 60], 0, 1 << 60),
        Code::FileTruncated,
        &["cut short", "w"],
    );
    refused(
        one("F32", &[1], u64::MAX - 3, u64::MAX),
        Code::HeaderInvalid,
        &["set aside", "w"],
    );
    refused(
        one("F32", &[1], u64::MAX - 4, u64::MAX),
        Code::FileTruncated,
        &["cut short", "w"],
    );
    refused(
        one("F32", &[1], 8, 4),
        Code::HeaderInvalid,
        &["before it begins", "w"],
    );
    // More than 64 bits is not a number of the format at all.
    let header = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999]}}"#;
    refused(open(raw(header, &[0; 4])), Code::HeaderInvalid, &["w"]);
}

#[test]
fn overlapping_tensors_are_refused_by_both_names() {
    let header =
        json!({ "first": entry("F32", &[2], 0, 8), "second": entry("F32", &[2], 4, 12) }).to_string();
    refused(
        open(raw(&header, &[0; 12])),
        Code::OffsetsOverlap,
        &["m.safetensors", "first", "second"],
    );
    let header = json!({ "first": entry("F32", &[2], 0, 8), "second": entry("F32", &[2], 0, 8) }).to_string();
    refused(
        open(raw(&header, &[0; 8])),
        Code::OffsetsOverlap,
        &["first", "second"],
    );
}

#[test]
fn bytes_that_belong_to_no_tensor_are_refused() {
    let gap = json!({ "a": entry("F32", &[1], 0, 4), "b": entry("F32", &[1], 8, 12) }).to_string();
    let start = 8 + gap.len();
    refused(
        open(raw(&gap, &[0; 12])),
        Code::HeaderInvalid,
        &[&format!("Bytes {} to {}", start + 4, start + 8), "m.safetensors"],
    );
    let rest = json!({ "a": entry("F32", &[1], 0, 4) }).to_string();
    refused(
        open(raw(&rest, &[0; 6])),
        Code::HeaderInvalid,
        &["belong to no tensor"],
    );
}

#[test]
fn a_tensor_named_twice_is_refused() {
    let one = entry("F32", &[1], 0, 4).to_string();
    let two = entry("F32", &[1], 4, 8).to_string();
    refused(
        open(raw(&format!(r#"{{"w":{one},"w":{two}}}"#), &[0; 8])),
        Code::Duplicate,
        &["twice", "m.safetensors", "w"],
    );
    refused(
        open(raw(r#"{"__metadata__":{},"__metadata__":{}}"#, &[])),
        Code::HeaderInvalid,
        &["duplicate", "__metadata__"],
    );
    let header = r#"{"w":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}"#;
    refused(
        open(raw(header, &[0; 4])),
        Code::HeaderInvalid,
        &["duplicate", "w"],
    );
}

#[test]
fn scalars_and_empty_tensors_are_tensors() {
    let header = json!({
        "scalar": entry("F32", &[], 0, 4),
        "empty": entry("F32", &[0], 4, 4),
        "wide": entry("F16", &[3, 0, u64::from(u32::MAX)], 0, 0),
    });
    let checkpoint = open(raw(&header.to_string(), &2.5_f32.to_le_bytes())).unwrap();
    assert_eq!(block_on(checkpoint.f32("scalar")).unwrap(), [2.5]);
    assert!(block_on(checkpoint.f32("empty")).unwrap().is_empty());
    assert!(block_on(checkpoint.f32("wide")).unwrap().is_empty());
    assert_eq!(checkpoint.info("wide").unwrap().elements(), 0);
    assert_eq!(open(raw("{}", &[])).unwrap().names().len(), 0);
}

#[test]
fn pickles_are_refused_under_other_names_with_the_way_to_convert_them() {
    let only_bin = folder(&[
        ("adapter_model.bin", vec![1, 2, 3]),
        ("training_args.bin", vec![1]),
    ]);
    let remedy = "safe_serialization=True";
    refused(
        block_on(Checkpoint::open(&only_bin, "adapter_model")),
        Code::PickleRefused,
        &[remedy, "neither of the two formats", "adapter_model.bin"],
    );
    let others = folder(&[("adapter_model.pt", vec![1]), ("pytorch_model.bin", vec![1])]);
    refused(
        block_on(Checkpoint::open(&others, "adapter_model")),
        Code::PickleRefused,
        &[
            remedy,
            "under the name adapter_model.bin alone",
            "adapter_model.pt",
        ],
    );
    let zip = b"PK\x03\x04\x00\x00\x00\x00".to_vec();
    refused(open(zip), Code::PickleRefused, &[remedy, "m.safetensors"]);
    refused(
        open(b"\x80\x02}q\x00X\x06\x00\x01".to_vec()),
        Code::PickleRefused,
        &[remedy],
    );
    let below = folder(&[("config.json", vec![1]), ("dense/pytorch_model.bin", vec![1])]);
    refused(
        block_on(Checkpoint::open(&below, "model")),
        Code::Missing,
        &["model.safetensors"],
    );
    // What a trainer leaves beside the weights is no reason to speak of pickles.
    let trainer = folder(&[("training_args.bin", vec![1]), ("optimizer.pt", vec![1])]);
    refused(
        block_on(Checkpoint::open(&trainer, "model")),
        Code::Missing,
        &["model.safetensors"],
    );
    // Both are there: the safe one is read.
    let both = folder(&[("model.bin", vec![1]), ("model.safetensors", raw("{}", &[]))]);
    assert!(block_on(Checkpoint::open(&both, "model")).is_ok());
}

#[test]
fn a_git_lfs_pointer_is_recognised() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec();
    refused(
        open(pointer),
        Code::HeaderInvalid,
        &["git lfs pull", "m.safetensors"],
    );
}

#[test]
fn an_absent_checkpoint_is_named_with_what_there_is() {
    refused(
        block_on(Checkpoint::open(
            &folder(&[("other.safetensors", vec![])]),
            "model",
        )),
        Code::Missing,
        &["the folder", "other.safetensors", "model.safetensors"],
    );
}
