//! Merging: what a method makes of several adapters' deltas, layer by layer.
//!
//! [`options`] say how; a method of [`methods`] merges one layer at a time, or solves layers in passes of the model over
//! a [`context`]; [`solution`] hands the layers over; [`truncate`] cuts them to a rank.
//! [`cost`] tells beforehand what all that takes.

pub mod context;
pub mod cost;
pub mod crew;
pub mod layer;
pub mod methods;
pub mod options;
pub mod share;
pub mod solution;
pub mod truncate;
