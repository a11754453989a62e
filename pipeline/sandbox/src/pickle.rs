//! Python pickles as CPython writes them: data opcodes only, with memo and, from protocol 4 on,
//! a frame.

use std::collections::HashMap;

use serde_pickle::{HashableValue, Value};

/// Pickle protocols that [`encode`] writes.
pub const PROTOCOLS: [u8; 3] = [2, 3, 4];

/// Writes a value of dicts, lists, tuples, text, floats, booleans, None and 32-bit integers.
/// Other kinds give `None`; protocols outside 2-4 too.
pub fn encode(value: &Value, protocol: u8) -> Option<Vec<u8>> {
    if !PROTOCOLS.contains(&protocol) {
        return None;
    }
    let mut body = Body { bytes: Vec::new(), modern: protocol >= 4, memo: 0, texts: HashMap::new() };
    body.value(value)?;
    body.bytes.push(b'.');
    let mut pickle = vec![0x80, protocol];
    if body.modern {
        pickle.push(0x95);
        pickle.extend((body.bytes.len() as u64).to_le_bytes());
    }
    pickle.extend(body.bytes);
    Some(pickle)
}

/// The protocol of a pickle, from its first two bytes.
pub fn protocol(pickle: &[u8]) -> Option<u8> {
    match pickle {
        [0x80, protocol, ..] => Some(*protocol),
        _ => None,
    }
}

struct Body {
    bytes: Vec<u8>,
    modern: bool,
    memo: u32,
    /// Memo index of each text written so far: equal texts are one object in Python.
    texts: HashMap<String, u32>,
}

impl Body {
    fn memoize(&mut self) -> u32 {
        let index = self.memo;
        self.memo += 1;
        if self.modern {
            self.bytes.push(0x94);
        } else if let Ok(small) = u8::try_from(index) {
            self.bytes.extend([b'q', small]);
        } else {
            self.bytes.push(b'r');
            self.bytes.extend(index.to_le_bytes());
        }
        index
    }

    fn text(&mut self, text: &str) {
        if let Some(&index) = self.texts.get(text) {
            if let Ok(small) = u8::try_from(index) {
                self.bytes.extend([b'h', small]);
            } else {
                self.bytes.push(b'j');
                self.bytes.extend(index.to_le_bytes());
            }
            return;
        }
        match u8::try_from(text.len()) {
            Ok(length) if self.modern => self.bytes.extend([0x8c, length]),
            _ => {
                self.bytes.push(b'X');
                self.bytes.extend((text.len() as u32).to_le_bytes());
            }
        }
        self.bytes.extend(text.as_bytes());
        let index = self.memoize();
        self.texts.insert(text.to_owned(), index);
    }

    fn value(&mut self, value: &Value) -> Option<()> {
        match value {
            Value::None => self.bytes.push(b'N'),
            Value::Bool(value) => self.bytes.push(if *value { 0x88 } else { 0x89 }),
            Value::I64(value) => match (u8::try_from(*value), u16::try_from(*value)) {
                (Ok(small), _) => self.bytes.extend([b'K', small]),
                (_, Ok(short)) => {
                    self.bytes.push(b'M');
                    self.bytes.extend(short.to_le_bytes());
                }
                _ => {
                    self.bytes.push(b'J');
                    self.bytes.extend(i32::try_from(*value).ok()?.to_le_bytes());
                }
            },
            Value::F64(value) => {
                self.bytes.push(b'G');
                self.bytes.extend(value.to_be_bytes());
            }
            Value::String(text) => self.text(text),
            Value::Tuple(items) => {
                if items.len() > 3 {
                    self.bytes.push(b'(');
                }
                for item in items {
                    self.value(item)?;
                }
                self.bytes.push(match items.len() {
                    0 => b')',
                    1 => 0x85,
                    2 => 0x86,
                    3 => 0x87,
                    _ => b't',
                });
                if !items.is_empty() {
                    self.memoize();
                }
            }
            Value::List(items) => {
                self.bytes.push(b']');
                self.memoize();
                if !items.is_empty() {
                    self.bytes.push(b'(');
                    for item in items {
                        self.value(item)?;
                    }
                    self.bytes.push(b'e');
                }
            }
            Value::Dict(entries) => {
                self.bytes.push(b'}');
                self.memoize();
                if !entries.is_empty() {
                    self.bytes.push(b'(');
                    for (key, value) in entries {
                        match key {
                            HashableValue::String(text) => self.text(text),
                            _ => return None,
                        }
                        self.value(value)?;
                    }
                    self.bytes.push(b'u');
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sample() -> Value {
        let text = |text: &str| Value::String(text.into());
        let dict = |pairs: &[(&str, Value)]| {
            Value::Dict(
                pairs
                    .iter()
                    .map(|(key, value)| (HashableValue::String((*key).into()), value.clone()))
                    .collect::<BTreeMap<_, _>>(),
            )
        };
        let many = (0..300).map(|index| text(&format!("k{index}"))).collect();
        dict(&[
            ("box", Value::Tuple([-0.9, 41.6, -0.8, 41.7].map(Value::F64).to_vec())),
            ("time", Value::Tuple([2019, 5, 31].map(Value::I64).to_vec())),
            ("again", Value::List(vec![text("box"), text("größe"), text(&"x".repeat(300))])),
            ("numbers", Value::List([0, 255, 256, 65_535, 65_536, -1].map(Value::I64).to_vec())),
            ("many", Value::List(many)),
            ("last", text("k299")),
            ("empty", Value::List(vec![Value::Tuple(vec![]), dict(&[]), Value::None, Value::Bool(true)])),
        ])
    }

    #[test]
    fn every_protocol_is_read_back() -> Result<(), Box<dyn std::error::Error>> {
        for wanted in PROTOCOLS {
            let bytes = encode(&sample(), wanted).ok_or("not encoded")?;
            assert_eq!(protocol(&bytes), Some(wanted));
            let value = serde_pickle::value_from_slice(&bytes, serde_pickle::DeOptions::new())?;
            assert_eq!(value, sample(), "protocol {wanted}");
        }
        Ok(())
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        assert_eq!(encode(&Value::Bytes(vec![1]), 4), None);
        assert_eq!(encode(&Value::I64(1 << 40), 4), None);
        assert_eq!(encode(&Value::None, 5), None);
    }
}
