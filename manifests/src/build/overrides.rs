//! `--set section.field=value`, and messages about names that are not there.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::{BuildSpec, SpecError};

/// Parses a spec and applies overrides; `shown` names it in messages.
pub(crate) fn parse_toml<T: DeserializeOwned>(text: &str, shown: &str, overrides: &[String]) -> Result<T, SpecError> {
    let invalid = |why: String| SpecError::Invalid { path: shown.to_owned(), why };
    let mut table: toml::Table = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
    for assignment in overrides {
        apply_override(&mut table, assignment)?;
    }
    let parsed = if overrides.is_empty() {
        // straight from the text, so that the message points at the line
        toml::from_str(text)
    } else {
        table.clone().try_into()
    };
    parsed.map_err(|e| {
        let message = with_nearest_name(&e.to_string());
        invalid(match words_wanted::<T>(table) {
            Some(words) => format!("{}\n{words}", message.trim_end()),
            None => message,
        })
    })
}

/// Which words a field takes that was given something else than a word, such as `true`.
fn words_wanted<T: DeserializeOwned>(mut table: toml::Table) -> Option<String> {
    let message = table.clone().try_into::<T>().err()?.to_string();
    let (_, path) = message.trim_end().strip_suffix('`')?.rsplit_once("in `")?;
    let (sections, field) = path.rsplit_once('.')?;
    let section = sections.split('.').try_fold(&mut table, |table, key| table.get_mut(key)?.as_table_mut())?;
    let value = section.get_mut(field).filter(|value| !value.is_str())?;
    *value = toml::Value::String(value.to_string());
    let message = table.try_into::<T>().err()?.to_string();
    let words = message.lines().next()?.strip_prefix("unknown variant ")?.split_once(", ")?.1;
    Some(format!("{path}: {words}"))
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

/// Whether `--set` names this field, or a section that it is in.
pub(crate) fn is_overridden(field: &str, overrides: &[String]) -> bool {
    let covers = |path: &str| field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    fields_of(overrides).any(covers)
}

impl BuildSpec {
    /// What fields come to in this spec, in TOML's notation; those that are not written out are left out.
    pub fn values<'a>(&self, fields: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
        let Ok(spec) = toml::Value::try_from(self) else { return BTreeMap::new() };
        let value =
            |field: &str| field.split('.').try_fold(&spec, |section, key| section.get(key)).map(toml::Value::to_string);
        fields.filter_map(|field| Some((field.to_owned(), value(field)?))).collect()
    }
}

/// The fields that assignments name.
pub fn fields_of(overrides: &[String]) -> impl Iterator<Item = &str> {
    overrides.iter().filter_map(|assignment| assignment.split_once('=')).map(|(field, _)| field.trim())
}

/// Least similarity of a name that is worth proposing.
const SIMILAR: f64 = 0.7;

/// Adds the nearest known name to serde's "unknown field" and "unknown variant" messages.
fn with_nearest_name(message: &str) -> String {
    let message = message.trim_end();
    let Some(at) = message.find("unknown field").or_else(|| message.find("unknown variant")) else {
        return message.to_owned();
    };
    // the next line names the section, which is no candidate
    let mut names = message[at..].lines().next().unwrap_or_default().split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message.to_owned() };
    let nearest = names
        .map(|name| (strsim::jaro_winkler(name, unknown), name))
        .filter(|(similarity, name)| *similarity >= SIMILAR && *name != unknown)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, name)) => format!("{message}\ndid you mean `{name}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_proposed_only_where_it_is_another_and_near() {
        let of = |text: &str| with_nearest_name(text);
        let near = of("unknown field `epoch`, expected one of `seed`, `epochs`\nin `pretrain`\n");
        assert!(near.ends_with("did you mean `epochs`?"), "{near}");
        // a section of the field's own name, or one that is nearer than any field
        for text in [
            "unknown field `work`, expected one of `url`, `shards`\nin `work`\n",
            "unknown field `pretrian`, expected one of `seed`, `batch`\nin `pretrain`\n",
            "unknown field `zzz`, expected `url`",
        ] {
            assert!(!of(text).contains("did you mean"), "{}", of(text));
        }
    }

    #[test]
    fn values_are_those_that_the_spec_came_to() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"a\"\n";
        let set = ["source.url=b".to_owned(), "pretrain.epochs=3".to_owned(), "split.ratio=[1,1,1]".to_owned()];
        let spec = BuildSpec::parse(text, "t", &set).unwrap();
        let values = spec.values(fields_of(&set));
        assert_eq!(values["source.url"], "\"b\"");
        assert_eq!((values["pretrain.epochs"].as_str(), values["split.ratio"].as_str()), ("3", "[1, 1, 1]"));
        assert!(spec.values(["source.options.anonymous", "no.such"].into_iter()).is_empty());
    }

    #[test]
    fn a_field_of_words_tells_them() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"a\"\n";
        let set = |set: &[String]| BuildSpec::parse(text, "t", set).unwrap_err().to_string();
        let wanted = "pretrain.segment_tower: expected one of `shared`, `frozen`, `separate`";
        for value in ["true", "1", "[]"] {
            let error = set(&[format!("pretrain.segment_tower={value}")]);
            assert!(error.contains(wanted), "{error}");
        }
        let text = format!("{text}[pretrain]\nsegment_tower = true\n");
        let error = BuildSpec::parse(&text, "t", &[]).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("line 6"), "{error}");
        // a number in a place of numbers is another matter
        assert!(!set(&["pretrain.epochs=1.5".into()]).contains("expected one of"));
    }

    #[test]
    fn a_section_overrides_its_fields() {
        let set = ["model={ init = \"x\" }".to_owned(), " work.url =y".to_owned()];
        assert!(is_overridden("model.init", &set) && is_overridden("work.url", &set));
        assert!(!is_overridden("models.init", &set) && !is_overridden("source.url", &set));
    }
}
