//! What a parser says about a spec, in the words of the spec: which field, what it holds, what is wanted there, and the
//! name that was probably meant.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::check::Problems;

/// A kind of spec, with the least text that is one: the names of all its fields follow from it.
pub(crate) trait Spec: DeserializeOwned + Serialize {
    const LEAST: &str;
    /// What to do with a table that is a spec of another kind.
    fn given_instead(table: &toml::Table) -> Option<&'static str>;
    /// What no build or adaptation can mean of it, a field a line.
    fn refusal(&self) -> Option<String>;
}

/// Reads a section that is understood elsewhere than its spec; `root` is where it stands.
///
/// # Errors
/// What is wrong with it.
pub fn section<T: DeserializeOwned + Serialize + Default>(table: &toml::Table, root: &str) -> Result<T, String> {
    table.clone().try_into().map_err(|error: toml::de::Error| {
        told::<T>(table, root, &fields(&T::default()), |_| None).unwrap_or_else(|| error.to_string())
    })
}

/// What is wrong with a table that is no `S`.
pub(super) fn explained<S: Spec>(table: &toml::Table) -> Option<String> {
    if let Some(other) = S::given_instead(table) {
        return Some(other.to_owned());
    }
    let all = toml::from_str::<S>(S::LEAST).map_or(Vec::new(), |least| fields(&least));
    told::<S>(table, "", &all, S::refusal)
}

/// Everything that is wrong with a table at `root` that is no `T`, of which `all` are the fields: a parser stops at the
/// first fault, so it is asked again without the field. `refusal` knows the bounds of numbers.
fn told<T: DeserializeOwned>(
    table: &toml::Table,
    root: &str,
    all: &[String],
    refusal: impl Fn(&T) -> Option<String>,
) -> Option<String> {
    let mut table = table.clone();
    let mut faults = Vec::new();
    while let Some(fault) = first_fault::<T>(&table, root, all) {
        let Some((section, name)) = fault.field.clone() else {
            // a field that was taken out is not missing
            if faults.is_empty() {
                faults.push(fault);
            }
            break;
        };
        faults.push(fault);
        if section_at(&mut table, &section).and_then(|section| section.remove(&name)).is_none() {
            break;
        }
    }
    let mut problems = Problems::default();
    for Fault { words, field, number } in faults {
        let Some((kind, of_type)) = number else {
            problems.add(words);
            continue;
        };
        let of_field = field.and_then(|(section, name)| bounds::<T>(&table, &section, &name, &refusal));
        let bounds = of_field.unwrap_or_else(|| of_type.to_owned());
        let of = if bounds.starts_with("at ") { "of " } else { "" };
        problems.add(format!("{words}{kind} {of}{bounds}").trim_end());
    }
    problems.into_result().err()
}

/// The bounds of a field, as they are told of the greatest number that its type can hold.
fn bounds<T: DeserializeOwned>(
    table: &toml::Table,
    section: &str,
    name: &str,
    refusal: impl Fn(&T) -> Option<String>,
) -> Option<String> {
    let begins = format!("{} = ", joined(section, name));
    [i64::MAX, i64::from(u32::MAX)].into_iter().find_map(|greatest| {
        let mut table = table.clone();
        section_made(&mut table, section)?.insert(name.to_owned(), toml::Value::Integer(greatest));
        let refused = refusal(&table.try_into::<T>().ok()?)?;
        let line = refused.lines().find_map(|line| line.trim_start().strip_prefix(&begins))?;
        line.split_once(": it must be ").map(|(_, bounds)| bounds.to_owned())
    })
}

/// What a parser says first.
struct Fault {
    words: String,
    /// Section and name of the field that is unknown or holds something else.
    field: Option<(String, String)>,
    /// The kind of number that is wanted, and the bounds of its type: the words lack both.
    number: Option<(&'static str, &'static str)>,
}

impl Fault {
    fn of(words: String) -> Option<Self> {
        Some(Fault { words, field: None, number: None })
    }
}

fn first_fault<T: DeserializeOwned>(table: &toml::Table, root: &str, all: &[String]) -> Option<Fault> {
    let error = table.clone().try_into::<T>().err()?;
    let said = error.to_string();
    // behind the message stands the field, or the section that lacks one or has a strange one
    let (what, path) = match said.trim_end().strip_suffix('`').and_then(|said| said.rsplit_once("\nin `")) {
        Some((what, path)) => (what, path),
        None => (said.trim_end(), ""),
    };
    let section = joined(root, path);
    let below = |name: &str| joined(&section, name);
    if let Some((unknown, expected)) = told_name(what, "unknown field ") {
        let nearest = nearest(path, unknown, expected, all);
        let words = format!("there is no field `{}`; {expected}{}", below(unknown), meant(nearest));
        return Some(Fault { words, field: Some((path.to_owned(), unknown.to_owned())), number: None });
    }
    if let Some((missing, _)) = told_name(what, "missing field ") {
        return Fault::of(format!("{} is missing", below(missing)));
    }
    let value = |table: &toml::Table| Some(toml_path(table, path)?.to_string());
    let holds = value(table).map_or(section.clone(), |value| format!("{section} = {value}"));
    let mut number = None;
    let wanted = if let Some((unknown, expected)) = told_name(what, "unknown variant ") {
        format!("{expected}{}", meant(near(unknown, names_in(expected)).map(str::to_owned)))
    } else if let Some(words) = words_wanted::<T>(table.clone(), path) {
        words
    } else if let Some((_, expected)) = what.strip_prefix("invalid ").and_then(|what| what.split_once(", expected ")) {
        number = number_in_words(expected);
        format!("it must be {}", if number.is_some() { String::new() } else { kind_in_words(expected) })
    } else {
        what.to_owned()
    };
    if section.is_empty() {
        return Some(Fault { words: wanted, field: None, number });
    }
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    Some(Fault { words: format!("{holds}: {wanted}"), field: Some((parent.to_owned(), name.to_owned())), number })
}

fn joined(section: &str, name: &str) -> String {
    match (section, name) {
        ("", name) => name.to_owned(),
        (section, "") => section.to_owned(),
        (section, name) => format!("{section}.{name}"),
    }
}

/// The name that a message begins with, and what follows it.
fn told_name<'w>(what: &'w str, begins: &str) -> Option<(&'w str, &'w str)> {
    let (name, rest) = what.strip_prefix(begins)?.strip_prefix('`')?.split_once('`')?;
    Some((name, rest.trim_start_matches(", ")))
}

fn names_in(expected: &str) -> impl Iterator<Item = &str> {
    expected.split('`').skip(1).step_by(2)
}

fn meant(name: Option<String>) -> String {
    name.map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

fn toml_path<'t>(table: &'t toml::Table, path: &str) -> Option<&'t toml::Value> {
    let mut keys = path.split('.');
    let first = table.get(keys.next()?)?;
    keys.try_fold(first, |section, key| section.get(key))
}

/// A section of a table, which gets it where it lacks it.
fn section_made<'t>(table: &'t mut toml::Table, path: &str) -> Option<&'t mut toml::Table> {
    let mut keys = path.split('.').filter(|key| !key.is_empty());
    keys.try_fold(table, |section, key| {
        section.entry(key.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new())).as_table_mut()
    })
}

fn section_at<'t>(table: &'t mut toml::Table, path: &str) -> Option<&'t mut toml::Table> {
    let mut keys = path.split('.').filter(|key| !key.is_empty());
    keys.try_fold(table, |section, key| section.get_mut(key)?.as_table_mut())
}

/// Which words a field takes that was given something else than a word, such as `true`.
fn words_wanted<T: DeserializeOwned>(mut table: toml::Table, path: &str) -> Option<String> {
    let mut keys = path.split('.');
    let first = table.get_mut(keys.next()?)?;
    let value = keys.try_fold(first, |section, key| section.get_mut(key))?;
    if value.is_str() {
        return None;
    }
    *value = toml::Value::String(value.to_string());
    let message = table.try_into::<T>().err()?.to_string();
    Some(told_name(message.lines().next()?, "unknown variant ")?.1.to_owned())
}

/// What Rust calls a type, as somebody calls it who writes a spec.
fn kind_in_words(expected: &str) -> String {
    match expected {
        "a boolean" => "true or false".into(),
        "a string" | "path string" => "text in quotes".into(),
        "a sequence" => "a list in brackets".into(),
        _ if expected.starts_with("struct ") || expected == "a map" => "a section with fields of its own".into(),
        _ => match expected.strip_prefix("an array of length ") {
            Some(length) => format!("a list of {length}"),
            None => expected.to_owned(),
        },
    }
}

/// The same of a number, with its bounds as far as the type tells.
fn number_in_words(expected: &str) -> Option<(&'static str, &'static str)> {
    match expected {
        "u32" => Some(("a whole number", "between 0 and 4294967295")),
        // nobody means the most that TOML knows
        "usize" | "u64" => Some(("a whole number", "at least 0")),
        "f64" | "f32" => Some(("a number", "")),
        _ => None,
    }
}

/// All fields of a kind of spec, each as it is written after `--set`.
pub(crate) fn fields(spec: &impl Serialize) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(value) = toml::Value::try_from(spec) {
        collect("", &value, &mut found);
    }
    found
}

fn collect(path: &str, value: &toml::Value, found: &mut Vec<String>) {
    let Some(table) = value.as_table() else { return found.push(path.to_owned()) };
    for (name, value) in table {
        collect(&joined(path, name), value, found);
    }
}

/// What people look for under another name.
const OTHERWISE: [(&str, &str); 4] = [
    ("split.train", "split.ratio"),
    ("split.val", "split.ratio"),
    ("split.validation", "split.ratio"),
    ("split.test", "split.ratio"),
];

/// Least similarity of a name that is worth proposing.
const SIMILAR: f64 = 0.7;
/// The same of a name that stands elsewhere.
const SIMILAR_ELSEWHERE: f64 = 0.9;

/// The field that was probably meant by an unknown one: of its section, or else of another.
fn nearest(section: &str, unknown: &str, expected: &str, all: &[String]) -> Option<String> {
    // the section itself is no candidate
    let own = names_in(expected).filter(|name| *name != unknown);
    let written = joined(section, unknown);
    let other = OTHERWISE.iter().map(|(name, field)| (strsim::jaro_winkler(name, &written), *field));
    let elsewhere = all.iter().map(|field| {
        let name = field.rsplit('.').next().unwrap_or(field);
        // of equal names the one nearby
        (strsim::jaro_winkler(name, unknown) + strsim::jaro_winkler(field, &written) / 100.0, field.as_str())
    });
    let of_others = other.chain(elsewhere).filter(|(similarity, _)| *similarity >= SIMILAR_ELSEWHERE);
    near(unknown, own)
        .or_else(|| of_others.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, field)| field))
        .map(str::to_owned)
}

fn near<'n>(unknown: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let names = names.filter(|name| *name != unknown).map(|name| (strsim::jaro_winkler(name, unknown), name));
    let nearest = names.filter(|(similarity, _)| *similarity >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BuildSpec, PairSpec};

    fn said<S: Spec>(text: &str) -> String {
        let table: toml::Table = toml::from_str(&format!("{text}\n{}", S::LEAST)).unwrap();
        explained::<S>(&table).unwrap_or_else(|| panic!("{text} was taken"))
    }

    /// Below the least text, whose last section is the source.
    fn below(text: &str) -> String {
        let table: toml::Table = toml::from_str(&format!("{}\n{text}", BuildSpec::LEAST)).unwrap();
        explained::<BuildSpec>(&table).unwrap_or_else(|| panic!("{text} was taken"))
    }

    #[test]
    fn a_name_is_proposed_only_where_it_is_another_and_near() {
        for (text, meant) in [
            ("[pretrain]\nepoch = 3", "pretrain.epoch`; expected one of `seed`, `epochs`|`epochs`"),
            ("[split]\ntset = 0.2", "split.tset`|`split.ratio`"),
            ("[split]\ntest = 0.2", "split.test`|`split.ratio`"),
            ("[caption]\nmin_clip_score = 0.5", "caption.min_clip_score`|`caption.score.min_clip_score`"),
            ("[caption]\nmin_clip_scroe = 0.5", "caption.min_clip_scroe`|`caption.score.min_clip_score`"),
            ("[caption.instructblip]\nmin_words = 3", "|`caption.instructblip.quality.min_words`"),
            ("[model]\nepochs = 3", "model.epochs`|`pretrain.epochs`"),
            ("[pretrian]\nepochs = 3", "`pretrian`|`pretrain`"),
        ] {
            let (field, meant) = meant.split_once('|').unwrap();
            let said = below(text);
            assert!(said.contains(field) && said.ends_with(&format!("did you mean {meant}?")), "{said}");
        }
        assert!(said::<BuildSpec>("epochs = 3").ends_with("did you mean `pretrain.epochs`?"));
        assert!(said::<PairSpec>("ratoi = 3").ends_with("did you mean `ratio`?"));
        // a section of the field's own name
        for text in ["[work]\nwork = 3", "zzz = 3", "[split]\nzzz = 3"] {
            assert!(!below(text).contains("did you mean"), "{}", below(text));
        }
    }

    #[test]
    fn all_unknown_fields_are_told_at_once() {
        let said = below("[pretrain]\nepoch = 3\nbatch_size = 4\n[split]\ntset = 0.2");
        assert!(said.starts_with("3 fields are wrong:\n"), "{said}");
        for field in ["pretrain.epoch`", "pretrain.batch_size`", "split.tset`"] {
            assert!(said.contains(field), "{said}");
        }
        let said = below("[pretrain]\nepoch = 3\nbatch = true");
        assert!(said.contains("pretrain.epoch`") && said.contains("pretrain.batch = true"), "{said}");
    }

    #[test]
    fn a_spec_of_the_other_kind_is_named() {
        let table = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
        let pair = explained::<BuildSpec>(&table(PairSpec::LEAST)).unwrap();
        assert!(pair.contains("this is a pair spec") && pair.contains("urbancross drive"), "{pair}");
        let build = explained::<PairSpec>(&table(BuildSpec::LEAST)).unwrap();
        assert!(build.contains("this is a build spec") && build.contains("urbancross run"), "{build}");
    }

    #[test]
    fn what_is_wanted_is_said_without_the_names_of_types() {
        for (text, words) in [
            ("[pretrain]\nepochs = -1", "pretrain.epochs = -1: it must be a whole number between 1 and 1000000"),
            ("[pretrain]\nepochs = 1.5", "pretrain.epochs = 1.5: it must be a whole number between 1 and 1000000"),
            ("[pretrain]\nepochs = \"3\"", "pretrain.epochs = \"3\": it must be a whole number between 1 and 1000"),
            ("[pretrain]\nepochs = 1.5\nbatch = 1.5", "pretrain.epochs = 1.5: it must be a whole number between 1 and"),
            ("[pretrain]\nbatch = 6\nmicro_batches = -1", "it must be a whole number between 1 and 6"),
            ("[pretrain]\nseed = -1", "pretrain.seed = -1: it must be a whole number of at least 0"),
            ("[work]\nshards = 4294967296", "work.shards = 4294967296: it must be a whole number between 1 and 100000"),
            ("[pretrain]\ndropout = true", "true: it must be a number of at least 0.0 and below 1.0; 0 drops nothing"),
            ("[pretrain]\nlearning_rate = \"fast\"", "\"fast\": it must be a number above 0.0 and at most 1.0; "),
            ("[pretrain.augment]\nflips = 1", "pretrain.augment.flips = 1: it must be true or false"),
            ("[work]\nurl = 3", "work.url = 3: it must be text in quotes"),
            ("[split]\nratio = 3", "split.ratio = 3: it must be a list of 3"),
            ("[split]\nratio = [1, 2]", "split.ratio = [1, 2]: it must be a list of 3"),
            ("[model]\npreset = \"huge\"", "model.preset = \"huge\": expected one of `tiny`"),
            ("[model]\npreset = 3", "model.preset = 3: expected one of `tiny`"),
            ("[caption]\ncaptioner = \"geotag\"", "did you mean `geotags`?"),
        ] {
            let said = below(text);
            assert!(said.contains(words), "{said}");
        }
        let said_of = said::<BuildSpec>;
        assert!(said_of("pretrain = 3").contains("pretrain = 3: it must be a section with fields of its own"));
        assert_eq!(explained::<BuildSpec>(&toml::Table::new()).unwrap(), "country is missing");
    }
}
