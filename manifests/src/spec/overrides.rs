//! The text of a spec, and `--set section.field=value`.

use std::collections::BTreeMap;

use super::words::{Spec, explained};
use super::{BuildSpec, SpecError};

/// Parses a spec and applies overrides; `shown` names it in messages.
pub(crate) fn parse_toml<S: Spec>(text: &str, shown: &str, overrides: &[String]) -> Result<S, SpecError> {
    let invalid = |why: String| SpecError::Invalid { path: shown.to_owned(), why };
    let file: toml::Table = toml::from_str(text).map_err(|error| invalid(no_toml(text, &error)))?;
    let mut table = file.clone();
    for assignment in overrides {
        apply_override(&mut table, assignment)?;
    }
    table.clone().try_into().map_err(|error: toml::de::Error| {
        let why = explained::<S>(&table).unwrap_or_else(|| error.to_string());
        // what --set brought is in no line, and several faults are in several
        let in_file = explained::<S>(&file).is_some_and(|of_file| of_file == why);
        let is_one_field = !why.contains('\n') && S::given_instead(&table).is_none();
        let line = (in_file && is_one_field).then(|| toml::from_str::<S>(text).err()?.span()).flatten();
        invalid(match line.and_then(|span| text.get(..span.start)) {
            Some(before) => format!("line {}: {why}", before.matches('\n').count() + 1),
            None => why,
        })
    })
}

/// Why a text is no TOML.
fn no_toml(text: &str, error: &toml::de::Error) -> String {
    let number = error.span().filter(|_| error.message().starts_with("invalid integer")).map(|span| {
        let line = text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
        let number = text.get(span).unwrap_or_default();
        format!("line {line}: {number} is no number that a field takes")
    });
    number.unwrap_or_else(|| error.to_string().trim_end().to_owned())
}

/// The text of a spec file.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String, SpecError> {
    let shown = path.display().to_string();
    let unreadable = |cause| SpecError::Unreadable { path: shown.clone(), cause };
    if path.is_dir() {
        return Err(unreadable(std::io::Error::new(
            std::io::ErrorKind::IsADirectory,
            "it is a folder; name one of the specs in it",
        )));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].split(|byte| *byte == b'\n').count();
        SpecError::Invalid { path: shown, why: format!("line {line}: it is not UTF-8; save it as UTF-8 text") }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let wanted = ": expected one of `shared`, `frozen`, `separate`";
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
