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

/// Fields and sections that say how a command goes about its work, or where, and never what comes of it. Whoever reads
/// this has found the work store.
const OF_WORKING: [&str; 28] = [
    "caption.instructblip.cache_mib",
    "caption.instructblip.images_per_batch",
    "caption.llava.cache_mib",
    "caption.llava.images_per_batch",
    "caption.server.key_env",
    "caption.server.price_per_million_tokens_in",
    "caption.server.price_per_million_tokens_out",
    "caption.server.requests_at_once",
    "caption.server.requests_per_minute",
    "caption.server.timeout_seconds",
    "caption.server.token_limit",
    "caption.server.tries",
    "caption.server.url",
    "model.device",
    "pretrain.checkpoint_every_steps",
    "pretrain.keep_checkpoints",
    "pretrain.micro_batches",
    "pretrain.prefetch_batches",
    "pretrain.recompute_activations",
    "pretrain.time_phases",
    "ranks",
    "segment.sam.images_per_batch",
    "segment.sam.points_per_batch",
    "segment.sam.timeout_seconds",
    "source.options",
    "source.osm.accept_share",
    "weights.options",
    "work",
];

fn is_of_the_build(field: &str) -> bool {
    let is_in = |named: &&str| field.strip_prefix(*named).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    field == "work.shards" || !OF_WORKING.iter().any(is_in)
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
    // an earlier version kept more of them
    let other = last.iter().filter(|(field, value)| is_of_the_build(field) && now.get(*field) != Some(value));
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
    use manifests::weights::Weights;
    use stages::Training;

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

    #[test]
    fn how_a_run_went_about_its_work_makes_nothing_look_out_of_date() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"a\"\n\
                    [caption]\ncaptioner = \"instructblip\"\ninstructblip.weights = \"a/b\"\n\
                    [segment]\nsegmenter = \"sam\"\nsam.weights = \"a/b\"\n";
        let spec = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
            BuildSpec::parse(text, "t", &set).unwrap()
        };
        let computed = |spec: &BuildSpec| {
            let of_training = |training| stages::pretrain::parameters(spec, training, &Weights::default());
            let mut parameters: Vec<_> =
                stages::map_stages(spec).iter().map(|stage| (stage.parameters)(spec)).collect();
            parameters.extend([Training::Bootstrap, Training::Pretrain].map(of_training));
            parameters
        };
        let without = spec(&[]);
        for set in [
            "caption.instructblip.cache_mib=9",
            "caption.instructblip.images_per_batch=3",
            "model.device=\"cuda:0\"",
            "pretrain.checkpoint_every_steps=7",
            "pretrain.keep_checkpoints=3",
            "pretrain.micro_batches=2",
            "pretrain.prefetch_batches=5",
            "pretrain.recompute_activations=true",
            "pretrain.time_phases=true",
            "ranks.processes=4",
            "segment.sam.images_per_batch=1",
            "segment.sam.points_per_batch=7",
            "segment.sam.timeout_seconds=9",
            "source.options.region=\"x\"",
            "source.osm.accept_share=0.3",
            "weights.options.retries=2",
            "work.concurrency=3",
        ] {
            let with = spec(&[set]);
            let last = with.values(fields_of(&[set.to_owned()]));
            assert_eq!(last.len(), 1, "{set}");
            assert!(differing(&last, &without).is_empty(), "{set}");
            assert_eq!(computed(&with), computed(&without), "{set}");
        }
        let last = spec(&["work.shards=3", "pretrain.epochs=3"]).values(["work.shards", "pretrain.epochs"].into_iter());
        assert_eq!(differing(&last, &without), ["--set pretrain.epochs=3", "--set work.shards=3"]);
    }
}
