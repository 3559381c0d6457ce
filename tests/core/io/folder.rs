//! Folders, the files in them and their hashes.

use std::rc::Rc;

use iteris_web::error::Code;
use iteris_web::io::{ByteSource, Checkpoint, Folder, MemorySource, OutDtype, serialize, sha256};
use iteris_web::progress::Pace;
use pollster::block_on;

use super::{Watched, folder, metadata, refused, source, tensors};

#[test]
fn a_file_dropped_twice_is_refused() {
    let files = vec![source("x/a.json", vec![]), source("x\\a.json", vec![])];
    refused(
        Folder::new("the adapter", files),
        Code::Duplicate,
        &["same file was dropped twice", "the adapter", "a.json"],
    );
}

#[test]
fn a_directory_that_all_files_share_is_the_folder_itself() {
    let shared = folder(&[("my/b/config.json", vec![1]), ("my/b/sub/config.json", vec![2])]);
    assert_eq!(
        shared.names().collect::<Vec<_>>(),
        ["config.json", "sub/config.json"]
    );
    assert_eq!(shared.find("config.json").unwrap().len(), 1);
    let flat = folder(&[("./config.json", vec![1]), ("sub/other.json", vec![2])]);
    assert!(flat.find("config.json").is_some() && flat.find("other.json").is_none());
    let two = folder(&[("one/config.json", vec![1]), ("two/config.json", vec![2])]);
    refused(
        two.require("config.json").map(|file| file.name().to_owned()),
        Code::Missing,
        &["one/config.json, two/config.json", "the folder"],
    );
    // The directories' names merely begin alike.
    let alike = folder(&[("a/x", vec![]), ("ab/x", vec![])]);
    assert_eq!(alike.names().collect::<Vec<_>>(), ["a/x", "ab/x"]);
}

#[test]
fn json_is_read_and_bad_json_is_named() {
    let folder = folder(&[
        ("good.json", b"[1, 2]".to_vec()),
        ("marked.json", b"\xef\xbb\xbf[3]".to_vec()),
        ("bad.json", b"[1, ".to_vec()),
    ]);
    assert_eq!(
        block_on(folder.read_json::<Vec<u32>>("good.json")).unwrap(),
        Some(vec![1, 2])
    );
    assert_eq!(
        block_on(folder.read_json::<Vec<u32>>("marked.json")).unwrap(),
        Some(vec![3])
    );
    assert_eq!(
        block_on(folder.read_json::<Vec<u32>>("absent.json")).unwrap(),
        None
    );
    refused(
        block_on(folder.read_json::<Vec<u32>>("bad.json")),
        Code::ConfigInvalid,
        &["line 1", "bad.json"],
    );
    refused(
        block_on(folder.read_json::<String>("good.json")),
        Code::ConfigInvalid,
        &["string", "good.json"],
    );
}

#[test]
fn a_hash_is_that_of_the_whole_file() {
    // The SHA-256 of "abc" is the first example of FIPS 180-2; of a million "a", its third.
    let folder = folder(&[("b/abc", b"abc".to_vec()), ("b/sub/a", vec![b'a'; 1_000_000])]);
    let digests = block_on(folder.sha256(&Pace::unwatched())).unwrap();
    let found: Vec<_> = digests
        .iter()
        .map(|d| (d.name.as_str(), d.bytes, d.sha256.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (
                "abc",
                3,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            ),
            (
                "sub/a",
                1_000_000,
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
            ),
        ]
    );
    // Longer than one piece: hashing in pieces equals hashing at once.
    let long: Vec<u8> = (0_u32..(9 << 20)).map(|at| at.to_le_bytes()[1]).collect();
    let watched = Watched {
        inner: MemorySource::new("l", long.clone()),
        reads: Default::default(),
    };
    let digest = block_on(sha256(&watched, &Pace::unwatched())).unwrap();
    assert_eq!(watched.reads.borrow().len(), 3);
    let at_once = <sha2::Sha256 as sha2::Digest>::digest(&long);
    assert_eq!(
        digest.sha256,
        at_once
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    );
}

#[cfg(not(target_arch = "wasm32"))]
#[test]
fn a_native_file_is_read_by_range() {
    use iteris_web::io::FileSource;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    std::fs::write(&path, serialize(&tensors(), OutDtype::F32, &metadata()).unwrap()).unwrap();
    let file: Rc<dyn ByteSource> = Rc::new(FileSource::open(&path, "base/model.safetensors").unwrap());
    let folder = Folder::new("base", vec![Rc::clone(&file)]).unwrap();
    let checkpoint = block_on(Checkpoint::open(&folder, "model")).unwrap();
    assert_eq!(block_on(checkpoint.f32("b")).unwrap(), tensors()[0].data);
    assert_eq!(block_on(checkpoint.f32("a")).unwrap(), tensors()[1].data);

    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(20)
        .unwrap();
    refused(
        block_on(checkpoint.f32("b")),
        Code::FileTruncated,
        &["base/model.safetensors"],
    );
    refused(
        FileSource::open(directory.path().join("none"), "none"),
        Code::Missing,
        &["none"],
    );
    refused(
        FileSource::open(directory.path(), "directory"),
        Code::ReadFailed,
        &["directory"],
    );
}
