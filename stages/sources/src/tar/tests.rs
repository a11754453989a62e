//! Archives of several programs, and of none.

use std::io::Write;

use super::*;

/// Names and data of an archive, as they came.
#[derive(Default, Debug, PartialEq)]
struct All(Vec<(String, u64, Vec<u8>)>, usize);

impl Visitor for All {
    fn begin(&mut self, member: Member) -> Result<(), SourceError> {
        self.0.push((String::from_utf8_lossy(&member.name).into_owned(), member.offset, Vec::new()));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        self.0.last_mut().unwrap().2.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), SourceError> {
        self.1 += 1;
        Ok(())
    }
}

fn read(bytes: &[u8], chunk: usize) -> Result<All, String> {
    let mut all = All::default();
    let mut archive = Archive::new(is_packed(bytes), &mut all);
    for bytes in bytes.chunks(chunk) {
        archive.feed(bytes).map_err(|e| e.to_string())?;
    }
    archive.finish().map_err(|e| e.to_string())?;
    Ok(all)
}

fn block(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[257..263].copy_from_slice(b"ustar\0");
    signed(block)
}

fn signed(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// A header and its data, filled up.
fn member(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = block(name, kind, data.len() as u64);
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn members_come_however_the_bytes_do() {
    let long = "n".repeat(300);
    let records = format!("{} path={long}\n", long.len() + 10);
    let bytes = [
        member(b"folder/", b'5', b""),
        member(b"a.txt", b'0', b"hello"),
        member(b"pax_global_header", b'g', b"16 comment=abcd\n"),
        member(b"PaxHeader", b'x', records.as_bytes()),
        member(b"short", b'0', &[7; 1024]),
        member(b"././@LongLink", b'L', b"link.txt\0"),
        member(b"cut", b'0', b""),
        member(b"a link", b'2', b""),
        end(),
        b"whatever follows".to_vec(),
    ]
    .concat();
    let whole = read(&bytes, bytes.len()).unwrap();
    let names: Vec<(&str, usize)> = whole.0.iter().map(|(name, _, data)| (name.as_str(), data.len())).collect();
    assert_eq!((names, whole.1), (vec![("a.txt", 5), (&long, 1024), ("link.txt", 0)], 3));
    for (_, offset, data) in &whole.0 {
        assert_eq!(&bytes[*offset as usize..][..data.len()], data);
    }
    for chunk in [1, 7, 512, 513] {
        assert_eq!(read(&bytes, chunk).unwrap(), whole);
        assert_eq!(read(&packed(&bytes), chunk).unwrap(), whole);
        // two archives of gzip behind each other, and zeros
        let (first, second) = bytes.split_at(700);
        assert_eq!(read(&[packed(first), packed(second), vec![0; 100]].concat(), chunk).unwrap(), whole);
    }
}

#[test]
fn what_is_cut_off_damaged_or_no_tar_is_an_error() {
    let bytes = [member(b"a.txt", b'0', b"hello"), end()].concat();
    let open = read(&bytes[..1024], 512).unwrap_err();
    assert!(open.contains("blocks of zeros"), "cut behind a member: {open}");
    for cut in [0, 3, 514, 1000] {
        assert!(read(&bytes[..cut], 512).unwrap_err().contains("cut off"), "{cut}");
    }
    let gz = packed(&bytes);
    for cut in [gz.len() / 2, gz.len() - 6, gz.len() - 1] {
        assert!(read(&gz[..cut], 512).is_err(), "{cut} of {} bytes", gz.len());
    }
    let mut other = gz.clone();
    let checksum = gz.len() - 8;
    other[checksum] ^= 1;
    assert!(read(&other, 512).unwrap_err().contains("gzip"), "a checksum of other bytes");
    let mut damaged = bytes.clone();
    damaged[0] ^= 1;
    assert!(read(&damaged, 512).unwrap_err().contains("checksum"));
    assert!(read(&[b'x'; 2000], 512).unwrap_err().contains("no tar header"));
    assert!(read(&[0x1f; 2000], 512).unwrap_err().contains("gzip"));
    let mut text = bytes.clone();
    text[124..136].copy_from_slice(b"not a number");
    assert!(read(&signed(text[..512].to_vec()), 512).unwrap_err().contains("size"));
}

#[test]
fn claims_are_not_believed() {
    // exabytes by a binary number
    let mut huge = block(b"a.jpg", b'0', 0);
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert!(read(&signed(huge.clone()), 512).unwrap_err().contains("a member of"));
    huge[128] = 0x0f;
    assert!(read(&signed(huge), 512).unwrap_err().contains("cut off"));
    // a name of a gigabyte
    let name = block(b"././@LongLink", b'L', 1 << 30);
    assert!(read(&name, 512).unwrap_err().contains("extended header"));
    for records in [&b"9999 path=a\n"[..], b"x path=a\n", b"12 nothing..\n", b"0 path=a\n", b"13 size=many.\n"] {
        assert!(read(&[member(b"x", b'x', records), end()].concat(), 512).is_err(), "{records:?}");
    }
    // zeros that were packed a thousandfold
    let bomb = packed(&[block(b"a.jpg", b'0', 1 << 30), vec![0; 80 << 20]].concat());
    assert!(bomb.len() < 1 << 20);
    assert!(read(&bomb, 4096).unwrap_err().contains("times its length"));
}
