//! The section on what is changed, and how much is lost by the ranks that are written.

use std::fmt::Write as _;

use crate::{
    export::{card::Card, has_one_rank, text::markdown},
    merge::{layer::LayerReport, options::OutputKind},
    naming::groups::layer_groups,
};

/// Up to so many layers have a row each.
const ROWS: usize = 24;

/// The most layers that are told to stand out.
const OUTSTANDING: usize = 10;

/// How many times a layer's rank or error is its group's median, or the median is its rank, where it stands out.
const FAR: f64 = 3.0;

/// Errors up to this are those of rounding to f32, and say nothing of a layer.
const NEGLIGIBLE: f64 = 1e-6;

/// The section of the card.
pub(super) fn write(card: &Card<'_>, out: &mut String) {
    let layers = &card.report.layers;
    let Some(largest) = layers.iter().map(|layer| layer.rank).max() else {
        return;
    };
    let smallest = layers.iter().map(|layer| layer.rank).min().unwrap_or(largest);
    let options = card.options;
    let ranks = if options.output == OutputKind::Base {
        String::new()
    } else if smallest == largest || has_one_rank(card.binding, options) {
        format!(", written with rank {largest}")
    } else {
        format!(", written with ranks from {smallest} to {largest}")
    };
    let parts = match layers.len() {
        1 => "1 part of the model is changed".to_owned(),
        all => format!("{all} parts of the model are changed"),
    };
    let _ = writeln!(out, "\n## Layers\n\n{parts}{ranks}.");
    let worst = layers.iter().max_by(|a, b| error(a).total_cmp(&error(b)));
    if let Some(worst) = worst {
        if error(worst) > 0.0 {
            #[allow(clippy::cast_precision_loss, reason = "a count of layers")]
            let mean = layers.iter().map(error).sum::<f64>() / layers.len() as f64;
            let _ = writeln!(
                out,
                "Relative error of cutting them to their ranks (Frobenius norm): {mean:.2e} on average, {:.2e} at most ({}).",
                error(worst),
                markdown(&worst.module)
            );
        } else {
            out.push_str("No layer is cut to less than what the method found.\n");
        }
    }
    if layers.len() <= ROWS {
        out.push_str("\n<details><summary>Each layer</summary>\n\n");
        rows(&mut layers.iter(), out);
        out.push_str("\n</details>\n");
    } else {
        groups(layers, out);
    }
}

/// A row a layer.
fn rows(layers: &mut dyn Iterator<Item = &LayerReport>, out: &mut String) {
    out.push_str("| layer | rank | error |\n| --- | ---: | ---: |\n");
    for layer in layers {
        let _ = writeln!(
            out,
            "| {} | {} | {} |",
            markdown(&layer.module),
            layer.rank,
            shown(error(layer))
        );
    }
}

/// A row a group, and the layers that are unlike their group.
fn groups(layers: &[LayerReport], out: &mut String) {
    let names: Vec<&str> = layers.iter().map(|layer| layer.module.as_str()).collect();
    let mut outstanding: Vec<(f64, &LayerReport)> = Vec::new();
    out.push_str("\n| layers | how many | rank | largest error |\n| --- | ---: | ---: | ---: |\n");
    for group in layer_groups(&names) {
        let members: Vec<&LayerReport> = group.members.iter().map(|&index| &layers[index]).collect();
        #[allow(clippy::cast_precision_loss, reason = "a rank")]
        let ranks = sorted(members.iter().map(|layer| layer.rank as f64));
        let errors = sorted(members.iter().map(|layer| error(layer)));
        let (Some(lowest), Some(highest), Some(worst)) = (ranks.first(), ranks.last(), errors.last()) else {
            continue;
        };
        let rank = if lowest < highest {
            format!("{lowest}–{highest}")
        } else {
            highest.to_string()
        };
        let pattern = markdown(&group.pattern);
        let _ = writeln!(
            out,
            "| {pattern} | {} | {rank} | {} |",
            members.len(),
            shown(*worst)
        );
        let (rank, usual) = (ranks[ranks.len() / 2], errors[errors.len() / 2]);
        for layer in members {
            #[allow(clippy::cast_precision_loss, reason = "a rank")]
            let own = layer.rank as f64;
            let times = (own / rank)
                .max(rank / own.max(1.0))
                .max(error(layer) / usual.max(NEGLIGIBLE));
            if times >= FAR {
                outstanding.push((times, layer));
            }
        }
    }
    outstanding.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    outstanding.truncate(OUTSTANDING);
    if !outstanding.is_empty() {
        out.push_str("\nUnlike others of their row:\n\n");
        rows(&mut outstanding.iter().map(|(_, layer)| *layer), out);
    }
    out.push_str("\n`merge_report.json` has every layer.\n");
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn error(layer: &LayerReport) -> f64 {
    layer.error.unwrap_or(0.0)
}

fn shown(error: f64) -> String {
    if error > 0.0 {
        format!("{error:.2e}")
    } else {
        "0".to_owned()
    }
}
