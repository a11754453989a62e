//! What a row was made from, and why it has to be made again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{self, Digest};

/// Everything that decides the content of one derived row. Kept beside the row in its parts, so
/// that a later plan can say *what* changed instead of only *that* something did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeParts {
    /// Name of the stage.
    pub stage: String,
    /// Raised when the same inputs would give different rows.
    pub stage_version: u32,
    /// Digest of the model's weights and configuration; empty for stages without one.
    pub model: Digest,
    /// Canonical JSON of the stage's parameters.
    pub parameters: String,
    /// Digest of each declared input field, by `artifact.field`.
    pub inputs: BTreeMap<String, Digest>,
}

impl RecipeParts {
    /// `H(stage, version, model, parameters, input digests)`.
    pub fn digest(&self) -> Digest {
        let inputs = digest::canonical_json(&self.inputs);
        digest::of_parts([
            self.stage.as_bytes(),
            &self.stage_version.to_le_bytes(),
            self.model.as_bytes(),
            self.parameters.as_bytes(),
            inputs.as_bytes(),
        ])
    }

    /// The recipe of a row that is made of this.
    pub fn row(&self) -> CommittedRow {
        CommittedRow {
            recipe: self.digest(),
            stage_version: self.stage_version,
            model: self.model.clone(),
            parameters: self.parameters.clone(),
            inputs: digest::canonical_json(&self.inputs),
            failed: false,
        }
    }
}

/// A committed row's recipe in its parts, as read from the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedRow {
    /// Digest of the whole recipe.
    pub recipe: Digest,
    /// The stage's version when the row was made.
    pub stage_version: u32,
    /// Digest of the model that made it; empty for stages without one.
    pub model: Digest,
    /// Canonical JSON of the parameters that it was made with.
    pub parameters: String,
    /// Canonical JSON of the input digests.
    pub inputs: String,
    /// Whether the row holds an error instead of a result.
    pub failed: bool,
}

impl CommittedRow {
    /// Digest of each input field; none of a text that is no JSON.
    pub fn input_digests(&self) -> BTreeMap<String, Digest> {
        serde_json::from_str(&self.inputs).unwrap_or_default()
    }

    /// What it was made of, as what could be wanted of its stage.
    pub fn parts(&self, stage: &str) -> RecipeParts {
        RecipeParts {
            stage: stage.to_owned(),
            stage_version: self.stage_version,
            model: self.model.clone(),
            parameters: self.parameters.clone(),
            inputs: self.input_digests(),
        }
    }
}

/// The input field that says that a person has reviewed a row.
pub const REVIEW_INPUT: &str = "caption_reviews.review";

/// Why a row is computed, or why it leaves the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The table has never had this row.
    New,
    /// A person accepted, edited or rejected the row's caption, or took that back.
    Reviewed,
    /// An input field's digest changed (tags, caption, image bytes, …).
    InputChanged,
    /// The model's weights or configuration are others.
    ModelChanged,
    /// A setting that decides the row's content has another value.
    ParameterChanged,
    /// The stage was changed so that the same inputs give different rows.
    StageVersion,
    /// The row failed before and `--retry-errors` asked for another try.
    Errored,
    /// The file that held the row is gone or cut.
    Lost,
    /// The input row is gone: the output row leaves the table.
    Deleted,
}

impl Reason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Reason; 9] = [
        Reason::New,
        Reason::Reviewed,
        Reason::InputChanged,
        Reason::ModelChanged,
        Reason::ParameterChanged,
        Reason::StageVersion,
        Reason::Errored,
        Reason::Lost,
        Reason::Deleted,
    ];

    /// The reason for people, in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Reason::New => "new",
            Reason::Reviewed => "reviewed",
            Reason::InputChanged => "input changed",
            Reason::ModelChanged => "model changed",
            Reason::ParameterChanged => "parameter changed",
            Reason::StageVersion => "stage version",
            Reason::Errored => "errored before",
            Reason::Lost => "its file was lost",
            Reason::Deleted => "deleted",
        }
    }
}

/// What becomes of one row of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowAction {
    /// The committed row stands and is copied.
    Keep,
    /// An input is another, but not in anything that the stage makes use of: the row's content stands, under the new recipe.
    Carry,
    /// The row is computed, with this recipe.
    Compute(Reason),
    /// The row leaves the table.
    Delete,
}

/// Decides about one row. `committed` is what the table holds, `wanted` what it should be made of
/// (`None`: the inputs no longer have the row).
///
/// When several parts differ the most specific cause wins: an edited input is named before a
/// changed model, since the edit is what the person at the keyboard did.
///
/// ```
/// use manifests::recipe::{CommittedRow, Reason, RecipeParts, RowAction, decide};
/// let wanted = RecipeParts {
///     stage: "captions".into(),
///     stage_version: 1,
///     model: String::new(),
///     parameters: "{}".into(),
///     inputs: [("geotags.tags_digest".to_owned(), "0a".to_owned())].into(),
/// };
/// assert_eq!(decide(None, Some(&wanted), false), Some(RowAction::Compute(Reason::New)));
/// let committed = CommittedRow {
///     recipe: wanted.digest(),
///     stage_version: 1,
///     model: String::new(),
///     parameters: "{}".into(),
///     inputs: r#"{"geotags.tags_digest":"0a"}"#.into(),
///     failed: false,
/// };
/// assert_eq!(decide(Some(&committed), Some(&wanted), false), Some(RowAction::Keep));
/// let edited = RecipeParts { inputs: [("geotags.tags_digest".to_owned(), "0b".to_owned())].into(), ..wanted };
/// assert_eq!(decide(Some(&committed), Some(&edited), false), Some(RowAction::Compute(Reason::InputChanged)));
/// ```
pub fn decide(committed: Option<&CommittedRow>, wanted: Option<&RecipeParts>, retry_errors: bool) -> Option<RowAction> {
    let (committed, wanted) = match (committed, wanted) {
        (None, None) => return None,
        (None, Some(_)) => return Some(RowAction::Compute(Reason::New)),
        (Some(_), None) => return Some(RowAction::Delete),
        (Some(committed), Some(wanted)) => (committed, wanted),
    };
    let reason = if committed.recipe == wanted.digest() {
        if !(committed.failed && retry_errors) {
            return Some(RowAction::Keep);
        }
        Reason::Errored
    } else if committed.inputs != digest::canonical_json(&wanted.inputs) {
        let is_reviewed = committed.input_digests().get(REVIEW_INPUT) != wanted.inputs.get(REVIEW_INPUT);
        if is_reviewed { Reason::Reviewed } else { Reason::InputChanged }
    } else if committed.model != wanted.model {
        Reason::ModelChanged
    } else if committed.parameters != wanted.parameters {
        Reason::ParameterChanged
    } else {
        Reason::StageVersion
    };
    Some(RowAction::Compute(reason))
}

/// Whether a committed row differs from what is wanted in fields of one input alone, which its stage may make nothing of.
pub fn differs_only_in(committed: &CommittedRow, wanted: &RecipeParts, input: &str) -> bool {
    let (old, new) = (committed.input_digests(), &wanted.inputs);
    let is_other = |field: &&String| old.get(*field) != new.get(*field);
    let of_input = |field: &String| field.split_once('.').is_some_and(|(artifact, _)| artifact == input);
    !committed.failed
        && committed.model == wanted.model
        && committed.parameters == wanted.parameters
        && committed.stage_version == wanted.stage_version
        && old.keys().chain(new.keys()).filter(is_other).all(of_input)
}

/// Input fields whose digests differ: the field, as `artifact.field`, the digest of the committed row (`None`: it was not
/// read then) and the one that is wanted.
pub fn changed_inputs(committed: &CommittedRow, wanted: &RecipeParts) -> Vec<(String, Option<Digest>, Digest)> {
    let old = committed.input_digests();
    let fields = wanted.inputs.iter().filter(|(field, new)| old.get(*field) != Some(*new));
    fields.map(|(field, new)| (field.clone(), old.get(field).cloned(), new.clone())).collect()
}

/// The differences between a committed row and what is wanted, one readable line each. `value` gives what a field of an
/// input was where it had a digest, if that is known; otherwise the digest is shown.
pub fn differences(
    committed: &CommittedRow,
    wanted: &RecipeParts,
    value: impl Fn(&str, &str) -> Option<String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (field, old, new) in changed_inputs(committed, wanted) {
        let Some(old) = old else {
            lines.push(format!("{field}: not read before"));
            continue;
        };
        match (value(&field, &old), value(&field, &new)) {
            (Some(old), Some(new)) if old != new => {
                lines.extend([format!("{field} was {old}"), format!("{field} is  {new}")]);
            }
            _ => lines.push(format!("{field}: {} → {}", brief(&old), brief(&new))),
        }
    }
    let old = committed.input_digests();
    let gone = old.keys().filter(|field| !wanted.inputs.contains_key(*field));
    lines.extend(gone.map(|field| format!("{field}: no longer read")));
    if committed.model != wanted.model {
        lines.push(format!("model: {} → {}", brief(&committed.model), brief(&wanted.model)));
    }
    if committed.parameters != wanted.parameters {
        lines.extend(parameter_differences(&committed.parameters, &wanted.parameters));
    }
    if committed.stage_version != wanted.stage_version {
        lines.push(format!("stage version: {} → {}", committed.stage_version, wanted.stage_version));
    }
    lines
}

/// Why a row was made again, from its recipes before and after: one cause each, without digests, so that like rows count
/// together. None where the recipe is the same.
pub fn causes(before: &CommittedRow, after: &CommittedRow) -> Vec<String> {
    let (old, new) = (before.input_digests(), after.input_digests());
    let fields: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = fields.into_iter().filter(|field| old.get(*field) != new.get(*field));
    let mut causes: Vec<String> = changed.map(|field| format!("{field} changed")).collect();
    if before.model != after.model {
        causes.push("another model".to_owned());
    }
    causes.extend(parameter_differences(&before.parameters, &after.parameters));
    if before.stage_version != after.stage_version {
        causes.push(format!("stage version: {} → {}", before.stage_version, after.stage_version));
    }
    if causes.is_empty() && before.failed && !after.failed {
        causes.push("tried again after an error".to_owned());
    }
    causes
}

fn brief(digest: &str) -> &str {
    if digest.is_empty() { "none" } else { &digest[..digest.len().min(12)] }
}

/// Parameters that differ, by their whole path, with their values before and now.
pub fn parameter_differences(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (settings(old), settings(new));
    let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let show = |value: Option<&String>| value.map_or("unset", String::as_str).to_owned();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| {
            let called = if name.is_empty() { "parameters".to_owned() } else { format!("parameter {name}") };
            format!("{called}: {} → {}", show(old.get(name)), show(new.get(name)))
        })
        .collect()
}

/// Parameters by name, of nested ones the whole path, each as JSON has it.
pub fn settings(parameters: &str) -> BTreeMap<String, String> {
    fn add(name: String, value: &serde_json::Value, all: &mut BTreeMap<String, String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (field, value) in fields {
                    let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                    add(name, value, all);
                }
            }
            value => _ = all.insert(name, value.to_string()),
        }
    }
    let mut all = BTreeMap::new();
    add(String::new(), &serde_json::from_str(parameters).unwrap_or_default(), &mut all);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> RecipeParts {
        RecipeParts {
            stage: "captions".into(),
            stage_version: 1,
            model: "m".into(),
            parameters: r#"{"max":6}"#.into(),
            inputs: [("geotags.tags".to_owned(), "t1".to_owned())].into(),
        }
    }

    fn committed(parts: &RecipeParts) -> CommittedRow {
        parts.row()
    }

    #[test]
    fn each_change_has_its_reason() {
        let row = committed(&wanted());
        let reason_of = |change: &dyn Fn(&mut RecipeParts)| {
            let mut parts = wanted();
            change(&mut parts);
            decide(Some(&row), Some(&parts), false).unwrap()
        };
        assert_eq!(reason_of(&|_| ()), RowAction::Keep);
        assert_eq!(reason_of(&|p| p.stage_version = 2), RowAction::Compute(Reason::StageVersion));
        assert_eq!(reason_of(&|p| p.model = "n".into()), RowAction::Compute(Reason::ModelChanged));
        assert_eq!(reason_of(&|p| p.parameters = "{}".into()), RowAction::Compute(Reason::ParameterChanged));
        assert_eq!(
            reason_of(&|p| _ = p.inputs.insert("geotags.tags".into(), "t2".into())),
            RowAction::Compute(Reason::InputChanged)
        );
        assert_eq!(decide(None, Some(&wanted()), false), Some(RowAction::Compute(Reason::New)));
        assert_eq!(decide(Some(&row), None, false), Some(RowAction::Delete));
        assert_eq!(decide(None, None, false), None);
    }

    #[test]
    fn a_review_is_named_before_an_edit_and_so_is_its_end() {
        let plain = committed(&wanted());
        let mut reviewed = wanted();
        reviewed.inputs.insert(REVIEW_INPUT.into(), "r1".into());
        assert_eq!(decide(Some(&plain), Some(&reviewed), false), Some(RowAction::Compute(Reason::Reviewed)));
        let row = committed(&reviewed);
        assert_eq!(decide(Some(&row), Some(&reviewed), false), Some(RowAction::Keep));
        assert_eq!(decide(Some(&row), Some(&wanted()), false), Some(RowAction::Compute(Reason::Reviewed)));
        assert_eq!(differences(&row, &wanted(), |_, _| None), ["caption_reviews.review: no longer read"]);
        // tags that change afterwards are an edit
        reviewed.inputs.insert("geotags.tags".into(), "t2".into());
        assert_eq!(decide(Some(&row), Some(&reviewed), false), Some(RowAction::Compute(Reason::InputChanged)));
    }

    #[test]
    fn failed_rows_are_kept_until_a_retry_is_asked_for() {
        let row = CommittedRow { failed: true, ..committed(&wanted()) };
        assert_eq!(decide(Some(&row), Some(&wanted()), false), Some(RowAction::Keep));
        assert_eq!(decide(Some(&row), Some(&wanted()), true), Some(RowAction::Compute(Reason::Errored)));
    }

    #[test]
    fn a_row_may_stand_only_if_nothing_else_is_another() {
        let row = committed(&wanted());
        let differs = |change: &dyn Fn(&mut RecipeParts)| {
            let mut parts = wanted();
            parts.inputs.insert("geotags.tags".into(), "t2".into());
            change(&mut parts);
            differs_only_in(&row, &parts, "geotags")
        };
        assert!(differs(&|_| ()));
        assert!(!differs(&|p| p.stage_version = 2));
        assert!(!differs(&|p| p.model = "n".into()));
        assert!(!differs(&|p| p.parameters = "{}".into()));
        assert!(!differs(&|p| _ = p.inputs.insert("images.bytes".into(), "b".into())));
        assert!(!differs(&|p| _ = p.inputs.insert(REVIEW_INPUT.into(), "r".into())));
        assert!(!differs_only_in(&CommittedRow { failed: true, ..row.clone() }, &wanted(), "geotags"));
        let reviewed = CommittedRow { inputs: r#"{"caption_reviews.review":"r","geotags.tags":"t1"}"#.into(), ..row };
        assert!(!differs_only_in(&reviewed, &wanted(), "geotags"));
    }

    #[test]
    fn causes_tell_two_recipes_apart() {
        let before = committed(&wanted());
        assert!(causes(&before, &before).is_empty());
        let mut parts = wanted();
        parts.inputs.insert("geotags.tags".into(), "t2".into());
        parts.model = "n".into();
        parts.parameters = r#"{"max":8}"#.into();
        parts.stage_version = 2;
        let expected = ["geotags.tags changed", "another model", "parameter max: 6 → 8", "stage version: 1 → 2"];
        assert_eq!(causes(&before, &committed(&parts)), expected);
        let failed = CommittedRow { failed: true, ..before.clone() };
        assert_eq!(causes(&failed, &before), ["tried again after an error"]);
    }

    #[test]
    fn differences_name_the_parameter() {
        let row = committed(&wanted());
        let mut parts = wanted();
        parts.parameters = r#"{"max":8}"#.into();
        assert_eq!(differences(&row, &parts, |_, _| None), ["parameter max: 6 → 8"]);
        parts.parameters = r#"{"blip":{"beams":5,"seed":null},"max":6}"#.into();
        assert_eq!(
            differences(&row, &parts, |_, _| None),
            ["parameter blip.beams: unset → 5", "parameter blip.seed: unset → null"]
        );
    }
}
