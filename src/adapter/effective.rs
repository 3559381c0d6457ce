//! What an adapter's module really adds to the base's weight.

use super::{Init, Lora};
use crate::{
    compute::narrow,
    error::{Code, Error, Result},
    merge::{Change, Factors},
};

/// The change of the weight (d_out x d_in) that `lora` is for; `weight` is the base's, where
/// [`Lora::needs_base`]. `module` is named in errors.
///
/// # Errors
/// [`Code::Missing`] without the base's weight where it is needed, [`Code::NotFinite`] for a change that overflows.
pub fn change(lora: &Lora, weight: Option<&[f32]>, module: &str) -> Result<Change> {
    if lora.magnitude.is_some() || lora.init != Init::Plain {
        let _ = weight;
        return Err(Error::new(
            Code::AdapterUnsupported,
            format!("such an update is not told yet; module: {module}"),
        ));
    }
    Ok(Change::Factors(plain(lora)))
}

/// s B A as factors, the scaling in B.
fn plain(lora: &Lora) -> Factors {
    let b = lora
        .b
        .iter()
        .map(|&x| narrow(f64::from(x) * lora.scaling))
        .collect();
    Factors {
        a: lora.a.clone(),
        b,
        rank: lora.rank,
        d_out: lora.d_out,
        d_in: lora.d_in,
    }
}
