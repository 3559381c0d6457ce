//! One module's update as its file has it: what the header says, and where the numbers are.
//!
//! An adapter may be larger than the memory there is, so its factors are read when their layer is worked on, in the
//! file's own element type until then.

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc};

use crate::{
    adapter::{Adapter, Init, LayerKind, Lora, Shape},
    compute::narrow,
    error::Result,
    io::Checkpoint,
    naming::ModulePath,
};

/// What a file says of one module's update.
#[derive(Debug, Clone)]
pub struct Module {
    /// What the product is added to.
    pub layer: LayerKind,
    /// The rank, at least 1.
    pub rank: usize,
    /// The width of the module's input.
    pub d_in: usize,
    /// The width of the module's output.
    pub d_out: usize,
    /// The factor s of the product: `alpha / r`, or `alpha / sqrt(r)` with `use_rslora`.
    pub scaling: f64,
    /// What the factors' first product meant.
    pub init: Init,
    /// Whether there are DoRA's magnitudes.
    pub has_magnitude: bool,
    /// Whether there is a bias of `lora_B`.
    pub has_bias: bool,
    pub(super) stored: Stored,
}

/// Where a module's numbers are.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) checkpoint: Rc<Checkpoint>,
    /// The tensor of the lower factor A.
    pub(super) lower: String,
    /// The tensor of the upper factor B.
    pub(super) upper: String,
    /// The tensor of a Tucker decomposition's core, which the lower factor goes into.
    pub(super) core: Option<String>,
    pub(super) magnitude: Option<String>,
    pub(super) bias: Option<String>,
    /// The factors' own size in the file.
    pub(super) rank: usize,
    pub(super) d_out: usize,
    /// Whether the two halves of the outputs change places.
    pub(super) swapped: bool,
    /// Of a fused layer's outputs and directions, which are the module's.
    pub(super) cut: Option<(Range<usize>, Range<usize>)>,
    pub(super) kept: Rc<RefCell<Option<Kept>>>,
}

/// The factors of all experts while they are asked for one by one: those of one lie in the file between the others'.
#[derive(Debug)]
pub(super) struct Kept {
    lora: Lora,
    /// How many experts are still to be asked for before it is let go.
    left: usize,
}

impl Module {
    /// Kind and size.
    pub fn shape(&self) -> Shape {
        Shape {
            layer: self.layer.clone(),
            d_out: self.d_out,
            d_in: self.d_in,
        }
    }

    /// How many numbers the factors hold together.
    pub fn parameters(&self) -> usize {
        self.rank * self.layer.products() * (self.d_in + self.d_out)
    }

    /// The rank of the change, where it has one below the weight's: an initial product that is taken out again
    /// doubles it.
    pub fn change_rank(&self) -> usize {
        match self.init {
            Init::Plain => self.rank,
            Init::Pissa | Init::Olora => 2 * self.rank,
        }
    }

    /// Whether the update can only be told with the base weight at hand.
    pub fn needs_base(&self) -> bool {
        self.has_magnitude || self.init != Init::Plain
    }

    /// Whether its lower factor is the other's, too, as in parts of a fused layer that was trained as one.
    pub fn shares_lower(&self, other: &Self) -> bool {
        let directions = |stored: &Stored| stored.cut.as_ref().map(|(_, columns)| columns.clone());
        let (own, others) = (&self.stored, &other.stored);
        Rc::ptr_eq(&own.checkpoint, &others.checkpoint)
            && own.lower == others.lower
            && (self.rank, directions(own)) == (other.rank, directions(others))
    }

    /// The numbers, read from the file.
    ///
    /// # Errors
    /// [`Code::NotFinite`](crate::error::Code::NotFinite) naming the tensor; whatever reading gives.
    pub async fn load(&self) -> Result<Lora> {
        let stored = &self.stored;
        let width = self.d_in;
        let all = || (0..stored.d_out, 0..stored.rank);
        let (rows, columns) = stored.cut.clone().unwrap_or_else(all);
        Ok(Lora {
            a: self.lower(columns.start * width..columns.end * width).await?,
            b: self.upper(rows.clone(), columns).await?,
            rank: self.rank,
            d_in: self.d_in,
            d_out: self.d_out,
            scaling: self.scaling,
            layer: self.layer.clone(),
            magnitude: self.outputs(stored.magnitude.as_deref(), &rows).await?,
            bias: self.bias().await?,
            init: self.init,
        })
    }

    /// As [`Module::load`], of one expert where there are several.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub async fn load_expert(&self, expert: usize) -> Result<Lora> {
        let experts = self.layer.products();
        if experts == 1 {
            return self.load().await;
        }
        let kept = self.stored.kept.take();
        let mut all = match kept {
            Some(kept) => kept,
            None => Kept {
                lora: self.load().await?,
                left: experts,
            },
        };
        let own = all.lora.expert(expert);
        all.left -= 1;
        if all.left > 0 {
            self.stored.kept.replace(Some(all));
        }
        Ok(own)
    }

    /// The bias of `lora_B` alone.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub async fn bias(&self) -> Result<Option<Vec<f32>>> {
        let rows = self.stored.cut.as_ref().map(|(rows, _)| rows.clone());
        let rows = rows.unwrap_or(0..self.stored.d_out);
        self.outputs(self.stored.bias.as_deref(), &rows).await
    }

    async fn lower(&self, range: Range<usize>) -> Result<Vec<f32>> {
        let Stored {
            checkpoint,
            lower,
            core,
            rank,
            ..
        } = &self.stored;
        let experts = self.layer.products();
        match core {
            None => {
                checkpoint
                    .f32_near(lower, range.start * experts..range.end * experts)
                    .await
            }
            Some(core) => {
                let core = checkpoint.f32(core).await?;
                let whole = compose(&core, &checkpoint.f32(lower).await?, *rank);
                Ok(whole[range].to_vec())
            }
        }
    }

    async fn upper(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Vec<f32>> {
        let stored = &self.stored;
        let width = stored.rank * self.layer.products();
        let place = rows.start * width..rows.end * width;
        let values = if stored.swapped {
            stored.upper().await?[place].to_vec()
        } else {
            stored.checkpoint.f32_near(&stored.upper, place).await?
        };
        if columns == (0..stored.rank) {
            return Ok(values);
        }
        let rows = values.chunks_exact(width);
        Ok(rows.flat_map(|row| &row[columns.clone()]).copied().collect())
    }

    async fn outputs(&self, tensor: Option<&str>, rows: &Range<usize>) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = tensor else { return Ok(None) };
        let mut values = self.stored.checkpoint.f32(tensor).await?;
        if self.stored.swapped {
            values.rotate_left(self.stored.d_out / 2);
        }
        Ok(Some(values[rows.clone()].to_vec()))
    }
}

impl Stored {
    /// The whole upper factor of a single product, the halves of its rows in their places.
    pub(super) async fn upper(&self) -> Result<Vec<f32>> {
        let all = self.d_out * self.rank;
        let mut values = self.checkpoint.f32_near(&self.upper, 0..all).await?;
        if self.swapped {
            values.rotate_left(self.d_out / 2 * self.rank);
        }
        Ok(values)
    }
}

/// The lower factor (rank x channels) of a Tucker decomposition with its core (rank x rank x places) put into it:
/// `a[m, j, k] = sum_n core[m, n, k] lower[n, j]`.
fn compose(core: &[f32], lower: &[f32], rank: usize) -> Vec<f32> {
    let (places, channels) = (core.len() / (rank * rank), lower.len() / rank);
    let mut a = Vec::with_capacity(rank * channels * places);
    for m in 0..rank {
        for j in 0..channels {
            for k in 0..places {
                let sum: f64 = (0..rank)
                    .map(|n| {
                        f64::from(core[(m * rank + n) * places + k]) * f64::from(lower[n * channels + j])
                    })
                    .sum();
                a.push(narrow(sum));
            }
        }
    }
    a
}

/// The adapter's own modules as the result of a merge of it alone with weight `factor`: untouched but for their
/// scaling, so that a file written of them has the numbers of the file they were read from, bit for bit. None if it is
/// more than plain factors, or they are not all there is to it.
pub fn lone(adapter: &Adapter, factor: f64) -> Option<BTreeMap<ModulePath, Module>> {
    let plain = |module: &Module| !module.needs_base() && !module.has_bias;
    if !adapter.biases.is_empty() || !adapter.tokens.is_empty() || !adapter.modules.values().all(plain) {
        return None;
    }
    let scaled = |(path, module): (&ModulePath, &Module)| {
        let module = Module {
            scaling: module.scaling * factor,
            ..module.clone()
        };
        (path.clone(), module)
    };
    Some(adapter.modules.iter().map(scaled).collect())
}
