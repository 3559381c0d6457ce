//! A model larger than what stays in memory is read block by block, each while the one before is computed on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
};

use async_trait::async_trait;
use futures_util::{FutureExt, future::pending};
use iteris_web::{
    compute::Compute,
    delta::DeviceDelta,
    error::{Code, Error, Result},
    io::{ByteSource, Checkpoint, Folder, MemorySource, OutDtype, OutTensor, serialize},
    model::{
        self, Model, Pass, Steps, TEXT,
        batch::{Padding, Sample},
        lanes::{Group, Hook},
    },
    progress::{Observer, Progress},
};

use crate::support::{folder, goldens};

/// What a file does when a range of it is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    Works,
    Fails,
    NeverEnds,
}

/// A file in memory that notes what is asked of it, and has one place where reading goes another way.
struct Watched {
    inner: MemorySource,
    reads: RefCell<Vec<Range<u64>>>,
    odd: RefCell<(Range<u64>, Reading)>,
}

#[async_trait(?Send)]
impl ByteSource for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.reads.borrow_mut().push(range.clone());
        let (odd, reading) = self.odd.borrow().clone();
        if range.start < odd.end && odd.start < range.end {
            match reading {
                Reading::Works => {}
                Reading::Fails => {
                    let what = format!("the disk is gone: {}", self.name());
                    return Err(Error::new(Code::ReadFailed, what));
                }
                Reading::NeverEnds => pending().await,
            }
        }
        self.inner.read(range).await
    }
}

/// The tiny Llama of the families' goldens, two layers and a norm, in halves.
struct Files {
    model: Model,
    weights: Rc<Watched>,
}

/// The second layer's.
const LATER: &str = "model.layers.1.mlp.up_proj.weight";

impl Files {
    fn new(dtype: OutDtype) -> Self {
        let base = folder(&goldens().join("families/llama/base"));
        let stored = pollster::block_on(Checkpoint::open(&base, "model")).unwrap();
        let tensors: Vec<OutTensor> = stored
            .infos()
            .map(|info| OutTensor {
                name: info.name.clone(),
                shape: info.shape.clone(),
                data: pollster::block_on(stored.f32(&info.name)).unwrap(),
            })
            .collect();
        let bytes = serialize(&tensors, dtype, &BTreeMap::new()).unwrap();
        let weights = Rc::new(Watched {
            inner: MemorySource::new("model.safetensors", bytes),
            reads: RefCell::default(),
            odd: RefCell::new((0..0, Reading::Works)),
        });
        let config = base.find("config.json").unwrap();
        let files = vec![config, Rc::clone(&weights) as Rc<dyn ByteSource>];
        let model = pollster::block_on(model::open(Folder::new("base", files).unwrap())).unwrap();
        Self { model, weights }
    }

    fn range(&self, key: &str) -> Range<u64> {
        self.model.checkpoint.info(key).unwrap().range.clone()
    }

    /// How often each layer's weight was read.
    fn times_read(&self) -> BTreeSet<usize> {
        let reads = self.weights.reads.borrow();
        let modules = self.model.family.modules().iter();
        modules
            .map(|module| {
                let range = self.range(&module.key);
                reads.iter().filter(|read| **read == range).count()
            })
            .collect()
    }

    /// Bytes of all layers as f32.
    fn bytes(&self) -> usize {
        let modules = self.model.family.modules().iter();
        modules.map(|module| 4 * module.d_in * module.d_out).sum()
    }

    /// A device on which the model is read anew in every pass, the next block ahead or not.
    fn reading_anew(&self, ahead: bool) -> Compute {
        Compute::cpu().keeping(if ahead { self.bytes() - 1 } else { self.bytes() / 4 })
    }
}

/// Notes at which layers a pass is, and whether the second layer has been asked for by then.
struct Watcher<'a> {
    files: &'a Files,
    seen: RefCell<Vec<(String, bool)>>,
    blocks: RefCell<Vec<String>>,
    cancels: Cell<bool>,
    keep_host: bool,
}

impl<'a> Watcher<'a> {
    /// `keep_host`: layers are to be solved. Where sums are made as well there is no room for a block ahead.
    fn new(files: &'a Files, keep_host: bool) -> Self {
        Self {
            files,
            seen: RefCell::default(),
            blocks: RefCell::default(),
            cancels: Cell::new(false),
            keep_host,
        }
    }

    /// The state behind the last block.
    async fn run(&self, compute: &Compute) -> Result<Vec<u32>> {
        let model = &self.files.model;
        let samples = [vec![3, 4, 5], vec![6, 7]].map(Sample::text);
        let batches = model.micro_batches(&[&samples], Padding::Exclude, 100)?;
        let targeted = model.family.modules().iter().map(|module| module.name.clone());
        let targeted = targeted.collect();
        let until = model.family.blocks();
        let pass = Pass {
            compute,
            targeted: &targeted,
            keep_host: self.keep_host,
            until,
            heads: None,
            observer: self,
            steps: &Steps::new("forward", until),
        };
        let mut states = model.run(&pass, &batches, self).await?;
        let rows = states.remove(0).0.rows(TEXT)?;
        Ok(compute.read(rows).await?.iter().map(|x| x.to_bits()).collect())
    }
}

#[async_trait(?Send)]
impl Observer for Watcher<'_> {
    async fn progress(&self, progress: Progress) -> Result<()> {
        self.blocks.borrow_mut().push(progress.layer);
        Ok(())
    }
}

#[async_trait(?Send)]
impl Hook for Watcher<'_> {
    fn variants(&self) -> usize {
        1
    }

    fn tasks(&self) -> usize {
        1
    }

    fn delta(&self, _layer: &str, _task: usize, _variant: usize) -> Option<Rc<DeviceDelta>> {
        None
    }

    async fn collect(&self, group: &Group<'_>) -> Result<()> {
        if self.cancels.get() {
            return Err(Error::new(Code::Cancelled, "somebody has had enough"));
        }
        let later = self.files.range(LATER);
        let asked = self.files.weights.reads.borrow().contains(&later);
        for layer in group.layers {
            assert_eq!(layer.host().is_ok(), self.keep_host, "{}", layer.name);
        }
        self.seen.borrow_mut().push((group.layers[0].name.clone(), asked));
        Ok(())
    }
}

#[test]
fn every_pass_reads_each_weight_once_and_computes_the_same() {
    for dtype in [OutDtype::Bf16, OutDtype::F16, OutDtype::F32] {
        let kept = Files::new(dtype);
        let watcher = Watcher::new(&kept, false);
        let compute = Compute::cpu();
        let expected = pollster::block_on(watcher.run(&compute)).unwrap();
        assert_eq!(pollster::block_on(watcher.run(&compute)).unwrap(), expected);
        assert_eq!(kept.times_read(), [1].into());
        assert!(expected.iter().any(|&bits| f32::from_bits(bits).abs() > 0.1));
        for (ahead, solving) in [(false, false), (true, false), (true, true)] {
            let files = Files::new(dtype);
            let compute = files.reading_anew(ahead);
            for passes in 1..3 {
                let found = pollster::block_on(Watcher::new(&files, solving).run(&compute)).unwrap();
                assert_eq!(found, expected, "ahead: {ahead}");
                assert_eq!(files.times_read(), [passes].into(), "ahead: {ahead}");
            }
        }
    }
}

#[test]
fn the_next_block_is_read_before_the_one_at_hand_is_done_where_there_is_room() {
    for ahead in [false, true] {
        let files = Files::new(OutDtype::Bf16);
        let watcher = Watcher::new(&files, false);
        pollster::block_on(watcher.run(&files.reading_anew(ahead))).unwrap();
        for (layer, asked) in watcher.seen.borrow().iter() {
            assert_eq!(*asked, ahead || layer.starts_with("layers.1."), "{layer}");
        }
    }
}

#[test]
fn what_goes_wrong_while_reading_ahead_is_told_at_the_block_that_needs_it() {
    for ahead in [false, true] {
        let files = Files::new(OutDtype::F16);
        *files.weights.odd.borrow_mut() = (files.range(LATER), Reading::Fails);
        let watcher = Watcher::new(&files, false);
        let error = pollster::block_on(watcher.run(&files.reading_anew(ahead))).unwrap_err();
        assert_eq!(error.code(), Code::ReadFailed, "{error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
        assert_eq!(*watcher.blocks.borrow(), ["block 1 of 3", "block 2 of 3"]);
        let seen = watcher.seen.borrow();
        let (last, _) = seen.last().unwrap();
        assert_eq!(
            last, "layers.0.mlp.down_proj",
            "the first block is worked on to its end"
        );
    }
}

#[test]
fn a_pass_that_is_cancelled_does_not_wait_for_what_is_read_ahead() {
    let files = Files::new(OutDtype::Bf16);
    *files.weights.odd.borrow_mut() = (files.range(LATER), Reading::NeverEnds);
    let compute = files.reading_anew(true);
    let watcher = Watcher::new(&files, false);
    // Asked once: reading stands still, and the first block is done all the same.
    assert!(watcher.run(&compute).now_or_never().is_none());
    assert_eq!(watcher.seen.borrow().len(), 4);
    assert!(watcher.seen.borrow().iter().all(|(_, asked)| *asked));
    watcher.cancels.set(true);
    let error = watcher.run(&compute).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
}
