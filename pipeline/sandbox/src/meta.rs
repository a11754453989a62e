//! The meta record of a tile: one Python pickle an image.

use serde_pickle::{DeOptions, HashableValue, Value};

use crate::pickle;
use crate::scene::Tags;

/// Longest pickle that is read, bytes.
pub const MOST_BYTES: u64 = 1 << 20;

/// What a tile's pickle says.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// `box` or `bbox`: both names occur.
    pub box_key: String,
    /// West, south, east, north, degrees.
    pub bounds: [f64; 4],
    /// One number is written as a plain int (the year), more as a tuple.
    pub time: Vec<i64>,
    pub center: Tags,
    pub surrounding: Vec<Tags>,
    /// Pickle protocol, 2-4.
    pub protocol: u8,
}

impl Meta {
    /// The pickle; `None` for a protocol that is not written.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let time = match self.time.as_slice() {
            [year] => Value::I64(*year),
            parts => Value::Tuple(parts.iter().copied().map(Value::I64).collect()),
        };
        let entries = [
            (self.box_key.as_str(), Value::Tuple(self.bounds.map(Value::F64).to_vec())),
            ("time", time),
            ("center_tags", dict(&self.center)),
            ("surrounding_tags", Value::List(self.surrounding.iter().map(dict).collect())),
        ];
        let entries = entries.map(|(key, value)| (HashableValue::String(key.into()), value));
        pickle::encode(&Value::Dict(entries.into_iter().collect()), self.protocol)
    }

    /// Reads a pickle that [`Meta::encode`] wrote.
    ///
    /// # Errors
    /// A sentence that says which part is not as expected.
    pub fn decode(bytes: &[u8]) -> Result<Meta, String> {
        let protocol = pickle::protocol(bytes).ok_or("no pickle header")?;
        let value = serde_pickle::value_from_slice(bytes, DeOptions::new()).map_err(|error| error.to_string())?;
        let Value::Dict(mut entries) = value else {
            return Err("the pickle is no dict".into());
        };
        let mut take =
            |key: &str| entries.remove(&HashableValue::String(key.to_owned())).ok_or(format!("key {key} is missing"));
        let (box_key, corners) = match take("box") {
            Ok(value) => ("box", value),
            Err(_) => ("bbox", take("bbox")?),
        };
        let bounds: Option<Vec<f64>> = match corners {
            Value::Tuple(items) => {
                items.iter().map(|item| if let Value::F64(value) = item { Some(*value) } else { None }).collect()
            }
            _ => None,
        };
        let bounds = bounds
            .and_then(|values| <[f64; 4]>::try_from(values).ok())
            .ok_or(format!("{box_key} is no tuple of four floats"))?;
        let time = match take("time")? {
            Value::I64(year) => Some(vec![year]),
            Value::Tuple(items) => {
                items.iter().map(|item| if let Value::I64(value) = item { Some(*value) } else { None }).collect()
            }
            _ => None,
        };
        let Value::List(surrounding) = take("surrounding_tags")? else {
            return Err("surrounding_tags is no list".into());
        };
        Ok(Meta {
            box_key: box_key.to_owned(),
            bounds,
            time: time.ok_or("time is neither int nor tuple of ints")?,
            center: tags(take("center_tags")?).ok_or("center_tags is no dict of text")?,
            surrounding: surrounding
                .into_iter()
                .map(|value| tags(value).ok_or("surrounding_tags holds no dict of text"))
                .collect::<Result<_, _>>()?,
            protocol,
        })
    }
}

fn dict(tags: &Tags) -> Value {
    Value::Dict(
        tags.iter().map(|(key, value)| (HashableValue::String(key.clone()), Value::String(value.clone()))).collect(),
    )
}

fn tags(value: Value) -> Option<Tags> {
    let Value::Dict(entries) = value else {
        return None;
    };
    entries
        .into_iter()
        .map(|entry| match entry {
            (HashableValue::String(key), Value::String(value)) => Some((key, value)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::tags;

    #[test]
    fn meta_survives_its_pickle_in_every_form() -> Result<(), Box<dyn std::error::Error>> {
        for (protocol, time, box_key) in
            [(2, vec![2019], "box"), (3, vec![2019, 5, 31], "bbox"), (4, vec![2019, 5, 31, 11, 4], "box")]
        {
            let meta = Meta {
                box_key: box_key.into(),
                bounds: [13.1, 52.4, 13.2, 52.5],
                time,
                center: tags(&[("leisure", "pitch"), ("sport", "soccer")]),
                surrounding: vec![tags(&[("highway", "residential"), ("name", "Lindenallee")]), tags(&[])],
                protocol,
            };
            let bytes = meta.encode().ok_or("not encoded")?;
            assert_eq!(Meta::decode(&bytes)?, meta);
        }
        assert!(Meta::decode(b"\x80\x02}q\x00.").is_err());
        Ok(())
    }
}
