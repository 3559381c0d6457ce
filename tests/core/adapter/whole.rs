//! An adapter with the numbers of all its modules, and whole files of such: what the program does layer by layer.

use std::{collections::BTreeMap, ops::Deref, rc::Rc};

use iteris_web::{
    adapter::{self, Adapter, FilePlan, Lora, Module, Scale, Shape, diffusers_plan, kohya_plan, peft_plan},
    error::Result,
    io::{ByteSource, Folder, MemorySource, OutDtype, OutTensor, serialize},
    naming::ModulePath,
};
use pollster::block_on;

pub(super) type Loras = BTreeMap<ModulePath, Lora>;

/// An adapter whose modules were all read.
#[derive(Debug)]
pub(super) struct Loaded {
    adapter: Adapter,
    pub(super) modules: Loras,
}

impl Deref for Loaded {
    type Target = Adapter;

    fn deref(&self) -> &Adapter {
        &self.adapter
    }
}

impl Loaded {
    pub(super) fn read(name: &str, folder: &Folder) -> Result<Self> {
        let adapter = block_on(Adapter::read(name, folder))?;
        let modules = load(&adapter.modules)?;
        Ok(Self { adapter, modules })
    }
}

fn load(modules: &BTreeMap<ModulePath, Module>) -> Result<Loras> {
    let one = |(path, module): (&ModulePath, &Module)| Ok((path.clone(), block_on(module.load())?));
    modules.iter().map(one).collect()
}

/// The modules of [`adapter::lone`].
pub(super) fn lone(adapter: &Loaded, factor: f64) -> Option<Loras> {
    adapter::lone(adapter, factor).map(|modules| load(&modules).unwrap())
}

/// The tensors of one file and the strings in its header.
#[derive(Debug)]
pub(super) struct WholeFile {
    pub(super) tensors: Vec<OutTensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

pub(super) fn shapes(modules: &Loras) -> BTreeMap<ModulePath, Shape> {
    let shape = |lora: &Lora| Shape {
        layer: lora.layer.clone(),
        d_out: lora.d_out,
        d_in: lora.d_in,
    };
    modules
        .iter()
        .map(|(path, lora)| (path.clone(), shape(lora)))
        .collect()
}

fn file(plan: &FilePlan, modules: &Loras, dtype: OutDtype) -> Result<WholeFile> {
    let (mut tensors, mut scales) = (Vec::new(), Vec::new());
    for layer in &plan.layers {
        let part = |path: &Option<ModulePath>| Some(modules[path.as_ref()?.as_str()].clone());
        let lora = layer.fused(layer.parts.iter().map(part).collect());
        scales.push(Scale::of(&lora));
        let rank = lora.rank;
        tensors.extend(layer.tensors(lora, rank, dtype));
    }
    Ok(WholeFile {
        metadata: plan.metadata(&scales, dtype)?,
        tensors,
    })
}

pub(super) fn kohya_file(modules: &Loras, adapters: &[&Adapter], dtype: OutDtype) -> Result<WholeFile> {
    file(&kohya_plan(&shapes(modules), adapters)?, modules, dtype)
}

pub(super) fn diffusers_file(modules: &Loras) -> Result<WholeFile> {
    file(&diffusers_plan(&shapes(modules))?, modules, OutDtype::F32)
}

pub(super) fn peft_tensors(modules: &Loras) -> Vec<OutTensor> {
    file(&peft_plan(&shapes(modules)), modules, OutDtype::F32)
        .unwrap()
        .tensors
}

/// The adapter that is read back from a file.
pub(super) fn of_file(file: &WholeFile, dtype: OutDtype) -> Loaded {
    let bytes = serialize(&file.tensors, dtype, &file.metadata).unwrap();
    let source: Rc<dyn ByteSource> = Rc::new(MemorySource::new("again.safetensors", bytes));
    Loaded::read("again", &Folder::new("again", vec![source]).unwrap()).unwrap()
}
