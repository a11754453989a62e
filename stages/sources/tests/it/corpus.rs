//! Small inputs that once broke a reader, or are likely to: `READER-OUTCOME-WHAT` in `tests/corpus`.
//!
//! What a fuzzer or a property test finds goes there, and is replayed here for ever.

use std::path::Path;

use sources::captioned::{read_csv, read_jsonl, read_karpathy, read_lines};
use sources::csv;
use sources::meta::Meta;
use sources::name::ImageName;
use sources::zip::Limits;

use crate::archive::{data, members};

/// Reads a file of the corpus; the message of its first error.
fn read(reader: &str, bytes: &[u8]) -> Result<(), String> {
    let message = |error: sources::SourceError| error.to_string();
    match reader {
        "meta" => Meta::from_pickle(bytes).map(|_| ()).map_err(message),
        "zip" => members(bytes, 7).map_err(message)?.into_iter().try_for_each(|member| {
            let member = member.map_err(message)?;
            data(bytes, &member, &Limits::default()).map(|_| ()).map_err(message)
        }),
        "csv" => {
            let summary = csv::read_csv(bytes, &mut |_| Ok(())).map_err(message)?;
            summary.first_errors.into_iter().next().map_or(Ok(()), Err)
        }
        "name" => ImageName::parse(&String::from_utf8_lossy(bytes)).map(|_| ()).map_err(message),
        "jsonl" => read_jsonl(bytes).map(|_| ()).map_err(message),
        "karpathy" => read_karpathy(bytes).map(|_| ()).map_err(message),
        "captions" => read_csv(bytes).map(|_| ()).map_err(message),
        "lines" => read_lines(b"a.jpg\n", bytes, None).map(|_| ()).map_err(message),
        other => panic!("no reader is called {other}"),
    }
}

#[test]
fn every_file_of_the_corpus_has_its_outcome() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut parts = name.splitn(3, '-');
        let (reader, outcome) = (parts.next().unwrap(), parts.next().unwrap());
        let result = read(reader, &std::fs::read(&path).unwrap());
        match (outcome, &result) {
            ("good", Ok(())) => {}
            // a place: a byte, a line, a member, a name or a field
            ("bad", Err(why)) => {
                assert!(why.contains('`') || why.contains(|c: char| c.is_ascii_digit()), "{name}: {why}")
            }
            _ => panic!("{name}: {result:?}"),
        }
        files += 1;
    }
    assert!(files >= 20, "{files} files");
}
