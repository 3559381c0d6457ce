//! Solved layers that wait in the sink until the ranks of all are known, which a file's header begins with.

use crate::{
    adapter::Lora,
    error::Result,
    io::{OutDtype, Sink, encode},
};

/// The file that layers wait in; it is taken away when they are written.
pub(super) const SPOOL_FILE: &str = ".layers";

/// Layers that were set aside.
#[derive(Default)]
pub(super) struct Spool {
    layers: Vec<Aside>,
    bytes: u64,
}

/// A layer without its factors, and where those are.
struct Aside {
    lora: Lora,
    start: u64,
    /// How many numbers the two factors have.
    lengths: [usize; 2],
}

impl Spool {
    /// Sets the next layer aside; `name` is named in errors.
    ///
    /// # Errors
    /// As [`encode`], and whatever the sink gives.
    pub(super) async fn put(&mut self, name: &str, mut lora: Lora, sink: &mut dyn Sink) -> Result<()> {
        let start = self.bytes;
        let factors = [std::mem::take(&mut lora.a), std::mem::take(&mut lora.b)];
        for factor in &factors {
            let bytes = encode(name, factor, OutDtype::F32)?;
            sink.write(SPOOL_FILE, &bytes).await?;
            self.bytes += bytes.len() as u64;
        }
        self.layers.push(Aside {
            lora,
            start,
            lengths: factors.map(|factor| factor.len()),
        });
        Ok(())
    }

    /// A layer that was set aside, by its place.
    ///
    /// # Errors
    /// Whatever the sink gives.
    pub(super) async fn get(&self, at: usize, sink: &mut dyn Sink) -> Result<Lora> {
        let Aside {
            lora,
            start,
            lengths: [a, b],
        } = &self.layers[at];
        let end = start + 4 * (a + b) as u64;
        let bytes = sink.read(SPOOL_FILE, *start..end).await?;
        let mut numbers = bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x));
        Ok(Lora {
            a: numbers.by_ref().take(*a).collect(),
            b: numbers.collect(),
            ..lora.clone()
        })
    }

    /// Takes the file away.
    ///
    /// # Errors
    /// Whatever the sink gives.
    pub(super) async fn remove(sink: &mut dyn Sink) -> Result<()> {
        sink.remove(SPOOL_FILE).await
    }
}
