//! The one interface between model families and merging: the linear layers that an adapter may target.
//!
//! A family writes its forward pass once, over a stack of lanes, and calls its targetable layers through
//! [`Lanes::group`] (several layers that share an input) or [`Lanes::linear`]. It knows nothing of
//! adapters. What a lane computes, which Gram matrices are summed and how a layer is solved is decided
//! behind [`Hook`], by a merge method or a comparison. A lane is one task's samples under one variant of
//! the model: variant 0 is the base with the task's own adapter, the others are what it is held against
//! (the merged model so far, the linear average, …).
//!
//! The hazard here is order: a layer may be solved only when every micro-batch has delivered its
//! features, and no micro-batch may go on before. [`Lanes::group`] is that barrier point.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    future::poll_fn,
    ops::Range,
    rc::Rc,
    task::{Poll, Waker},
};

use async_trait::async_trait;
use burn::tensor::Tensor;

use crate::{
    compute::{Attention, Cache, Compute, Features, Rotary, Stage, Weight},
    delta::DeviceDelta,
    error::Result,
    model::{batch::Stack, projection::Projection, streams::StreamId},
};

/// The name of a layer's bias.
pub fn bias_of(layer: &str) -> String {
    format!("{layer}.bias")
}

/// One micro-batch's features at a linear group: of those rows that count.
pub struct Group<'a> {
    /// The layers that share the input.
    pub layers: &'a [&'a Projection],
    /// Their common input, all lanes. Who holds on to it until the group is solved takes no memory: its lanes wait with it.
    pub input: &'a Rc<Features>,
    /// Outputs of the rows that count, where those are not all.
    outputs: Option<Vec<Features>>,
    all_outputs: &'a [Features],
    stack: &'a Stack<'a>,
    stream: StreamId,
}

impl Group<'_> {
    /// W0 x (+ D_i x for variant 0), all lanes, without bias; one a layer.
    pub fn outputs(&self) -> &[Features] {
        self.outputs.as_deref().unwrap_or(self.all_outputs)
    }

    /// The rows of a lane; empty if this micro-batch has no samples of the task.
    pub fn lane(&self, task: usize, variant: usize) -> Range<usize> {
        self.stack.counted_lane(self.stream, task, variant)
    }
}

/// What decides at a linear group: a merge method while it solves, or a comparison.
#[async_trait(?Send)]
pub trait Hook {
    /// How many variants of the model run side by side.
    fn variants(&self) -> usize;
    /// How many tasks there are.
    fn tasks(&self) -> usize;
    /// Whether at the end of a block every lane goes on from where the last variant's is.
    fn rejoins(&self) -> bool {
        false
    }
    /// What a lane adds to a layer; asked for variant 0 before, for the others after [`solve`](Self::solve). What it
    /// adds to the layer's bias goes by the bias' name ([`bias_of`]), a dense (d_out x 1) matrix known beforehand.
    fn delta(&self, layer: &str, task: usize, variant: usize) -> Option<Rc<DeviceDelta>>;
    /// Takes what is needed from one micro-batch's features, before any other lane's output is known.
    async fn collect(&self, _group: &Group<'_>) -> Result<()> {
        Ok(())
    }
    /// Called once a group when every micro-batch has been collected.
    async fn solve(&self, _layers: &[&Projection]) -> Result<()> {
        Ok(())
    }
    /// Looks at one micro-batch again when its group is solved.
    async fn measure(&self, _group: &Group<'_>) -> Result<()> {
        Ok(())
    }
}

/// The lanes of one forward pass.
pub struct Lanes<'a> {
    compute: &'a Compute,
    hook: &'a dyn Hook,
    targeted: &'a BTreeSet<String>,
    cache: Option<&'a Cache>,
    barrier: Barrier,
}

impl<'a> Lanes<'a> {
    /// Lanes for a pass of `micro_batches` that run concurrently; `targeted` names the layers (in the
    /// family's naming) at which lanes differ.
    pub fn new(
        compute: &'a Compute,
        hook: &'a dyn Hook,
        targeted: &'a BTreeSet<String>,
        micro_batches: usize,
    ) -> Self {
        Self {
            compute,
            hook,
            targeted,
            cache: None,
            barrier: Barrier::new(micro_batches),
        }
    }

    /// Lanes for one step of a generation, whose attentions go through `cache`.
    pub fn with_cache(
        compute: &'a Compute,
        hook: &'a dyn Hook,
        targeted: &'a BTreeSet<String>,
        cache: &'a Cache,
    ) -> Self {
        Self {
            cache: Some(cache),
            ..Self::new(compute, hook, targeted, 1)
        }
    }

    /// The device of this pass.
    pub const fn compute(&self) -> &'a Compute {
        self.compute
    }

    /// Self-attention among the rows of a stream. `name` tells this attention from the model's others; the arguments
    /// are those of [`Compute::attention`].
    pub fn attend(
        &self,
        stack: &Stack<'_>,
        stream: StreamId,
        name: &str,
        [query, key, value]: [Tensor<2>; 3],
        how: &Attention,
    ) -> Tensor<2> {
        let sequences = stack.sequences(stream);
        match self.cache {
            None => self
                .compute
                .attention(query, (key, value), &sequences, &sequences, how),
            Some(cache) => self
                .compute
                .attend(cache, name, query, &sequences, Some((key, value)), how),
        }
    }

    /// Attention of the rows of one stream (the first of `streams`) to those of another. `keys_values` computes keys and
    /// values from the other's rows; in a generation it is called once.
    ///
    /// # Errors
    /// Whatever `keys_values` reports.
    pub async fn attend_to(
        &self,
        stack: &Stack<'_>,
        [from, to]: [StreamId; 2],
        name: &str,
        query: Tensor<2>,
        keys_values: impl AsyncFnOnce() -> Result<[Tensor<2>; 2]>,
        how: &Attention,
    ) -> Result<Tensor<2>> {
        let queries = stack.sequences(from);
        let Some(cache) = self.cache else {
            let [key, value] = keys_values().await?;
            let keys = stack.sequences(to);
            return Ok(self.compute.attention(query, (key, value), &queries, &keys, how));
        };
        if !cache.has(name) {
            let [key, value] = keys_values().await?;
            let keys = stack.sequences(to);
            self.compute.remember(cache, name, (key, value), &keys);
        }
        Ok(self.compute.attend(cache, name, query, &queries, None, how))
    }

    /// Rotary position embedding of every head of `x` (rows x heads * head_size).
    pub fn rotary(
        &self,
        stack: &Stack<'_>,
        stream: StreamId,
        x: Tensor<2>,
        head_size: usize,
        rotary: &Rotary,
    ) -> Tensor<2> {
        self.compute
            .rotary(x, head_size, &stack.positions(stream), rotary)
    }

    /// One layer with an input of its own. See [`group`](Self::group).
    ///
    /// # Errors
    /// As [`group`](Self::group).
    pub async fn linear(
        &self,
        stack: &Stack<'_>,
        stream: StreamId,
        layer: &Projection,
        x: Tensor<2>,
    ) -> Result<Tensor<2>> {
        let [y] = self.group(stack, stream, [layer], x).await?;
        Ok(y)
    }

    /// A convolution from the places of one stream (the first of `streams`) to those of another: a linear layer over
    /// the windows of `x`. See [`group`](Self::group).
    ///
    /// # Errors
    /// [`Code::Internal`](crate::error::Code::Internal) for a layer without windows, and as [`group`](Self::group).
    pub async fn convolve(
        &self,
        stack: &Stack<'_>,
        [from, to]: [StreamId; 2],
        layer: &Projection,
        x: Tensor<2>,
    ) -> Result<Tensor<2>> {
        let windows = layer.windows()?;
        let unfolded = self.compute.unfold(x, &stack.grids(from), windows);
        self.linear(stack, to, layer, unfolded).await
    }

    /// The outputs of `layers` for their common input `x` (rows of all lanes x d_in), each
    /// (rows x d_out), every lane under its own delta.
    ///
    /// # Errors
    /// Whatever the merge method reports, and a device that cannot be read.
    pub async fn group<const N: usize>(
        &self,
        stack: &Stack<'_>,
        stream: StreamId,
        layers: [&Projection; N],
        x: Tensor<2>,
    ) -> Result<[Tensor<2>; N]> {
        let input = Rc::new(self.compute.features(x));
        let mut outputs = layers.map(|layer| self.project(&input, &layer.weight));
        if layers.iter().any(|layer| self.targeted.contains(&layer.name)) {
            self.add_deltas(stack, stream, &layers, &input, &mut outputs, 0..1);
            let counted = stack.counted_rows(stream);
            let only = |all: &[Features]| -> Option<Vec<Features>> {
                let rows = counted.as_ref()?;
                Some(all.iter().map(|features| features.gather(rows)).collect())
            };
            let counted_input = match &counted {
                Some(rows) => Rc::new(input.gather(rows)),
                None => Rc::clone(&input),
            };
            let group = Group {
                layers: &layers,
                input: &counted_input,
                outputs: only(&outputs),
                all_outputs: &outputs,
                stack,
                stream,
            };
            self.hook.collect(&group).await?;
            self.barrier
                .arrive(async || self.hook.solve(&layers).await)
                .await?;
            self.add_deltas(stack, stream, &layers, &input, &mut outputs, 1..stack.variants());
            self.hook
                .measure(&Group {
                    layers: &layers,
                    input: &counted_input,
                    outputs: only(&outputs),
                    all_outputs: &outputs,
                    stack,
                    stream,
                })
                .await?;
        }
        self.add_biases(stack, stream, &layers, &mut outputs);
        let mut outputs = outputs.into_iter();
        Ok(layers.map(|layer| {
            let Some(mut output) = outputs.next() else {
                unreachable!("one output a layer")
            };
            if let Some(bias) = &layer.bias {
                output.add_bias(bias);
            }
            self.compute.tensor_of(output)
        }))
    }

    /// What lanes add to the layers' biases: nothing that a method solves for depends on them.
    fn add_biases(
        &self,
        stack: &Stack<'_>,
        stream: StreamId,
        layers: &[&Projection],
        outputs: &mut [Features],
    ) {
        for (layer, output) in layers.iter().zip(outputs) {
            let name = bias_of(&layer.name);
            if !self.targeted.contains(&name) {
                continue;
            }
            let lanes = (0..stack.variants()).flat_map(|v| (0..self.hook.tasks()).map(move |t| (t, v)));
            for (task, variant) in lanes {
                let lane = stack.lane(stream, task, variant);
                let delta = self.hook.delta(&name, task, variant);
                if let Some(delta) = delta.filter(|_| !lane.is_empty()) {
                    let ones = self.compute.tensor(vec![1.0; lane.len()], lane.len(), 1);
                    let ones = self.compute.features(ones);
                    delta.add_to(output, lane, (&ones, ones.all()), 1.0);
                }
            }
        }
    }

    fn project(&self, input: &Features, weight: &Weight) -> Features {
        let operations = weight.operations(input.rows());
        self.compute.meter.add_operations(Stage::Forward, operations);
        input.project(input.all(), weight)
    }

    fn add_deltas(
        &self,
        stack: &Stack<'_>,
        stream: StreamId,
        layers: &[&Projection],
        input: &Features,
        outputs: &mut [Features],
        variants: Range<usize>,
    ) {
        for (layer, output) in layers.iter().zip(outputs) {
            for (rows, delta) in self.runs(stack, stream, &layer.name, variants.clone()) {
                let operations = delta.operations() * rows.len() as f64;
                self.compute.meter.add_operations(Stage::Forward, operations);
                delta.add_to(output, rows.clone(), (input, rows), 1.0);
            }
        }
    }

    /// What lanes add to a layer: neighbours that add the same are one run of rows.
    fn runs(
        &self,
        stack: &Stack<'_>,
        stream: StreamId,
        layer: &str,
        variants: Range<usize>,
    ) -> Vec<(Range<usize>, Rc<DeviceDelta>)> {
        let mut runs: Vec<(Range<usize>, Rc<DeviceDelta>)> = Vec::new();
        for (task, variant) in variants.flat_map(|v| (0..self.hook.tasks()).map(move |t| (t, v))) {
            let lane = stack.lane(stream, task, variant);
            let Some(delta) = self.hook.delta(layer, task, variant).filter(|_| !lane.is_empty()) else {
                continue;
            };
            match runs.last_mut() {
                Some((rows, last)) if rows.end == lane.start && Rc::ptr_eq(last, &delta) => {
                    rows.end = lane.end;
                }
                _ => runs.push((lane, delta)),
            }
        }
        runs
    }
}

/// Where concurrent micro-batches wait for each other.
struct Barrier {
    parties: usize,
    arrived: Cell<usize>,
    held: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

impl Barrier {
    const fn new(parties: usize) -> Self {
        Self {
            parties,
            arrived: Cell::new(0),
            held: Cell::new(0),
            waiting: RefCell::new(Vec::new()),
        }
    }

    /// Waits until every party has arrived; the last one does `work` before all go on.
    async fn arrive(&self, work: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let barrier = self.held.get();
        self.arrived.set(self.arrived.get() + 1);
        if self.arrived.get() == self.parties {
            work().await?;
            self.arrived.set(0);
            self.held.set(barrier + 1);
            self.waiting.take().into_iter().for_each(Waker::wake);
        } else {
            poll_fn(|context| {
                if self.held.get() != barrier {
                    return Poll::Ready(());
                }
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            })
            .await;
        }
        Ok(())
    }
}
