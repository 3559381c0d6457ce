//! `adapter_model.safetensors`: every tensor is used, passed through, or listed in an error.

use iteris_web::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use iteris_web::error::Code;
use iteris_web::io::{Dtype, OutDtype, OutTensor, serialize};
use serde_json::json;

use crate::{QUERY, config, factors, read, read_files, refused, tensor, weights};

fn with(extra: OutTensor) -> Vec<OutTensor> {
    let mut tensors = factors(QUERY, 2);
    tensors.push(extra);
    tensors
}

#[test]
fn factors_are_read_with_their_shapes_and_scaling() {
    let adapter = read(&config(&[]), &factors(QUERY, 2)).unwrap();
    assert_eq!(adapter.name, "mine");
    let lora = &adapter.modules[QUERY];
    assert_eq!((lora.rank, lora.d_in, lora.d_out), (2, 3, 4));
    assert_eq!(lora.a, [-1.5, -0.5, 0.5, 1.5, 2.5, 3.5]);
    assert_eq!(lora.b.len(), 8);
    assert!((lora.scaling - 2.0).abs() < 1e-15);
}

#[test]
fn every_spelling_of_the_names_gives_the_same_adapter() {
    let plain = read(&config(&[]), &factors(QUERY, 2)).unwrap();
    for (prefix, adapter) in [("base_model.model.", ".default"), ("", ""), ("", ".my_task")] {
        let tensors = [
            tensor(&format!("{prefix}{QUERY}.lora_A{adapter}.weight"), &[2, 3]),
            tensor(&format!("{prefix}{QUERY}.lora_B{adapter}.weight"), &[4, 2]),
        ];
        assert_eq!(
            read(&config(&[]), &tensors).unwrap().modules,
            plain.modules,
            "{prefix} {adapter}"
        );
    }
}

#[test]
fn heads_are_passed_through_under_every_name_peft_gave_them() {
    for (name, changes) in [
        (
            "base_model.model.classifier.weight",
            vec![("modules_to_save", json!(["classifier", "score"]))],
        ),
        (
            "classifier.weight",
            vec![("modules_to_save", json!(["classifier"]))],
        ),
        (
            "base_model.model.classifier.modules_to_save.default.weight",
            vec![],
        ),
        ("classifier.modules_to_save.weight", vec![]),
        // PEFT adds the head of a classification task by itself; old releases did not note it down.
        (
            "base_model.model.classifier.weight",
            vec![("task_type", json!("SEQ_CLS"))],
        ),
        (
            "base_model.model.classifier.weight",
            vec![("task_type", json!("TOKEN_CLS"))],
        ),
    ] {
        let adapter = read(&config(&changes), &with(tensor(name, &[5, 4]))).unwrap();
        assert_eq!(adapter.heads.len(), 1, "{name}");
        let head = &adapter.heads["classifier.weight"];
        assert_eq!((&head.shape[..], head.data.len()), (&[5, 4][..], 20), "{name}");
        assert_eq!(adapter.modules.len(), 1);
    }
    let changes = [("task_type", json!("QUESTION_ANS"))];
    let adapter = read(&config(&changes), &with(tensor("qa_outputs.bias", &[2]))).unwrap();
    assert!(adapter.heads.contains_key("qa_outputs.bias"));
}

#[test]
fn tensors_that_nothing_accounts_for_are_all_listed() {
    let mut tensors = with(tensor("base_model.model.classifier.weight", &[5, 4]));
    tensors.push(tensor("some.other.tensor", &[1]));
    refused(
        read(&config(&[]), &tensors),
        Code::TensorsUnaccounted,
        &[
            WEIGHTS_FILE,
            "modules_to_save",
            "base_model.model.classifier.weight",
            "some.other.tensor",
        ],
    );
    let many: Vec<OutTensor> = (0..25).map(|at| tensor(&format!("t{at:02}"), &[1])).collect();
    refused(
        read(&config(&[]), &many),
        Code::TensorsUnaccounted,
        &["t00", "t19", "and 5 more"],
    );
}

#[test]
fn a_factor_without_the_other_is_named() {
    let [a, b] = <[OutTensor; 2]>::try_from(factors(QUERY, 2)).unwrap();
    refused(
        read(&config(&[]), &[a]),
        Code::Missing,
        &["lora_A but no lora_B", QUERY],
    );
    refused(
        read(&config(&[]), &[b]),
        Code::Missing,
        &["lora_B but no lora_A", QUERY],
    );
}

#[test]
fn an_adapter_without_factors_is_refused() {
    let changes = [("modules_to_save", json!(["classifier"]))];
    refused(
        read(&config(&changes), &[tensor("classifier.weight", &[2, 2])]),
        Code::Missing,
        &["lora_A", WEIGHTS_FILE],
    );
}

#[test]
fn ranks_have_to_be_those_of_the_configuration() {
    refused(
        read(&config(&[]), &factors(QUERY, 3)),
        Code::ShapeMismatch,
        &["rank 3", "say 2", QUERY],
    );
    let patterned = config(&[
        ("rank_pattern", json!({ "query": 3 })),
        ("use_rslora", json!(true)),
    ]);
    let adapter = read(&patterned, &factors(QUERY, 3)).unwrap();
    assert!((adapter.modules[QUERY].scaling - 4.0 / 3.0_f64.sqrt()).abs() < 1e-15);
    refused(
        read(&patterned, &factors(QUERY, 2)),
        Code::ShapeMismatch,
        &["rank 2", "say 3", QUERY],
    );
    let uneven = [
        tensor(&format!("{QUERY}.lora_A.weight"), &[2, 3]),
        tensor(&format!("{QUERY}.lora_B.weight"), &[4, 3]),
    ];
    refused(
        read(&config(&[]), &uneven),
        Code::ShapeMismatch,
        &["rank 2", "lora_B has rank 3", QUERY],
    );
}

#[test]
fn factors_that_are_no_matrices_are_refused() {
    let first = |shape: &[usize]| {
        [
            tensor("x.lora_A.weight", shape),
            tensor("x.lora_B.weight", &[4, 2]),
        ]
    };
    refused(
        read(&config(&[]), &first(&[2, 3, 1, 1])),
        Code::AdapterUnsupported,
        &["convolution", "[2, 3, 1, 1]", "x.lora_A.weight"],
    );
    refused(
        read(&config(&[]), &first(&[6])),
        Code::ShapeMismatch,
        &["gather", "x.lora_A.weight"],
    );
    refused(
        read(&config(&[]), &first(&[0, 3])),
        Code::ShapeMismatch,
        &["[0, 3]", "x.lora_A.weight"],
    );
    refused(
        read(&config(&[]), &first(&[2, 0])),
        Code::ShapeMismatch,
        &["[2, 0]"],
    );
}

#[test]
fn tensors_of_variants_are_refused_by_name_whatever_the_configuration_says() {
    for (name, what) in [
        (
            "base_model.model.bert.embeddings.word_embeddings.lora_embedding_A",
            "adapted embedding",
        ),
        ("base_model.model.x.lora_magnitude_vector", "DoRA"),
        ("base_model.model.x.lora_B.bias", "bias"),
        ("base_model.model.x.lora_diag", "variant"),
        ("base_model.model.x.base_layer.lora_A.weight", "target_parameters"),
        ("base_model.model.model.embed_tokens.weight", "embedding saved"),
        (
            "base_model.model.wte.modules_to_save.default.weight",
            "embedding saved",
        ),
    ] {
        refused(
            read(
                &config(&[("modules_to_save", json!(["embed_tokens"]))]),
                &with(tensor(name, &[2])),
            ),
            Code::AdapterUnsupported,
            &[name, what, WEIGHTS_FILE],
        );
    }
}

#[test]
fn several_adapters_in_one_file_are_refused() {
    let tensors: Vec<OutTensor> = ["one", "two"]
        .into_iter()
        .map(|name| tensor(&format!("{name}.x.lora_A.{name}.weight"), &[2, 3]))
        .collect();
    refused(
        read(&config(&[]), &tensors),
        Code::AdapterUnsupported,
        &["one, two", WEIGHTS_FILE],
    );
    refused(
        read(
            &config(&[]),
            &with(tensor(&format!("{QUERY}.lora_A.default.weight"), &[2, 3])),
        ),
        Code::Duplicate,
        &["two names", &format!("{QUERY}.lora_A.default.weight")],
    );
}

#[test]
fn numbers_that_are_not_finite_are_refused_by_the_tensors_name() {
    let mut bytes = weights(&factors(QUERY, 2));
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    let files = vec![
        (CONFIG_FILE, config(&[]).to_string().into_bytes()),
        (WEIGHTS_FILE, bytes),
    ];
    refused(
        read_files(files),
        Code::NotFinite,
        &["Element 7", &format!("{QUERY}.lora_B.weight")],
    );
}

#[test]
fn an_absent_or_pickled_file_is_named() {
    let json = || config(&[]).to_string().into_bytes();
    refused(
        read_files(vec![(WEIGHTS_FILE, weights(&[]))]),
        Code::Missing,
        &[CONFIG_FILE, "the adapter"],
    );
    refused(
        read_files(vec![(CONFIG_FILE, json())]),
        Code::Missing,
        &[WEIGHTS_FILE, "the adapter"],
    );
    refused(
        read_files(vec![(CONFIG_FILE, json()), ("adapter_model.bin", vec![0])]),
        Code::PickleRefused,
        &["safe_serialization=True", "adapter_model.bin"],
    );
    refused(
        read_files(vec![(CONFIG_FILE, b"{".to_vec()), (WEIGHTS_FILE, weights(&[]))]),
        Code::ConfigInvalid,
        &["line 1", CONFIG_FILE],
    );
}

fn labelled(
    file: &str,
    content: &str,
    head: Option<&[usize]>,
) -> iteris_web::error::Result<Option<Vec<String>>> {
    let mut tensors = factors(QUERY, 2);
    tensors.extend(head.map(|shape| tensor("classifier.weight", shape)));
    let json = config(&[("modules_to_save", json!(["classifier"]))])
        .to_string()
        .into_bytes();
    let files = vec![
        ("d/adapter_config.json", json),
        ("d/adapter_model.safetensors", weights(&tensors)),
        (file, content.as_bytes().to_vec()),
    ];
    read_files(files).map(|adapter| adapter.labels)
}

#[test]
fn labels_come_from_a_list_or_from_the_models_configuration() {
    let names = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    let head = Some(&[2, 4][..]);
    assert_eq!(
        labelled("d/labels.json", r#"["joy", "fear"]"#, head).unwrap(),
        names(&["joy", "fear"])
    );
    assert_eq!(
        labelled("d/labels.json", r#"["joy"]"#, None).unwrap(),
        names(&["joy"])
    );
    let of_config = |map: &str| labelled("d/config.json", &format!(r#"{{"id2label":{map}}}"#), head).unwrap();
    assert_eq!(of_config(r#"{"1": "b", "0": "a"}"#), names(&["a", "b"]));
    assert_eq!(
        of_config(r#"{"0": "a", "1": "b", "2": "c"}"#),
        None,
        "labels of another head"
    );
    assert_eq!(of_config(r#"{"0": "a", "2": "b"}"#), None);
    assert_eq!(of_config(r#"{"x": "a", "1": "b"}"#), None);
    assert_eq!(labelled("d/README.md", "", head).unwrap(), None);
    refused(
        labelled("d/labels.json", r#"["joy"]"#, head),
        Code::ConfigInvalid,
        &["1 labels", "labels.json"],
    );
    refused(
        labelled("d/labels.json", "{}", head),
        Code::ConfigInvalid,
        &["labels.json"],
    );
}

#[test]
fn facts_tell_what_a_person_wants_to_know() {
    let mut tensors = factors("bert.encoder.layer.0.attention.output.dense", 2);
    tensors.extend(factors("bert.encoder.layer.0.intermediate.dense", 2));
    tensors.extend(factors("bert.encoder.layer.0.attention.self.query", 6));
    tensors.extend(factors("bert.encoder.layer.1.attention.output.dense", 2));
    tensors.push(tensor("classifier.weight", &[5, 4]));
    let changes = [
        ("rank_pattern", json!({ "query": 6 })),
        ("task_type", json!("SEQ_CLS")),
    ];
    let bytes = serialize(&tensors, OutDtype::F16, &Default::default()).unwrap();
    let length = bytes.len();
    let adapter = read_files(vec![
        (CONFIG_FILE, config(&changes).to_string().into_bytes()),
        (WEIGHTS_FILE, bytes),
        ("labels.json", br#"["a","b","c","d","e"]"#.to_vec()),
    ])
    .unwrap();
    assert_eq!(adapter.dtype, Dtype::F16);
    assert_eq!(
        serde_json::to_value(adapter.facts()).unwrap(),
        json!({
            "format": "peft", "features": [], "needsBase": false,
            "peftType": "LORA", "taskType": "SEQ_CLS", "rank": 6, "ranks": [2, 6], "alpha": 4.0, "scaling": 2.0,
            "targets": ["intermediate.dense", "output.dense", "query"],
            "modules": 4, "parameters": 3 * 2 * 7 + 6 * 7,
            "heads": [{ "name": "classifier.weight", "shape": [5, 4] }],
            "baseName": "a/base", "labels": ["a", "b", "c", "d", "e"], "dtype": "F16", "bytes": length,
        })
    );
}
