//! `adapter_model.safetensors`: every tensor is used, passed through, or listed in an error.

use iteris_web::adapter::{CONFIG_FILE, LayerKind, WEIGHTS_FILE};
use iteris_web::error::Code;
use iteris_web::io::{Dtype, OutDtype, OutTensor, serialize};
use serde_json::json;

use super::{QUERY, config, factors, read, read_files, refused, tensor, weights};

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
        let numbers = pollster::block_on(head.load()).unwrap();
        assert_eq!((&head.shape[..], numbers.len()), (&[5, 4][..], 20), "{name}");
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
        Code::ShapeMismatch,
        &["no factor of a convolution", "[4, 2]", "x.lora_B.weight"],
    );
    let grouped = [
        tensor("x.lora_A.weight", &[2, 3, 3, 3]),
        tensor("x.lora_B.weight", &[4, 1, 1, 1]),
    ];
    refused(
        read(&config(&[]), &grouped),
        Code::AdapterUnsupported,
        &["2 groups", "PEFT cannot merge it either", "x.lora_B.weight"],
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
fn tensors_that_the_configuration_does_not_ask_for_are_refused() {
    // PEFT leaves them out without a word.
    for (name, code, words) in [
        (
            "x.lora_magnitude_vector",
            Code::AdapterUnsupported,
            &["use_dora", "DoRA"][..],
        ),
        ("x.lora_B.bias", Code::AdapterUnsupported, &["lora_bias"]),
        ("x.lora_diag", Code::AdapterUnsupported, &["variant"]),
        (
            "x.base_layer.lora_A.weight",
            Code::AdapterUnsupported,
            &["target_parameters names none"],
        ),
        (
            "x.base_layer.out_proj.lora_A.weight",
            Code::AdapterUnsupported,
            &["MultiheadAttention"],
        ),
        (
            "x.token_adapter.trainable_tokens_delta",
            Code::AdapterUnsupported,
            &["trainable_token_indices"],
        ),
        ("x.base_layer.bias", Code::TensorsUnaccounted, &["neither"]),
        ("x.base_layer.weight", Code::TensorsUnaccounted, &["neither"]),
        ("other_x.bias", Code::TensorsUnaccounted, &["neither"]),
    ] {
        let mut tensors = factors("x", 2);
        tensors.push(tensor(&format!("base_model.model.{name}"), &[4]));
        let error = read(&config(&[]), &tensors);
        refused(error, code, &[words, &["x"]].concat());
    }
    refused(
        read(&config(&[("use_dora", json!(true))]), &factors("x", 2)),
        Code::Missing,
        &["use_dora", "lora_magnitude_vector", "x"],
    );
}

#[test]
fn everything_that_belongs_to_an_update_is_read() {
    let all = config(&[
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("all")),
        ("init_lora_weights", json!("olora")),
        ("trainable_token_indices", json!([9, 4])),
        ("modules_to_save", json!(["head"])),
    ]);
    let mut tensors = factors("x", 2);
    let more: [(&str, &[usize]); 14] = [
        ("x.lora_magnitude_vector", &[4]),
        ("x.lora_B.bias", &[4]),
        ("x.base_layer.bias", &[4]),
        ("norm.bias", &[5]),
        ("table.lora_embedding_A", &[2, 7]),
        ("table.lora_embedding_B", &[3, 2]),
        ("table.lora_magnitude_vector", &[3]),
        ("table.base_layer.weight", &[7, 3]),
        ("conv.lora_A.weight", &[2, 5, 3, 2]),
        ("conv.lora_B.weight", &[6, 2, 1, 1]),
        ("conv.lora_magnitude_vector", &[1, 6, 1, 1]),
        ("tokens.token_adapter.trainable_tokens_delta", &[2, 3]),
        ("head.original_module.bias", &[1]),
        ("head.modules_to_save.default.bias", &[1]),
    ];
    tensors.extend(
        more.iter()
            .map(|(name, shape)| tensor(&format!("base_model.model.{name}"), shape)),
    );
    // Under `bias: all` PEFT saves it a second time.
    tensors.push(tensor("base_model.model.head.bias", &[1]));
    // A first product is taken out of linear layers alone.
    refused(
        read(&all, &tensors),
        Code::AdapterUnsupported,
        &["first product", "conv"],
    );
    let mut plain = all;
    plain["init_lora_weights"] = json!(true);
    let adapter = read(&plain, &tensors).unwrap();
    let lora = &adapter.modules["x"];
    assert_eq!(lora.magnitude.as_deref(), Some(&[-1.5, -0.5, 0.5, 1.5][..]));
    assert_eq!(lora.bias, lora.magnitude);
    let table = &adapter.modules["table"];
    assert_eq!(
        (&table.layer, table.d_out, table.d_in),
        (&LayerKind::Embedding, 3, 7)
    );
    let conv = &adapter.modules["conv"];
    let kernel = LayerKind::Conv {
        channels: 5,
        kernel: vec![3, 2],
    };
    assert_eq!((&conv.layer, conv.d_out, conv.d_in), (&kernel, 6, 30));
    assert_eq!(adapter.biases.keys().collect::<Vec<_>>(), ["norm.bias", "x.bias"]);
    let rows = &adapter.tokens["tokens"];
    assert_eq!((&rows.ids[..], rows.width), (&[4, 9][..], 3));
    assert_eq!(
        rows.data,
        [1.5, 2.5, 3.5, -1.5, -0.5, 0.5],
        "in the order of their ids"
    );
    assert_eq!(adapter.heads.keys().collect::<Vec<_>>(), ["head.bias"]);
    assert!(adapter.needs_base());
}

#[test]
fn parameters_of_experts_are_told_by_their_nesting() {
    let of = |targets: &[&str]| config(&[("target_parameters", json!(targets)), ("r", json!(1))]);
    let named = |module: &str, a: &[usize], b: &[usize]| {
        [
            tensor(&format!("{module}.lora_A.weight"), a),
            tensor(&format!("{module}.lora_B.weight"), b),
        ]
    };
    let both = [
        named("mlp.experts", &[2, 5], &[4, 2]),
        named("mlp.experts.base_layer", &[2, 4], &[10, 2]),
    ]
    .concat();
    let adapter = read(&of(&["experts.gate_up_proj", "experts.down_proj"]), &both).unwrap();
    let shape = |path: &str| {
        let lora = &adapter.modules[path];
        (lora.rank, lora.d_out, lora.d_in, lora.layer.products())
    };
    assert_eq!(shape("mlp.experts.gate_up_proj"), (1, 10, 4, 2));
    assert_eq!(shape("mlp.experts.down_proj"), (1, 4, 5, 2));
    let second = adapter.modules["mlp.experts.down_proj"].expert(1);
    assert_eq!(second.a, [3.5, 4.5, 5.5, 6.5, 7.5]);
    assert_eq!(second.b, [-0.5, 1.5, 3.5, 5.5], "every second column");
    for (targets, words) in [
        (&["experts.gate_up_proj"][..], "another number"),
        (&["experts.first", "experts.second"], "order in which its class"),
        (&["other.gate_up_proj", "other.down_proj"], "names none"),
    ] {
        refused(
            read(&of(targets), &both),
            Code::AdapterUnsupported,
            &[words, "mlp.experts"],
        );
    }
    // A layer's own weight is one, whichever way it was named.
    let weight = read(&of(&["q_proj.weight"]), &named("q_proj", &[1, 3], &[4, 1])).unwrap();
    assert_eq!(weight.modules["q_proj"].layer, LayerKind::Linear);
    let matrix = read(&of(&["router.matrix"]), &named("router", &[1, 3], &[4, 1])).unwrap();
    let layer = LayerKind::Parameter {
        name: String::from("matrix"),
        experts: None,
    };
    assert_eq!(matrix.modules["router.matrix"].layer, layer);
}

#[test]
fn rows_of_a_table_have_to_be_those_of_the_configuration() {
    let rows = |ids: serde_json::Value, shape: &[usize]| {
        let mut tensors = factors(QUERY, 2);
        tensors.push(tensor("embed.token_adapter.trainable_tokens_delta", shape));
        read(&config(&[("trainable_token_indices", ids)]), &tensors)
    };
    assert!(rows(json!([3, 1]), &[2, 4]).is_ok());
    for (ids, shape) in [
        (json!([3, 1]), &[3, 4][..]),
        (json!([3, 1]), &[8]),
        (json!([3, 3]), &[2, 4]),
    ] {
        refused(
            rows(ids, shape),
            Code::ShapeMismatch,
            &["trainable_token_indices", "embed.token_adapter"],
        );
    }
}

#[test]
fn two_different_tensors_of_one_head_are_refused() {
    let mut tensors = factors(QUERY, 2);
    tensors.push(tensor("score.weight", &[2, 2]));
    let mut other = tensor("score.modules_to_save.default.weight", &[2, 2]);
    let saved = config(&[("modules_to_save", json!(["score"]))]);
    assert!(read(&saved, &[&tensors[..], &[other.clone()]].concat()).is_ok());
    other.data[3] = 9.0;
    tensors.push(other);
    refused(
        read(&saved, &tensors),
        Code::Duplicate,
        &["score.weight", "score.modules_to_save.default.weight"],
    );
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
    read_files(files).map(|adapter| adapter.labels.clone())
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
            "groups": [
                { "pattern": "bert.encoder.layer.*.attention.output.dense", "modules": 2, "ranks": [2] },
                { "pattern": "bert.encoder.layer.0.attention.self.query", "modules": 1, "ranks": [6] },
                { "pattern": "bert.encoder.layer.0.intermediate.dense", "modules": 1, "ranks": [2] },
            ],
            "modules": 4, "parameters": 3 * 2 * 7 + 6 * 7,
            "heads": [{ "name": "classifier.weight", "shape": [5, 4] }],
            "baseName": "a/base", "labels": ["a", "b", "c", "d", "e"], "dtype": "F16", "bytes": length,
        })
    );
}
