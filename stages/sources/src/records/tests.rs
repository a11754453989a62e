use super::*;

fn rows(text: &[u8]) -> Vec<(u64, Vec<String>)> {
    let mut records = Records::new(text).unwrap();
    let mut rows = Vec::new();
    while let Some(record) = records.next() {
        let record = record.unwrap();
        let fields = (0..record.len()).map(|i| record.text(i).unwrap().to_owned());
        rows.push((record.line, fields.collect()));
    }
    rows
}

fn row(line: u64, fields: &[&str]) -> (u64, Vec<String>) {
    (line, fields.iter().map(|f| f.to_string()).collect())
}

#[test]
fn lines_are_those_of_the_file() {
    assert_eq!(
        rows(b"\xEF\xBB\xBFa,b\r\n\r\n1,\"x\ny\"\r\n2,z"),
        [row(1, &["a", "b"]), row(3, &["1", "x\ny"]), row(5, &["2", "z"])]
    );
    assert!(rows(b"").is_empty());
    assert!(rows(b"\n\r\n").is_empty());
}

#[test]
fn a_reader_of_single_bytes_gives_the_same() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(&mut out[..1])
        }
    }
    let mut records = Records::new(Slow(b"\xEF\xBB\xBF\"a\",b\n1,2\n")).unwrap();
    assert_eq!(records.next().unwrap().unwrap().text(0).unwrap(), "a");
    let second = records.next().unwrap().unwrap();
    assert_eq!((second.line, second.text(1).unwrap()), (2, "2"));
    assert!(records.next().is_none());
}

#[test]
fn long_rows_are_skipped_and_an_open_quote_is_named() {
    let long = "x".repeat(MAX_RECORD_BYTES + 5);
    let text = format!("a\n{long}\nb\n");
    let mut records = Records::new(text.as_bytes()).unwrap();
    assert!(records.next().unwrap().is_ok());
    let error = records.next().unwrap().err().unwrap();
    assert!(matches!(error, SourceError::Row { line: 2, .. }), "{error}");
    let last = records.next().unwrap().unwrap();
    assert_eq!((last.line, last.text(0).unwrap()), (3, "b"));

    // over several lines, whatever it swallowed would be missing
    let text = format!("a\n\"{long}\nb\"\n");
    let mut records = Records::new(text.as_bytes()).unwrap();
    assert!(records.next().unwrap().is_ok());
    let error = records.next().unwrap().err().unwrap();
    assert!(!error.spoils_one_row() && error.to_string().contains("line 2"), "{error}");

    let text = format!("a\n\"{long}\nb\n");
    let mut records = Records::new(text.as_bytes()).unwrap();
    assert!(records.next().unwrap().is_ok());
    let error = records.next().unwrap().err().unwrap();
    assert!(error.to_string().contains("line 2"), "{error}");
    assert!(!error.spoils_one_row());
    assert!(records.next().is_none());
}

#[test]
fn an_unclosed_quote_never_swallows_rows() {
    let error = |text: &str| {
        let mut records = Records::new(text.as_bytes()).unwrap();
        std::iter::from_fn(|| records.next().map(|record| record.map(|_| ()))).find_map(Result::err).unwrap()
    };
    for (text, line) in [
        ("a,b\n1,\"open\n2,x\n3,y\n", 2),
        ("a,b\n1,x\n2,\"open", 3),
        // the next quoted field would close it
        ("a,b\n1,\"open\n2,x\n3,\"a, b\"\n", 2),
        ("a,b\n1,\"open\n2,\"\"\"said\"\" it\"\n", 2),
        ("\"a,b\n1,2\n", 1),
    ] {
        let error = error(text);
        assert!(!error.spoils_one_row() && error.to_string().contains(&format!("line {line} ")), "{text}: {error}");
    }
    // it ends where a text begins with a comma
    let mut records = Records::new(&b"a,b\n1,\"open\n2,\", x\"\n"[..]).unwrap();
    let error_of_columns = (0..2).filter_map(|_| records.next()?.ok()?.check_columns(2).err()).next().unwrap();
    assert!(!error_of_columns.spoils_one_row() && error_of_columns.to_string().contains("lines 2 to 3"));
    let one_row = error("a\n\"x\" y\nb\n");
    assert!(matches!(one_row, SourceError::Row { line: 2, .. }), "{one_row}");
}

#[test]
fn quotes_are_read_as_their_writers_mean_them() {
    assert_eq!(
        rows(b"a \"b\" c,\"\"\"d\"\"\",\"\"\n\"\",\"e\r\nf\",\"g\"\"\"\r\n\"h\""),
        [row(1, &["a \"b\" c", "\"d\"", ""]), row(2, &["", "e\r\nf", "g\""]), row(4, &["h"])]
    );
    let many = "\"\"".repeat(MAX_RECORD_BYTES + 2);
    let mut records = Records::new(many.as_bytes()).unwrap();
    assert!(records.next().unwrap().is_err(), "doubled quotes are limited like other bytes");
}
