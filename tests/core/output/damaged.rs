//! One adapter of two is damaged, in PEFT's form and in kohya's: the error names adapter, file, tensor and layer, and
//! no file is written.

use iteris_web::{
    compute::Compute,
    error::{Code, Error},
    io::{MemorySink, OutDtype},
    jobs::{
        AdapterInput,
        merge::{MergeRequest, merge},
    },
    progress::Silent,
};
use serde_json::Value;

use super::{Raw, files, input, mixed, numbers, options};

/// Where an adapter's form has its tensors.
struct Form {
    file: &'static str,
    lower: &'static str,
    upper: &'static str,
    modules: [&'static str; 2],
    config: Option<&'static str>,
}

const PEFT: Form = Form {
    file: "adapter_model.safetensors",
    lower: "lora_A.weight",
    upper: "lora_B.weight",
    modules: ["base_model.model.layers.0.q", "base_model.model.layers.1.q"],
    config: Some(r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"]}"#),
};

const KOHYA: Form = Form {
    file: "style.safetensors",
    lower: "lora_down.weight",
    upper: "lora_up.weight",
    modules: [
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "lora_te_text_model_encoder_layers_1_mlp_fc1",
    ],
    config: None,
};

impl Form {
    /// Two layers of rank 2, 8 x 6.
    fn tensors(&self) -> Raw {
        let mut tensors = Raw::new();
        for module in self.modules {
            let key = |end: &str| format!("{module}.{end}");
            tensors.insert(key(self.lower), numbers(OutDtype::F32, &[2, 6], &[0.5; 12]));
            tensors.insert(key(self.upper), numbers(OutDtype::F32, &[8, 2], &[0.25; 16]));
            if self.config.is_none() {
                tensors.insert(key("alpha"), numbers(OutDtype::F32, &[], &[2.0]));
            }
        }
        tensors
    }

    fn adapter(&self, name: &str, bytes: Vec<u8>) -> AdapterInput {
        let config = self
            .config
            .map(|text| ("adapter_config.json", text.as_bytes().to_vec()));
        let all = config.into_iter().chain([(self.file, bytes)]);
        input(name, files(name, all.collect()), 1.0)
    }

    /// The tensor of the second layer with this role.
    fn second(&self, role: &str) -> String {
        format!("{}.{role}", self.modules[1])
    }

    /// The error of a merge of a sound adapter with a damaged one, and the names of the files that were begun.
    fn merged_with(&self, damaged: Vec<u8>) -> (Error, Vec<String>) {
        let request = MergeRequest {
            base: None,
            base_path: None,
            device_why: None,
            adapters: vec![
                self.adapter("good", mixed(&self.tensors())),
                self.adapter("bad", damaged),
            ],
            options: options(),
        };
        let mut sink = MemorySink::default();
        let merged = pollster::block_on(merge(request, &Compute::cpu(), &Silent, &mut sink));
        let begun = sink.files().iter().map(|(name, _)| name.clone());
        (merged.unwrap_err(), begun.collect())
    }

    /// Refused from the header alone, before anything is written.
    fn refused(&self, damaged: Vec<u8>, codes: &[Code], parts: &[&str]) {
        let (error, begun) = self.merged_with(damaged);
        assert!(codes.contains(&error.code()), "{:?}: {error}", error.code());
        for part in [&["\"bad\"", self.file], parts].concat() {
            assert!(error.to_string().contains(part), "{part} in: {error}");
        }
        assert!(begun.is_empty(), "{begun:?} beside: {error}");
    }
}

/// A safetensors file with its header's text changed.
fn with_header(bytes: &[u8], change: impl Fn(String) -> String) -> Vec<u8> {
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header = change(String::from_utf8(bytes[8..8 + length].to_vec()).unwrap());
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(&bytes[8 + length..]);
    file
}

#[test]
fn a_file_that_is_cut_short_in_the_middle() {
    for form in [PEFT, KOHYA] {
        let whole = mixed(&form.tensors());
        // Within the numbers, and within the header.
        for (length, code) in [
            (whole.len() - 24, Code::FileTruncated),
            (whole.len() / 3, Code::HeaderInvalid),
        ] {
            form.refused(
                whole[..length].to_vec(),
                &[code],
                &["cut short", "fetch it again"],
            );
        }
        let last = form.second(form.upper);
        form.refused(
            whole[..whole.len() - 24].to_vec(),
            &[Code::FileTruncated],
            &[&last],
        );
    }
}

#[test]
fn a_tensor_whose_range_passes_the_end() {
    for form in [PEFT, KOHYA] {
        let name = form.second(form.upper);
        let damaged = with_header(&mixed(&form.tensors()), |text| {
            let mut header: Value = serde_json::from_str(&text).unwrap();
            let entry = &mut header[&name];
            let start = entry["data_offsets"][0].as_u64().unwrap();
            // As long as a shape of 800 x 2 asks for.
            entry["shape"] = serde_json::json!([800, 2]);
            entry["data_offsets"] = serde_json::json!([start, start + 6400]);
            header.to_string()
        });
        form.refused(damaged, &[Code::FileTruncated], &[&name]);
    }
}

#[test]
fn a_number_that_is_none_in_one_layer() {
    for form in [PEFT, KOHYA] {
        let name = form.second(form.lower);
        let mut tensors = form.tensors();
        let mut values = [0.5; 12];
        values[7] = f32::NAN;
        tensors.insert(name.clone(), numbers_unchecked(&[2, 6], &values));
        let (error, begun) = form.merged_with(mixed(&tensors));
        assert_eq!(error.code(), Code::NotFinite, "{error}");
        for part in ["\"bad\"", form.file, name.as_str(), "Element 7"] {
            assert!(error.to_string().contains(part), "{part} in: {error}");
        }
        // Numbers are read as their layer's turn comes, so a file may be begun; it is never closed, and neither the
        // report nor the card, which come after it, say that it was.
        assert!(
            begun
                .iter()
                .all(|file| file != "merge_report.json" && file != "README.md"),
            "{begun:?}"
        );
    }
}

/// Numbers that no writer would let pass.
fn numbers_unchecked(shape: &[usize], data: &[f32]) -> (iteris_web::io::Dtype, Vec<usize>, Vec<u8>) {
    let bytes = data.iter().flat_map(|x| x.to_le_bytes());
    (OutDtype::F32.into(), shape.to_vec(), bytes.collect())
}

#[test]
fn a_rank_of_0() {
    for form in [PEFT, KOHYA] {
        let mut tensors = form.tensors();
        let (lower, upper) = (form.second(form.lower), form.second(form.upper));
        tensors.insert(lower.clone(), numbers(OutDtype::F32, &[0, 6], &[]));
        tensors.insert(upper, numbers(OutDtype::F32, &[8, 0], &[]));
        form.refused(
            mixed(&tensors),
            &[Code::ShapeMismatch],
            &["rank 0", "[0, 6]", &lower],
        );
    }
}

#[test]
fn two_tensors_under_one_name() {
    for form in [PEFT, KOHYA] {
        let (twice, other) = (
            format!("{}.{}", form.modules[0], form.lower),
            form.second(form.lower),
        );
        let damaged = with_header(&mixed(&form.tensors()), |text| text.replace(&other, &twice));
        form.refused(damaged, &[Code::Duplicate], &["twice", &twice]);
    }
}
