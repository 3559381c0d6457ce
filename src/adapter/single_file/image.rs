//! What kohya's and diffusers' files have in common: one file of plain factors.
//!
//! A merge that a format cannot hold (a DoRA's magnitude, an embedding's rows) is refused with the formats that can.

use std::collections::BTreeMap;

use crate::{
    adapter::{Format, LayerKind, Shape, single_file::spelling},
    error::{Code, Error, Result},
    naming::{ModulePath, NATIVE, split_component},
};

/// The formats that can say such a merge.
pub fn fitting(modules: &BTreeMap<ModulePath, Shape>) -> Vec<Format> {
    let all = |test: &dyn Fn(&str, &Shape) -> bool| modules.iter().all(|(path, shape)| test(path, shape));
    let layers = all(&|_, shape| matches!(shape.layer, LayerKind::Linear | LayerKind::Conv { .. }));
    let mut formats = Vec::new();
    if all(&|path, _| split_component(path).is_none()) {
        formats.push(Format::Peft);
    }
    if layers && all(&|path, _| spelling::component(path).is_some()) {
        formats.push(Format::Kohya);
        if all(&|path, _| spelling::component(path).is_some_and(|component| component != NATIVE)) {
            formats.push(Format::Diffusers);
        }
    }
    formats
}

/// Checks that a format can say such a merge.
pub(super) fn check(modules: &BTreeMap<ModulePath, Shape>, format: Format, called: &str) -> Result<()> {
    let fitting = fitting(modules);
    if fitting.contains(&format) {
        return Ok(());
    }
    let others: Vec<&str> = fitting.iter().map(|format| format.as_str()).collect();
    let others = if others.is_empty() {
        String::from("none fits all of them; merge adapters of one base")
    } else {
        format!("choose {}", others.join(" or "))
    };
    let outside = modules.iter().find(|(path, shape)| {
        let component = spelling::component(path);
        component.is_none()
            || format == Format::Diffusers && component == Some(NATIVE)
            || !matches!(shape.layer, LayerKind::Linear | LayerKind::Conv { .. })
    });
    Err(Error::new(
        Code::OptionInvalid,
        format!(
            "format {called} has no name for every module of this merge; {others}: {}",
            outside.map_or("", |(path, _)| path)
        ),
    ))
}
