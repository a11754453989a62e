//! `--set section.field=value`, and messages about names that are not there.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::SpecError;

/// Parses a spec and applies overrides; `shown` names it in messages.
pub(crate) fn parse_toml<T: DeserializeOwned>(text: &str, shown: &str, overrides: &[String]) -> Result<T, SpecError> {
    let invalid = |why: String| SpecError::Invalid { path: shown.to_owned(), why };
    if overrides.is_empty() {
        // straight from the text, so that the message points at the line
        return toml::from_str(text).map_err(|e| invalid(with_nearest_name(&e.to_string())));
    }
    let mut table: toml::Table = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
    for assignment in overrides {
        apply_override(&mut table, assignment)?;
    }
    table.try_into().map_err(|e: toml::de::Error| invalid(with_nearest_name(&e.to_string())))
}

/// Sets `section.field` in a TOML table; the value is TOML, or else a string.
fn apply_override(table: &mut toml::Table, assignment: &str) -> Result<(), SpecError> {
    let fail = |why: &str| SpecError::Override { assignment: assignment.to_owned(), why: why.to_owned() };
    let (path, value) = assignment.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
    let value = toml::from_str::<BTreeMap<String, toml::Value>>(&format!("v = {value}"))
        .ok()
        .and_then(|mut map| map.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|k| !k.is_empty()).ok_or_else(|| fail("the field has no name"))?;
    let mut section = table;
    for key in keys {
        section = section
            .entry(key.to_owned())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| fail("a part of the path is no section"))?;
    }
    section.insert(last.to_owned(), value);
    Ok(())
}

/// Adds the nearest known name to serde's "unknown field" and "unknown variant" messages.
fn with_nearest_name(message: &str) -> String {
    let message = message.trim_end();
    let Some(at) = message.find("unknown field").or_else(|| message.find("unknown variant")) else {
        return message.to_owned();
    };
    let mut names = message[at..].split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message.to_owned() };
    let nearest = names.max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)));
    match nearest {
        Some(name) => format!("{message}\ndid you mean `{name}`?"),
        None => message.to_owned(),
    }
}
