//! Real adapters, where the shared fixtures are at hand: numbers that numpy reads from the same files.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use iteris_web::adapter::TargetModules;
use iteris_web::io::{ByteSource, Dtype, FileSource, Folder};
use iteris_web::progress::Pace;
use pollster::block_on;

use super::whole::Loaded;

const TASKS: [(&str, &[&str]); 3] = [
    ("emoint", &["anger", "fear", "joy", "sadness"]),
    (
        "emotion-cause",
        &["anger", "disgust", "fear", "joy", "sadness", "surprise"],
    ),
    (
        "isear",
        &["joy", "fear", "anger", "sadness", "disgust", "shame", "guilt"],
    ),
];

/// The folder of the emotion fixtures, or a word on standard error and none.
fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/emotion");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: there are no shared fixtures beside this checkout");
    None
}

fn open(directory: &Path, name: &str) -> Folder {
    let mut files: Vec<Rc<dyn ByteSource>> = Vec::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let file = file.unwrap();
        let relative = format!("{name}/{}", file.file_name().to_string_lossy());
        files.push(Rc::new(FileSource::open(file.path(), relative).unwrap()));
    }
    Folder::new(name, files).unwrap()
}

#[test]
fn real_adapters_are_read_as_numpy_reads_them() {
    let Some(fixtures) = fixtures() else { return };
    for (task, labels) in TASKS {
        let adapter = Loaded::read(task, &open(&fixtures.join(task), task)).unwrap();
        assert_eq!(adapter.modules.len(), 12, "query and value of six layers");
        for (module, lora) in &adapter.modules {
            assert!(module.starts_with("bert.encoder.layer."), "{module}");
            assert_eq!((lora.rank, lora.d_in, lora.d_out), (8, 384, 384));
            assert!((lora.scaling - 4.0).abs() < 1e-15);
        }
        assert_eq!(adapter.labels.as_deref().unwrap(), labels);
        assert_eq!(adapter.heads.len(), 2);
        assert_eq!(adapter.heads["classifier.weight"].shape, [labels.len(), 384]);
        assert_eq!(adapter.heads["classifier.bias"].shape, [labels.len()]);
        let TargetModules::Names(targets) = &adapter.config.target_modules else {
            panic!("a list")
        };
        assert_eq!(targets, &["query", "value"]);
        let facts = adapter.facts();
        assert_eq!(
            (facts.targets, facts.ranks),
            (vec!["query".to_owned(), "value".to_owned()], vec![8])
        );
        assert_eq!((facts.parameters, adapter.dtype), (12 * 2 * 8 * 384, Dtype::F32));
    }
}

#[test]
fn the_numbers_of_a_real_tensor_are_numpys() {
    let Some(fixtures) = fixtures() else { return };
    let folder = open(&fixtures.join("emoint"), "emoint");
    let adapter = Loaded::read("emoint", &folder).unwrap();
    // numpy: t = f.get_tensor("base_model.model.bert…layer.3…query.lora_B.weight").astype("f8"),
    // t.sum(), (t * t).sum(), t[5, 3].
    let b = &adapter.modules["bert.encoder.layer.3.attention.self.query"].b;
    let sum: f64 = b.iter().copied().map(f64::from).sum();
    let squares: f64 = b.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    // Both are sums of the same 3072 doubles in another order.
    assert!((sum - 2.113_597_268_305_398).abs() < 1e-12, "{sum}");
    assert!((squares - 2.217_345_039_922_786_8).abs() < 1e-12, "{squares}");
    assert_eq!(b[5 * 8 + 3].to_bits(), 0.006_287_215_f32.to_bits());
    assert_eq!(adapter.bytes, 304_600);

    let digests = block_on(folder.sha256(&Pace::unwatched())).unwrap();
    let weights = digests
        .iter()
        .find(|digest| digest.name == "adapter_model.safetensors")
        .unwrap();
    assert_eq!(
        weights.sha256,
        "d0eaea089865e08cbd92b29357fc776c32aee02f4cf7d75433b9ce1ae46425bc"
    );
}
