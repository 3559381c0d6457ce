//! Progress and cancellation of long work.

use std::cell::Cell;

use async_trait::async_trait;
use serde::Serialize;

use crate::error::Result;

/// Where long work is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// `load`, `measure`, `compile`, `generate`, `forward`, `solve`, `merge`, `write` or `compare`.
    pub stage: &'static str,
    /// The layer or file at hand.
    pub layer: String,
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// Seconds since the work began.
    pub seconds: f64,
    /// Bytes of the file at hand that are written, and all of them, where it is written as layers are merged.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
}

impl Progress {
    /// Work of one step, at its beginning.
    pub fn single(stage: &'static str, layer: impl Into<String>, seconds: f64) -> Self {
        Self {
            stage,
            layer: layer.into(),
            done: 0,
            total: 1,
            seconds,
            written: None,
        }
    }
}

/// How much of a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Bytes so far.
    #[serde(rename = "bytesDone")]
    pub done: u64,
    /// All of them.
    #[serde(rename = "bytesTotal")]
    pub total: u64,
}

/// Who is told of progress, and may cancel.
#[async_trait(?Send)]
pub trait Observer {
    /// Called between layers; the place where a browser gets to handle events.
    ///
    /// # Errors
    /// [`Code::Cancelled`](crate::error::Code::Cancelled) if the work is to stop.
    async fn progress(&self, progress: Progress) -> Result<()>;
}

/// Listens to nothing and never cancels.
pub struct Silent;

#[async_trait(?Send)]
impl Observer for Silent {
    async fn progress(&self, _progress: Progress) -> Result<()> {
        Ok(())
    }
}

/// Seconds between two breaths of one piece of work.
const BREATH_SECONDS: f64 = 0.2;

/// Lets others run in the midst of a piece of work that takes long: a wide layer, a large file.
pub struct Pace<'a> {
    observer: &'a dyn Observer,
    now: &'a dyn Fn() -> f64,
    progress: Progress,
    told: Cell<f64>,
}

impl<'a> Pace<'a> {
    /// Of work that is at `progress`; `now` tells the seconds since it all began.
    pub fn new(observer: &'a dyn Observer, now: &'a dyn Fn() -> f64, progress: Progress) -> Self {
        Self {
            observer,
            now,
            progress,
            told: Cell::new(now()),
        }
    }

    /// Of work that nobody watches.
    pub fn unwatched() -> Self {
        Self::new(&Silent, &|| 0.0, Progress::single("load", "", 0.0))
    }

    /// Called as often as is convenient; tells the observer, which may cancel, where some time has gone by.
    ///
    /// # Errors
    /// As [`Observer::progress`].
    pub async fn breathe(&self) -> Result<()> {
        let seconds = (self.now)();
        if seconds - self.told.get() < BREATH_SECONDS {
            return Ok(());
        }
        self.told.set(seconds);
        let progress = Progress {
            seconds,
            ..self.progress.clone()
        };
        self.observer.progress(progress).await
    }
}
