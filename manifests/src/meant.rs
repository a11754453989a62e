//! Which tables of files that lie among others are meant as specs, however their fields are spelt.

use crate::spec::{Spec, fields};
use crate::{BuildSpec, PairSpec};

/// Whether a table is meant as the spec of a build or of a pair: it has one of their fields, or nearly, or nothing at all.
pub fn is_spec(table: &toml::Table) -> bool {
    let known = [all_fields::<BuildSpec>(), all_fields::<PairSpec>()].concat();
    let sections = || known.iter().map(|field| field.split('.').next().unwrap_or(field));
    // one slip in three letters, two at most: `workspace` is no `work`
    let is_near = |name: &str, known: &str| strsim::damerau_levenshtein(name, known) <= (known.len() / 3).min(2);
    let is_field = |name: &str| sections().any(|known| is_near(name, known));
    table.is_empty() || table.keys().any(|name| is_field(&name.to_lowercase()))
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
            ("[project]\nname = 1\n[build-system]\n[tool.x]", false),
            ("[workspace]\nmembers = []\n[lints]\n[lib]\n[[bin]]\n[patch.x]", false),
            ("[package]\nname = 1\n[dependencies]\n[features]\n[profile.dev]", false),
            ("lease_seconds = 8\n[stage.images]\nworkers = 2\n[slurm]\n[kubernetes]\n[ray]", false),
        ] {
            assert_eq!(is_spec(&text.parse().unwrap()), meant, "{text}");
        }
    }
}
