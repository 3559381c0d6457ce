//! A target that panics, reads for ever or takes memory out of proportion fails its test.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use iteris_web::error::Result;

use crate::memory;

/// Inputs are a few kilobytes; nothing that is read of them may take more than this.
const MEMORY_LIMIT_BYTES: usize = 64 << 20;

/// A single input is read in well under a millisecond; a machine may be busy.
const SLOW: Duration = Duration::from_secs(5);

/// After this long an input is taken to be read for ever.
const HANGS: Duration = Duration::from_secs(60);

/// Runs a target and fails the test, with the input left in a file, if it panics, is slow, or takes much.
pub(crate) struct Watch {
    name: &'static str,
    input: Arc<Mutex<Vec<u8>>>,
    done: mpsc::Sender<()>,
}

impl Watch {
    pub(crate) fn new(name: &'static str) -> Self {
        let input = Arc::new(Mutex::new(Vec::new()));
        let (done, is_done) = mpsc::channel();
        let current = Arc::clone(&input);
        std::thread::spawn(move || {
            loop {
                match is_done.recv_timeout(HANGS) {
                    Ok(()) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        let path = keep(name, &current.lock().unwrap());
                        eprintln!("{name} is still reading an input, left in {}", path.display());
                        std::process::abort();
                    }
                }
            }
        });
        Self { name, input, done }
    }

    pub(crate) fn run(&self, target: fn(&[u8]) -> Result<()>, input: &[u8]) -> Result<()> {
        input.clone_into(&mut self.input.lock().unwrap());
        let begin = Instant::now();
        let (bytes, outcome) = memory::peak(|| catch_unwind(AssertUnwindSafe(|| target(input))));
        let took = begin.elapsed();
        self.done.send(()).unwrap();
        let failed = |what: String| -> ! {
            let path = keep(self.name, input);
            panic!("{}: {what}; the input is in {}", self.name, path.display())
        };
        let Ok(outcome) = outcome else {
            failed(String::from("a panic"))
        };
        if took > SLOW {
            failed(format!("{took:?} for {} bytes", input.len()));
        }
        if bytes > MEMORY_LIMIT_BYTES {
            failed(format!("{bytes} bytes of memory for {} bytes", input.len()));
        }
        outcome
    }
}

/// Leaves an input in a file.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzzing-{name}"));
    std::fs::write(&path, input).unwrap();
    path
}
