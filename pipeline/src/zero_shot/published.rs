//! Figures that others have printed, beside ours.

use std::path::Path;

use serde::{Deserialize, Serialize};
use workers::WorkerError;

/// A longer file is none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// A figure as somebody else printed it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedFigure {
    /// The data set, in small letters, such as `rsitmd`.
    pub data_set: String,
    /// The model, as its authors call it.
    pub model: String,
    /// Mean recall in percent.
    pub mean_recall: f64,
    /// Whether the model was trained on the data set's own train part.
    pub trained_on_it: bool,
    /// Who printed it, where.
    pub source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedFile {
    figure: Vec<PublishedFigure>,
}

/// The file that comes with this program.
const SHIPPED: &str = include_str!("../../../manifests/datasets/published.toml");

/// The figures of a data set in a file, or in the one that comes with this program.
///
/// # Errors
/// [`WorkerError::Configuration`] for a file that cannot be read, or holds something else.
pub(super) fn figures(file: Option<&Path>, data_set: &str) -> Result<Vec<PublishedFigure>, WorkerError> {
    let all = match file {
        None => parse(SHIPPED).map_err(WorkerError::Broken)?,
        Some(path) => {
            let bytes = std::fs::metadata(path).map_err(|e| WorkerError::of_io(path, &e))?.len();
            let wrong = |why: String| WorkerError::Configuration(format!("--published {}: {why}", path.display()));
            if bytes > MAX_BYTES {
                return Err(wrong(format!("has {bytes} bytes, at most {MAX_BYTES} are read")));
            }
            parse(&std::fs::read_to_string(path).map_err(|e| WorkerError::of_io(path, &e))?).map_err(wrong)?
        }
    };
    let named = data_set.to_lowercase();
    Ok(all.into_iter().filter(|figure| figure.data_set == named).collect())
}

fn parse(text: &str) -> Result<Vec<PublishedFigure>, String> {
    let file: PublishedFile = toml::from_str(text).map_err(|e| e.to_string())?;
    for PublishedFigure { data_set, model, mean_recall, source, .. } in &file.figure {
        if !(0.0..=100.0).contains(mean_recall) {
            return Err(format!("{model} on {data_set}: {mean_recall} is no percentage"));
        }
        if source.trim().is_empty() {
            return Err(format!("{model} on {data_set}: say in `source` who printed the figure"));
        }
        if *data_set != data_set.to_lowercase() {
            return Err(format!("data_set = {data_set:?}: write it in small letters"));
        }
    }
    Ok(file.figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_figures_have_sources_and_are_found_by_data_set() {
        let all = parse(SHIPPED).unwrap();
        assert!(all.len() > 30, "{}", all.len());
        let of = figures(None, "RSITMD").unwrap();
        assert!(of.iter().any(|f| f.model == "RemoteCLIP ViT-L/14" && f.mean_recall == 50.1 && f.trained_on_it));
        assert!(of.iter().any(|f| f.model == "CLIP ViT-B/32" && f.mean_recall == 24.2 && !f.trained_on_it));
        // whoever does not say which data set a folder is sees the figures of none
        let any_folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/captioned.toml");
        let any_folder = manifests::BuildSpec::read(&any_folder, &[]).unwrap().country;
        for other in ["finland", any_folder.as_str()] {
            assert!(figures(None, other).unwrap().is_empty(), "{other}");
        }
        // each model once for each data set and source
        let mut keys: Vec<_> = all.iter().map(|f| (&f.data_set, &f.model, &f.source)).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all.len());
    }

    #[test]
    fn files_of_others_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        let said = |text: &str| {
            std::fs::write(&path, text).unwrap();
            figures(Some(&path), "x").err().map_or(String::new(), |e| e.to_string())
        };
        let with = |mean: &str, source: &str| {
            format!(
                "[[figure]]\ndata_set = \"x\"\nmodel = \"m\"\nmean_recall = {mean}\ntrained_on_it = false\nsource = \"{source}\""
            )
        };
        assert_eq!(said(&with("12.5", "a paper")), "");
        for (text, words) in [
            (with("nan", "a paper"), "no percentage"),
            (with("101", "a paper"), "no percentage"),
            (with("1", " "), "who printed"),
            (with("1", "s").replace("\"x\"", "\"X\""), "small letters"),
            (with("1", "s") + "\nours = true", "ours"),
            ("x".into(), "p.toml"),
        ] {
            assert!(said(&text).contains(words), "{text}: {}", said(&text));
        }
        std::fs::write(&path, vec![b' '; (MAX_BYTES + 1) as usize]).unwrap();
        assert!(figures(Some(&path), "x").unwrap_err().to_string().contains("at most"));
    }
}
