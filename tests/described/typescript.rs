//! The descriptions as `www/lib/generated.ts`.

use iteris_web::{
    calibrate::SelfOptions,
    compute::DEVICES,
    describe::{Described, Field, Flag, Kind, Place, Range, Section, Word, camel_case},
    error::Code,
    generate::Sampling,
    merge::{
        methods::METHODS,
        options::{MergeOptions, MethodName},
    },
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::source::{comment, expression, union};

/// The whole file.
pub(crate) fn file() -> String {
    let methods: Vec<String> = METHODS.iter().map(|facts| method_name(facts.name)).collect();
    let own: Vec<String> = MergeOptions::OPTIONS
        .iter()
        .filter(|option| !readers(option).is_empty())
        .map(|option| camel_case(option.name))
        .collect();
    let names = |words: &[Word]| words.iter().map(|word| word.name.to_owned()).collect::<Vec<_>>();
    let mut out = String::from(
        "/**\n * What the core tells of options, methods, devices and failures. `npm run generate` writes this file from the\n * descriptions in `src`, which are the place to change it.\n */\n\n",
    );
    out += "/** The name of a merge method. Those that PEFT has too bear PEFT's names. */\n";
    out += &union("MethodName", &methods);
    out += "\n/** An option that belongs to some methods only. */\n";
    out += &union("MethodOption", &own);
    out += "\n/** What the caller asks for: a device, or `auto` to have one chosen. */\n";
    out += &union("DeviceRequest", &names(DEVICES));
    out += "\n/** How to merge. Whatever is left out has the value that `defaultOptions()` tells. */\n";
    out += &interface("MergeOptions", Case::Camel);
    out += "\n/** {@link MergeOptions} as a report names them, with the defaults filled in. */\n";
    out += &interface("ReportOptions", Case::Snake);
    out += "\n/** What there is to tell of each option of a merge but the method. */\n";
    out += &constant("OPTIONS", &table(MergeOptions::OPTIONS, &MergeOptions::default()));
    out += "\n/** The same of how text is written. */\n";
    out += &constant(
        "GENERATE_OPTIONS",
        &table(Sampling::OPTIONS, &Sampling::default()),
    );
    out += "\n/** The same of how adapters write their own samples. */\n";
    out += &constant(
        "SELF_OPTIONS",
        &table(SelfOptions::OPTIONS, &SelfOptions::default()),
    );
    out += "\n/** Tokens that a sample is cut to where nobody says, at most. */\n";
    out += &format!(
        "export const LONGEST_SAMPLE = {};\n",
        MergeOptions::LONGEST_SAMPLE
    );
    out += "\n/** The method where none is named. */\n";
    out += &format!(
        "export const DEFAULT_METHOD = \"{}\";\n",
        method_name(MergeOptions::default().method)
    );
    out += "\n/** Every merge method, those that look at samples first. */\n";
    out += &constant(
        "METHODS",
        &METHODS
            .iter()
            .map(|facts| {
                json!({
                    "name": method_name(facts.name),
                    "title": facts.title,
                    "hint": facts.hint,
                    "paper": facts.paper,
                    "samples": facts.method.needs_samples(),
                    "options": facts.method.reads().iter().map(|name| camel_case(name)).collect::<Vec<_>>(),
                })
            })
            .collect(),
    );
    out += "\n/** What the page calls each device that can be asked for. */\n";
    out += &constant(
        "DEVICES",
        &object(DEVICES.iter().map(|word| (word.name, json!(word.label)))),
    );
    out += "\n/** Every stable code of a failure of the core, with what it means. */\n";
    out += &constant(
        "ERROR_CODES",
        &object(Code::ALL.iter().map(|(name, doc)| (*name, json!(meaning(doc))))),
    );
    out
}

fn constant(name: &str, value: &Value) -> String {
    let start = format!("export const {name} = ");
    format!(
        "{start}{} as const;\n",
        expression(value, 0, start.chars().count() + " as const".len())
    )
}

fn object<Name: Into<String>>(fields: impl IntoIterator<Item = (Name, Value)>) -> Value {
    Value::Object(
        fields
            .into_iter()
            .map(|(name, value)| (name.into(), value))
            .collect(),
    )
}

fn method_name(name: MethodName) -> String {
    serde_json::to_value(name).unwrap().as_str().unwrap().to_owned()
}

/// The methods that look at an option, where not all do.
fn readers(option: &Described) -> Vec<String> {
    METHODS
        .iter()
        .filter(|facts| facts.method.reads().contains(&option.name))
        .map(|facts| method_name(facts.name))
        .collect()
}

fn paragraphs(option: &Described) -> Vec<String> {
    let doc: Vec<&str> = option
        .doc
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    doc.join("\n")
        .trim()
        .split("\n\n")
        .map(|paragraph| {
            if paragraph.starts_with('@') {
                paragraph.to_owned()
            } else {
                paragraph.replace('\n', " ")
            }
        })
        .collect()
}

/// The sentence that explains an option, without marks of its own.
pub(crate) fn sentence(option: &Described) -> String {
    paragraphs(option)
        .first()
        .map_or(String::new(), |first| first.replace('`', ""))
}

/// What an error's code means, as the middle of a sentence.
fn meaning(doc: &str) -> String {
    let doc = doc.trim().trim_end_matches('.').replace('`', "");
    let word = doc.split(' ').next().unwrap_or("");
    let name = word.chars().skip(1).any(char::is_uppercase);
    let mut letters = doc.chars();
    match letters.next() {
        Some(first) if !name => first.to_lowercase().chain(letters).collect(),
        _ => doc,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Case {
    Camel,
    Snake,
}

/// The options as an interface; a report's needs no words, since the options have them.
fn interface(name: &str, case: Case) -> String {
    let fields = MergeOptions::OPTIONS.iter().map(|option| match case {
        Case::Snake => format!("  {}: {};\n", option.name, type_of(option, case)),
        Case::Camel => {
            let mut doc = paragraphs(option);
            if let (Some(first), true) = (doc.first_mut(), !matches!(option.told.kind, Kind::Method)) {
                *first += &facts(option);
            }
            format!(
                "{}  {}: {};\n",
                comment(&doc, 2),
                camel_case(option.name),
                type_of(option, case)
            )
        }
    });
    format!("export interface {name} {{\n{}}}\n", fields.collect::<String>())
}

/// Range, default and methods of an option, in words behind its sentence.
fn facts(option: &Described) -> String {
    let mut out = String::new();
    if let Some(range) = option.told.range.filter(|range| *range != Range::FINITE) {
        out += &format!(" {}.", capital(&range.words()));
    }
    match option.told.unset {
        Some(unset) => out += &format!(" By default `null`: {unset}."),
        None => {
            out += &format!(
                " By default `{}`.",
                plain(&default(option, &MergeOptions::default()))
            );
        }
    }
    let readers = readers(option);
    if !readers.is_empty() {
        let readers: Vec<String> = readers.iter().map(|name| format!("`{name}`")).collect();
        out += &format!(" Read by {}.", readers.join(", "));
    }
    out
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => expression(other, 0, 0),
    }
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

fn type_of(option: &Described, case: Case) -> String {
    let kind = match (option.told.kind, case) {
        (Kind::Number | Kind::Bytes, _) => "number".to_owned(),
        (Kind::Flag, _) => "boolean".to_owned(),
        (Kind::Method, _) => "MethodName".to_owned(),
        (Kind::Weights, Case::Camel) => "Readonly<Record<string, readonly number[]>>".to_owned(),
        (Kind::Weights, Case::Snake) => "Record<string, number[]>".to_owned(),
        (Kind::Word(words), _) => {
            let words: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.name)).collect();
            words.join(" | ")
        }
    };
    let null = if option.told.unset.is_some() {
        " | null"
    } else {
        ""
    };
    format!("{kind}{null}")
}

fn default<Options: Serialize>(option: &Described, defaults: &Options) -> Value {
    serde_json::to_value(defaults)
        .ok()
        .and_then(|mut all| {
            let found = [option.name.to_owned(), camel_case(option.name)];
            found.iter().find_map(|name| all.get_mut(name).map(Value::take))
        })
        .unwrap()
}

fn table<Options: Serialize>(options: &[Described], defaults: &Options) -> Value {
    let told = options
        .iter()
        .filter(|option| !matches!(option.told.kind, Kind::Method));
    object(told.map(|option| (camel_case(option.name), entry(option, defaults))))
}

fn entry<Options: Serialize>(option: &Described, defaults: &Options) -> Value {
    let told = &option.told;
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() || name == "default" {
            out.insert(name.to_owned(), value);
        }
    };
    put(
        "kind",
        json!(match told.kind {
            Kind::Number => "number",
            Kind::Bytes => "bytes",
            Kind::Flag => "flag",
            Kind::Word(_) => "word",
            Kind::Weights => "weights",
            Kind::Method => "method",
        }),
    );
    put("default", default(option, defaults));
    put("unset", json!(told.unset));
    if let Kind::Word(words) = told.kind {
        put(
            "choices",
            object(words.iter().map(|word| (word.name, choice(word)))),
        );
    }
    put("range", told.range.map_or(Value::Null, |range| range_of(&range)));
    put("unit", json!(told.unit));
    put("sentence", json!(sentence(option)));
    if let Some((other, word)) = told.needs {
        put("needs", object([(camel_case(other), json!(word))]));
    }
    let readers = readers(option);
    if !readers.is_empty() {
        put("methods", json!(readers));
    }
    if let Some(flag) = &told.flag {
        put("flag", flag_of(flag));
        put(
            "section",
            json!(match told.section {
                Section::Method => "method",
                Section::Samples => "samples",
                Section::Output => "output",
                Section::Writing => "writing",
            }),
        );
    }
    put(
        "field",
        told.field
            .map_or(Value::Null, |field| field_of(&field, told.unit)),
    );
    Value::Object(out)
}

fn choice(word: &Word) -> Value {
    let hint = word.hint.map(|hint| ("hint", json!(hint)));
    object([("label", json!(word.label))].into_iter().chain(hint))
}

fn range_of(range: &Range) -> Value {
    let ends = [("least", range.least), ("most", range.most)];
    let ends = ends
        .into_iter()
        .filter_map(|(name, end)| end.map(|end| (name, json!(end))));
    let marks = [("above", range.above), ("whole", range.whole)];
    let marks = marks
        .into_iter()
        .filter(|(_, is)| *is)
        .map(|(name, is)| (name, json!(is)));
    object(ends.chain(marks).chain([("words", json!(range.words()))]))
}

fn flag_of(flag: &Flag) -> Value {
    let more = [("value", flag.value), ("help", flag.help)];
    let more = more
        .into_iter()
        .filter_map(|(name, text)| text.map(|text| (name, json!(text))));
    object([("name", json!(flag.name))].into_iter().chain(more))
}

fn field_of(field: &Field, unit: Option<&str>) -> Value {
    let place = match field.place {
        Place::Beside => "beside",
        Place::Folded => "folded",
        Place::Output => "output",
        Place::Writing => "writing",
    };
    let label = match unit {
        Some(unit) => format!("{}, in {unit}", field.label),
        None => field.label.to_owned(),
    };
    let more = [("hint", field.hint), ("empty", field.empty)];
    let more = more
        .into_iter()
        .filter_map(|(name, text)| text.map(|text| (name, json!(text))));
    object(
        [("place", json!(place)), ("label", json!(label))]
            .into_iter()
            .chain(more),
    )
}
