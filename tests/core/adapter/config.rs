//! `adapter_config.json`: scaling and patterns as PEFT has them, and every feature that is refused.

use iteris_web::adapter::{AdapterConfig, Init, TargetModules, TrainedBiases, TrainedTokens};
use iteris_web::error::Code;
use serde_json::{Value, json};

use super::{QUERY, config, factors, read, refused};

fn parse(changes: &[(&str, Value)]) -> iteris_web::error::Result<AdapterConfig> {
    AdapterConfig::parse(&config(changes), "adapter_config.json")
}

#[track_caller]
fn close(left: f64, right: f64) {
    assert!((left - right).abs() < 1e-12, "{left} is not {right}");
}

#[test]
fn scaling_is_alpha_over_r_or_over_its_root() {
    close(
        parse(&[("r", json!(8)), ("lora_alpha", json!(32))])
            .unwrap()
            .scaling_of("x"),
        4.0,
    );
    close(
        parse(&[("r", json!(16)), ("lora_alpha", json!(2.5))])
            .unwrap()
            .scaling_of("x"),
        0.156_25,
    );
    let rs = parse(&[
        ("r", json!(16)),
        ("lora_alpha", json!(32)),
        ("use_rslora", json!(true)),
    ])
    .unwrap();
    close(rs.scaling_of("x"), 8.0);
}

#[test]
fn defaults_are_pefts() {
    let bare = AdapterConfig::parse(&json!({ "peft_type": "LORA" }), "c").unwrap();
    assert_eq!((bare.r, bare.use_rslora, bare.fan_in_fan_out), (8, false, false));
    close(bare.lora_alpha, 8.0);
    assert_eq!(bare.target_modules, TargetModules::Unset);
    let nulls = json!({ "peft_type": "LORA", "r": null, "bias": null, "use_dora": null, "rank_pattern": null,
        "init_lora_weights": null, "modules_to_save": null, "target_modules": null });
    assert_eq!(AdapterConfig::parse(&nulls, "c").unwrap(), bare);
}

#[test]
fn targets_are_a_list_a_pattern_or_all_linear() {
    let targets = |value: Value| parse(&[("target_modules", value)]).map(|config| config.target_modules);
    assert_eq!(
        targets(json!(["q", "v"])).unwrap(),
        TargetModules::Names(vec!["q".into(), "v".into()])
    );
    assert_eq!(
        targets(json!(".*q$")).unwrap(),
        TargetModules::Pattern(".*q$".into())
    );
    assert_eq!(targets(json!("all-linear")).unwrap(), TargetModules::AllLinear);
    refused(
        targets(json!(3)),
        Code::ConfigInvalid,
        &["target_modules", "adapter_config.json"],
    );
}

#[test]
fn a_pattern_matches_as_pefts_get_pattern_key_does() {
    let rank = |patterns: Value, module: &str| parse(&[("rank_pattern", patterns)]).unwrap().rank_of(module);
    // Each row was checked against peft.utils.other.get_pattern_key of PEFT 0.21.2.
    assert_eq!(rank(json!({ "query": 5 }), QUERY), 5);
    assert_eq!(
        rank(json!({ "uery": 5 }), QUERY),
        2,
        "a key begins at a part of the name"
    );
    assert_eq!(
        rank(json!({ "self": 5 }), QUERY),
        2,
        "a key reaches to the name's end"
    );
    assert_eq!(rank(json!({ "self.query": 5 }), QUERY), 5);
    assert_eq!(rank(json!({ "self.q.*": 5 }), QUERY), 5);
    assert_eq!(rank(json!({ "layer\\.[0-3]\\..*": 5 }), QUERY), 5);
    assert_eq!(rank(json!({ "layer\\.[1-3]\\..*": 5 }), QUERY), 2);
    assert_eq!(rank(json!({ "^bert.*query": 5 }), QUERY), 5);
    assert_eq!(
        rank(json!({ "^query": 5 }), QUERY),
        2,
        "^ is the start of the whole name"
    );
    assert_eq!(rank(json!({ "^query": 5 }), "query"), 5);
    assert_eq!(rank(json!({ "key|query": 5 }), QUERY), 5);
    assert_eq!(
        rank(json!({ "self.query": 5, "query": 6 }), QUERY),
        5,
        "the first that matches"
    );
    assert_eq!(
        rank(json!({ "query": 6, "self.query": 5 }), QUERY),
        6,
        "in the file's order"
    );
    assert_eq!(
        rank(json!({ "a+b": 5 }), "a+b"),
        5,
        "or a key that is the name itself"
    );
    assert_eq!(rank(json!({ "a+b": 5 }), "aab"), 5);
}

#[test]
fn patterns_of_rank_and_alpha_are_independent() {
    let changes = [
        ("rank_pattern", json!({ "query": 16 })),
        ("alpha_pattern", json!({ "layer.0.*": 1.5 })),
    ];
    let plain = parse(&changes).unwrap();
    assert_eq!((plain.rank_of(QUERY), plain.rank_of("x.value")), (16, 2));
    close(plain.scaling_of(QUERY), 1.5 / 16.0);
    close(plain.scaling_of("bert.encoder.layer.0.output.dense"), 1.5 / 2.0);
    close(
        plain.scaling_of("bert.encoder.layer.1.attention.self.query"),
        4.0 / 16.0,
    );
    close(plain.scaling_of("x.value"), 4.0 / 2.0);
    let mut with_root = changes.to_vec();
    with_root.push(("use_rslora", json!(true)));
    close(parse(&with_root).unwrap().scaling_of(QUERY), 1.5 / 4.0);
}

#[test]
fn values_out_of_range_are_refused() {
    for (field, value) in [
        ("r", json!(0)),
        ("r", json!(-1)),
        ("r", json!(2.5)),
        ("r", json!("8")),
        ("lora_alpha", json!("4")),
        ("use_rslora", json!("yes")),
        ("rank_pattern", json!({ "q": 0 })),
        ("rank_pattern", json!({ "q": 1.5 })),
        ("rank_pattern", json!([1])),
        ("alpha_pattern", json!({ "q": "4" })),
        ("modules_to_save", json!("classifier")),
        ("use_dora", json!("yes")),
        ("lora_bias", json!(1)),
        ("bias", json!("some")),
        ("bias", json!(true)),
        ("trainable_token_indices", json!("all")),
        ("trainable_token_indices", json!([-1])),
        ("trainable_token_indices", json!({ "embed_tokens": 4 })),
        ("target_parameters", json!("mlp.experts.down_proj")),
    ] {
        refused(
            parse(&[(field, value.clone())]),
            Code::ConfigInvalid,
            &["adapter_config.json"],
        );
    }
    refused(
        AdapterConfig::parse(&json!([]), "c"),
        Code::ConfigInvalid,
        &["object", "c"],
    );
    refused(
        AdapterConfig::parse(&json!({ "r": 8 }), "c"),
        Code::ConfigInvalid,
        &["peft_type", "c"],
    );
    refused(
        parse(&[("rank_pattern", json!({ "(?<!self.)query": 4 }))]),
        Code::AdapterUnsupported,
        &["rank_pattern", "(?<!self.)query"],
    );
}

#[test]
fn other_kinds_of_adapters_are_refused_by_name() {
    for kind in ["IA3", "LOHA", "ADALORA", "PREFIX_TUNING", "SOMETHING_NEW"] {
        refused(
            parse(&[("peft_type", json!(kind))]),
            Code::AdapterUnsupported,
            &[kind, "adapter_config.json"],
        );
    }
}

#[test]
fn every_feature_that_cannot_be_converted_is_refused_by_name() {
    let cases = [
        ("alora_invocation_tokens", json!([1, 2]), "activated"),
        ("arrow_config", json!({ "top_k": 3 }), "Arrow"),
        ("enable_lora", json!([true, false]), "parts"),
        ("kasa_config", json!({ "beta": 1e-4 }), "KaSA"),
        ("layer_replication", json!([[0, 4], [2, 5]]), "repeated"),
        ("megatron_config", json!({ "a": 1 }), "Megatron"),
        ("monteclora_config", json!({ "num_samples": 8 }), "samples"),
        ("use_bdlora", json!({ "nblocks": 2 }), "block-diagonal"),
        ("use_qalora", json!(true), "QALoRA"),
        ("velora_config", json!({ "scale": 1.0 }), "VeLoRA"),
        ("init_lora_weights", json!("corda"), "samples"),
        (
            "init_lora_weights",
            json!("CorDA"),
            "path_initial_model_for_weight_conversion",
        ),
        ("init_lora_weights", json!("loftq"), "quantised"),
        ("init_lora_weights", json!("lora_ga"), "gradients"),
        ("init_lora_weights", json!("pissa_niter_"), "unknown"),
        ("init_lora_weights", json!("pissa_niter_x"), "unknown"),
        ("init_lora_weights", json!("something"), "unknown"),
        ("init_lora_weights", json!(3), "unknown"),
        ("a_field_of_tomorrow", json!(0.5), "unknown"),
    ];
    for (field, value, reason) in cases {
        refused(
            parse(&[(field, value)]),
            Code::AdapterUnsupported,
            &[field, reason, "adapter_config.json"],
        );
    }
}

#[test]
fn what_was_trained_beside_the_factors_is_read() {
    let bare = parse(&[]).unwrap();
    assert_eq!(
        (bare.use_dora, bare.lora_bias, bare.init),
        (false, false, Init::Plain)
    );
    assert_eq!(
        (bare.bias, &bare.trainable_token_indices),
        (TrainedBiases::None, &TrainedTokens::None)
    );
    let all = parse(&[
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("lora_only")),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        (
            "trainable_token_indices",
            json!({ "embed_tokens": [7, 1], "wte": [2] }),
        ),
    ])
    .unwrap();
    assert!(all.use_dora && all.lora_bias);
    assert_eq!(all.bias, TrainedBiases::LoraOnly);
    assert_eq!(all.target_parameters, ["mlp.experts.gate_up_proj"]);
    assert_eq!(all.tokens_of("model.embed_tokens"), Some(&[7, 1][..]));
    assert_eq!(all.tokens_of("transformer.wte"), Some(&[2][..]));
    assert_eq!(
        all.tokens_of("model.more_embed_tokens"),
        None,
        "a name begins at a part of the path"
    );
    let inputs = parse(&[("trainable_token_indices", json!([3]))]).unwrap();
    assert_eq!(inputs.tokens_of("any.table"), Some(&[3][..]));
    for (value, init) in [
        (json!("pissa"), Init::Pissa),
        (json!("PiSSA"), Init::Pissa),
        (json!("pissa_niter_16"), Init::Pissa),
        (json!("olora"), Init::Olora),
        (json!("OLoRA"), Init::Olora),
        (json!("gaussian"), Init::Plain),
        (json!(false), Init::Plain),
    ] {
        assert_eq!(parse(&[("init_lora_weights", value)]).unwrap().init, init);
    }
}

#[test]
fn all_reasons_are_given_at_once() {
    refused(
        parse(&[
            ("use_bdlora", json!(true)),
            ("init_lora_weights", json!("loftq")),
            ("tomorrow", json!([1])),
        ]),
        Code::AdapterUnsupported,
        &["use_bdlora", "loftq", "tomorrow"],
    );
}

#[test]
fn what_does_not_change_the_mathematics_is_let_pass() {
    let cases = [
        ("init_lora_weights", json!(false)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!("orthogonal")),
        ("init_lora_weights", json!("mica")),
        ("auto_mapping", json!({ "base_model_class": "BertModel" })),
        ("corda_config", json!({ "corda_method": "ipm" })),
        ("ensure_weight_tying", json!(true)),
        ("eva_config", json!({ "rho": 2.0 })),
        ("exclude_modules", json!(["pooler"])),
        ("fan_in_fan_out", json!(true)),
        ("inference_mode", json!(true)),
        ("layers_pattern", json!("layer")),
        ("layers_to_transform", json!([0, 1])),
        ("loftq_config", json!({ "loftq_bits": 4 })),
        ("lora_dropout", json!(0.1)),
        ("lora_ga_config", json!({ "scale": "stable" })),
        ("megatron_core", json!("megatron.core")),
        ("merge_weights", json!(true)),
        ("peft_version", json!("0.21.2")),
        ("qalora_group_size", json!(16)),
        ("revision", json!("main")),
        ("runtime_config", json!({ "ephemeral_gpu_offload": false })),
        ("a_field_of_tomorrow", json!(null)),
        ("a_field_of_tomorrow", json!(false)),
        ("a_field_of_tomorrow", json!({})),
        ("a_field_of_tomorrow", json!([])),
        ("a_field_of_tomorrow", json!("")),
    ];
    for (field, value) in cases {
        let read = read(&config(&[(field, value.clone())]), &factors(QUERY, 2));
        assert!(read.is_ok(), "{field} = {value}: {read:?}");
    }
}

#[test]
fn every_field_of_peft_is_decided() {
    // `dataclasses.fields(peft.LoraConfig)` of PEFT 0.21.2, at a value that means something.
    let fields = "task_type peft_type auto_mapping peft_version base_model_name_or_path revision \
        inference_mode r target_modules exclude_modules lora_alpha lora_dropout fan_in_fan_out bias use_rslora \
        modules_to_save init_lora_weights layers_to_transform layers_pattern rank_pattern alpha_pattern \
        megatron_config megatron_core trainable_token_indices loftq_config eva_config corda_config \
        lora_ga_config use_dora velora_config alora_invocation_tokens use_qalora qalora_group_size \
        monteclora_config layer_replication runtime_config lora_bias target_parameters use_bdlora arrow_config \
        kasa_config ensure_weight_tying";
    for field in fields.split_whitespace() {
        if let Err(error) = parse(&[(field, json!({ "x": 1 }))]) {
            assert!(
                !error.to_string().contains(&format!("{field} (unknown")),
                "{field} is not in the table: {error}"
            );
        }
    }
}

#[test]
fn a_damaged_configuration_never_panics() {
    let whole = config(&[
        (
            "rank_pattern",
            json!({ "^bert.*layer\\.[0-3].(query|value)": 4, "key": 3 }),
        ),
        ("alpha_pattern", json!({ "layer.0.*": 1.5 })),
    ])
    .to_string()
    .into_bytes();
    let pieces = b"{}[]()\",:0123456789-.*+?|^$\\ ent";
    // xorshift64: a fixed sequence, so that a failure can be repeated.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % limit as u64).unwrap()
    };
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut text = whole.clone();
        for _ in 0..=below(3) {
            let at = below(text.len());
            text[at] = pieces[below(pieces.len())];
        }
        let Ok(json) = serde_json::from_slice::<Value>(&text) else {
            continue;
        };
        match AdapterConfig::parse(&json, "adapter_config.json") {
            Ok(config) => {
                accepted += 1;
                assert!(config.rank_of(QUERY) > 0 && config.scaling_of(QUERY).is_finite());
            }
            Err(error) => {
                refused += 1;
                assert!(
                    matches!(error.code(), Code::ConfigInvalid | Code::AdapterUnsupported),
                    "{error}"
                );
            }
        }
    }
    assert!(
        accepted > 100 && refused > 100,
        "{accepted} accepted, {refused} refused"
    );
}
