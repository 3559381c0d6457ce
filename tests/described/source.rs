//! JSON values and comments as TypeScript's source, the way that biome leaves them.

use serde_json::Value;

/// The longest line, as in `biome.json`.
const WIDTH: usize = 110;

/// A value as an expression that begins behind `column` characters of its line, on the level of `indent`. One character
/// follows it.
pub(crate) fn expression(value: &Value, indent: usize, column: usize) -> String {
    let (outer, inner) = (" ".repeat(indent), " ".repeat(indent + 2));
    match value {
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let lines = fields.iter().map(|(name, value)| {
                let name = key(name);
                let start = format!("{inner}{name}: ");
                let text = expression(value, indent + 2, start.chars().count());
                // A string that is too long for its line goes to one of its own, where that gains anything.
                if value.is_string()
                    && name.len() > 4
                    && start.chars().count() + text.chars().count() + 1 > WIDTH
                {
                    format!("{inner}{name}:\n{inner}  {text},\n")
                } else {
                    format!("{start}{text},\n")
                }
            });
            format!("{{\n{}{outer}}}", lines.collect::<String>())
        }
        Value::Array(items) => {
            let one_line = format!("[{}]", list(items, indent, ", "));
            let fits = column + one_line.chars().count() < WIDTH && !one_line.contains('\n');
            if fits {
                return one_line;
            }
            let lines = items
                .iter()
                .map(|item| format!("{inner}{},\n", expression(item, indent + 2, indent + 2)));
            format!("[\n{}{outer}]", lines.collect::<String>())
        }
        Value::Number(number) => match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 && whole.abs() < 1e15 => format!("{whole}"),
            Some(small) if small.abs() < 1e-3 => format!("{small:e}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn list(items: &[Value], indent: usize, between: &str) -> String {
    let items: Vec<String> = items
        .iter()
        .map(|item| expression(item, indent, indent))
        .collect();
    items.join(between)
}

fn key(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{name}\"")
    }
}

/// A doc comment of these paragraphs. A paragraph that begins with `@` keeps its lines.
pub(crate) fn comment(paragraphs: &[String], indent: usize) -> String {
    let start = " ".repeat(indent);
    if let [one] = paragraphs
        && !one.contains('\n')
        && indent + one.chars().count() + 7 <= WIDTH
    {
        return format!("{start}/** {one} */\n");
    }
    let mut lines = Vec::new();
    for (index, paragraph) in paragraphs.iter().enumerate() {
        if index > 0 {
            lines.push(String::new());
        }
        if paragraph.starts_with('@') {
            lines.extend(paragraph.lines().map(str::to_owned));
        } else {
            lines.extend(wrap(paragraph, WIDTH - indent - 3));
        }
    }
    let lines = lines.iter().map(|line| {
        let line = format!("{start} * {line}");
        format!("{}\n", line.trim_end())
    });
    format!("{start}/**\n{}{start} */\n", lines.collect::<String>())
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// A type that is one of these words, as what is declared under a name.
pub(crate) fn union(name: &str, words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let one_line = format!("export type {name} = {};\n", words.join(" | "));
    if one_line.chars().count() <= WIDTH + 1 {
        return one_line;
    }
    format!("export type {name} =\n  | {};\n", words.join("\n  | "))
}
