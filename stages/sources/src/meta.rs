//! The meta record of an image: box, time and OpenStreetMap tags.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::SourceError;
use pickle::{Pickle, Rules, Value, ValueId};

/// Longest pickle that is read; meta records have some kilobytes.
pub const MAX_PICKLE_BYTES: usize = 4 << 20;

/// Most bytes of tag texts in a record. Memo references let a small pickle name one dict many
/// times; here they are copied out, so here they are counted.
const MAX_TAG_BYTES: usize = 16 << 20;
/// What an empty tag costs: its place in the map.
const BYTES_PER_TAG: usize = 48;

/// Tags of one object: key → value, sorted by key.
pub type Tags = BTreeMap<String, String>;

/// A time of acquisition, as exact as the record has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Full year, such as 2019.
    pub year: u16,
    /// 1 to 12.
    pub month: Option<u8>,
    /// 1 to 31.
    pub day: Option<u8>,
    /// 0 to 23.
    pub hour: Option<u8>,
    /// 0 to 59.
    pub minute: Option<u8>,
}

/// What the pickle beside an image says.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// West, south, east, north in degrees; west < east and south < north.
    pub box_wsen: [f64; 4],
    /// When the image was taken, where the record says so.
    pub time: Option<Time>,
    /// Tags of the focus object, which need not lie in the middle of the image.
    pub center_tags: Tags,
    /// Tags of the other objects, in the order of the record.
    pub surrounding_tags: Vec<Tags>,
}

impl Meta {
    /// Reads a record from its pickle; keys other than `box` or `bbox`, `time`, `center_tags` and
    /// `surrounding_tags` are ignored. Tag values that are not texts become what Python's `str`
    /// makes of them (floats: the shortest digits that read back).
    ///
    /// # Errors
    /// Those of [`Pickle::read`]; [`SourceError::Meta`] naming the field that is missing or has
    /// another shape; [`SourceError::Limit`] for over 16 MiB of tags.
    pub fn from_pickle(bytes: &[u8]) -> Result<Self, SourceError> {
        let pickle = Pickle::read(bytes, &Rules::plain(MAX_PICKLE_BYTES))?;
        let Value::Dict(record) = pickle.root() else {
            return Err(meta_error("record", format!("{} instead of a dict", kind(pickle.root()))));
        };
        let mut reader = TagReader { pickle: &pickle, bytes_left: MAX_TAG_BYTES };
        let field = |name: &str| {
            // Later keys replace earlier ones.
            let found =
                record.iter().rev().find(|(key, _)| matches!(pickle.value(*key), Value::Text(text) if text == name));
            found.map(|(_, value)| pickle.value(*value))
        };
        let bounds = field("box")
            .or_else(|| field("bbox"))
            .ok_or_else(|| meta_error("box", "neither `box` nor `bbox` is there".into()))?;
        let center_tags = field("center_tags").ok_or_else(|| meta_error("center_tags", "missing".into()))?;
        Ok(Self {
            box_wsen: box_wsen(&pickle, bounds)?,
            time: match field("time") {
                None | Some(Value::None) => None,
                Some(value) => Some(time(&pickle, value)?),
            },
            center_tags: reader.tags("center_tags", center_tags)?,
            surrounding_tags: match field("surrounding_tags") {
                None | Some(Value::None) => Vec::new(),
                Some(Value::Sequence(items)) => items
                    .iter()
                    .map(|item| reader.tags("surrounding_tags", pickle.value(*item)))
                    .collect::<Result<_, _>>()?,
                Some(other) => {
                    let problem = format!("{} instead of a list", kind(other));
                    return Err(meta_error("surrounding_tags", problem));
                }
            },
        })
    }

    /// The tags as text that is the same whenever the tags are: input of their digest.
    /// JSON, keys sorted, surrounding objects sorted (their order says nothing; repeats count).
    pub fn canonical_tags(&self) -> String {
        canonical_tags(&self.center_tags, &self.surrounding_tags)
    }
}

/// [`Meta::canonical_tags`] for tags from elsewhere.
pub fn canonical_tags(center_tags: &Tags, surrounding_tags: &[Tags]) -> String {
    #[derive(Serialize)]
    struct Canonical<'a> {
        center: &'a Tags,
        surrounding: Vec<&'a Tags>,
    }
    let mut surrounding: Vec<_> = surrounding_tags.iter().collect();
    surrounding.sort_unstable();
    let canonical = Canonical { center: center_tags, surrounding };
    serde_json::to_string(&canonical).expect("maps of strings serialise to JSON")
}

fn meta_error(field: &str, problem: String) -> SourceError {
    SourceError::Meta { field: field.to_owned(), problem }
}

fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::None => "None",
        Value::Bool(_) => "a bool",
        Value::Int(_) => "an int",
        Value::Float(_) => "a float",
        Value::Text(_) => "a string",
        Value::Sequence(_) => "a list or tuple",
        Value::Dict(_) => "a dict",
        // the rules for plain data have none
        Value::Name(_) | Value::Call(..) | Value::Reference(_) => "an object",
    }
}

fn box_wsen(pickle: &Pickle<'_>, value: &Value<'_>) -> Result<[f64; 4], SourceError> {
    let error = |problem: String| meta_error("box", problem);
    let degrees = |id: ValueId| match pickle.value(id) {
        Value::Int(value) => Ok(*value as f64),
        Value::Float(value) => Ok(*value),
        other => Err(error(format!("{} instead of degrees", kind(other)))),
    };
    let Value::Sequence(items) = value else {
        return Err(error(format!("{} instead of four numbers", kind(value))));
    };
    let &[west, south, east, north] = items.as_slice() else {
        return Err(error(format!("{} numbers instead of four", items.len())));
    };
    let bounds = [degrees(west)?, degrees(south)?, degrees(east)?, degrees(north)?];
    if is_box(bounds) {
        Ok(bounds)
    } else {
        Err(error(format!(
            "{bounds:?} is not (west, south, east, north) in degrees with west < east and \
             south < north"
        )))
    }
}

/// Whether this is a box on Earth of some area, not over the 180th meridian.
pub fn is_box([west, south, east, north]: [f64; 4]) -> bool {
    -180.0 <= west && west < east && east <= 180.0 && -90.0 <= south && south < north && north <= 90.0
}

/// A year, or a tuple of year, month, day[, hour, minute].
fn time(pickle: &Pickle<'_>, value: &Value<'_>) -> Result<Time, SourceError> {
    let error = |problem: String| meta_error("time", problem);
    let number = |value: &Value<'_>, least: i64, most: i64| match value {
        Value::Int(number) if (least..=most).contains(number) => Ok(*number),
        Value::Int(number) => Err(error(format!("{number} is not in {least}..={most}"))),
        other => Err(error(format!("{} instead of an int", kind(other)))),
    };
    let Value::Sequence(items) = value else {
        let year = number(value, 1, 9999)? as u16;
        return Ok(Time { year, ..Time::default() });
    };
    let Some((&year, parts)) = items.split_first().filter(|_| items.len() <= 5) else {
        return Err(error(format!("{} numbers instead of 1 to 5", items.len())));
    };
    let part = |index: usize, least, most| {
        let part = parts.get(index).map(|&id| number(pickle.value(id), least, most));
        part.transpose().map(|part| part.map(|part| part as u8))
    };
    Ok(Time {
        year: number(pickle.value(year), 1, 9999)? as u16,
        month: part(0, 1, 12)?,
        day: part(1, 1, 31)?,
        hour: part(2, 0, 23)?,
        minute: part(3, 0, 59)?,
    })
}

struct TagReader<'p, 'a> {
    pickle: &'p Pickle<'a>,
    bytes_left: usize,
}

impl TagReader<'_, '_> {
    fn tags(&mut self, field: &str, value: &Value<'_>) -> Result<Tags, SourceError> {
        let Value::Dict(pairs) = value else {
            return Err(meta_error(field, format!("{} instead of a dict", kind(value))));
        };
        self.spend(BYTES_PER_TAG)?;
        let mut tags = Tags::new();
        for (key, value) in pairs {
            self.spend(BYTES_PER_TAG)?;
            let key = self.text(field, *key)?;
            tags.insert(key, self.text(field, *value)?);
        }
        Ok(tags)
    }

    /// A scalar as Python's `str` writes it.
    fn text(&mut self, field: &str, id: ValueId) -> Result<String, SourceError> {
        let text = match self.pickle.value(id) {
            Value::Text(text) => {
                self.spend(text.len())?;
                text.as_ref().to_owned()
            }
            Value::None => "None".into(),
            Value::Bool(true) => "True".into(),
            Value::Bool(false) => "False".into(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) if value.is_nan() => "nan".into(),
            Value::Float(value) => format!("{value:?}"),
            other => {
                return Err(meta_error(field, format!("{} inside of a tag", kind(other))));
            }
        };
        Ok(text)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), SourceError> {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Ok(())
            }
            None => Err(SourceError::Limit {
                what: "bytes of tags in a meta record".into(),
                value: MAX_TAG_BYTES as u64 + 1,
                setting: "MAX_TAG_BYTES",
                limit: MAX_TAG_BYTES as u64,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn canonical_tags_ignore_order_and_nothing_else() {
        let center = tags(&[("highway", "residential"), ("building", "yes")]);
        let (a, b) = (tags(&[("a", "1")]), tags(&[("b", "\"2\"")]));
        let text = canonical_tags(&center, &[b.clone(), a.clone()]);
        assert_eq!(
            text,
            "{\"center\":{\"building\":\"yes\",\"highway\":\"residential\"},\
             \"surrounding\":[{\"a\":\"1\"},{\"b\":\"\\\"2\\\"\"}]}"
        );
        assert_eq!(canonical_tags(&center, &[a.clone(), b.clone()]), text);
        assert_ne!(canonical_tags(&center, &[a.clone(), a.clone(), b]), text);
        assert_ne!(canonical_tags(&a, &[]), canonical_tags(&Tags::new(), &[a]));
    }

    #[test]
    fn boxes_lie_on_earth_and_have_an_area() {
        assert!(is_box([24.9, 60.1, 25.0, 60.2]));
        assert!(is_box([-180.0, -90.0, 180.0, 90.0]));
        for bad in [
            [25.0, 60.1, 24.9, 60.2],
            [24.9, 60.2, 25.0, 60.1],
            [24.9, 60.1, 24.9, 60.2],
            [-180.1, 0.0, 0.0, 1.0],
            [0.0, 0.0, 1.0, 90.1],
            [f64::NAN, 0.0, 1.0, 1.0],
            [0.0, f64::NAN, 1.0, 1.0],
            [0.0, 0.0, f64::INFINITY, 1.0],
        ] {
            assert!(!is_box(bad), "{bad:?}");
        }
    }
}
