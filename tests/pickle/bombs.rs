//! Lengths that are claimed and not there, and pickles that would be far larger than their file.

use crate::bytes::{Parts, text};
use crate::{instructions, memory};

/// A pickle may have two million instructions, and each may make a value.
const MEMORY_LIMIT_BYTES: usize = 256 << 20;

#[track_caller]
fn pickle_refused(pickle: &[u8], part: &str) {
    let (bytes, ()) = memory::peak(|| instructions::pickle_refused(pickle, part));
    assert!(bytes < MEMORY_LIMIT_BYTES, "{bytes} bytes for {}", pickle.len());
}

#[test]
fn bombs_do_not_go_off() {
    pickle_refused(b"\x80\x02X\xff\xff\xff\xff.", "ends in the middle");
    pickle_refused(b"\x80\x04\x8c\xff.", "ends in the middle");
    pickle_refused(
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "0x8d",
    );
    pickle_refused(b"\x80\x02\x8a\xff.", "ends in the middle");
    pickle_refused(
        &[&b"\x80\x02\x8a\xff"[..], &[1; 255], b"."].concat(),
        "a number of 255 bytes",
    );
    pickle_refused(b"\x80\x02\x8b\xff\xff\xff\x7f.", "instruction 0x8b");
    pickle_refused(b"\x80\x02Nr\xff\xff\xff\xff\x94.", "not of a dictionary");
    pickle_refused(
        &[&b"\x80\x02c"[..], &[b'x'; 100_000], b"\n\n."].concat(),
        "name without an end",
    );
    // Lists in lists in lists, and marks in marks.
    let deep = [
        &b"\x80\x02"[..],
        &b"]".repeat(900_000),
        &b"a".repeat(899_999),
        b".",
    ]
    .concat();
    pickle_refused(&deep, "not of a dictionary");
    let tuples = [&b"\x80\x02N"[..], &b"\x85".repeat(1_900_000), b"."].concat();
    pickle_refused(&tuples, "not of a dictionary");
    pickle_refused(
        &[&b"\x80\x02"[..], &b"(".repeat(1_900_000), b"."].concat(),
        "a value that is not there",
    );
    pickle_refused(
        &[&b"\x80\x02"[..], &b"N".repeat(3_000_000), b"."].concat(),
        "more than 2000000 instructions",
    );
    // A list that holds itself, and the "billion laughs": each list holds the one before ten times.
    pickle_refused(b"\x80\x02]q\x00h\x00a.", "not of a dictionary");
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for level in 0..200_u8 {
        laughs.extend_from_slice(b"](");
        laughs.extend([b'h', level].repeat(10));
        laughs.extend([b'e', b'q', level + 1]);
    }
    laughs.push(b'.');
    pickle_refused(&laughs, "not of a dictionary");
    // More tensors than any model has, each of them the same one.
    let mut crowd = [
        &b"\x80\x02}(X\x01\x00\x00\x00w"[..],
        &Parts::default().tensor(),
        b"q\x00",
    ]
    .concat();
    for name in 0..100_000 {
        crowd.extend(text(&name.to_string()));
        crowd.extend_from_slice(b"h\x00");
    }
    crowd.extend_from_slice(b"u.");
    pickle_refused(&crowd, "more than 100000 tensors");
    // The same attributes set over and over do not take time that grows with their number.
    let mut attributes = b"\x80\x02ccollections\nOrderedDict\n)R}(".to_vec();
    for _ in 0..300_000 {
        attributes.extend_from_slice(b"NN");
    }
    attributes.extend_from_slice(b"uq\x00");
    attributes.extend(b"h\x00b".repeat(300_000));
    attributes.push(b'.');
    pickle_refused(&attributes, "sets attributes");
}
