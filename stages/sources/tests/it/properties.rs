//! What holds for any input: no panic, memory bounded by the input and the limits, errors with their place.
//!
//! The seed is fixed, so that the gate says the same every time; `PROPTEST_CASES` makes more cases.

use pickle::{Pickle, PickleError, Rules};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use sources::SourceError;
use sources::captioned::{self, CaptionedImage};
use sources::csv;
use sources::meta::Meta;
use sources::name::{ImageName, OsmKind, OsmObject};
use sources::split::{ADAPT_RATIOS, PRETRAIN_RATIOS, Placement, SplitRow, assign};
use sources::zip::{Directory, DirectoryParser, Limits, TAIL_BYTES, Tail, find_directory, read_zip64_end};

use crate::archive::{File, data, members, zip};
use crate::memory::peak_bytes;

fn config() -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(24), failure_persistence: None, ..ProptestConfig::default() }
}

/// What a pickle costs at most: a value and its place on the stack for each byte, in vectors that double.
const BYTES_PER_PICKLE_BYTE: usize = 256;
const SLACK_BYTES: usize = 64 << 10;

/// A stream of opcodes with short arguments: far more of it is understood than of random bytes.
fn pickle() -> impl Strategy<Value = Vec<u8>> {
    let opcode =
        select(&b"(.NKMJGIFLUCXTB])}ltdaesupqrghj0VS2cRbi\x80\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x94\x95\x96"[..]);
    let argument =
        prop_oneof![vec(0u8..3, 0..6), vec(any::<u8>(), 0..9), Just(b"12\n".to_vec()), Just(b"'a'\n".to_vec())];
    vec((opcode, argument), 0..60).prop_map(|code| {
        let mut bytes: Vec<u8> = code.into_iter().flat_map(|(opcode, rest)| [vec![opcode], rest].concat()).collect();
        bytes.push(b'.');
        bytes
    })
}

/// A member that may lie about everything.
fn file() -> impl Strategy<Value = File> {
    let name = prop_oneof!["images2/[awnr][0-9]{1,4}_FI_20\\.jpg", "(\\.\\./|/|a|\\\\|\n){0,5}", Just(String::new())];
    let method = prop_oneof![Just(0u16), Just(8), any::<u16>()];
    let size = prop_oneof![0u64..200, Just(u64::from(u32::MAX)), any::<u32>().prop_map(u64::from)];
    (name, vec(any::<u8>(), 0..100), method, select(&[0u16, 1, 8, 0x2000][..]), proptest::option::of(size)).prop_map(
        |(name, data, method, flags, size)| {
            let file = if method == 8 { File::deflated(&name, &data) } else { File::stored(&name, &data) };
            let uncompressed_size = size.unwrap_or(file.uncompressed_size);
            File { method, flags, uncompressed_size, ..file }
        },
    )
}

fn damaged_zip() -> impl Strategy<Value = Vec<u8>> {
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (vec(file(), 0..4), any::<bool>(), damage, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(files, zip64, damage, cut, is_cut)| {
            let mut bytes = zip(&files, zip64);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
}

/// The line that an error names lies in the text, or it is of the table as a whole.
fn names_a_line(error: &SourceError, text: &[u8]) -> bool {
    let lines = 1 + text.iter().filter(|&&byte| byte == b'\n').count() as u64;
    match error {
        SourceError::Row { line, .. } => (1..=lines.max(text.len() as u64)).contains(line),
        SourceError::Table(why) => !why.is_empty(),
        _ => false,
    }
}

fn names_are_sound(images: &[CaptionedImage]) -> bool {
    images.iter().all(|image| {
        let climbs = image.file.split('/').any(|part| part == "..") || image.file.starts_with('/');
        !climbs && !image.file.contains(char::is_control) && captioned::composed(&image.file) == image.file
    })
}

fn quoted(field: &str) -> String {
    format!("\"{}\"", field.replace('"', "\"\""))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pickles(bytes in prop_oneof![pickle(), vec(any::<u8>(), 0..200)]) {
        let mut result = Ok(());
        let peak = peak_bytes(|| result = Pickle::read(&bytes, &Rules::plain(1 << 20)).map(|_| ()));
        prop_assert!(peak as usize <= bytes.len() * BYTES_PER_PICKLE_BYTE + SLACK_BYTES, "{peak} bytes");
        match result {
            Err(PickleError::Damaged { offset, .. } | PickleError::Refused { offset, .. }) => {
                prop_assert!(offset <= bytes.len() as u64);
            }
            other => prop_assert!(other.is_ok(), "{other:?}"),
        }
        let _ = Meta::from_pickle(&bytes).map(|meta| meta.canonical_tags());
    }

    #[test]
    fn zips(bytes in damaged_zip(), chunk in 1usize..80) {
        let limits = Limits { max_member_bytes: 64 << 10, ..Limits::default() };
        let mut found = Ok(Vec::new());
        let peak = peak_bytes(|| {
            found = members(&bytes, chunk);
            for member in found.iter().flatten().flatten() {
                let _ = data(&bytes, member, &limits);
            }
        });
        prop_assert!(peak as usize <= bytes.len() * 8 + 2 * limits.max_member_bytes as usize + SLACK_BYTES, "{peak} bytes");
        for member in found.iter().flatten().flatten() {
            prop_assert!(!member.name.contains(char::is_control) && !member.name.contains(".."), "{}", member.name);
            prop_assert!(member.header_offset + member.compressed_size <= bytes.len() as u64);
        }
        prop_assert!(matches!(found, Ok(_) | Err(SourceError::Archive { .. })), "{found:?}");
    }

    #[test]
    fn tails(tail in vec(any::<u8>(), 0..300), end in vec(any::<u8>(), 18), gap in any::<u64>(), marks in 0usize..3) {
        let signatures: [&[u8]; 3] = [b"", b"PK\x05\x06", b"PK\x06\x07"];
        let bytes = [&tail[..], signatures[marks], &end, b"PK\x05\x06", &end].concat();
        let file_size = (bytes.len() as u64).saturating_add(if bytes.len() as u64 == TAIL_BYTES { gap } else { 0 });
        let within = |directory: Directory| directory.offset.checked_add(directory.length).is_some_and(|e| e <= file_size);
        match find_directory(file_size, &bytes) {
            Ok(Tail::Found(directory)) => prop_assert!(within(directory)),
            Ok(Tail::NeedRange { offset, length }) => prop_assert!(offset.checked_add(length).is_some()),
            Err(error) => prop_assert!(matches!(error, SourceError::Archive { .. }), "{error}"),
        }
        let _ = read_zip64_end(gap, &bytes);
    }

    #[test]
    fn directories(chunks in vec(vec(any::<u8>(), 0..120), 0..6), entries in 0u64..9) {
        let bytes = [b"PK\x01\x02".to_vec(), chunks.concat()].concat();
        let length = bytes.len() as u64;
        let mut parser =
            DirectoryParser::new(Directory { offset: 1 << 40, length, entries, archive_offset: 0, zip64: false }, &Limits::default()).unwrap();
        let mut seen = 0;
        let fed = parser.feed(&bytes, &mut |entry| {
            seen += 1;
            let _ = (entry.name().map(str::len), entry.member(), entry.is_folder());
            Ok(())
        });
        prop_assert!(seen * 46 <= bytes.len());
        if fed.is_ok() && parser.finish().is_ok() {
            prop_assert_eq!(seen as u64, entries);
        }
    }

    #[test]
    fn csv_files_of_any_bytes(text in vec(select(&b"\"\"\"\n\n\r,,ab \xff\xc3\xa4\0"[..]), 0..120)) {
        let text = [&b"filepath,title\n"[..], &text].concat();
        let read = || {
            let mut rows = Vec::new();
            csv::read_csv(&text[..], &mut |row| { rows.push(row); Ok(()) }).map(|summary| (rows, summary))
        };
        let mut result = read();
        let peak = peak_bytes(|| result = read());
        prop_assert!(peak < 1 << 20, "{peak} bytes");
        match &result {
            Ok((rows, summary)) => {
                prop_assert_eq!(rows.len() as u64, summary.rows);
                prop_assert!(rows.iter().all(|row| row.line >= 2));
            }
            Err(error) => prop_assert!(names_a_line(error, &text), "{error}"),
        }
    }

    #[test]
    fn csv_rows_are_read_as_they_were_written(rows in vec(("[a-z]{1,8}", "[a-z\", \n\r]{0,12}"), 0..12)) {
        let mut text = "filepath,title\r\n".to_owned();
        for (path, title) in &rows {
            text += &format!("{path},{}\r\n", quoted(title));
        }
        let mut back = Vec::new();
        let summary = csv::read_csv(text.as_bytes(), &mut |row| { back.push((row.filepath, row.title)); Ok(()) });
        prop_assert_eq!(summary.unwrap().row_errors, 0);
        prop_assert_eq!(&back, &rows);
    }

    #[test]
    fn caption_files(
        text in vec(select(&["{", "}", "[", "]", "\"", ":", ",", "\"file\"", "\"captions\"", "\"images\"", "\"annotations\"", "\"file_name\"", "\"caption\"", "\"image_id\"", "\"id\"",
            "\"text\"", "\"raw\"", "\"filename\"", "file_name,text\n", "\"split\"", "\"train\"",
            "\"a\"", "\"../a\"", "\"u\u{308}\"", "\n", "\\", "\u{1b}", "image_name,description", "image_name,description,split\n"][..]), 0..40),
        names in "[a./\n\u{308}u]{0,20}",
    ) {
        let text = text.concat();
        let bytes = text.as_bytes();
        for name in ["a.json", "a.jsonl", "a.csv", "a_caps.txt", "nwpu.json", "test/metadata.csv", "metadata.jsonl"] {
            let _ = captioned::sniff(name, bytes);
        }
        let results = [
            captioned::read_jsonl(bytes), captioned::read_csv(bytes), captioned::read_karpathy(bytes),
            captioned::read_lines(names.as_bytes(), bytes, None), captioned::read_coco(bytes, None),
            captioned::read_nwpu(bytes), captioned::read_metadata_csv(bytes, &Default::default()),
            captioned::read_metadata_jsonl(bytes, &Default::default()),
        ];
        for result in results {
            match result {
                Ok(images) => prop_assert!(names_are_sound(&images)),
                Err(error) => prop_assert!(matches!(error, SourceError::Row { .. } | SourceError::Table(_)), "{error}"),
            }
        }
    }

    #[test]
    fn image_names(name in prop_oneof!["images[0-9]{0,2}/[awnrx][0-9+]{0,22}_[A-Z0-9]{1,3}_[0-9]{1,3}\\.jpg", ".{0,30}"]) {
        match ImageName::parse(&name) {
            Ok(parsed) => prop_assert_eq!(parsed.image_path(), name),
            Err(error) => prop_assert!(matches!(error, SourceError::ImageName { .. }), "{error}"),
        }
    }

    #[test]
    fn splits(boxes in vec((0u64..30, 0u32..40, 0u32..40, 1u32..6, 0usize..60), 0..80), adapt in any::<bool>()) {
        let odd = [f64::NAN, f64::INFINITY, -181.0, 1e308];
        let rows: Vec<(String, OsmObject, [f64; 4])> = boxes.iter().enumerate().map(|(i, &(id, x, y, side, bad))| {
            let (west, south) = (f64::from(x) * 0.004, f64::from(y) * 0.004);
            let mut wsen = [west, south, west + f64::from(side) * 0.004, south + f64::from(side) * 0.004];
            if let Some(value) = odd.get(bad) {
                wsen[bad] = *value;
            }
            (format!("w{id}_FI_{i}"), OsmObject { kind: OsmKind::Way, id }, wsen)
        }).collect();
        let row = |row: &'_ (String, OsmObject, [f64; 4])| (row.1, row.2);
        let placed = assign(
            rows.iter().map(|(id, object, wsen)| SplitRow { image_id: id, osm_object: *object, box_wsen: *wsen }),
            if adapt { ADAPT_RATIOS } else { PRETRAIN_RATIOS },
        );
        let placements = placed.unwrap();
        prop_assert_eq!(placements.len(), rows.len());
        for (a, place_a) in rows.iter().map(row).zip(&placements) {
            for (b, place_b) in rows.iter().map(row).zip(&placements) {
                let (Some(split_a), Some(split_b)) = (place_a.split(), place_b.split()) else { continue };
                let apart = a.1[2] <= b.1[0] || b.1[2] <= a.1[0] || a.1[3] <= b.1[1] || b.1[3] <= a.1[1];
                prop_assert!(split_a == split_b || (apart && a.0 != b.0), "{a:?} {b:?}");
            }
        }
        let valid = |wsen: [f64; 4]| wsen.iter().all(|edge| edge.is_finite() && edge.abs() <= 180.0);
        for ((_, _, wsen), placement) in rows.iter().zip(&placements) {
            prop_assert!(valid(*wsen) || matches!(placement, Placement::Dropped(_)));
        }
    }
}
