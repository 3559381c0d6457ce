//! What is fuzzed: each function reads any bytes as one kind of outside input.
//!
//! A target gives what reading gave, the tensors or a typed error; it panics if what was read contradicts
//! itself. `tests/fuzzing.rs` calls them for half a minute with every `npm test`, the programs in
//! `fuzz_targets/` under cargo-fuzz for as long as one likes.

#![allow(dead_code, reason = "a fuzzing program uses one target")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target reports by panicking"
)]

use std::collections::BTreeMap;
use std::rc::Rc;

use iteris_web::adapter::{Adapter, AdapterConfig, TargetModules};
use iteris_web::error::{Code, Error, Result};
use iteris_web::io::{ByteSource, Checkpoint, Folder, MemorySource, OutDtype, OutTensor, serialize};
use iteris_web::naming::{BaseNames, module_path};
use iteris_web::pictures::{MAX_PIXELS, decode};
use pollster::block_on;

/// How many tensors of a file are read: a small file can name thousands that share their bytes.
const TENSORS_READ: usize = 16;

fn source(name: &str, data: &[u8]) -> Rc<dyn ByteSource> {
    Rc::new(MemorySource::new(name, data.to_vec()))
}

/// Reads tensors of a checkpoint, which has to lie inside its file.
fn read_tensors(checkpoint: &Checkpoint) {
    let file_bytes = checkpoint.file_bytes();
    for info in checkpoint.infos() {
        assert!(
            info.range.start <= info.range.end && info.range.end <= file_bytes,
            "{info:?}"
        );
        let bits = info.elements() as u128 * info.dtype.bitsize() as u128;
        assert!(
            bits <= u128::from(file_bytes) * 8,
            "{info:?} in {file_bytes} bytes"
        );
    }
    for info in checkpoint.infos().take(TENSORS_READ) {
        let bytes = block_on(checkpoint.bytes(&info.name)).expect("its bytes are inside the file");
        assert_eq!(
            bytes.len() * 8,
            info.elements() * info.dtype.bitsize(),
            "{info:?}"
        );
        match block_on(checkpoint.f32(&info.name)) {
            Ok(values) => {
                assert_eq!(values.len(), info.elements(), "{info:?}");
                let half = values.len() / 2;
                let rest = block_on(checkpoint.f32_range(&info.name, half..values.len())).unwrap();
                assert_eq!(rest, values[half..], "{info:?}");
            }
            Err(error) => assert!(
                matches!(error.code(), Code::NotFinite | Code::DtypeUnsupported),
                "{info:?}: {error}"
            ),
        }
    }
}

/// A safetensors file: what is read, the safetensors crate reads too, and as the same bytes.
pub(crate) fn safetensors_header(data: &[u8]) -> Result<()> {
    let checkpoint = block_on(Checkpoint::open_source(source("m.safetensors", data)))?;
    read_tensors(&checkpoint);
    let theirs = safetensors::SafeTensors::deserialize(data).expect("the crate reads what is read here");
    assert_eq!(theirs.len(), checkpoint.names().len());
    for info in checkpoint.infos().take(TENSORS_READ) {
        let view = theirs.tensor(&info.name).expect("the crate finds the tensor");
        assert_eq!((view.dtype(), view.shape()), (info.dtype, &info.shape[..]));
        assert_eq!(view.data(), block_on(checkpoint.bytes(&info.name)).unwrap());
    }
    Ok(())
}

/// A file of torch.save.
pub(crate) fn pickle(data: &[u8]) -> Result<()> {
    let checkpoint = block_on(Checkpoint::open_pickle(source("m.bin", data)))?;
    read_tensors(&checkpoint);
    Ok(())
}

/// An `adapter_config.json`, asked for every kind of module that its own text names.
pub(crate) fn adapter_config(data: &[u8]) -> Result<()> {
    let json = serde_json::from_slice(data)
        .map_err(|error| Error::new(Code::ConfigInvalid, format!("No JSON ({error}): fuzzed")))?;
    let config = AdapterConfig::parse(&json, "adapter_config.json")?;
    let mut modules = vec![
        String::new(),
        String::from("bert.encoder.layer.0.attention.self.query"),
    ];
    modules.extend(config.modules_to_save.iter().cloned());
    if let TargetModules::Names(names) = &config.target_modules {
        modules.extend(names.iter().cloned());
    }
    for module in modules.iter().take(TENSORS_READ) {
        assert!(config.rank_of(module) > 0, "{module}");
        // Infinite alphas are found where the factors are multiplied; a rank is never the cause.
        assert!(
            !config.scaling_of(module).is_nan() || config.lora_alpha.is_nan(),
            "{module}"
        );
    }
    Ok(())
}

/// An adapter: a line of configuration, then a line for each tensor, `ROWSxCOLUMNS NAME`.
pub(crate) fn adapter_keys(data: &[u8]) -> Result<()> {
    let mut lines = data.split(|&byte| byte == b'\n');
    let config = lines.next().unwrap_or_default();
    let tensors = lines_of_tensors(lines);
    let weights = serialize(&tensors, OutDtype::F32, &BTreeMap::new())?;
    let files = vec![
        source("adapter_config.json", config),
        source("adapter_model.safetensors", &weights),
    ];
    let adapter = block_on(Adapter::read("fuzzed", &Folder::new("the adapter", files)?))?;
    check_factors(&adapter);
    for (name, head) in &adapter.heads {
        assert_eq!(
            block_on(head.load())?.len(),
            head.shape.iter().product::<usize>(),
            "{name}"
        );
    }
    Ok(())
}

/// Names of image models' modules: a base model's keys, an empty line, then kohya's or diffusers' names for them.
pub(crate) fn module_names(data: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(data);
    let (keys, names) = text.split_once("\n\n").unwrap_or(("", &text));
    let base = BaseNames::new(keys.lines().take(256));
    let mut first: Option<Error> = None;
    for name in names.lines().take(64) {
        for base in [None, Some(&base)] {
            match module_path(name, base) {
                Ok(target) => {
                    assert!(!target.path.is_empty(), "{name}");
                    assert!(target.parts.iter().all(|part| !part.is_empty()), "{name}");
                    // The same name means the same module each time.
                    assert_eq!(module_path(name, base).map(|again| again.path), Ok(target.path));
                }
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// An adapter of one file, by the names of its tensors alone: a line each, `ROWSxCOLUMNS NAME`.
pub(crate) fn image_keys(data: &[u8]) -> Result<()> {
    let tensors = lines_of_tensors(data.split(|&byte| byte == b'\n'));
    let weights = serialize(&tensors, OutDtype::F32, &BTreeMap::new())?;
    let files = vec![source("style.safetensors", &weights)];
    check_factors(&block_on(Adapter::read(
        "fuzzed",
        &Folder::new("the adapter", files)?,
    ))?);
    Ok(())
}

fn lines_of_tensors<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<OutTensor> {
    let mut tensors: BTreeMap<String, OutTensor> = BTreeMap::new();
    for line in lines.take(64) {
        let line = String::from_utf8_lossy(line);
        let Some((shape, name)) = line.split_once(' ') else {
            continue;
        };
        let shape: Vec<usize> = shape
            .split('x')
            .filter_map(|dim| dim.parse::<usize>().ok())
            .take(5)
            .map(|dim| dim % 9)
            .collect();
        let elements = shape.iter().product::<usize>();
        let tensor = OutTensor {
            name: name.to_owned(),
            shape,
            data: vec![0.5; elements],
        };
        tensors.insert(name.to_owned(), tensor);
    }
    tensors.into_values().collect()
}

fn check_factors(adapter: &Adapter) {
    for (path, module) in &adapter.modules {
        assert!(!path.is_empty() && module.rank > 0);
        let Ok(lora) = pollster::block_on(module.load()) else {
            continue;
        };
        assert_eq!(lora.a.len(), lora.rank * lora.d_in, "{path}");
        assert_eq!(lora.b.len(), lora.rank * lora.d_out, "{path}");
    }
}

/// A picture of any kind.
pub(crate) fn picture(data: &[u8]) -> Result<()> {
    let picture = decode(data, "picture")?;
    let pixels = picture.width * picture.height;
    assert!((1..=MAX_PIXELS).contains(&pixels), "{pixels} pixels");
    assert_eq!(picture.rgb.len(), 3 * pixels);
    Ok(())
}
