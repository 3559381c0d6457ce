//! `rank_pattern` and `alpha_pattern`: values for the modules that a regular expression names.
//!
//! PEFT matches a module's full name against `(.*\.)?(key)$`, takes the first key that matches in
//! the order of the file, and falls back on a key that is literally the name. A key of another order
//! or another rule would give a module a wrong scaling without a sign.

use regex_lite::Regex;

use crate::error::{Code, Error, Result};

/// Values by module pattern, in the order of the file.
#[derive(Debug, Clone)]
pub struct Patterns<T> {
    entries: Vec<Entry<T>>,
}

#[derive(Debug, Clone)]
struct Entry<T> {
    key: String,
    regex: Regex,
    value: T,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T: PartialEq> PartialEq for Patterns<T> {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self
                .entries
                .iter()
                .zip(&other.entries)
                .all(|(left, right)| left.key == right.key && left.value == right.value)
    }
}

impl<T: Clone> Patterns<T> {
    /// The patterns of one field of a configuration, called `field` in messages.
    ///
    /// # Errors
    /// `adapter_unsupported` for a key that is no regular expression of the kind read here (Python
    /// also has look-around and back-references).
    pub fn new(field: &str, entries: impl IntoIterator<Item = (String, T)>) -> Result<Self> {
        let entries = entries
            .into_iter()
            .map(|(key, value)| {
                let regex = Regex::new(&format!(r"^(?:(?:.*\.)?(?:{key})$)")).map_err(|error| {
                    Error::new(
                        Code::AdapterUnsupported,
                        format!("A key of {field} is not a pattern that is read here ({error}); write the module's name instead: {key}"),
                    )
                })?;
                Ok(Entry { key, regex, value })
            })
            .collect::<Result<_>>()?;
        Ok(Self { entries })
    }

    /// The value for a module of that full name, if a key names it.
    pub fn get(&self, module: &str) -> Option<T> {
        self.entries
            .iter()
            .find(|entry| entry.regex.is_match(module))
            .or_else(|| self.entries.iter().find(|entry| entry.key == module))
            .map(|entry| entry.value.clone())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
