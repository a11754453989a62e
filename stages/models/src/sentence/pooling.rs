//! One vector for a text from those of its tokens.

use crate::{ModelError, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Which vectors of tokens stand for the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean, frame included.
    Mean,
    /// That of the first token.
    Cls,
    /// The largest value in each dimension.
    Max,
}

impl Pooling {
    /// Reads `1_Pooling/config.json` of sentence-transformers; `path` is where it came from.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] for a file of another kind, or for a way of pooling that is not known here.
    pub(super) fn from_json(path: &Path, json: serde_json::Value) -> Result<Self> {
        #[derive(Deserialize)]
        struct Raw {
            /// Newer files have the name alone.
            pooling_mode: Option<String>,
            #[serde(flatten)]
            others: BTreeMap<String, serde_json::Value>,
        }
        let raw: Raw = serde_json::from_value(json).map_err(|error| ModelError::malformed(path, error))?;
        let switched = raw.others.iter().filter(|(name, value)| name.starts_with("pooling_mode_") && **value == true);
        let mut modes: Vec<&str> = switched.map(|(name, _)| name.trim_start_matches("pooling_mode_")).collect();
        modes.extend(raw.pooling_mode.as_deref());
        match modes.as_slice() {
            ["mean_tokens" | "mean"] | [] => Ok(Pooling::Mean),
            ["cls_token" | "cls"] => Ok(Pooling::Cls),
            ["max_tokens" | "max"] => Ok(Pooling::Max),
            modes => Err(ModelError::malformed(
                path,
                format!("pools by {}; known are mean, cls and max, one at a time", modes.join(" and ")),
            )),
        }
    }

    /// `tokens_ld` (`[L, D]`, L at least 1) to `[D]`.
    pub(super) fn pool(self, tokens_ld: &[f32], width: usize) -> Vec<f32> {
        let mut rows = tokens_ld.chunks_exact(width);
        let mut pooled = rows.next().map(<[f32]>::to_vec).unwrap_or_default();
        let each = |pooled: &mut [f32], row: &[f32], f: fn(f32, f32) -> f32| {
            pooled.iter_mut().zip(row).for_each(|(sum, value)| *sum = f(*sum, *value));
        };
        match self {
            Pooling::Cls => {}
            Pooling::Max => rows.for_each(|row| each(&mut pooled, row, f32::max)),
            Pooling::Mean => {
                rows.for_each(|row| each(&mut pooled, row, |sum, value| sum + value));
                let count = (tokens_ld.len() / width) as f32;
                pooled.iter_mut().for_each(|sum| *sum /= count);
            }
        }
        pooled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_become_one_vector() {
        let tokens = [1.0, 4.0, 3.0, -2.0, 5.0, 4.0];
        assert_eq!(Pooling::Mean.pool(&tokens, 2), [3.0, 2.0]);
        assert_eq!(Pooling::Cls.pool(&tokens, 2), [1.0, 4.0]);
        assert_eq!(Pooling::Max.pool(&tokens, 2), [5.0, 4.0]);
    }

    #[test]
    fn old_and_new_files_name_the_way() {
        let read = |json| Pooling::from_json(Path::new("pooling.json"), json);
        let old = json!({ "word_embedding_dimension": 384, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true });
        assert_eq!(read(old).unwrap(), Pooling::Mean);
        assert_eq!(read(json!({ "pooling_mode": "cls" })).unwrap(), Pooling::Cls);
        assert_eq!(read(json!({ "pooling_mode_max_tokens": true })).unwrap(), Pooling::Max);
        let both = json!({ "pooling_mode_cls_token": true, "pooling_mode_lasttoken": true });
        let message = read(both).unwrap_err().to_string();
        assert!(message.contains("cls_token and lasttoken"), "{message}");
    }
}
