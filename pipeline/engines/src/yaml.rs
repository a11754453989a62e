//! YAML, written the same way every time.

use serde_json::Value;

/// A document of YAML. Strings of several lines are blocks, so that a spec can be read where it lies.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(map, 0, &mut text),
        Value::Array(items) if !items.is_empty() => sequence(items, 0, &mut text),
        scalar => text = format!("{}\n", flow(scalar)),
    }
    text
}

fn mapping(map: &serde_json::Map<String, Value>, depth: usize, text: &mut String) {
    for (at, (key, value)) in map.iter().enumerate() {
        if at > 0 {
            indent(depth, text);
        }
        text.push_str(&string(key));
        text.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                text.push('\n');
                indent(depth + 1, text);
                mapping(map, depth + 1, text);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                indent(depth + 1, text);
                sequence(items, depth + 1, text);
            }
            Value::String(lines) if is_block(lines) => block(lines, depth + 1, text),
            scalar => text.push_str(&format!(" {}\n", flow(scalar))),
        }
    }
}

fn sequence(items: &[Value], depth: usize, text: &mut String) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            indent(depth, text);
        }
        text.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(map, depth + 1, text),
            Value::Array(items) if !items.is_empty() => sequence(items, depth + 1, text),
            scalar => text.push_str(&format!("{}\n", flow(scalar))),
        }
    }
}

fn indent(depth: usize, text: &mut String) {
    text.extend(std::iter::repeat_n("  ", depth));
}

/// What stands behind a key on its line.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        // empty collections, numbers, booleans and null are the same in both languages
        other => other.to_string(),
    }
}

/// A string: as it is where no reader takes it for anything else, and in JSON's quotes, which YAML has too.
fn string(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let means_something =
        ["true", "false", "yes", "no", "on", "off", "y", "n", "null"].contains(&text.to_ascii_lowercase().as_str());
    if starts_plain && !means_something && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    for c in Value::from(text).to_string().chars() {
        match is_printable(c) {
            true => quoted.push(c),
            false => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    quoted
}

/// What YAML lets stand in a document as it is; JSON has escaped what is below a space.
fn is_printable(c: char) -> bool {
    !matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn is_block(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && !text.ends_with("\n\n")
        && text.chars().all(|c| c == '\n' || c == '\t' || (c >= ' ' && is_printable(c)))
}

fn block(lines: &str, depth: usize, text: &mut String) {
    text.push_str(if lines.ends_with('\n') { " |\n" } else { " |-\n" });
    for line in lines.lines() {
        if !line.is_empty() {
            indent(depth, text);
            text.push_str(line);
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_reads_as_people_write_it() {
        let value = serde_json::json!({
            "kind": "Job", "empty": {}, "none": [], "count": 3,
            "list": [{"name": "a", "value": "1"}, "b", ["c"]],
            "spec.toml": "country = \"x\"\n\n[source]\n",
            "text": "a: b",
        });
        let wanted = "count: 3\nempty: {}\nkind: Job\nlist:\n  - name: a\n    value: \"1\"\n  - b\n  - - c\nnone: []\n\
                      spec.toml: |\n  country = \"x\"\n\n  [source]\ntext: \"a: b\"\n";
        assert_eq!(document(&value), wanted);
    }

    #[test]
    fn no_string_is_taken_for_something_else() {
        for text in ["true", "No", "1", "1e3", "~", "", "-", "a b", "a#b", "- x", "0x10", "null", "2026-11-27", "a:b"] {
            assert_eq!(string(text), format!("\"{text}\""));
        }
        assert_eq!(string("/run/urbancross/spec.toml"), "/run/urbancross/spec.toml");
        assert_eq!(string("a\u{7f}\u{85}\u{1}\"\\"), "\"a\\u007f\\u0085\\u0001\\\"\\\\\"");
        // what a block would change is quoted
        for text in [" a\nb", "a\nb\n\n", "a\r\nb", "\na\nb", "a\u{feff}\nb"] {
            assert!(!is_block(text), "{text:?}");
        }
    }
}
