//! `www/lib/generated.ts` is what the descriptions in `src` say: `npm run generate` writes it, and this fails where it
//! is stale.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

mod source;
mod typescript;

use std::{fs, path::PathBuf};

use iteris_web::{
    describe::{Described, Kind},
    merge::{methods::METHODS, options::MergeOptions},
};

#[test]
fn the_generated_file_is_what_the_descriptions_say() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("www/lib/generated.ts");
    let text = typescript::file();
    if std::env::var_os("ITERIS_GENERATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "www/lib/generated.ts is stale: run npm run generate"
    );
}

/// The options that have a flag, by it; one flag may set several.
fn flags(options: &[Described]) -> Vec<&'static str> {
    options
        .iter()
        .filter_map(|option| option.told.flag)
        .map(|flag| flag.name)
        .collect()
}

#[test]
fn every_option_has_a_flag_a_sentence_and_a_kind_that_its_flag_fits() {
    for option in MergeOptions::OPTIONS {
        let sentence = typescript::sentence(option);
        assert!(sentence.len() > 10, "{}: {sentence}", option.name);
        match (option.told.kind, option.told.flag) {
            (Kind::Method, None) => {}
            (Kind::Flag, Some(flag)) => assert!(flag.value.is_none(), "{}", option.name),
            (_, Some(flag)) => assert!(flag.value.is_some(), "{}", option.name),
            (_, None) => panic!("{} has no flag", option.name),
        }
    }
    let all = flags(MergeOptions::OPTIONS);
    assert_eq!(all.iter().filter(|flag| **flag == "alpha").count(), 2);
}

#[test]
fn what_an_option_needs_is_a_word_of_another() {
    for option in MergeOptions::OPTIONS {
        let Some((other, word)) = option.told.needs else {
            continue;
        };
        let other = MergeOptions::OPTIONS.iter().find(|one| one.name == other);
        let Some(Kind::Word(words)) = other.map(|other| other.told.kind) else {
            panic!("{} needs what is no word", option.name);
        };
        assert!(words.iter().any(|one| one.name == word), "{}", option.name);
    }
}

#[test]
fn every_method_says_what_it_is() {
    for facts in METHODS {
        assert!(
            facts.hint.ends_with('.') && !facts.title.is_empty(),
            "{}",
            facts.title
        );
    }
}
