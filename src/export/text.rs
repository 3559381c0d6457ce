//! Names from outside in YAML, Markdown and Python, where they must mean themselves and nothing else.

/// A string as YAML's double-quoted scalar, on one line: JSON's, with all escaped that YAML breaks a line at or does
/// not print.
pub(super) fn yaml(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => out.push_str(&escape(c)),
            c if c.is_control() => out.push_str(&escape(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A string as Python's literal.
pub(super) fn python(text: &str) -> String {
    // Every escape of YAML's that is used is Python's too.
    yaml(text)
}

fn escape(c: char) -> String {
    format!("\\u{:04x}", u32::from(c))
}

/// A string as Markdown that shows it, on one line and in a table's cell.
pub(super) fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '#' | '|' | '~' | '&' | '$'
            | ':' | '@' | '!' => out.extend(['\\', c]),
            // What breaks a line, or turns the direction of what follows.
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                out.push(' ');
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    let shown = out.trim();
    if shown.is_empty() {
        "(no name)".into()
    } else {
        shown.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::{markdown, yaml};

    #[test]
    fn yaml_holds_a_name_on_one_line_whatever_is_in_it() {
        assert_eq!(yaml("org/model"), r#""org/model""#);
        assert_eq!(yaml("a\"b\\c"), r#""a\"b\\c""#);
        assert_eq!(
            yaml("x\n---\nlicense: mit\u{85}\u{2028}\u{7f}"),
            r#""x\u000a---\u000alicense: mit\u0085\u2028\u007f""#
        );
        assert_eq!(yaml("日本語 🤗"), r#""日本語 🤗""#);
    }

    #[test]
    fn markdown_shows_a_name_and_obeys_none() {
        assert_eq!(markdown("my_adapter-2.0"), r"my\_adapter-2.0");
        assert_eq!(
            markdown("a|b\n# <b>[x](https://y)`"),
            r"a\|b \# \<b\>\[x\](https\://y)\`"
        );
        assert_eq!(markdown("\u{202e}gpj.exe"), "gpj.exe");
        assert_eq!(markdown("\n"), "(no name)");
    }
}
