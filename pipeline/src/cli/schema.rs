//! The schemas of build and pair specs.

use manifests::schema;
use schemars::Schema;
use training::adapt::Settings;

/// A kind of spec.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Kind {
    Build,
    Pair,
}

impl Kind {
    pub(super) fn schema(self) -> Schema {
        match self {
            Kind::Build => schema::build(),
            Kind::Pair => schema::pair(schema::schema_of::<Settings>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const HEAD: &str = "# Reference of the specs\n\nGenerated from the types; do not edit. `urbancross schema` has the \
                        same as JSON Schema, `urbancross spec SPEC` prints a spec with all defaults. Fields outside \
                        of their bounds are refused with a message that names the bounds.\n\n";

    /// With `URBANCROSS_WRITE_REFERENCE=1` the file is written instead.
    #[test]
    fn the_reference_is_that_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
        let build = schema::reference("Build spec", &Kind::Build.schema());
        let pair = schema::reference("Pair spec", &Kind::Pair.schema());
        let wanted = format!("{HEAD}{build}\n{pair}");
        if std::env::var_os("URBANCROSS_WRITE_REFERENCE").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "docs/reference.md is out of date: run this test with URBANCROSS_WRITE_REFERENCE=1");
    }

    #[test]
    fn every_choice_of_an_adaptation_says_what_it_means() {
        let pair = Kind::Pair.schema().to_value();
        let method = &pair["properties"]["adapt"]["properties"]["method"]["properties"];
        let fields = method.as_object().unwrap();
        assert!(fields.len() > 15);
        for (name, field) in fields {
            assert!(field["description"].is_string(), "adapt.method.{name} has no doc comment");
        }
    }
}
