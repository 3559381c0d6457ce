//! What there is to say of a method beside a result: its title, where it is from, and the options that it looks at.
//!
//! Titles and options are those of `www/lib/methods.ts`, the table that people choose from; a test holds them together.

use serde_json::{Map, Value};

use crate::{
    error::{Code, Error, Result},
    merge::options::{MergeOptions, MethodName},
};

/// What people call a method.
pub(super) const fn title(method: MethodName) -> &'static str {
    match method {
        MethodName::Iteris => "IterIS",
        MethodName::Regmean => "RegMean",
        MethodName::RegmeanPlusPlus => "RegMean++",
        MethodName::Average => "Linear average",
        MethodName::Linear => "Linear sum",
        MethodName::TaskArithmetic => "Task arithmetic",
        MethodName::Cat => "Concatenation",
        MethodName::Svd => "Sum, cut by SVD",
        MethodName::Ties => "TIES",
        MethodName::TiesSvd => "TIES, cut by SVD",
        MethodName::DareLinear => "DARE",
        MethodName::DareLinearSvd => "DARE, cut by SVD",
        MethodName::DareTies => "DARE with TIES",
        MethodName::DareTiesSvd => "DARE with TIES, cut by SVD",
        MethodName::MagnitudePrune => "Magnitude pruning",
        MethodName::MagnitudePruneSvd => "Magnitude pruning, cut by SVD",
        MethodName::Knots => "KnOTS",
    }
}

/// The paper's number on arXiv, of a method that has one.
pub(super) const fn paper(method: MethodName) -> Option<&'static str> {
    match method {
        MethodName::Iteris => Some("2411.15231"),
        MethodName::Regmean => Some("2212.09849"),
        MethodName::RegmeanPlusPlus => Some("2508.03121"),
        MethodName::TaskArithmetic => Some("2212.04089"),
        MethodName::Ties | MethodName::TiesSvd => Some("2306.01708"),
        MethodName::DareLinear
        | MethodName::DareLinearSvd
        | MethodName::DareTies
        | MethodName::DareTiesSvd => Some("2311.03099"),
        MethodName::Knots => Some("2410.19735"),
        MethodName::Average
        | MethodName::Linear
        | MethodName::Cat
        | MethodName::Svd
        | MethodName::MagnitudePrune
        | MethodName::MagnitudePruneSvd => None,
    }
}

/// The options that a method looks at and that others may not, as a report names them.
const fn own(method: MethodName) -> &'static [&'static str] {
    match method {
        MethodName::Iteris => &[
            "schedule",
            "max_iter",
            "target",
            "alpha1",
            "alpha2",
            "adaptive_weights",
            "padding",
        ],
        MethodName::Regmean | MethodName::RegmeanPlusPlus => &["non_diagonal", "padding"],
        MethodName::Average | MethodName::Linear | MethodName::Cat => &[],
        MethodName::TaskArithmetic => &["scale"],
        MethodName::Svd => &["svd_rank"],
        MethodName::Ties => &["density", "majority_sign_method"],
        MethodName::TiesSvd => &["density", "majority_sign_method", "svd_rank"],
        MethodName::DareLinear => &["density", "seed"],
        MethodName::DareLinearSvd => &["density", "seed", "svd_rank"],
        MethodName::DareTies => &["density", "majority_sign_method", "seed"],
        MethodName::DareTiesSvd => &["density", "majority_sign_method", "seed", "svd_rank"],
        MethodName::MagnitudePrune => &["density"],
        MethodName::MagnitudePruneSvd => &["density", "svd_rank"],
        MethodName::Knots => &["density", "majority_sign_method", "scale"],
    }
}

/// Every option that a result depends on: the method's own, and what is not as it is by default. In the options' order.
pub(super) fn settings(options: &MergeOptions) -> Result<Map<String, Value>> {
    let (given, usual) = (fields(options)?, fields(&MergeOptions::default())?);
    let own = own(options.method);
    let matters = |(name, value): &(String, Value)| {
        name != "method"
            && !value.is_null()
            && (own.contains(&name.as_str()) || usual.get(name) != Some(value))
    };
    Ok(given.into_iter().filter(matters).collect())
}

/// The method's name as options have it.
pub(super) fn name(method: MethodName) -> String {
    match serde_json::to_value(method) {
        Ok(Value::String(name)) => name,
        _ => String::new(),
    }
}

fn fields(options: &MergeOptions) -> Result<Map<String, Value>> {
    match serde_json::to_value(options) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Error::new(
            Code::Internal,
            "options cannot be written as JSON".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{name, own, settings, title};
    use crate::merge::options::{MergeOptions, MethodName};

    const TABLE: &str = include_str!("../../www/lib/methods.ts");

    /// The words in quotes of a line of the table, its constants spelled out.
    fn quoted(line: &str) -> Vec<String> {
        let mut line = line.to_owned();
        for constant in ["TIES_OPTIONS", "DARE_OPTIONS"] {
            let start = format!("const {constant} = ");
            let value = TABLE
                .lines()
                .find_map(|line| line.strip_prefix(&start))
                .unwrap_or("");
            line = line.replace(constant, value);
        }
        line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    }

    fn camel(name: &str) -> String {
        let mut parts = name.split('_');
        let first = parts.next().unwrap_or("").to_owned();
        parts.fold(first, |all, part| all + &part[..1].to_uppercase() + &part[1..])
    }

    #[test]
    fn titles_and_options_are_those_of_the_table_that_people_choose_from() {
        let mut seen = 0;
        let mut lines = TABLE.lines().map(str::trim);
        while let Some(line) = lines.next() {
            let Some(found) = line.strip_prefix("name: \"") else {
                continue;
            };
            let method: MethodName =
                serde_json::from_str(&format!("\"{}", found.trim_end_matches(','))).unwrap();
            assert_eq!(name(method), found.trim_end_matches("\","));
            let titled = lines.next().unwrap_or("");
            assert_eq!(quoted(titled), [title(method)]);
            let options = lines.find(|line| line.starts_with("options: ")).unwrap_or("");
            let mut wanted = quoted(options);
            wanted.sort();
            let mut told: Vec<String> = own(method).iter().map(|name| camel(name)).collect();
            told.sort();
            assert_eq!(told, wanted, "{method:?}");
            seen += 1;
        }
        assert_eq!(seen, 17);
    }

    #[test]
    fn settings_are_the_methods_own_and_what_is_not_usual() {
        let options = MergeOptions {
            method: MethodName::Ties,
            rank: Some(4),
            scale: 2.0,
            ..MergeOptions::default()
        };
        let found = settings(&options).unwrap();
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["scale", "density", "majority_sign_method", "rank"]);
        assert_eq!(found["density"], 0.5);
    }
}
