//! The `--set` options of the last run, so that a command without them can say why finished work looks out of date.
//! Advisory: nothing depends on it.

use std::collections::BTreeMap;

use manifests::spec::fields_of;
use manifests::{BuildSpec, paths};
use workers::stores::WorkStore;

/// Fields and what they came to, in TOML's notation.
type Values = BTreeMap<String, String>;

/// Saves what `--set` says now.
pub async fn save(work: &WorkStore, spec: &BuildSpec, set: &[String]) {
    let now = spec.values(fields_of(set).filter(|field| is_of_the_build(field)));
    if read(work, spec).await.as_ref() == Some(&now) {
        return;
    }
    if let Err(error) = work.put_sealed(&paths::last_set(&spec.country), &now).await {
        tracing::warn!(%error, "the --set values could not be saved for later commands");
    }
}

/// Most of `work` says how a command goes about its work, or where: whoever reads this has found the work store. So do the
/// fields of a server that say where it is and how it is asked.
fn is_of_the_build(field: &str) -> bool {
    const OF_ASKING: [&str; 9] = [
        "url",
        "key_env",
        "requests_at_once",
        "requests_per_minute",
        "timeout_seconds",
        "tries",
        "token_limit",
        "price_per_million_tokens_in",
        "price_per_million_tokens_out",
    ];
    match field.strip_prefix("caption.server.") {
        Some(field) => !OF_ASKING.contains(&field),
        None => field == "work.shards" || !field.starts_with("work."),
    }
}

/// Which `--set` of the last run this command lacks, in words.
pub async fn missing(work: &WorkStore, spec: &BuildSpec) -> Option<String> {
    let differing = differing(&read(work, spec).await.unwrap_or_default(), spec);
    (!differing.is_empty()).then(|| {
        format!("the last run had {}; without it, what that run made may look out of date", differing.join(" "))
    })
}

fn differing(last: &Values, spec: &BuildSpec) -> Vec<String> {
    let now = spec.values(last.keys().map(String::as_str));
    let other = last.iter().filter(|(field, value)| now.get(*field) != Some(value));
    other.map(|(field, value)| format!("--set {field}={}", shell_word(value))).collect()
}

/// As one word of a shell.
fn shell_word(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+".contains(c);
    match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(text) if text.chars().all(plain) => text.to_owned(),
        None if value.chars().all(plain) => value.to_owned(),
        _ => format!("'{}'", value.replace('\'', r"'\''")),
    }
}

/// `None`: nothing is saved, or nothing that can be read.
async fn read(work: &WorkStore, spec: &BuildSpec) -> Option<Values> {
    work.get_record(&paths::last_set(&spec.country)).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the settings of the last run cannot be read");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_another_now_is_named_as_a_person_would_type_it() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"a\"\n";
        let set: Vec<String> = ["source.url=/w", "pretrain.epochs=3", "split.ratio=[1,1,1]"].map(String::from).into();
        let with = BuildSpec::parse(text, "t", &set).unwrap();
        let last = with.values(fields_of(&set));
        assert!(differing(&last, &with).is_empty());
        let without = BuildSpec::parse(text, "t", &[]).unwrap();
        let named = ["--set pretrain.epochs=3", "--set source.url=/w", "--set split.ratio='[1, 1, 1]'"];
        assert_eq!(differing(&last, &without), named);
        assert_eq!(shell_word("\"it's\""), r#"'"it'\''s"'"#);
    }
}
