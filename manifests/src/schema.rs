//! JSON Schema of the specs, for editors and for the reference of their fields.

mod reference;

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::{BuildSpec, PairSpec};

pub use reference::reference;

/// The schema of a build spec.
pub fn build() -> Schema {
    schema_of::<BuildSpec>()
}

/// The schema of a pair spec whose method of adaptation is `method`.
pub fn pair(mut method: Schema) -> Schema {
    // it is a root no more
    for root in ["$schema", "title"] {
        method.remove(root);
    }
    let mut schema = schema_of::<PairSpec>();
    if let Some(adapt) = schema.pointer_mut("/properties/adapt/properties") {
        adapt["method"] = method.into();
    }
    schema
}

/// The schema of a type, without references: editors follow them, readers do not.
pub fn schema_of<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true).with_transform(tidy);
    settings.into_generator().into_root_schema_for::<T>()
}

/// Descriptions as one line a paragraph; a default beside each field, and not again beside its section.
fn tidy(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = plain(text);
    }
    if schema.get("properties").is_some() {
        schema.remove("default");
    }
    if let Some(default) = schema.get("default").cloned() {
        schema.insert("default".into(), shortest(default));
    }
    transform_subschemas(&mut tidy, schema);
}

/// The text of a doc comment without its line breaks and the brackets of its links.
fn plain(text: &str) -> String {
    let joined: Vec<String> = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect();
    joined.join("\n\n").replace("[`", "`").replace("`]", "`")
}

/// An f32 that became an f64 as it is written in the source, 0.2 and not 0.20000000298023224.
fn shortest(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(shortest).collect(),
        Value::Number(number) if number.is_f64() => {
            let wide = number.as_f64().unwrap_or_default();
            let narrow = wide as f32;
            if f64::from(narrow) == wide {
                narrow.to_string().parse::<f64>().map_or(json!(wide), |v| json!(v))
            } else {
                json!(wide)
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields<'a>(path: String, schema: &'a Value, found: &mut Vec<(String, &'a Value)>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            found.push((path.clone(), field));
            fields(path, field, found);
        }
    }

    #[test]
    fn every_field_says_what_it_means() {
        for schema in [build(), pair(true.into())] {
            let schema = schema.to_value();
            let mut found = Vec::new();
            fields(String::new(), &schema, &mut found);
            assert!(found.len() > 15);
            for (path, field) in found.iter().filter(|(path, _)| path != "adapt.method") {
                assert!(field["description"].is_string(), "{path} has no doc comment");
            }
        }
    }

    #[test]
    fn defaults_are_those_of_the_types_as_they_are_written() {
        let schema = build().to_value();
        let default = |path: &str| schema.pointer(path).unwrap()["default"].clone();
        assert_eq!(default("/properties/score/properties/min_similarity"), json!(0.2));
        assert_eq!(default("/properties/pretrain/properties/learning_rate"), json!(1e-3));
        assert_eq!(default("/properties/split/properties/ratio"), json!([7, 1, 2]));
        assert_eq!(default("/properties/score"), Value::Null, "its fields have their own");
        assert_eq!(schema["required"], json!(["country", "source"]));
        assert_eq!(schema["additionalProperties"], json!(false));
    }

    #[test]
    fn the_method_of_an_adaptation_has_its_place() {
        let schema = pair(schemars::json_schema!({ "type": "object", "description": "x" })).to_value();
        assert_eq!(schema.pointer("/properties/adapt/properties/method/description"), Some(&json!("x")));
    }
}
