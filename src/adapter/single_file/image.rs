//! What kohya's and diffusers' files have in common: one file, plain factors, shapes with the kernel in them.
//!
//! A merge that a format cannot hold (a DoRA's magnitude, an embedding's rows) is refused with the formats that can.

use std::collections::BTreeMap;

use crate::{
    adapter::{Adapter, Format, Init, LayerKind, Lora, single_file::spelling},
    error::{Code, Error, Result},
    io::OutTensor,
    naming::{ModulePath, NATIVE, split_component},
};

/// What goes into the one file of such an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFile {
    /// Its tensors.
    pub tensors: Vec<OutTensor>,
    /// The strings in its header.
    pub metadata: BTreeMap<String, String>,
}

/// The adapter's own factors as the result of a merge of it alone with weight `factor`: untouched, so that a file
/// written of them has the numbers of the file they were read from, bit for bit. None if it is more than plain
/// factors, or they are not all there is to it.
pub fn lone(adapter: &Adapter, factor: f64) -> Option<BTreeMap<ModulePath, Lora>> {
    let plain = |lora: &Lora| lora.magnitude.is_none() && lora.bias.is_none() && lora.init == Init::Plain;
    if !adapter.biases.is_empty() || !adapter.tokens.is_empty() || !adapter.modules.values().all(plain) {
        return None;
    }
    let scaled = |(path, lora): (&ModulePath, &Lora)| {
        let lora = Lora {
            scaling: lora.scaling * factor,
            ..lora.clone()
        };
        (path.clone(), lora)
    };
    Some(adapter.modules.iter().map(scaled).collect())
}

/// The formats that can say such a merge.
pub fn fitting(modules: &BTreeMap<ModulePath, Lora>) -> Vec<Format> {
    let all = |test: &dyn Fn(&str, &Lora) -> bool| modules.iter().all(|(path, lora)| test(path, lora));
    let layers = all(&|_, lora| matches!(lora.layer, LayerKind::Linear | LayerKind::Conv { .. }));
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
pub(super) fn check(modules: &BTreeMap<ModulePath, Lora>, format: Format, called: &str) -> Result<()> {
    if let Some((path, _)) = modules
        .iter()
        .find(|(_, lora)| lora.magnitude.is_some() || lora.bias.is_some())
    {
        return Err(Error::new(
            Code::OptionInvalid,
            format!(
                "format {called} is written from plain factors, without magnitudes and biases; module: {path}"
            ),
        ));
    }
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
    let outside = modules.iter().find(|(path, lora)| {
        let component = spelling::component(path);
        component.is_none()
            || format == Format::Diffusers && component == Some(NATIVE)
            || !matches!(lora.layer, LayerKind::Linear | LayerKind::Conv { .. })
    });
    Err(Error::new(
        Code::OptionInvalid,
        format!(
            "format {called} has no name for every module of this merge; {others}: {}",
            outside.map_or("", |(path, _)| path)
        ),
    ))
}

/// The shapes of the lower and the upper factor, with the kernel's axes.
pub(super) fn shapes(lora: &Lora) -> (Vec<usize>, Vec<usize>) {
    match &lora.layer {
        LayerKind::Conv { channels, kernel } => {
            let mut down = vec![lora.rank, *channels];
            down.extend(kernel);
            let mut up = vec![lora.d_out, lora.rank];
            up.extend(kernel.iter().map(|_| 1));
            (down, up)
        }
        _ => (vec![lora.rank, lora.d_in], vec![lora.d_out, lora.rank]),
    }
}
