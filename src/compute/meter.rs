//! Where the time goes: seconds and floating-point operations by stage.

use std::{cell::Cell, future::poll_fn, pin::pin};

use web_time::Instant;

use crate::progress::Written;

/// A stage of the work, as reports and progress events name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading weights and laying them out.
    Load,
    /// The model's forward pass.
    Forward,
    /// Sums over calibration samples.
    Gram,
    /// Solving layers.
    Solve,
    /// Writing results.
    Write,
    /// Writing text: a task's own answers, or what a user asks for.
    Generate,
    /// Waiting for what other workers have summed.
    Wait,
}

const STAGES: usize = 7;

/// Sums by stage. Time not spent in another measured stage while [`Stage::Forward`] runs is the forward's.
pub struct Meter {
    started: Instant,
    seconds: [Cell<f64>; STAGES],
    operations: [Cell<f64>; STAGES],
    /// Whether the model's passes are those of a generation.
    generating: Cell<bool>,
    /// Of the file that is being written: bytes that are, and all.
    written: Cell<Option<Written>>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            seconds: Default::default(),
            operations: Default::default(),
            generating: Cell::new(false),
            written: Cell::new(None),
        }
    }
}

impl Meter {
    /// Seconds since the meter was made.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Notes how many bytes of the file at hand are written, of how many.
    pub fn set_written(&self, done: u64, total: u64) {
        self.written.set(Some(Written { done, total }));
    }

    /// How many bytes of the file at hand are written, of how many.
    pub const fn written(&self) -> Option<Written> {
        self.written.get()
    }

    /// Adds seconds to a stage.
    pub fn add(&self, stage: Stage, seconds: f64) {
        let cell = &self.seconds[stage as usize];
        cell.set(cell.get() + seconds);
    }

    /// Adds the time since `start` (a value of [`elapsed`](Self::elapsed)) to a stage.
    pub fn add_since(&self, stage: Stage, start: f64) {
        self.add(stage, self.elapsed() - start);
    }

    /// Adds the time that a future works, though not that between, to a stage: what it waits for goes on beside
    /// something else.
    pub async fn beside<T>(&self, stage: Stage, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|context| {
            let start = self.elapsed();
            let polled = future.as_mut().poll(context);
            self.add_since(stage, start);
            polled
        })
        .await
    }

    /// Adds the time until a future is done to a stage, whatever it [adds](Self::beside) itself meanwhile.
    pub async fn until<T>(&self, stage: Stage, future: impl Future<Output = T>) -> T {
        let cell = &self.seconds[stage as usize];
        let (start, before) = (self.elapsed(), cell.get());
        let done = future.await;
        cell.set(before + self.elapsed() - start);
        done
    }

    /// Counts what the model does from now on as [`Stage::Generate`], until the guard is dropped.
    pub fn generating(&self) -> Generating<'_> {
        self.generating.set(true);
        Generating {
            meter: self,
            start: self.elapsed(),
            others: self.others(),
        }
    }

    /// Seconds of all measured stages.
    fn others(&self) -> f64 {
        self.seconds.iter().map(Cell::get).sum()
    }

    /// Counts floating-point operations of a stage.
    pub fn add_operations(&self, stage: Stage, operations: f64) {
        let generating = stage == Stage::Forward && self.generating.get();
        let stage = if generating { Stage::Generate } else { stage };
        let cell = &self.operations[stage as usize];
        cell.set(cell.get() + operations);
    }

    /// Seconds of a stage. The forward pass is what remains of the total.
    pub fn seconds(&self, stage: Stage) -> f64 {
        if stage == Stage::Forward {
            return (self.elapsed() - self.others()).max(0.0);
        }
        self.seconds[stage as usize].get()
    }

    /// Takes the count of a stage's floating-point operations away, to be counted elsewhere.
    pub fn take_operations(&self, stage: Stage) -> f64 {
        self.operations[stage as usize].take()
    }

    /// Floating-point operations of a stage.
    pub fn operations(&self, stage: Stage) -> f64 {
        self.operations[stage as usize].get()
    }
}

/// Until it is dropped, the model generates.
pub struct Generating<'a> {
    meter: &'a Meter,
    start: f64,
    others: f64,
}

impl Drop for Generating<'_> {
    fn drop(&mut self) {
        let meter = self.meter;
        meter.generating.set(false);
        // What was measured meanwhile (reading weights) has its own stage.
        let measured = meter.others() - self.others;
        let cell = &meter.seconds[Stage::Generate as usize];
        cell.set(cell.get() + meter.elapsed() - self.start - measured);
    }
}

/// The most memory this process or module has held, in bytes. WebAssembly's memory never shrinks, so
/// its size is its peak.
pub fn peak_bytes() -> Option<u64> {
    #[cfg(target_arch = "wasm32")]
    {
        Some(core::arch::wasm32::memory_size(0) as u64 * 65536)
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
    }
}
