//! One header of a tar archive: ustar's, GNU's and the older one.

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;

/// What stands behind a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file.
    File,
    /// The name of the next member (GNU).
    LongName,
    /// Records about the next member (POSIX).
    Pax,
    /// Something about the next member, or about all, that is not read.
    Passed,
    /// A folder, a link, a device, a file with holes.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
}

impl Header {
    /// Reads a block; `None`: a block of zeros, which ends an archive.
    pub(super) fn read(block: &[u8]) -> Result<Option<Self>, String> {
        let field = |from: usize, length: usize| block.get(from..from + length).unwrap_or_default();
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let declared = number(field(148, 8)).ok_or("no tar header: its checksum is no number")?;
        let sum: u64 =
            block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { byte.into() }).sum();
        // old programs added up signed bytes
        let signed: i64 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { i64::from(byte as i8) })
            .sum();
        if declared != sum && i64::try_from(declared) != Ok(signed) {
            return Err(format!("no tar header, or a damaged one: its checksum is {sum}, it says {declared}"));
        }
        let size = number(field(124, 12)).ok_or("a member whose size is no number")?;
        let name = until_zero(field(0, 100));
        let prefix = until_zero(field(345, 155));
        let name = match field(257, 6) == b"ustar\0" && !prefix.is_empty() {
            true => [prefix, b"/", name].concat(),
            false => name.to_vec(),
        };
        let kind = match block.get(156).copied().unwrap_or_default() {
            // older archives tell folders by their names
            b'0' | b'7' | 0 if name.ends_with(b"/") => Kind::Other,
            b'0' | b'7' | 0 => Kind::File,
            b'L' => Kind::LongName,
            b'x' => Kind::Pax,
            b'g' | b'K' => Kind::Passed,
            _ => Kind::Other,
        };
        Ok(Some(Header { kind, name, size }))
    }
}

/// Octal digits between blanks, or GNU's binary numbers.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        let (high, low) = rest.split_at(rest.len().checked_sub(8)?);
        return high.iter().all(|&byte| byte == 0).then(|| u64::from_be_bytes(low.try_into().unwrap_or_default()));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    match text {
        "" => Some(0),
        digits if digits.bytes().all(|byte| (b'0'..b'8').contains(&byte)) => u64::from_str_radix(digits, 8).ok(),
        _ => None,
    }
}

pub(super) fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// What POSIX records say of a member.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records<'a> {
    pub(super) path: Option<&'a [u8]>,
    pub(super) size: Option<u64>,
}

/// Reads records: their length, a blank, a name, `=`, a value, and a line break.
pub(super) fn pax(mut bytes: &[u8]) -> Result<Records<'_>, String> {
    let mut records = Records::default();
    while !bytes.is_empty() {
        let wrong = || "an extended header that is none".to_owned();
        let blank = bytes.iter().take(20).position(|&byte| byte == b' ').ok_or_else(wrong)?;
        let length: usize = std::str::from_utf8(&bytes[..blank]).ok().and_then(|t| t.parse().ok()).ok_or_else(wrong)?;
        let record = bytes.get(blank + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(wrong)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
        let value = &record[equals + 1..];
        match &record[..equals] {
            b"path" => records.path = Some(value),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                records.size = Some(size.ok_or_else(wrong)?);
            }
            _ => {}
        }
        bytes = &bytes[length..];
    }
    Ok(records)
}
