//! Which tables of files that lie among others are meant as specs, however their fields are spelt.

use crate::spec::{Spec, fields};
use crate::{BuildSpec, PairSpec};

/// Whether a table is meant as the spec of a build or of a pair: it has a country, or a source and a target, or at least
/// half of what it has are fields of specs, or nearly so. A section with nearly the name of one must hold a field of that,
/// or nothing. A table with nothing in it is meant, too.
pub fn is_spec(table: &toml::Table) -> bool {
    let known = [all_fields::<BuildSpec>(), all_fields::<PairSpec>()].concat();
    // one slip in three letters, two at most: `workspace` is no `work`
    let is_near = |name: &str, known: &str| strsim::damerau_levenshtein(name, known) <= (known.len() / 3).min(2);
    let has = |name: &str| table.keys().any(|key| key.to_lowercase() == name);
    // a field, or a section with one of its fields
    let names = || {
        known.iter().map(|field| {
            let mut names = field.split('.');
            (names.next().unwrap_or_default(), names.next().unwrap_or_default())
        })
    };
    // cargo-deny's `sources` hold nothing that a source has
    let holds = |section: &str, value: &toml::Value| {
        value.as_table().is_none_or(|table| {
            let mut keys = table.keys().map(|key| key.to_lowercase());
            table.is_empty() || keys.any(|key| names().any(|(of, field)| of == section && is_near(&key, field)))
        })
    };
    let is_field = |name: &str, value: &toml::Value| {
        names().any(|(known, _)| name == known || (is_near(name, known) && holds(known, value)))
    };
    let fields = table.iter().filter(|(name, value)| is_field(&name.to_lowercase(), value)).count();
    has("country") || (has("source") && has("target")) || 2 * fields >= table.len()
}

/// All fields of the least spec of a kind.
fn all_fields<S: Spec>() -> Vec<String> {
    toml::from_str::<S>(S::LEAST).map_or_else(|_| Vec::new(), |spec| fields(&spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_known_by_any_field_however_it_is_spelt() {
        for (text, meant) in [
            ("", true),
            ("country = 1", true),
            ("Country = 1\n[Source]", true),
            ("soruce = 1\ntaget = 2", true),
            ("[adpat]\nseed = 1", true),
            ("[pretrian]\nepochs = 3", true),
            ("country = 1\n[foo]\n[bar]\n[baz]", true),
            ("[source]\nkind = 1\n[sorce]\n[foo]", true),
            // cargo-deny's, and a package's for one system
            ("[sources]\nunknown-git = 'deny'\nallow-registry = []", false),
            ("[sorces]\nkind = 1", true),
            ("[graph]\n[advisories]\n[licenses]\n[bans]\n[sources]", false),
            ("[package]\nname = 1\n[dependencies]\n[target.'cfg(unix)'.dependencies]", false),
            ("title = 1\nbaseURL = 2\ncount = 3\nmode = 4\n[params]", false),
            ("[project]\nname = 1\n[build-system]\n[tool.x]", false),
            ("[workspace]\nmembers = []\n[lints]\n[lib]\n[[bin]]\n[patch.x]", false),
            ("[package]\nname = 1\n[dependencies]\n[features]\n[profile.dev]", false),
            ("lease_seconds = 8\n[stage.images]\nworkers = 2\n[slurm]\n[kubernetes]\n[ray]", false),
        ] {
            assert_eq!(is_spec(&text.parse().unwrap()), meant, "{text}");
        }
    }
}
