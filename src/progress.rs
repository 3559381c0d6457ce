//! Progress and cancellation of long work.

use async_trait::async_trait;
use serde::Serialize;

use crate::error::Result;

/// Where long work is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// `load`, `generate`, `forward`, `solve`, `merge`, `write` or `compare`.
    pub stage: &'static str,
    /// The layer or file at hand.
    pub layer: String,
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// Seconds since the work began.
    pub seconds: f64,
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
