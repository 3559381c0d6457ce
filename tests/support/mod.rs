//! What the numerical tests share: goldens and fixtures read from disk, and distances between matrices.

#![allow(dead_code, reason = "every test binary uses a part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]
#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of small test files"
)]

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use iteris_web::{
    calibrate::TaskSamples,
    compute::Compute,
    delta::DeviceDelta,
    error::Result,
    export::report::MergeReport,
    io::{ByteSource, Checkpoint, FileSource, Folder, MemorySink},
    jobs::{
        AdapterInput,
        merge::{MergeRequest, merge},
    },
    merge::options::MergeOptions,
    model::{
        batch::{Input, Sample},
        lanes::Hook,
    },
    progress::Silent,
};
use serde_json::Value;

/// The goldens of this project.
pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/data")
}

/// A folder of the shared fixtures that holds `file`, or `None` (with a message) where they are absent.
pub fn fixtures(name: &str, file: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    present(root.join(name), file, &["ITERIS_REQUIRE_FIXTURES", "CI"])
}

/// The real MiniLM checkpoint, or `None` (with a message) where nobody fetched it.
pub fn minilm() -> Option<PathBuf> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?;
    let cache = path("ITERIS_CACHE").unwrap_or_else(|| cache.join("iteris-web"));
    present(
        path("ITERIS_MINILM").unwrap_or_else(|| cache.join("minilm")),
        "model.safetensors",
        &["ITERIS_REQUIRE_FIXTURES"],
    )
}

/// The folder if it has `file`; any of the environment variables `required` makes its absence a failure.
fn present(folder: PathBuf, file: &str, required: &[&str]) -> Option<PathBuf> {
    if folder.join(file).is_file() {
        return Some(folder);
    }
    // `npm run test:peers` fetches the model and has the fixtures; then nothing may be skipped.
    assert!(
        required.iter().all(|name| std::env::var_os(name).is_none()),
        "{} is not here",
        folder.display()
    );
    eprintln!("skipped: {} is not here", folder.display());
    None
}

/// The ways to compute: this crate's CPU code; the path of the GPU on burn's CPU backend; and, with `--features gpu`, on the
/// GPU that the machine's Vulkan driver offers.
pub fn devices() -> Vec<Compute> {
    vec![
        Compute::cpu(),
        Compute::tensors(burn::tensor::Device::flex(), "tensors"),
        #[cfg(feature = "gpu")]
        gpu(),
    ]
}

#[cfg(feature = "gpu")]
fn gpu() -> Compute {
    use std::sync::OnceLock;
    static STARTED: OnceLock<burn::tensor::Device> = OnceLock::new();
    let device = STARTED.get_or_init(|| burn::tensor::Device::wgpu_options().init().unwrap());
    Compute::tensors(device.clone(), "webgpu")
}

/// One lane, the base model's.
pub struct Alone;

impl Hook for Alone {
    fn variants(&self) -> usize {
        1
    }
    fn tasks(&self) -> usize {
        1
    }
    fn delta(&self, _layer: &str, _task: usize, _variant: usize) -> Option<Rc<DeviceDelta>> {
        None
    }
}

/// A merge into memory, on the CPU's kernels.
pub fn run(
    base: Option<Folder>,
    adapters: Vec<AdapterInput>,
    options: MergeOptions,
) -> Result<(MemorySink, MergeReport)> {
    run_on(base, &Compute::cpu(), adapters, options)
}

/// A merge into memory.
pub fn run_on(
    base: Option<Folder>,
    compute: &Compute,
    adapters: Vec<AdapterInput>,
    options: MergeOptions,
) -> Result<(MemorySink, MergeReport)> {
    let mut sink = MemorySink::default();
    let request = MergeRequest {
        base,
        base_path: None,
        device_why: None,
        adapters,
        options,
    };
    let report = pollster::block_on(merge(request, compute, &Silent, &mut sink))?;
    Ok((sink, report))
}

/// The files of a directory (not of those below it).
pub fn folder(path: &Path) -> Folder {
    let mut files: Vec<Rc<dyn ByteSource>> = Vec::new();
    for entry in std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
        let path = entry.unwrap().path();
        if path.is_file() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            files.push(Rc::new(FileSource::open(&path, name).unwrap()));
        }
    }
    Folder::new(&path.file_name().unwrap().to_string_lossy(), files).unwrap()
}

/// The PNG files of a directory, without what describes them.
pub fn pictures(path: &Path) -> Folder {
    let all = folder(path);
    let pictures = all.files().filter(|file| file.name().ends_with(".png"));
    Folder::new("pictures", pictures.cloned().collect()).unwrap()
}

/// Rows of token ids without their padding, from tensors of ids and of what is none.
pub fn unpadded(file: &Tensors, ids: &str, mask: &str) -> Vec<Vec<u32>> {
    let (shape, ids) = file.get(ids);
    let (_, mask) = file.get(mask);
    let rows = ids.chunks_exact(shape[1]).zip(mask.chunks_exact(shape[1]));
    rows.map(|(ids, mask)| {
        let real = ids.iter().zip(mask).filter(|(_, real)| **real > 0.0);
        real.map(|(id, _)| *id as u32).collect()
    })
    .collect()
}

/// One safetensors file.
pub fn tensors(path: &Path) -> Tensors {
    let source = FileSource::open(path, path.file_name().unwrap().to_string_lossy()).unwrap();
    Tensors(pollster::block_on(Checkpoint::open_source(Rc::new(source))).unwrap())
}

/// A safetensors file whose tensors are wanted whole.
pub struct Tensors(Checkpoint);

impl Tensors {
    /// Shape and numbers.
    pub fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let shape = self.0.require(name).unwrap().shape.clone();
        (shape, pollster::block_on(self.0.f32(name)).unwrap())
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.0.info(name).is_some()
    }

    /// Every name.
    pub fn names(&self) -> Vec<String> {
        self.0.names().map(str::to_owned).collect()
    }
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// The ragged token ids of a golden's `inputs.json`.
pub fn golden_samples(path: &Path) -> Vec<Sample> {
    let inputs = json(&path.join("inputs.json"));
    let rows =
        |name: &str| -> Option<Vec<Vec<u32>>> { serde_json::from_value(inputs[name].clone()).unwrap() };
    let ids = rows("ids").unwrap();
    let type_ids = rows("type_ids").unwrap_or_else(|| ids.iter().map(|row| vec![0; row.len()]).collect());
    ids.into_iter()
        .zip(type_ids)
        .map(|(ids, type_ids)| Sample::of(Input::Tokens { ids, type_ids }))
        .collect()
}

/// The samples of a fixture's `<task>.ids.safetensors`, without their padding.
pub fn fixture_samples(path: &Path) -> Vec<Sample> {
    let file = tensors(path);
    let (shape, ids) = file.get("input_ids");
    let (_, mask) = file.get("attention_mask");
    let (_, kinds) = file.get("token_type_ids");
    let rows = ids
        .chunks_exact(shape[1])
        .zip(mask.chunks_exact(shape[1]))
        .zip(kinds.chunks_exact(shape[1]));
    rows.map(|((ids, mask), kinds)| {
        let length = mask.iter().filter(|&&m| m > 0.0).count();
        let numbers = |row: &[f32]| row[..length].iter().map(|&x| x as u32).collect();
        Sample::of(Input::Tokens {
            ids: numbers(ids),
            type_ids: numbers(kinds),
        })
    })
    .collect()
}

/// Samples without labels or answers.
pub fn given(samples: Vec<Sample>) -> TaskSamples {
    TaskSamples {
        samples,
        ..TaskSamples::default()
    }
}

/// An adapter folder with samples.
pub fn adapter(name: &str, path: &Path, samples: Vec<Sample>, weight: f64) -> AdapterInput {
    let samples = TaskSamples {
        samples,
        ..TaskSamples::default()
    };
    AdapterInput {
        name: name.to_owned(),
        folder: folder(path),
        samples: Some(samples),
        pictures: None,
        weight,
        path: None,
    }
}

/// ||a - b||_F / ||b||_F
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "matrices of different sizes");
    let distance: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum();
    let norm: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    (distance / norm).sqrt()
}

/// The largest |a - b|.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "matrices of different sizes");
    a.iter()
        .zip(b)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .fold(0.0, f64::max)
}

/// b (d_out x r) times a (r x d_in).
pub fn product(b: &(Vec<usize>, Vec<f32>), a: &(Vec<usize>, Vec<f32>)) -> Vec<f32> {
    let (d_out, r, d_in) = (b.0[0], b.0[1], a.0[1]);
    let mut out = vec![0.0f64; d_out * d_in];
    for i in 0..d_out {
        for k in 0..r {
            for j in 0..d_in {
                out[i * d_in + j] += f64::from(b.1[i * r + k]) * f64::from(a.1[k * d_in + j]);
            }
        }
    }
    out.into_iter().map(|x| x as f32).collect()
}

/// The deltas of a written adapter, by module name without any prefix.
pub fn written_deltas(weights: &[u8]) -> impl Fn(&str) -> Vec<f32> + use<> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adapter_model.safetensors");
    std::fs::write(&path, weights).unwrap();
    let file = tensors(&path);
    let names = file.names();
    move |module: &str| {
        let _keep = &directory;
        let key = |part: &str| {
            let end = format!("{module}.lora_{part}.weight");
            names
                .iter()
                .find(|name| name.ends_with(&end))
                .unwrap_or_else(|| panic!("no {end}"))
                .clone()
        };
        product(&file.get(&key("B")), &file.get(&key("A")))
    }
}
