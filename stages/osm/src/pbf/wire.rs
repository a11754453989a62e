//! Protocol buffers, as far as PBF uses them: fields are slices of the message, and nothing is allocated.

use crate::OsmError;

fn broken(why: &str) -> OsmError {
    OsmError::Content(format!("{why}: the file is damaged or no .osm.pbf; download it again"))
}

/// The value of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// A number of any kind.
    Number(u64),
    /// Bytes, a text, a message or packed numbers.
    Bytes(&'a [u8]),
    /// A number of fixed width, which PBF does not use.
    Other,
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], OsmError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(broken("a field holds a number where bytes belong")),
        }
    }

    pub(super) fn number(self) -> Result<u64, OsmError> {
        match self {
            Value::Number(number) => Ok(number),
            _ => Err(broken("a field holds bytes where a number belongs")),
        }
    }

    pub(super) fn signed(self) -> Result<i64, OsmError> {
        self.number().map(unzigzag)
    }

    pub(super) fn text(self) -> Result<&'a str, OsmError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| broken("a text is no UTF-8"))
    }
}

/// Numbers that may be negative are stored by turns: 0, -1, 1, -2 …
pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// The fields of a message.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], OsmError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or_else(|| broken("a field is longer than its message"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field with its number; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, OsmError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = varint(&mut self.0)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.0)?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = varint(&mut self.0)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return Err(broken("a field has a type that protocol buffers do not have")),
        };
        Ok(Some((key >> 3, value)))
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, OsmError> {
    let mut number = 0u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f).checked_shl(7 * at as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Ok(number);
        }
    }
    Err(broken("a number has no end"))
}

/// Numbers in one field, one after the other.
#[derive(Clone, Copy, Default)]
pub(super) struct Packed<'a>(&'a [u8]);

impl<'a> Packed<'a> {
    pub(super) fn of(value: Value<'a>) -> Result<Self, OsmError> {
        value.bytes().map(Self)
    }

    pub(super) fn next(&mut self) -> Result<Option<u64>, OsmError> {
        if self.0.is_empty() { Ok(None) } else { varint(&mut self.0).map(Some) }
    }

    /// A number that must be there.
    pub(super) fn need(&mut self) -> Result<u64, OsmError> {
        self.next()?.ok_or_else(|| broken("one list of a message is shorter than another"))
    }
}

/// A number that is stored as the difference to the one before it.
#[derive(Clone, Copy, Default)]
pub(super) struct Running(i64);

impl Running {
    pub(super) fn plus(&mut self, difference: u64) -> Result<i64, OsmError> {
        self.0 = self.0.checked_add(unzigzag(difference)).ok_or_else(|| broken("a number leaves all bounds"))?;
        Ok(self.0)
    }
}
