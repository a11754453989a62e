//! Archives built by hand: honest ones, damaged ones and attacks.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sources::SourceError;
use sources::zip::*;

use crate::archive::{File, data, end, entry, find, local, members, zip};

fn read(bytes: &[u8]) -> Vec<Result<(String, Vec<u8>), SourceError>> {
    let members = members(bytes, 50).unwrap();
    members
        .into_iter()
        .map(|member| {
            let member = member?;
            let data = data(bytes, &member, &Limits::default())?;
            Ok((member.name, data))
        })
        .collect()
}

/// The error of the only member.
fn member_error(bytes: &[u8]) -> String {
    match read(bytes).pop().unwrap() {
        Err(error @ SourceError::Member { .. }) => error.to_string(),
        other => panic!("expected a member error, got {other:?}"),
    }
}

fn archive_error(bytes: &[u8]) -> String {
    match members(bytes, 50) {
        Err(error @ SourceError::Archive { .. }) => error.to_string(),
        other => panic!("expected an archive error, got {other:?}"),
    }
}

fn two_files() -> [File; 2] {
    [
        File::stored("images2/a1_CH_19.jpg", b"\xff\xd8 a picture"),
        File::deflated("meta2/a1_CH_19.pickle", &b"tags ".repeat(50)),
    ]
}

#[test]
fn honest_archives_are_read_with_any_chunk_and_prefix() {
    for zip64 in [false, true] {
        let bytes = zip(&two_files(), zip64);
        for (before, after) in [("", ""), ("a self-extractor", ""), ("", "garbage"), ("x", "y")] {
            let bytes = [before.as_bytes(), &bytes, after.as_bytes()].concat();
            let directory = find(&bytes).unwrap();
            assert_eq!(directory.archive_offset, before.len() as u64);
            assert_eq!((directory.entries, directory.zip64), (2, zip64));
            let expected = members(&bytes, usize::MAX).unwrap();
            for chunk in [1, 2, 45, 46, 47, 66, 100] {
                let members = members(&bytes, chunk).unwrap();
                for (a, b) in members.iter().zip(&expected) {
                    assert_eq!(a.as_ref().unwrap(), b.as_ref().unwrap());
                }
            }
            let read: Vec<_> = read(&bytes).into_iter().map(Result::unwrap).collect();
            assert_eq!(read[0].1, b"\xff\xd8 a picture");
            assert_eq!(read[1], ("meta2/a1_CH_19.pickle".into(), b"tags ".repeat(50)));
        }
    }
}

#[test]
fn a_comment_may_be_long_and_hold_signatures() {
    let mut bytes = zip(&two_files(), false);
    let comment = [b"PK\x05\x06".repeat(9), vec![b'x'; 65_535 - 36]].concat();
    let length = bytes.len();
    bytes[length - 2..].copy_from_slice(&u16::MAX.to_le_bytes());
    bytes.extend(&comment);
    assert_eq!(find(&bytes).unwrap().entries, 2);
}

#[test]
fn a_member_is_fetched_with_one_request_unless_its_extra_field_is_huge() {
    let limits = Limits::default();
    let mut files = two_files();
    files[0].local_extra = vec![0; 60];
    files[1].local_extra = vec![0; 5000];
    let bytes = zip(&files, false);
    let found: Vec<_> = members(&bytes, 50).unwrap().into_iter().map(Result::unwrap).collect();
    let directory = find(&bytes).unwrap();

    let first = member_range(&found[0], Some(found[1].header_offset));
    assert_eq!(first, 0..found[1].header_offset);
    let fetched = &bytes[first.start as usize..first.end as usize];
    assert!(matches!(extract(&found[0], fetched, &limits), Ok(Extracted::Data(_))));

    let second = member_range(&found[1], Some(directory.offset));
    let fetched = &bytes[second.start as usize..second.end as usize];
    let Ok(Extracted::NeedMore { length }) = extract(&found[1], fetched, &limits) else {
        panic!("5000 bytes of extra field cannot have been fetched");
    };
    assert_eq!(second.start + length, directory.offset);
    assert_eq!(data(&bytes, &found[1], &limits).unwrap(), b"tags ".repeat(50));
    // Too few bytes for the local header itself.
    let Ok(Extracted::NeedMore { length }) = extract(&found[1], &[], &limits) else {
        panic!("nothing was given");
    };
    assert_eq!(length, second.end - second.start);
}

#[test]
fn empty_members_are_read() {
    let files = [File::stored("a", b""), File::deflated("b", b""), File::stored("dir/", b"")];
    let read: Vec<_> = read(&zip(&files, false)).into_iter().map(Result::unwrap).collect();
    assert_eq!(read, [("a".to_owned(), vec![]), ("b".to_owned(), vec![])]);
    assert!(members(&zip(&[], false), 50).unwrap().is_empty());
}

#[test]
fn hostile_names_are_errors_of_the_member() {
    for (name, problem) in [
        (&b"../etc/passwd"[..], "climbs out"),
        (b"a/../../b", "climbs out"),
        (b"/etc/passwd", "absolute"),
        (b"C:/windows", "absolute"),
        (b"a\\b", "backslash"),
        (b"a\0b", "control character"),
        (b"", "empty"),
        (b"\xd6\xd0.jpg", "not UTF-8"),
    ] {
        let file = File { name: name.into(), ..File::stored("", b"x") };
        let error = member_error(&zip(&[file], false));
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn encryption_and_unknown_methods_are_errors_of_the_member() {
    for (flags, method, problem) in
        [(1, 0, "encrypted"), (0x2000, 0, "encrypted"), (0, 12, "method 12"), (0, 99, "method 99")]
    {
        let bad = File { flags, method, ..File::stored("bad", b"x") };
        let bytes = zip(&[bad, File::stored("good", b"y")], false);
        let [bad, good] = &read(&bytes)[..] else {
            panic!("two members were written");
        };
        let error = bad.as_ref().unwrap_err();
        assert!(error.spoils_one_row() && error.to_string().contains(problem), "{error}");
        assert_eq!(good.as_ref().unwrap().1, b"y");
    }
}

#[test]
fn damaged_data_is_noticed() {
    let deflated = || File::deflated("m", &b"some data ".repeat(9));
    let wrong_crc = File { crc32: 1, ..deflated() };
    let too_short = File { uncompressed_size: 89, ..deflated() };
    let too_long = File { uncompressed_size: 91, ..deflated() };
    let mut broken_off = deflated();
    broken_off.data.pop();
    let mut trailing = deflated();
    trailing.data.push(0);
    let not_deflate = File { data: vec![0xff; 20], ..deflated() };
    let stored_sizes = File { uncompressed_size: 2, ..File::stored("m", b"x") };
    for (file, problem) in [
        (wrong_crc, "CRC-32"),
        (too_short, "longer than declared"),
        (too_long, "90 bytes extracted, 91 declared"),
        (broken_off, "breaks off"),
        (trailing, "ends before"),
        (not_deflate, "damaged"),
        (stored_sizes, "stored, but"),
    ] {
        let error = member_error(&zip(&[file], false));
        assert!(error.contains(problem), "{problem}: {error}");
    }
}

#[test]
fn a_header_that_is_not_the_members_is_noticed() {
    let bytes = zip(&two_files(), false);
    let found: Vec<_> = members(&bytes, 50).unwrap().into_iter().map(Result::unwrap).collect();
    let swapped = Member { header_offset: found[1].header_offset, ..found[0].clone() };
    let error = data(&bytes, &swapped, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("names `meta2/a1_CH_19.pickle`"), "{error}");
    let nowhere = Member { header_offset: 3, ..found[0].clone() };
    let error = data(&bytes, &nowhere, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("no local header at byte 3"), "{error}");
}

#[test]
fn bombs_are_refused_before_anything_is_allocated() {
    let limits = Limits::default();
    let bytes = zip(&[File::deflated("bomb", &vec![0; 3 << 20])], false);
    let member = members(&bytes, 50).unwrap().pop().unwrap().unwrap();
    let setting = |member: &Member, limits: &Limits| match data(&bytes, member, limits) {
        Err(SourceError::Limit { setting, .. }) => setting,
        other => panic!("expected a limit, got {:?}", other.map(|data| data.len())),
    };
    assert_eq!(setting(&member, &limits), "max_ratio");
    let trusting = Limits { max_ratio: 2000, ..limits };
    assert_eq!(data(&bytes, &member, &trusting).unwrap().len(), 3 << 20);
    let small = Limits { max_member_bytes: (3 << 20) - 1, ..trusting };
    assert_eq!(setting(&member, &small), "max_member_bytes");
    // The declared size lies: inflating stops one byte past it.
    let liar = Member { uncompressed_size: 1000, ..member.clone() };
    let error = data(&bytes, &liar, &limits).unwrap_err().to_string();
    assert!(error.contains("longer than declared"), "{error}");
    // Sizes beyond memory, under limits that would allow anything.
    let all = Limits { max_member_bytes: u64::MAX, max_ratio: u64::MAX, ..limits };
    for size in [1 << 40, u64::MAX] {
        let huge = Member { uncompressed_size: size, ..member.clone() };
        assert_eq!(setting(&huge, &all), "max_member_bytes");
    }
}

#[test]
fn a_damaged_directory_is_an_error_of_the_archive() {
    let files = two_files();
    let good = zip(&files, false);
    let directory = find(&good).unwrap();
    let start = directory.offset as usize;

    assert!(archive_error(b"").contains("not a zip"));
    assert!(archive_error(b"PK\x03\x04 no end here").contains("not a zip"));
    assert!(archive_error(&good[..good.len() - 1]).contains("not a zip"));
    assert!(archive_error(&good[20..]).contains("behind itself"));

    let mut signature = good.clone();
    signature[start] = b'X';
    assert!(archive_error(&signature).contains("entry 0"));

    let mut name_length = good.clone();
    name_length[start + 28] += 1;
    assert!(archive_error(&name_length).contains("entry 1"));

    let end_at = good.len() - 22;
    let rewritten =
        |entries: u64, length: u64| [&good[..end_at], &end(entries, length, directory.offset, false)].concat();
    assert!(archive_error(&rewritten(3, directory.length)).contains("do not fit"));
    assert!(archive_error(&rewritten(1, directory.length)).contains("2 entries found, 1 declared"));
    assert!(archive_error(&rewritten(1, directory.length - 1)).contains("breaks off"));

    let mut disks = good.clone();
    disks[end_at + 4] = 1;
    assert!(archive_error(&disks).contains("several disks"));

    let error = find_directory(1000, b"short").unwrap_err().to_string();
    assert!(error.contains("fetch the last 1000"), "{error}");
}

#[test]
fn damaged_zip64_records_are_errors_of_the_archive() {
    let good = zip(&two_files(), true);
    let record = good.len() - 22 - 20 - 56;
    for (at, value, problem) in [
        (record, 0, "locator points to"),
        (record + 16, 1, "several disks"),
        (record + 24, 9, "several disks"),
        (record + 47, 0xff, "behind itself"),
        (record + 55, 0xff, "behind itself"),
        (record + 56 + 16, 2, "several disks"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        let error = archive_error(&bytes);
        assert!(error.contains(problem), "{at}: {error}");
    }
    assert!(read_zip64_end(7, b"PK\x06\x06").is_err());
    assert!(read_zip64_end(7, &[0; 56]).is_err());
}

#[test]
fn a_zip64_record_before_the_tail_is_asked_for() {
    // An extensible record so long that its begin lies outside of the tail.
    let files = two_files();
    let good = zip(&files, true);
    let record = good.len() - 22 - 20 - 56;
    let mut bytes = good[..record + 56].to_vec();
    bytes.extend(vec![0; TAIL_BYTES as usize]);
    bytes.extend(&good[record + 56..]);
    let tail = &bytes[bytes.len() - TAIL_BYTES as usize..];
    assert_eq!(
        find_directory(bytes.len() as u64, tail).unwrap(),
        Tail::NeedRange { offset: record as u64, length: 56 }
    );
    assert_eq!(read(&bytes).len(), 2);
}

#[test]
fn entries_that_cannot_be_right_are_errors_of_the_member() {
    let file = File::stored("m", b"x");
    let build = |entry: Vec<u8>| {
        let local = local(&file);
        [&local[..], &entry, &end(1, entry.len() as u64, local.len() as u64, false)].concat()
    };
    let behind = build(entry(&file, 1 << 20, false));
    assert!(member_error(&behind).contains("reaches into"));
    let long = build(entry(&File { data: vec![0; 2], uncompressed_size: 2, ..file.clone() }, 0, false));
    assert!(member_error(&long).contains("reaches into"));
    let overflow = build(entry(&file, u64::MAX, true));
    assert!(member_error(&overflow).contains("reaches into"));
    let mut no_zip64 = entry(&file, 0, true);
    let extra = no_zip64.len() - 28;
    no_zip64[extra] = 9;
    assert!(member_error(&build(no_zip64)).contains("Zip64 field"));
}

#[test]
fn limits_hold_for_the_directory() {
    let directory = find(&zip(&two_files(), false)).unwrap();
    let parser = |limits| DirectoryParser::new(directory, &limits).err().unwrap().to_string();
    let few_bytes = parser(Limits { max_directory_bytes: 10, ..Limits::default() });
    assert!(few_bytes.contains("max_directory_bytes = 10"), "{few_bytes}");
    let few_entries = parser(Limits { max_entries: 1, ..Limits::default() });
    assert!(few_entries.contains("max_entries = 1"), "{few_entries}");
    // A declared count that is too low does not get around it.
    let lying = Directory { entries: 0, ..directory };
    let one = Limits { max_entries: 1, ..Limits::default() };
    let mut parser = DirectoryParser::new(lying, &one).unwrap();
    let entries = two_files().map(|file| entry(&file, 0, false)).concat();
    let error = parser.feed(&entries, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, SourceError::Limit { value: 2, .. }), "{error}");
    let mut parser = DirectoryParser::new(directory, &Limits::default()).unwrap();
    let error = parser.feed(&vec![0; 1000], &mut |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("1000 bytes fed"), "{error}");
}

#[test]
fn more_than_65535_members_are_read_with_and_without_zip64() {
    let count = 70_000u64;
    let files: Vec<_> =
        (0..count).map(|i| File::stored(&format!("images2/w{i}_FI_20.jpg"), &i.to_le_bytes())).collect();
    for zip64 in [true, false] {
        // Without Zip64 the end record holds the count modulo 65,536.
        let bytes = zip(&files, zip64);
        let directory = find(&bytes).unwrap();
        assert_eq!(directory.entries, if zip64 { count } else { count % 65_536 });
        let members = members(&bytes, 1 << 16).unwrap();
        assert_eq!(members.len() as u64, count);
        let last = members.last().unwrap().as_ref().unwrap();
        assert_eq!(last.name, "images2/w69999_FI_20.jpg");
        let data = data(&bytes, last, &Limits::default()).unwrap();
        assert_eq!(data, 69_999u64.to_le_bytes());
    }
}

#[test]
fn random_ranges_coalesce_into_requests_that_hold_them() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for _ in 0..200 {
        let ranges: Vec<_> = (0..50)
            .map(|_| {
                let start = u64::from(rng.next_u32() % 10_000);
                start..start + u64::from(rng.next_u32() % 300)
            })
            .collect();
        let (gap, most) = (u64::from(rng.next_u32() % 200), 500);
        let requests = coalesce(&ranges, gap, most);
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            let holds = |r: &&std::ops::Range<u64>| r.start <= range.start && range.end <= r.end;
            assert!(requests.iter().any(|request| holds(&request)), "{range:?}");
        }
        assert!(requests.iter().all(|request| request.end - request.start <= most));
    }
}
