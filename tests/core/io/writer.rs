//! What is written is read back, by us and by the safetensors crate, and is the same every time.

use std::collections::BTreeMap;

use iteris_web::error::Code;
use iteris_web::io::{
    Dtype, MemorySink, OutDtype, OutTensor, Sink, StreamHeader, StreamWriter, encode, serialize,
};
use pollster::block_on;

use super::{metadata, open, refused, tensors};

#[test]
fn what_is_written_is_read_back() {
    for dtype in [OutDtype::F32, OutDtype::F16] {
        let bytes = serialize(&tensors(), dtype, &metadata()).unwrap();
        let checkpoint = open(bytes).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "none"]);
        assert_eq!(checkpoint.metadata(), &metadata());
        for tensor in tensors() {
            let info = checkpoint.info(&tensor.name).unwrap();
            assert_eq!((&info.shape, info.dtype), (&tensor.shape, dtype.into()));
            let read = block_on(checkpoint.f32(&tensor.name)).unwrap();
            assert_eq!(read.len(), tensor.data.len());
            for (read, written) in read.iter().zip(&tensor.data) {
                // f16 has 11 significant bits: half of 2^-10 is the largest relative error.
                let tolerance = if dtype == OutDtype::F32 {
                    0.0
                } else {
                    written.abs() / 2048.0
                };
                assert!((read - written).abs() <= tolerance, "{read} for {written}");
            }
        }
    }
}

#[test]
fn the_safetensors_crate_reads_what_is_written() {
    let bytes = serialize(&tensors(), OutDtype::F32, &metadata()).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("b").unwrap();
    assert_eq!(view.shape(), [2, 3]);
    assert_eq!(view.data()[4..8], (-2.0_f32).to_le_bytes());
    let (header_bytes, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header_bytes % 8, 0, "data is aligned to 8 bytes");
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn the_order_tensors_are_given_in_does_not_change_the_bytes() {
    let mut reversed = tensors();
    reversed.reverse();
    let bytes = serialize(&tensors(), OutDtype::F32, &metadata()).unwrap();
    for _ in 0..8 {
        assert_eq!(serialize(&reversed, OutDtype::F32, &metadata()).unwrap(), bytes);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(
        text.contains(r#""__metadata__":{"a":"1","b":"2","format":"pt","made_by":"a test"}"#),
        "{text}"
    );
}

#[test]
fn numbers_that_cannot_be_written_are_refused() {
    let with = |value: f32| OutTensor {
        name: "w".into(),
        shape: vec![2],
        data: vec![1.0, value],
    };
    let none = BTreeMap::new();
    refused(
        serialize(&[with(f32::NAN)], OutDtype::F32, &none),
        Code::NotFinite,
        &["element 1", "w"],
    );
    refused(
        encode("w", &[f32::INFINITY], OutDtype::F16),
        Code::NotFinite,
        &["inf", "w"],
    );
    refused(
        serialize(&[with(65520.0)], OutDtype::F16, &none),
        Code::OptionInvalid,
        &["65520", "f32", "w"],
    );
    assert!(
        serialize(&[with(65519.0)], OutDtype::F16, &none).is_ok(),
        "65519 rounds to 65504"
    );
}

#[test]
fn a_streamed_file_equals_the_whole_one() {
    let list = tensors()
        .into_iter()
        .map(|tensor| (tensor.name, Dtype::F32, tensor.shape));
    let header = StreamHeader::new(list, &metadata()).unwrap();
    let whole = serialize(&tensors(), OutDtype::F32, &metadata()).unwrap();
    assert_eq!(header.file_bytes(), whole.len() as u64);

    let mut sink = MemorySink::default();
    block_on(async {
        let mut writer = StreamWriter::begin(&mut sink, "out", header.clone());
        while let Some((name, _)) = writer.next() {
            let name = name.to_owned();
            let tensor = tensors().into_iter().find(|tensor| tensor.name == name).unwrap();
            writer
                .write(&name, &encode(&name, &tensor.data, OutDtype::F32)?)
                .await?;
        }
        writer.finish().await?;
        sink.write("other", b"x").await
    })
    .unwrap();
    assert_eq!(sink.file("out").unwrap(), whole);
    assert_eq!(sink.files().len(), 2);
    assert!(sink.file("absent").is_none());
}

#[test]
fn a_tensor_may_come_in_pieces() {
    let header = || {
        let list = [("a", vec![0]), ("b", vec![4]), ("c", vec![1])];
        let list = list.map(|(name, shape)| (name.to_owned(), Dtype::U8, shape));
        StreamHeader::new(list, &BTreeMap::new()).unwrap()
    };
    let run = |pieces: &[(&str, &[u8])]| {
        block_on(async {
            let mut sink = MemorySink::default();
            let mut writer = StreamWriter::begin(&mut sink, "out", header());
            for (name, bytes) in pieces {
                writer.piece(name, bytes).await?;
            }
            writer.finish().await?;
            Ok(sink.file("out").unwrap()[header().bytes().len()..].to_vec())
        })
    };
    let whole: &[(&str, &[u8])] = &[("a", b""), ("b", b"1"), ("b", b""), ("b", b"234"), ("c", b"5")];
    assert_eq!(run(whole), Ok(b"12345".to_vec()));
    refused(
        run(&[("a", b""), ("b", b"12"), ("b", b"345")]),
        Code::Internal,
        &["5 bytes", "4 bytes", "b"],
    );
    refused(
        run(&[("a", b""), ("b", b"12"), ("c", b"3")]),
        Code::Internal,
        &["out of turn", "c"],
    );
    refused(
        run(&[("a", b""), ("b", b"12")]),
        Code::Internal,
        &["never written", "b"],
    );
}

#[test]
fn wide_types_come_first_so_that_each_is_aligned() {
    let list = [
        ("a", Dtype::F16, vec![3]),
        ("b", Dtype::I64, vec![1]),
        ("c", Dtype::F32, vec![1]),
        ("d", Dtype::U8, vec![1]),
    ]
    .map(|(name, dtype, shape)| (name.to_owned(), dtype, shape));
    let header = StreamHeader::new(list, &BTreeMap::new()).unwrap();
    assert_eq!(
        header.tensors().map(|(name, _)| name).collect::<Vec<_>>(),
        ["b", "c", "a", "d"]
    );
}

#[test]
fn a_stream_is_held_to_its_header() {
    let header = || {
        let list = [("a", vec![1]), ("b", vec![2])].map(|(name, shape)| (name.to_owned(), Dtype::F32, shape));
        StreamHeader::new(list, &BTreeMap::new()).unwrap()
    };
    let run = |write: &[(&str, usize)]| {
        block_on(async {
            let mut sink = MemorySink::default();
            let mut writer = StreamWriter::begin(&mut sink, "out", header());
            for (name, bytes) in write {
                writer.write(name, &vec![0; *bytes]).await?;
            }
            writer.finish().await
        })
    };
    assert_eq!(run(&[("a", 4), ("b", 8)]), Ok(()));
    refused(run(&[("b", 8)]), Code::Internal, &["out of turn", "b"]);
    refused(run(&[("a", 8)]), Code::Internal, &["8 bytes", "4 bytes", "a"]);
    refused(run(&[("a", 4)]), Code::Internal, &["never written", "b"]);
    refused(
        run(&[("a", 4), ("b", 8), ("c", 4)]),
        Code::Internal,
        &["out of turn", "c"],
    );
    let twice = [
        ("a".to_owned(), Dtype::F32, vec![1]),
        ("a".to_owned(), Dtype::F32, vec![1]),
    ];
    refused(
        StreamHeader::new(twice, &BTreeMap::new()),
        Code::Internal,
        &["same name"],
    );
}
