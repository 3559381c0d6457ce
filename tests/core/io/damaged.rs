//! Thousands of damaged headers: no panic, and the verdict of the safetensors crate.

use iteris_web::error::{Code, Error};
use iteris_web::io::{OutDtype, serialize};
use pollster::block_on;

use super::{metadata, open, tensors};

/// xorshift64: a fixed sequence, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

#[test]
fn a_damaged_header_never_panics_and_the_crate_agrees_about_it() {
    let whole = serialize(&tensors(), OutDtype::F32, &metadata()).unwrap();
    let header_bytes = whole.len() - 7 * 4;
    let digits = b"0123456789";
    let json = b"{}[]\",:0123456789F-.e ";
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut refused) = (0, 0);
    for case in 0..6000 {
        let mut file = whole.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(header_bytes.min(file.len()));
            match random.below(6) {
                // A digit for a digit keeps the JSON valid and makes the numbers lie.
                0..=2 => {
                    let numbers: Vec<usize> = (8..header_bytes.min(file.len()))
                        .filter(|&i| file[i].is_ascii_digit())
                        .collect();
                    if !numbers.is_empty() {
                        file[numbers[random.below(numbers.len())]] = digits[random.below(10)];
                    }
                }
                3 => file[at] = json[random.below(json.len())],
                4 => file[at] = u8::try_from(random.below(256)).unwrap(),
                _ => file.truncate(at.max(1)),
            }
        }
        let ours = open(file.clone());
        let theirs = safetensors::SafeTensors::deserialize(&file);
        match (&ours, &theirs) {
            (Ok(checkpoint), Ok(crate_reads)) => {
                accepted += 1;
                assert_eq!(checkpoint.names().len(), crate_reads.len(), "case {case}");
                for name in checkpoint.names() {
                    let bytes = block_on(checkpoint.bytes(name)).unwrap();
                    assert_eq!(bytes, crate_reads.tensor(name).unwrap().data(), "case {case}");
                    drop(block_on(checkpoint.f32(name)));
                }
            }
            (Err(_), Err(_)) => refused += 1,
            // The crate keeps the last of two equal names.
            (Err(error), Ok(_)) if is_stricter(error) => refused += 1,
            _ => panic!("case {case}: we say {ours:?}, the crate {theirs:?}"),
        }
    }
    assert!(
        accepted > 50 && refused > 1000,
        "{accepted} accepted, {refused} refused"
    );
}

/// Whether we refuse what the crate lets pass: equal names.
fn is_stricter(error: &Error) -> bool {
    error.code() == Code::Duplicate || error.to_string().contains("duplicate")
}
