//! What written files say of themselves in their headers.

use iteris_web::merge::options::{MergeOptions, MethodName, OutputKind};
use sha2::{Digest, Sha256};

use super::{adapter, file, files, golden, input, mixed, numbers, opened, options, run, tiny};
use iteris_web::io::OutDtype;

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn disk(path: &str) -> String {
    sha(&std::fs::read(crate::support::goldens().join(path)).unwrap())
}

#[test]
fn a_header_names_method_options_and_the_hashes_of_what_went_in() {
    let ties = |output| MergeOptions {
        method: MethodName::TaskArithmetic,
        scale: 0.5,
        rank: Some(3),
        output,
        ..options()
    };
    let weighted = || {
        let mut second = golden("all");
        second.weight = -0.25;
        vec![golden("qv"), second]
    };
    let (adapter, report) = run(Some(tiny()), weighted(), ties(OutputKind::Adapter)).unwrap();
    let (base, _) = run(Some(tiny()), weighted(), ties(OutputKind::Base)).unwrap();
    for (sink, name) in [
        (&adapter, "adapter_model.safetensors"),
        (&adapter, "heads/qv.safetensors"),
        (&base, "model.safetensors"),
    ] {
        let found = opened(&file(sink, name)).metadata().clone();
        assert_eq!(found["format"], "pt", "{name}");
        assert_eq!(found["iteris_web.created_by"], report.created_by);
        assert_eq!(found["iteris_web.method"], "task_arithmetic");
        let options: serde_json::Value = serde_json::from_str(&found["iteris_web.options"]).unwrap();
        assert_eq!((&options["scale"], &options["rank"]), (&0.5.into(), &3.into()));
        assert!(options.get("density").is_none(), "it is none of this method's");
        let adapters: serde_json::Value = serde_json::from_str(&found["iteris_web.adapters"]).unwrap();
        let of = |name: &str| disk(&format!("adapters/{name}/adapter_model.safetensors"));
        let wanted = serde_json::json!([
            {"name": "qv", "weight": 1.0, "sha256": of("qv")},
            {"name": "all", "weight": -0.25, "sha256": of("all")},
        ]);
        assert_eq!(adapters, wanted, "{name}");
        let onto: serde_json::Value = serde_json::from_str(&found["iteris_web.base"]).unwrap();
        let wanted = serde_json::json!({
            "name": "base", "sha256": {"model.safetensors": disk("adapters/base/model.safetensors")},
        });
        assert_eq!(onto, wanted);
        // The crate that transformers and PEFT read with.
        let bytes = file(sink, name);
        let (_, read) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(read.metadata().as_ref().unwrap().len(), found.len());
    }
}

#[test]
fn without_a_base_a_header_names_none() {
    let (sink, report) = run(None, vec![input("a", adapter(&[("lin", 2, 3)]), 1.0)], options()).unwrap();
    let found = opened(&file(&sink, "adapter_model.safetensors"))
        .metadata()
        .clone();
    assert!(!found.contains_key("iteris_web.base") && report.base.is_none());
}

#[test]
fn a_base_keeps_what_its_own_header_said_but_for_hashes() {
    let tensors = super::Raw::from([(
        "lin.weight".to_owned(),
        numbers(OutDtype::F32, &[2, 3], &[0.0; 6]),
    )]);
    let mut bytes = mixed(&tensors);
    // The same file with more to say.
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let more = r#""modelspec.architecture":"x","modelspec.hash_sha256":"0x12","iteris_web.method":"old","format":"pt""#;
    let header = header.trim_end().replace(r#""format":"pt""#, more);
    let data = bytes.split_off(8 + length);
    let mut told = (header.len() as u64).to_le_bytes().to_vec();
    told.extend_from_slice(header.as_bytes());
    told.extend_from_slice(&data);
    let base = files("base", vec![("x.safetensors", told)]);
    let options = MergeOptions {
        output: OutputKind::Base,
        ..options()
    };
    let adapters = vec![input("a", adapter(&[("lin", 2, 3)]), 1.0)];
    let (sink, _) = run(Some(base), adapters, options).unwrap();
    let found = opened(&file(&sink, "x.safetensors")).metadata().clone();
    assert_eq!(found["modelspec.architecture"], "x");
    assert_eq!(found["iteris_web.method"], "linear");
    assert!(!found.contains_key("modelspec.hash_sha256"));
}

#[test]
fn the_same_merge_gives_the_same_bytes() {
    for output in [OutputKind::Adapter, OutputKind::Base] {
        let options = || MergeOptions {
            output,
            max_shard_bytes: (output == OutputKind::Base).then_some(9000),
            ..options()
        };
        let once = || run(Some(tiny()), vec![golden("qv"), golden("all")], options()).unwrap();
        let ((one, first), (two, second)) = (once(), once());
        let names = |sink: &iteris_web::io::MemorySink| -> Vec<String> {
            sink.files().iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&one), names(&two));
        for name in names(&one).iter().filter(|name| *name != "merge_report.json") {
            assert_eq!(file(&one, name), file(&two, name), "{name}");
        }
        assert_eq!(first.output, second.output);
        assert!(first.output.iter().any(|digest| digest.name == "README.md"));
    }
}
