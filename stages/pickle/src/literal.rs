//! Values as the pickle protocols write them: text lines of protocol 0, binary integers.

use super::Value;

/// INT: decimal, or the bools `00` and `01`.
pub(super) fn int(line: &[u8]) -> Option<Value<'_>> {
    match line {
        b"00" => Some(Value::Bool(false)),
        b"01" => Some(Value::Bool(true)),
        _ => long_decimal(line),
    }
}

/// LONG: decimal with a final `L`; 64 bits are read.
pub(super) fn long_decimal(line: &[u8]) -> Option<Value<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    let digits = line.strip_suffix('L').unwrap_or(line);
    digits.parse().ok().map(Value::Int)
}

/// FLOAT: decimal, `inf` or `nan`.
pub(super) fn float(line: &[u8]) -> Option<Value<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    line.parse().ok().map(Value::Float)
}

/// LONG1 and LONG4: two's complement, little-endian, of at most eight bytes.
pub(super) fn long(bytes: &[u8]) -> Option<i64> {
    let sign = match bytes.last() {
        Some(last) if last & 0x80 != 0 => 0xff,
        _ => 0,
    };
    let mut extended = [sign; 8];
    extended.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(extended))
}

/// UNICODE: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode(mut line: &[u8]) -> Option<Value<'_>> {
    let mut text = String::with_capacity(line.len());
    while let Some((&byte, rest)) = line.split_first() {
        let digits = match (byte, rest.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(byte.into());
                line = rest;
                continue;
            }
        };
        text.push(char::from_u32(hex(rest.get(1..=digits)?)?)?);
        line = &rest[1 + digits..];
    }
    Some(Value::Text(text.into()))
}

/// STRING as Python 2 wrote it: a quoted literal with escapes, UTF-8.
pub(super) fn quoted(line: &[u8]) -> Option<Value<'_>> {
    let mut rest = match line.trim_ascii_end() {
        [quote @ (b'\'' | b'"'), inner @ .., end] if quote == end => inner,
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (&escape, tail) = rest.split_first()?;
        rest = tail;
        bytes.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'\\' | b'\'' | b'"' => escape,
            b'x' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                rest = tail;
                // Two hexadecimal digits fit into a byte.
                hex(digits)? as u8
            }
            _ => return None,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    Some(Value::Text(text.into()))
}

/// Value of hexadecimal digits, at most eight.
fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}
