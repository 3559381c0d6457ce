//! Where the time goes: seconds and floating-point operations by stage.

use std::cell::Cell;

use web_time::Instant;

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
}

const STAGES: usize = 5;

/// Sums by stage. Time not spent in another measured stage while [`Stage::Forward`] runs is the forward's.
pub struct Meter {
    started: Instant,
    seconds: [Cell<f64>; STAGES],
    operations: [Cell<f64>; STAGES],
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            seconds: Default::default(),
            operations: Default::default(),
        }
    }
}

impl Meter {
    /// Seconds since the meter was made.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Adds the time since `start` (a value of [`elapsed`](Self::elapsed)) to a stage.
    pub fn add_since(&self, stage: Stage, start: f64) {
        let cell = &self.seconds[stage as usize];
        cell.set(cell.get() + self.elapsed() - start);
    }

    /// Counts floating-point operations of a stage.
    pub fn add_operations(&self, stage: Stage, operations: f64) {
        let cell = &self.operations[stage as usize];
        cell.set(cell.get() + operations);
    }

    /// Seconds of a stage. The forward pass is what remains of the total.
    pub fn seconds(&self, stage: Stage) -> f64 {
        if stage == Stage::Forward {
            let others: f64 = self.seconds.iter().map(Cell::get).sum();
            return (self.elapsed() - others).max(0.0);
        }
        self.seconds[stage as usize].get()
    }

    /// Floating-point operations of a stage.
    pub fn operations(&self, stage: Stage) -> f64 {
        self.operations[stage as usize].get()
    }
}
