//! The fields of a spec as Markdown, one table a section.

use std::fmt::Write;

use schemars::Schema;
use serde_json::Value;

/// The reference of a spec's fields. `spec` is the heading, such as "Build spec".
pub fn reference(spec: &str, schema: &Schema) -> String {
    let mut text = format!("## {spec}\n");
    section(&mut text, "", schema.as_value());
    text
}

/// A section with its own fields first, then the sections in it.
fn section(text: &mut String, path: &str, schema: &Value) {
    if !path.is_empty() {
        let _ = write!(text, "\n### {path}\n");
    }
    if let Some(description) = schema["description"].as_str() {
        let _ = write!(text, "\n{description}\n");
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (sections, fields): (Vec<_>, Vec<_>) =
        schema["properties"].as_object().into_iter().flatten().partition(|(_, field)| field["properties"].is_object());
    if !fields.is_empty() {
        text.push_str("\n| field | type | default | meaning |\n|---|---|---|---|\n");
    }
    for (name, field) in fields {
        let default = match &field["default"] {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            // what a spec of defaults leaves out
            Value::Null if field["type"] == "boolean" => "`false`".to_owned(),
            Value::Null => "not set".to_owned(),
            default => format!("`{default}`"),
        };
        let _ = writeln!(text, "| `{name}` | {} | {default} | {} |", type_of(field), cell(&meaning(field)));
    }
    for (name, field) in sections {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        section(text, &path, field);
    }
}

/// What a field holds where it is set: an optional one may be `null`, too.
fn where_set(field: &Value) -> &Value {
    let mut set = field["anyOf"].as_array().into_iter().flatten().filter(|branch| branch["type"] != "null");
    match (set.next(), set.next()) {
        (Some(only), None) => only,
        _ => field,
    }
}

fn type_of(field: &Value) -> String {
    let field = where_set(field);
    let words = words_of(field);
    if !words.is_empty() {
        return "word".to_owned();
    }
    match &field["type"] {
        Value::String(name) if name == "array" => {
            let of = type_of(&field["items"]);
            field["minItems"].as_u64().map_or(format!("list of {of}s"), |count| format!("{count} {of}s"))
        }
        Value::String(name) => name.clone(),
        // `null` stands for what is not set
        Value::Array(names) => names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect(),
        _ => "any".to_owned(),
    }
}

/// The words that a field takes, with what each means where the type says so.
fn words_of(field: &Value) -> Vec<(&str, Option<&str>)> {
    let field = where_set(field);
    let choices = field["oneOf"].as_array().map_or(std::slice::from_ref(field), Vec::as_slice);
    let words = choices.iter().flat_map(|choice| {
        let meaning = choice["const"].is_string().then(|| choice["description"].as_str()).flatten();
        let listed = choice["enum"].as_array().into_iter().flatten();
        listed.chain(Some(&choice["const"])).filter_map(Value::as_str).map(move |word| (word, meaning))
    });
    words.collect()
}

fn meaning(field: &Value) -> String {
    let mut text = field["description"].as_str().unwrap_or_default().to_owned();
    let words = words_of(field);
    if !words.is_empty() {
        text.push_str(" One of:");
    }
    for (at, (word, meaning)) in words.iter().enumerate() {
        let word = if word.is_empty() { "\"\"" } else { word };
        let meaning = meaning.map_or(String::new(), |meaning| format!(": {}", meaning.trim_end_matches('.')));
        let end = if at + 1 == words.len() { "." } else { ";" };
        let _ = write!(text, " `{word}`{meaning}{end}");
    }
    text
}

/// Text that does not end a cell of a table.
fn cell(text: &str) -> String {
    text.replace("\n\n", " ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use schemars::json_schema;

    use super::*;

    #[test]
    fn a_field_is_a_line_and_a_section_a_table() {
        let schema = json_schema!({
            "description": "A thing.",
            "required": ["name"],
            "properties": {
                "name": { "type": "string", "description": "Its name." },
                "part": { "properties": { "ratio": {
                    "type": "array", "items": { "type": "integer" }, "minItems": 3, "default": [7, 1, 2], "description": "a | b"
                } } },
                "kind": { "default": "b", "description": "Which.", "oneOf": [
                    { "enum": ["a"] }, { "const": "b", "description": "The second." }
                ] },
                "maybe": { "type": ["boolean", "null"], "description": "Or not." },
                "other": { "anyOf": [{ "enum": ["a"] }, { "type": "null" }], "description": "Another." },
            }
        });
        let wanted = "## Thing\n\nA thing.\n\n| field | type | default | meaning |\n|---|---|---|---|\n\
                      | `kind` | word | `\"b\"` | Which. One of: `a`; `b`: The second. |\n\
                      | `maybe` | boolean | not set | Or not. |\n\
                      | `name` | string | required | Its name. |\n\
                      | `other` | word | not set | Another. One of: `a`. |\n\
                      \n### part\n\n| field | type | default | meaning |\n|---|---|---|---|\n\
                      | `ratio` | 3 integers | `[7,1,2]` | a \\| b |\n";
        assert_eq!(reference("Thing", &schema), wanted);
    }
}
