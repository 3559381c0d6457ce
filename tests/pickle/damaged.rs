//! Files cut at every byte and with every byte changed: an error with a code, or the tensors.

use iteris_web::error::Code;
use pollster::block_on;

use crate::bytes::{Parts, archive};
use crate::{golden, open};

/// What a damaged pickle may be refused as.
fn is_of_the_file(code: Code) -> bool {
    matches!(code, Code::PickleRefused | Code::FileTruncated | Code::Duplicate)
}

const FILES: [&str; 4] = ["state.bin", "state-legacy.bin", "zip.bin", "legacy.bin"];

#[test]
fn a_file_cut_anywhere_is_refused() {
    let mut files: Vec<Vec<u8>> = FILES.map(golden).to_vec();
    files.push(archive(&Parts::default().pickle()));
    for file in files {
        for length in 0..file.len() {
            let error = open(file[..length].to_vec()).expect_err("a part is no whole");
            assert!(is_of_the_file(error.code()), "{length} bytes: {error}");
        }
    }
}

#[test]
fn a_changed_byte_is_refused_or_read_inside_the_file() {
    let (mut accepted, mut refused) = (0, 0);
    for name in FILES {
        let file = golden(name);
        for at in 0..file.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut file = file.clone();
                file[at] ^= flip;
                match open(file) {
                    Ok(checkpoint) => {
                        accepted += 1;
                        for info in checkpoint.infos() {
                            assert!(info.range.end <= checkpoint.file_bytes(), "{name}, byte {at}");
                            let bytes = block_on(checkpoint.bytes(&info.name)).unwrap();
                            assert_eq!(bytes.len(), info.elements() * info.dtype.bitsize() / 8);
                        }
                    }
                    Err(error) => {
                        refused += 1;
                        assert!(is_of_the_file(error.code()), "{name}, byte {at}: {error}");
                    }
                }
            }
        }
    }
    assert!(
        accepted > 5000 && refused > 5000,
        "{accepted} accepted, {refused} refused"
    );
}
