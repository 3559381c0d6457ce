//! Containers that contradict themselves are refused, whichever half of them lies.

use iteris_web::error::Code;
use pollster::block_on;

use crate::bytes::{Entry, Parts, archive, close, directory_entry, entries, zip};
use crate::{golden, open, refused};

fn good() -> Vec<Entry> {
    entries(&Parts::default().pickle())
}

#[track_caller]
fn zip_refused(change: impl FnOnce(&mut Vec<Entry>), part: &str) {
    let mut entries = good();
    change(&mut entries);
    refused(zip(&entries), Code::PickleRefused, part);
}

/// A good archive with the bytes at `at`, counted from its end, replaced.
fn with_end(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = zip(&good());
    let at = file.len() - at;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn what_is_no_container_is_refused_as_what_it_is() {
    refused(b"".to_vec(), Code::PickleRefused, "neither of the two formats");
    refused(b"PK".to_vec(), Code::PickleRefused, "neither of the two formats");
    refused(
        golden("expected.safetensors"),
        Code::PickleRefused,
        "safe_serialization=True",
    );
    refused(
        b"\x80\x01N.".to_vec(),
        Code::PickleRefused,
        "neither of the two formats",
    );
    refused(b"PK\x03\x04".to_vec(), Code::FileTruncated, "fetch it again");
    refused(b"PK\x03\x04".repeat(100), Code::FileTruncated, "fetch it again");
}

#[test]
fn entries_are_stored_and_not_unpacked() {
    // A zip bomb needs a method other than 0.
    zip_refused(|entries| entries[0].method = 8, "compressed or encrypted");
    zip_refused(
        |entries| entries[2].method = 93,
        "data/0 is compressed or encrypted",
    );
    zip_refused(|entries| entries[0].flags = 1, "compressed or encrypted");
    zip_refused(|entries| entries[0].local_method = 8, "contradicts the directory");
}

#[test]
fn entries_agree_with_the_directory_and_lie_apart() {
    zip_refused(
        |entries| entries[0].local_name = "archive/data.pkx".into(),
        "contradicts",
    );
    zip_refused(
        |entries| entries[0].local_name = "archive/data.pkl2".into(),
        "contradicts",
    );
    zip_refused(|entries| entries[2].local_extra = 1, "data/0 contradicts");
    zip_refused(|entries| entries[2].local_extra = u16::MAX, "data/0 contradicts");
    zip_refused(|entries| entries[0].claimed += 1, "share bytes");
    zip_refused(|entries| entries[2].claimed = u32::MAX - 1, "share bytes");
    zip_refused(
        |entries| entries[2].claimed -= 4,
        "A storage of 2 elements of F32 has 4 bytes",
    );
    zip_refused(
        |entries| {
            let twice = entries[2].clone();
            entries.push(twice);
        },
        "two entries archive/data/0",
    );
    zip_refused(
        |entries| {
            entries.remove(0);
        },
        "one data.pkl",
    );
    zip_refused(
        |entries| entries.push(Entry::new("other/data.pkl", b"N.")),
        "one data.pkl",
    );
    zip_refused(
        |entries| {
            entries.remove(2);
        },
        "does not hold archive/data/0",
    );
    zip_refused(
        |entries| entries[1] = Entry::new("archive/byteorder", b"big"),
        "byte order",
    );
    zip_refused(
        |entries| entries[1] = Entry::new("archive/byteorder", &[b'l'; 1000]),
        "has 1000 bytes",
    );
    zip_refused(
        |entries| entries[0] = Entry::new("archive/data.pkl", &vec![b'N'; 17 << 20]),
        "has 17825792 bytes",
    );

    // Two names for the same bytes.
    let two = [
        Entry::new("archive/data.pkl", b"N."),
        Entry::new("archive/data.pkm", b"N."),
    ];
    let mut file = zip(&two[..1]);
    file.truncate(48);
    let directory = [directory_entry(&two[0], 0), directory_entry(&two[1], 0)].concat();
    refused(close(file, &directory, 2), Code::PickleRefused, "share bytes");
}

#[test]
fn a_directory_lies_where_the_end_says() {
    assert!(open(with_end(1, &[0])).is_ok());
    for (at, bytes) in [
        (2, &[1][..]),   // a comment
        (6, &[1]),       // where the directory begins
        (6, &[0xff; 4]), // as much as in a wide record, which is not there
        (10, &[1]),      // its length
        (10, &[0xff; 4]),
        (12, &[9]), // how many entries
        (16, &[1]), // of several parts
        (18, &[1]),
    ] {
        refused(with_end(at, bytes), Code::PickleRefused, "The archive");
    }
    let mut longer = zip(&good());
    longer.push(0);
    refused(longer, Code::FileTruncated, "no end");
    // Names, extra fields and comments that reach beyond the directory.
    let file = zip(&good());
    let directory = file.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    for (at, part) in [
        (0, "damaged"),
        (28, "damaged"),
        (29, "damaged"),
        (30, "damaged"),
        (32, "damaged"),
        (46, "The archive"),
    ] {
        let mut file = file.clone();
        file[directory + at] ^= 0xff;
        refused(file, Code::PickleRefused, part);
    }
}

#[test]
fn wide_numbers_are_read_and_held_against_each_other() {
    // Sizes and offset from the extra field, as of an archive beyond 4 GiB.
    let mut list = good();
    list[2].claimed = u32::MAX;
    list[2].extra = [
        &[9, 9, 1, 0, 7, 1, 0, 16, 0][..],
        &8_u64.to_le_bytes(),
        &8_u64.to_le_bytes(),
    ]
    .concat();
    let checkpoint = open(zip(&list)).unwrap();
    assert_eq!(block_on(checkpoint.f32("w")).unwrap(), [1.5, -2.0]);
    list[2].extra[9] = 7;
    refused(zip(&list), Code::PickleRefused, "damaged");
    for extra in [
        vec![],
        vec![1, 0, 16, 0],
        vec![1, 0, 8, 0, 8, 0, 0, 0, 0, 0, 0, 0],
        vec![1, 0, 0xff, 0xff],
    ] {
        list[2].extra = extra;
        refused(zip(&list), Code::PickleRefused, "damaged");
    }
    list[2].extra = [
        &[1, 0, 16, 0][..],
        &u64::MAX.to_le_bytes(),
        &u64::MAX.to_le_bytes(),
    ]
    .concat();
    refused(zip(&list), Code::PickleRefused, "share bytes");

    // torch writes the wide end record always: each of its numbers counts.
    let golden = golden("state.bin");
    let end = golden.len() - 98;
    assert_eq!(golden[end..end + 4], *b"PK\x06\x06");
    for at in [
        0,
        16,
        32,
        40,
        48,
        56,
        56 + 4,
        56 + 8,
        76 + 4,
        76 + 10,
        76 + 12,
        76 + 16,
    ] {
        let mut file = golden.clone();
        file[end + at] ^= 1;
        refused(file, Code::PickleRefused, "The archive");
    }
    // The narrow record may leave all to the wide one.
    let mut file = golden.clone();
    file[end + 76 + 8..end + 76 + 20].fill(0xff);
    assert!(open(file).is_ok());
}

#[test]
fn the_old_container_keeps_step() {
    let golden = golden("state-legacy.bin");
    let last = golden.len() - 1;
    refused(
        golden[..last].to_vec(),
        Code::FileTruncated,
        "reaches beyond the file's end",
    );
    refused(
        [&golden[..], b"\0"].concat(),
        Code::PickleRefused,
        "Something follows the last storage",
    );
    let changed = |find: &[u8], put: &[u8]| {
        let at = golden.windows(find.len()).position(|part| part == find).unwrap();
        let mut file = golden.clone();
        file[at..at + put.len()].copy_from_slice(put);
        file
    };
    refused(
        changed(b"\x8a\x0a", b"\x8a\x0a\x6d"),
        Code::PickleRefused,
        "not one of torch.save",
    );
    refused(
        changed(b"M\xe9\x03", b"M\xe8\x03"),
        Code::PickleRefused,
        "not one of torch.save",
    );
    refused(changed(b"\x88", b"\x89"), Code::PickleRefused, "byte order");
    // The length before the first storage.
    let keys_end = golden.windows(2).rposition(|two| two == b"e.").unwrap() + 2;
    let mut file = golden.clone();
    file[keys_end] ^= 1;
    refused(file, Code::PickleRefused, "A storage has not the");
    // A bare pickle, of which the hub has many.
    refused(
        Parts::default().pickle(),
        Code::PickleRefused,
        "The pickle ends in the middle",
    );
    refused(
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.".to_vec(),
        Code::PickleRefused,
        "os.system",
    );
}

#[test]
fn a_good_archive_is_good() {
    assert!(open(archive(&Parts::default().pickle())).is_ok());
}
