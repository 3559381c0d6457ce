//! The merged adapter: what is written means the same when it is read again.

use std::collections::BTreeMap;

use iteris_web::adapter::{Lora, merged_config};
use iteris_web::naming::targets::suffix_targets;
use serde_json::{Value, json};

use super::{QUERY, config, factors, read, whole::peft_tensors};

fn product(lora: &Lora) -> Vec<f64> {
    let mut delta = vec![0.0; lora.d_out * lora.d_in];
    for row in 0..lora.d_out {
        for column in 0..lora.d_in {
            for k in 0..lora.rank {
                delta[row * lora.d_in + column] += lora.scaling
                    * f64::from(lora.b[row * lora.rank + k])
                    * f64::from(lora.a[k * lora.d_in + column]);
            }
        }
    }
    delta
}

#[test]
fn a_written_adapter_is_read_back_with_the_same_deltas() {
    let value = QUERY.replace("query", "value");
    let mut tensors = factors(QUERY, 3);
    tensors.extend(factors(&value, 2));
    tensors.extend(factors("bert.encoder.layer.1.attention.self.value", 2));
    let source = read(&config(&[("rank_pattern", json!({ "query": 3 }))]), &tensors).unwrap();

    let ranks: BTreeMap<String, usize> = source
        .modules
        .iter()
        .map(|(name, lora)| (name.to_string(), lora.rank))
        .collect();
    let written = merged_config(&[&source], &ranks, &["query".to_owned(), "value".to_owned()]);
    assert_eq!(
        (&written["r"], &written["lora_alpha"]),
        (&json!(2), &json!(2)),
        "the commonest rank"
    );
    assert_eq!(written["rank_pattern"], json!({ format!("^{QUERY}"): 3 }));
    assert_eq!(written["alpha_pattern"], written["rank_pattern"]);

    let again = read(&written, &peft_tensors(&source.modules)).unwrap();
    assert_eq!(again.modules.len(), 3);
    for (name, lora) in &again.modules {
        assert!((lora.scaling - 1.0).abs() < 1e-15);
        for (left, right) in product(lora).iter().zip(product(&source.modules[name])) {
            assert!(
                (left - right).abs() <= 1e-6 * right.abs(),
                "{left} is not {right}"
            );
        }
    }
}

#[test]
fn a_merged_configuration_says_what_the_adapters_agree_on() {
    let adapter = |changes: &[(&str, Value)]| read(&config(changes), &factors(QUERY, 2)).unwrap();
    let ranks = BTreeMap::from([(QUERY.to_owned(), 4)]);
    let merged = |adapters: &[_]| {
        merged_config(
            adapters,
            &ranks,
            &["b".to_owned(), "a".to_owned(), "b".to_owned()],
        )
    };
    let lm = adapter(&[("task_type", json!("CAUSAL_LM")), ("use_rslora", json!(true))]);
    let classifier = adapter(&[("task_type", json!("SEQ_CLS"))]);
    let elsewhere = adapter(&[
        ("base_model_name_or_path", json!("other")),
        ("fan_in_fan_out", json!(true)),
    ]);

    let same = merged(&[&lm, &lm]);
    assert_eq!(same["task_type"], json!("CAUSAL_LM"));
    assert_eq!(same["base_model_name_or_path"], json!("a/base"));
    assert_eq!(same["target_modules"], json!(["a", "b"]));
    assert_eq!(
        (&same["r"], &same["lora_alpha"], &same["use_rslora"]),
        (&json!(4), &json!(4), &json!(false))
    );
    assert_eq!(
        (&same["rank_pattern"], &same["fan_in_fan_out"]),
        (&json!({}), &json!(false))
    );
    // PEFT would look for a classifier that a merged adapter does not have.
    assert_eq!(merged(&[&classifier, &classifier])["task_type"], Value::Null);
    let different = merged(&[&lm, &elsewhere]);
    assert_eq!(
        (&different["task_type"], &different["base_model_name_or_path"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(different["fan_in_fan_out"], json!(true));
}

/// Whether PEFT's rule selects a module: its name is a target or ends in `.` and a target.
fn selected<'a>(targets: &[String], modules: &[&'a str]) -> Vec<&'a str> {
    let selects = |target: &String, module: &str| module == target || module.ends_with(&format!(".{target}"));
    modules
        .iter()
        .copied()
        .filter(|module| targets.iter().any(|target| selects(target, module)))
        .collect()
}

fn bert() -> Vec<String> {
    let kinds = [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ];
    let layers = (0..12).flat_map(|layer| kinds.map(|kind| format!("bert.encoder.layer.{layer}.{kind}")));
    layers
        .chain(["bert.pooler.dense".to_owned(), "classifier".to_owned()])
        .collect()
}

#[test]
fn target_names_are_short_and_select_exactly_the_merged_modules() {
    let all = bert();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let of = |ends: &[&str]| -> Vec<&str> {
        all.iter()
            .copied()
            .filter(|module| ends.iter().any(|end| module.ends_with(end)))
            .collect()
    };
    for (merged, expected) in [
        (of(&[".query", ".value"]), Some(vec!["query", "value"])),
        (
            of(&["attention.output.dense"]),
            Some(vec!["attention.output.dense"]),
        ),
        (of(&["output.dense"]), Some(vec!["output.dense"])),
        (
            of(&["intermediate.dense", "output.dense"]),
            Some(vec!["intermediate.dense", "output.dense"]),
        ),
        (of(&["dense"]), Some(vec!["dense"])),
        (of(&[".1.output.dense", "classifier"]), None),
        (of(&[".3.attention.self.query"]), None),
        (all.clone(), None),
    ] {
        let targets = suffix_targets(&merged, &all);
        assert_eq!(selected(&targets, &all), merged, "{targets:?}");
        if let Some(expected) = expected {
            assert_eq!(targets, expected);
        }
    }
    assert_eq!(
        suffix_targets(&of(&[".3.attention.self.query"]), &all),
        ["bert.encoder.layer.3.attention.self.query"],
        "no name begins with a layer's number"
    );
    assert!(suffix_targets(&[], &all).is_empty());
}
