//! What an option is told by: its kind, its range, its words, where it stands on a command line and on a page.
//!
//! [`options!`](crate::describe::options) declares a struct of options together with this, so that each option stands
//! in one place. TypeScript's types and tables, the command line's flags and help, the page's fields and the checks
//! on both sides are made from [`Described`] (`tests/described`, `npm run generate`).

use crate::error::{Code, Error, Result};

/// Which numbers an option may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// The least, if there is one.
    pub least: Option<f64>,
    /// Whether `least` itself is outside.
    pub above: bool,
    /// The most, if there is one.
    pub most: Option<f64>,
    /// Whether numbers between whole ones are outside.
    pub whole: bool,
}

impl Range {
    /// Every number; neither infinity nor NaN.
    pub const FINITE: Self = Self {
        least: None,
        above: false,
        most: None,
        whole: false,
    };

    /// From `least` to `most`, both inside.
    pub const fn from_to(least: f64, most: f64) -> Self {
        Self {
            least: Some(least),
            most: Some(most),
            ..Self::FINITE
        }
    }

    /// Above `least`, which is outside, up to `most`, which is inside.
    pub const fn above(least: f64, most: f64) -> Self {
        Self {
            above: true,
            ..Self::from_to(least, most)
        }
    }

    /// Whole numbers from `least` on.
    pub const fn whole_from(least: f64) -> Self {
        Self {
            least: Some(least),
            whole: true,
            ..Self::FINITE
        }
    }

    /// Whole numbers from `least` to `most`.
    pub const fn whole(least: f64, most: f64) -> Self {
        Self {
            most: Some(most),
            ..Self::whole_from(least)
        }
    }

    /// Whether `number` is inside.
    pub fn holds(&self, number: f64) -> bool {
        number.is_finite()
            && self.least.is_none_or(|least| {
                if self.above {
                    number > least
                } else {
                    number >= least
                }
            })
            && self.most.is_none_or(|most| number <= most)
            && !(self.whole && number.fract() != 0.0)
    }

    /// The range in words that follow "must be": `a number above 0, at most 1`.
    pub fn words(&self) -> String {
        let mut words = String::from(if self.whole { "a whole number" } else { "a number" });
        match (self.least, self.most) {
            (Some(least), Some(most)) if !self.whole && !self.above => {
                words += &format!(" from {least} to {most}");
            }
            (least, most) => {
                words += &match least {
                    Some(1.0) if self.whole => " above 0".to_owned(),
                    Some(0.0) if self.whole => ", 0 or more".to_owned(),
                    Some(least) if self.above => format!(" above {least}"),
                    Some(least) => format!(" from {least} on"),
                    None => String::new(),
                };
                if let Some(most) = most {
                    words += &format!(", at most {most}");
                }
            }
        }
        words
    }
}

/// One of the words that an option may be.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// As options have it.
    pub name: &'static str,
    /// What the page calls it.
    pub label: &'static str,
    /// What the page says below the field while it is chosen.
    pub hint: Option<&'static str>,
}

impl Word {
    /// A word that its label explains.
    pub const fn new(name: &'static str, label: &'static str) -> Self {
        Self {
            name,
            label,
            hint: None,
        }
    }

    /// The same with a hint.
    pub const fn hint(self, hint: &'static str) -> Self {
        Self {
            hint: Some(hint),
            ..self
        }
    }
}

/// What kind of value an option has.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A number.
    Number,
    /// A number of bytes; the command line reads it with a unit.
    Bytes,
    /// True or false.
    Flag,
    /// One of a few words.
    Word(&'static [Word]),
    /// Lists of weights by pattern.
    Weights,
    /// A merge method.
    Method,
}

/// An option's place in the help of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// How to merge.
    Method,
    /// How samples are read and completed.
    Samples,
    /// What is written.
    Output,
    /// How text is written.
    Writing,
}

/// How the command line takes an option.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Without the dashes. Several options may have one flag, which sets them all.
    pub name: &'static str,
    /// What stands for the value in the help; none for a flag that takes none.
    pub value: Option<&'static str>,
    /// What the help says where the option's own sentence would not do.
    pub help: Option<&'static str>,
}

/// Where the page shows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Beside the choice of the method.
    Beside,
    /// Folded away.
    Folded,
    /// Among what is said of the result.
    Output,
    /// Among what is said of answers, for models that write.
    Writing,
}

/// How the page shows an option.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Where.
    pub place: Place,
    /// Above the field; its unit follows.
    pub label: &'static str,
    /// Below the field.
    pub hint: Option<&'static str>,
    /// What an empty field stands for.
    pub empty: Option<&'static str>,
}

/// What there is to tell of an option beside its name and its sentence. Built from one of the kinds, with what else
/// there is behind it.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// Its kind.
    pub kind: Kind,
    /// For numbers.
    pub range: Option<Range>,
    /// For numbers that count something.
    pub unit: Option<&'static str>,
    /// What it means that there is no value.
    pub unset: Option<&'static str>,
    /// The option beside which alone it does something, and that option's word.
    pub needs: Option<(&'static str, &'static str)>,
    /// On the command line.
    pub flag: Option<Flag>,
    /// In its help.
    pub section: Section,
    /// On the page.
    pub field: Option<Field>,
}

impl Told {
    /// An option of that kind, of which nothing else is told.
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            range: None,
            unit: None,
            unset: None,
            needs: None,
            flag: None,
            section: Section::Method,
            field: None,
        }
    }

    /// A number.
    pub const fn number(range: Range) -> Self {
        Self {
            range: Some(range),
            ..Self::new(Kind::Number)
        }
    }

    /// A number of bytes.
    pub const fn bytes() -> Self {
        Self {
            range: Some(Range::whole_from(1.0)),
            unit: Some("bytes"),
            ..Self::new(Kind::Bytes)
        }
    }

    /// One of a few words.
    pub const fn word(words: &'static [Word]) -> Self {
        Self::new(Kind::Word(words))
    }

    /// What is counted.
    pub const fn unit(self, unit: &'static str) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }

    /// What no value means.
    pub const fn unset(self, unset: &'static str) -> Self {
        Self {
            unset: Some(unset),
            ..self
        }
    }

    /// It does nothing but beside that word of another option.
    pub const fn needs(self, option: &'static str, word: &'static str) -> Self {
        Self {
            needs: Some((option, word)),
            ..self
        }
    }

    /// Its flag and what stands for the value.
    pub const fn flag(self, name: &'static str, value: &'static str) -> Self {
        Self {
            flag: Some(Flag {
                name,
                value: Some(value),
                help: None,
            }),
            ..self
        }
    }

    /// Its flag, which takes no value.
    pub const fn switch(self, name: &'static str) -> Self {
        Self {
            flag: Some(Flag {
                name,
                value: None,
                help: None,
            }),
            ..self
        }
    }

    /// What the command line's help says in place of the sentence; behind the flag.
    pub const fn help(self, help: &'static str) -> Self {
        Self {
            flag: match self.flag {
                Some(flag) => Some(Flag {
                    help: Some(help),
                    ..flag
                }),
                None => None,
            },
            ..self
        }
    }

    /// Where the help tells of it.
    pub const fn section(self, section: Section) -> Self {
        Self { section, ..self }
    }

    /// Where the page shows it, and with which words above it.
    pub const fn field(self, place: Place, label: &'static str) -> Self {
        Self {
            field: Some(Field {
                place,
                label,
                hint: None,
                empty: None,
            }),
            ..self
        }
    }

    /// The words below the field; behind the field.
    pub const fn hint(self, hint: &'static str) -> Self {
        Self {
            field: match self.field {
                Some(field) => Some(Field {
                    hint: Some(hint),
                    ..field
                }),
                None => None,
            },
            ..self
        }
    }

    /// The words in the field while it is empty; behind the field.
    pub const fn empty(self, empty: &'static str) -> Self {
        Self {
            field: match self.field {
                Some(field) => Some(Field {
                    empty: Some(empty),
                    ..field
                }),
                None => None,
            },
            ..self
        }
    }
}

/// An option with all that there is to tell of it.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// In `snake_case`, as reports have it.
    pub name: &'static str,
    /// The doc comment of its field: the first paragraph explains it, in one sentence.
    pub doc: &'static str,
    /// The rest.
    pub told: Told,
}

/// A value that may have to be in a range.
pub trait Value {
    /// The number to hold against it, if it is one.
    fn number(&self) -> Option<f64> {
        None
    }
}

impl Value for f64 {
    fn number(&self) -> Option<f64> {
        Some(*self)
    }
}

impl Value for usize {
    fn number(&self) -> Option<f64> {
        (*self as u64).number()
    }
}

impl Value for u64 {
    #[allow(
        clippy::cast_precision_loss,
        reason = "ends of ranges are far below what f64 tells apart"
    )]
    fn number(&self) -> Option<f64> {
        Some(*self as f64)
    }
}

impl<T: Value> Value for Option<T> {
    fn number(&self) -> Option<f64> {
        self.as_ref().and_then(Value::number)
    }
}

/// Holds a value against a range.
///
/// # Errors
/// [`Code::OptionInvalid`] naming the option.
pub fn check(name: &str, value: &impl Value, range: &Range) -> Result<()> {
    match value.number() {
        Some(number) if !range.holds(number) => Err(Error::new(
            Code::OptionInvalid,
            format!("{} is {number}; it must be {}", camel_case(name), range.words()),
        )),
        _ => Ok(()),
    }
}

/// `max_iter` as `maxIter`.
pub fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        out.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

/// Declares a struct of options: a field's doc comment, name, type, default and [`Told`], for each.
///
/// The struct has `Default`, `OPTIONS` (what there is to tell of each field, in order) and `check_ranges`.
macro_rules! options {
    (
        $(#[$outer:meta])*
        pub struct $options:ident {
            $(
                $(#[doc = $doc:literal])+
                $name:ident: $type:ty = $default:expr, $told:expr;
            )+
        }
    ) => {
        $(#[$outer])*
        pub struct $options {
            $(
                $(#[doc = $doc])+
                pub $name: $type,
            )+
        }

        impl Default for $options {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl $options {
            /// What there is to tell of each, in the order of the fields.
            pub const OPTIONS: &[$crate::describe::Described] = &[
                $(
                    $crate::describe::Described {
                        name: stringify!($name),
                        doc: concat!($($doc, "\n"),+),
                        told: $told,
                    },
                )+
            ];

            /// Holds every number against its range.
            fn check_ranges(&self) -> $crate::error::Result<()> {
                $({
                    const TOLD: $crate::describe::Told = $told;
                    if let Some(range) = TOLD.range {
                        $crate::describe::check(stringify!($name), &self.$name, &range)?;
                    }
                })+
                Ok(())
            }
        }
    };
}
pub(crate) use options;

#[cfg(test)]
mod tests {
    use super::{Range, camel_case};

    #[test]
    fn ranges_hold_what_their_words_say() {
        let cases = [
            (
                Range::FINITE,
                "a number",
                &[-1e9, 0.5][..],
                &[f64::NAN, f64::INFINITY][..],
            ),
            (
                Range::from_to(0.0, 1.0),
                "a number from 0 to 1",
                &[0.0, 1.0],
                &[-0.1, 1.1],
            ),
            (
                Range::above(0.0, 1.0),
                "a number above 0, at most 1",
                &[1e-9, 1.0],
                &[0.0, 1.1, f64::NAN],
            ),
            (
                Range::whole_from(1.0),
                "a whole number above 0",
                &[1.0],
                &[0.0, 1.5],
            ),
            (
                Range::whole_from(0.0),
                "a whole number, 0 or more",
                &[0.0],
                &[-1.0],
            ),
            (
                Range::whole(1.0, 9.0),
                "a whole number above 0, at most 9",
                &[1.0, 9.0],
                &[10.0],
            ),
            (Range::whole_from(2.0), "a whole number from 2 on", &[2.0], &[1.0]),
        ];
        for (range, words, inside, outside) in cases {
            assert_eq!(range.words(), words);
            assert!(inside.iter().all(|&number| range.holds(number)), "{words}");
            assert!(!outside.iter().any(|&number| range.holds(number)), "{words}");
        }
    }

    #[test]
    fn names_of_reports_become_those_of_javascript() {
        assert_eq!(camel_case("majority_sign_method"), "majoritySignMethod");
        assert_eq!(camel_case("alpha1"), "alpha1");
    }
}
