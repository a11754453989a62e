use super::*;

fn image(file: &str, split: Option<Split>, captions: &[&str]) -> CaptionedImage {
    CaptionedImage { file: file.into(), split, captions: captions.iter().map(|c| c.to_string()).collect() }
}

/// The message of the error of one row, and its line.
fn row_error(result: Result<Vec<CaptionedImage>, SourceError>) -> (u64, String) {
    match result {
        Err(SourceError::Row { line, problem }) => (line, problem),
        other => panic!("expected a row error, got {other:?}"),
    }
}

#[test]
fn jsonl_keeps_raw_captions_and_ignores_other_fields() {
    let text = concat!(
        "{\"file\": \"a.jpg\", \"cls\": \"Airport\", \"split\": \"train\", ",
        "\"captions\": [\" planes . \", \"planes .\", \"planes .\", \"  \"]}\r\n\n",
        "{\"captions\": [\"a road\"], \"file\": \"d/b.jpg\"}\n",
        "{\"file\": \"c.jpg\", \"split\": null, \"captions\": [\"c\"]}",
    );
    assert_eq!(
        read_jsonl(text.as_bytes()).unwrap(),
        [
            image("a.jpg", Some(Split::Train), &["planes .", "planes .", "planes ."]),
            image("d/b.jpg", None, &["a road"]),
            image("c.jpg", None, &["c"]),
        ]
    );
}

#[test]
fn a_repeated_image_is_merged_unless_its_split_differs() {
    let a = r#"{"file": "a", "split": "val", "captions": ["1"]}"#;
    let again = r#"{"file": "a", "split": "validation", "captions": ["2"]}"#;
    let elsewhere = r#"{"file": "a", "split": "test", "captions": ["3"]}"#;
    assert_eq!(read_jsonl(format!("{a}\n{again}").as_bytes()).unwrap(), [image("a", Some(Split::Val), &["1", "2"])]);
    let (line, problem) = row_error(read_jsonl(format!("{a}\n\n{elsewhere}").as_bytes()));
    assert_eq!(line, 3);
    assert!(problem.contains("in test here and in val at 1"), "{problem}");
}

#[test]
fn an_image_without_captions_stays_visible() {
    let text = "{\"file\": \"a\", \"captions\": []}\n{\"file\": \"b\", \"captions\": [\" \"]}";
    assert_eq!(read_jsonl(text.as_bytes()).unwrap(), [image("a", None, &[]), image("b", None, &[])]);
    // Blank lines of the line format keep their place.
    let images = read_lines(b"a\nb\n", b"\n\n\n\n\n6\n7\n\n9\n10\n", None).unwrap();
    assert_eq!(images, [image("a", None, &[]), image("b", None, &["6", "7", "9", "10"])]);
}

#[test]
fn jsonl_errors_name_the_line() {
    let good = "{\"file\": \"a\", \"captions\": [\"x\"]}\n";
    for bad in [
        "{\"file\": \"b\"}",
        "{\"file\": \"b\", \"captions\": \"x\"}",
        "{\"file\": \"../b\", \"captions\": [\"x\"]}",
        "{\"file\": \"/b\", \"captions\": [\"x\"]}",
        "{\"file\": \"b\", \"split\": \"west\", \"captions\": [\"x\"]}",
        "[1]",
        "nonsense",
    ] {
        let (line, _) = row_error(read_jsonl(format!("{good}{bad}\n{good}").as_bytes()));
        assert_eq!(line, 2, "{bad}");
    }
    let (line, problem) = row_error(read_jsonl(b"\n\n\xff"));
    assert_eq!((line, problem.contains("UTF-8")), (3, true));
    // Nesting is cut off by the JSON reader, not by the stack.
    let deep = format!("{{\"file\": \"a\", \"x\": {}", "[".repeat(100_000));
    assert_eq!(row_error(read_jsonl(deep.as_bytes())).0, 1);
}

#[test]
fn csv_rows_of_one_image_are_gathered() {
    let text = "description,image_name\n\"a, b\",x.jpg\nc,y.jpg\n d ,x.jpg\n";
    assert_eq!(
        read_csv(text.as_bytes()).unwrap(),
        [image("x.jpg", None, &["a, b", "d"]), image("y.jpg", None, &["c"])]
    );
    let (line, _) = row_error(read_csv(b"image_name,description\nx,a\nx,a,b\n"));
    assert_eq!(line, 3);
    let (line, _) = row_error(read_csv(b"image_name,description\n..\\x,a\n"));
    assert_eq!(line, 2);
    let error = read_csv(b"image_names,description\n").unwrap_err();
    assert!(error.to_string().contains("rename `image_names`"), "{error}");
    assert!(read_csv(b"").is_err());
}

#[test]
fn a_csv_may_give_splits() {
    let text = "image_name,split,description\na,train,1\nb,Test,2\na,train,3\nc,,4\n";
    assert_eq!(
        read_csv(text.as_bytes()).unwrap(),
        [image("a", Some(Split::Train), &["1", "3"]), image("b", Some(Split::Test), &["2"]), image("c", None, &["4"])]
    );
    let (line, problem) = row_error(read_csv(b"image_name,description,split\na,1,train\na,2,test\n"));
    assert_eq!((line, problem.contains("in test here and in train")), (3, true), "{problem}");
    let (line, _) = row_error(read_csv(b"image_name,description,split\na,1,somewhere\n"));
    assert_eq!(line, 2);
}

#[test]
fn an_unclosed_quote_of_a_csv_is_an_error_with_its_line() {
    let error = read_csv(b"image_name,description\na,x\nb,\"open\nc,y\nd,z\n").unwrap_err().to_string();
    assert!(error.contains("line 3 opens a quote"), "{error}");
}

#[test]
fn files_are_joined_unless_they_disagree_about_a_split() {
    let of = |path: &str, split, captions: &[&str]| (path.to_owned(), vec![image("a", split, captions)]);
    let (train, test) = (Some(Split::Train), Some(Split::Test));
    assert_eq!(join(vec![of("x", train, &["1"]), of("y", train, &["2"])]).unwrap(), [image("a", train, &["1", "2"])]);
    let error = join(vec![of("x", train, &["1"]), of("y", test, &["2"])]).unwrap_err().to_string();
    assert!(error.contains("`a` is in test in y and in train in x"), "{error}");
}

#[test]
fn accents_have_one_form() {
    let text = "{\"file\": \"u\u{308}.jpg\", \"captions\": [\"1\"]}\n{\"file\": \"\u{fc}.jpg\", \"captions\": [\"2\"]}";
    assert_eq!(read_jsonl(text.as_bytes()).unwrap(), [image("\u{fc}.jpg", None, &["1", "2"])]);
}

#[test]
fn karpathy_json_is_read() {
    let text = r#"{"dataset": "rsicd", "images": [
        {"filename": "a.jpg", "imgid": 0, "split": "train", "sentids": [0],
         "sentences": [{"tokens": ["a"], "raw": "a road .", "imgid": 0}, {"raw": "two"}]},
        {"filename": "b.jpg", "filepath": "val2014", "split": "restval",
         "sentences": [{"raw": "b"}]}]}"#;
    assert_eq!(
        read_karpathy(text.as_bytes()).unwrap(),
        [image("a.jpg", Some(Split::Train), &["a road .", "two"]), image("val2014/b.jpg", Some(Split::Train), &["b"]),]
    );
    assert_eq!(read_karpathy(format!("\u{feff}{text}").as_bytes()).unwrap().len(), 2, "a byte order mark is no JSON");
    for bad in ["", "[]", "{\"images\": [{}]}", "{\"word2idx\": {}}"] {
        let error = read_karpathy(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, SourceError::Table(_)), "{bad}: {error}");
    }
    let escape = r#"{"images": [{"filename": "../a", "sentences": [{"raw": "x"}]}]}"#;
    assert_eq!(row_error(read_karpathy(escape.as_bytes())).0, 1);
}

#[test]
fn lines_pair_up_five_to_one_and_five_to_five() {
    let captions = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n";
    let expected = [
        image("a", Some(Split::Test), &["1", "2", "3", "4", "5"]),
        image("b", Some(Split::Test), &["6", "7", "8", "9", "10"]),
    ];
    for files in ["a\nb\n", "a\r\nb", "a\na\na\na\na\nb\nb\nb\nb\nb\n"] {
        let images = read_lines(files.as_bytes(), captions.as_bytes(), Some(Split::Test));
        assert_eq!(images.unwrap(), expected, "{files:?}");
    }
    let (line, problem) = row_error(read_lines(b"a\na\na\na\na\nb\nb\nb\nc\nb\n", captions.as_bytes(), None));
    assert_eq!(line, 6);
    assert!(problem.contains("`b` and `c`"), "{problem}");
    for (files, captions) in [
        ("a\n", captions),
        ("a\nb\nc\n", captions),
        ("a\nb\n", "1\n2\n3\n4\n5\n6\n7\n8\n9\n"),
        ("", captions),
        ("a\n", ""),
        ("", ""),
    ] {
        let result = read_lines(files.as_bytes(), captions.as_bytes(), None);
        assert!(matches!(result, Err(SourceError::Table(_))), "{files:?}");
    }
}

#[test]
fn another_separator_is_named() {
    for (text, separator) in [("image_name;description\na;b\n", "`;`"), ("image_name\tdescription\na\tb\n", "`\\t`")] {
        let error = read_csv(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(separator) && error.contains("commas"), "{error}");
    }
}
