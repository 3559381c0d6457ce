//! What there is to say of a method beside a result: its name, and the options that made the result.

use serde_json::{Map, Value};

use crate::{
    error::{Code, Error, Result},
    merge::options::{MergeOptions, MethodName},
};

/// Every option that a result depends on: the method's own, and what is not as it is by default. In the options' order.
pub(super) fn settings(options: &MergeOptions) -> Result<Map<String, Value>> {
    let (given, usual) = (fields(options)?, fields(&MergeOptions::default())?);
    let own = options.method.find().reads();
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
    use super::settings;
    use crate::merge::options::{MergeOptions, MethodName};

    #[test]
    fn settings_are_the_methods_own_and_what_is_not_usual() {
        let options = MergeOptions {
            method: MethodName::Ties,
            rank: Some(4),
            scale: 2.0,
            ..MergeOptions::default()
        };
        let found = settings(&options).unwrap();
        let own = MethodName::Ties.find().reads();
        for name in own.iter().chain(&["scale", "rank"]) {
            assert!(found.contains_key(*name), "{name}");
        }
        assert_eq!(found.len(), own.len() + 2);
        assert_eq!(found["density"], 0.5);
    }
}
