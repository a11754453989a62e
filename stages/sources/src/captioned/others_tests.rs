//! COCO's caption files and Hugging Face's image folders.

use super::*;

fn image(file: &str, split: Option<Split>, captions: &[&str]) -> CaptionedImage {
    CaptionedImage { file: file.into(), split, captions: captions.iter().map(|c| c.to_string()).collect() }
}

fn refused(result: Result<Vec<CaptionedImage>, SourceError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn coco_joins_annotations_to_images() {
    let text = r#"{"info": {"year": 2026}, "images": [
        {"id": 7, "file_name": "b.jpg", "height": 9}, {"id": "x", "file_name": "a.jpg", "split": "test"},
        {"id": 9, "file_name": "c.jpg"}],
        "annotations": [{"id": 1, "image_id": "x", "caption": "1"}, {"id": 2, "image_id": 7, "caption": " 2 "},
        {"id": 3, "image_id": 7, "caption": "3"}]}"#;
    assert_eq!(
        read_coco(text.as_bytes(), Some(Split::Train)).unwrap(),
        [
            image("b.jpg", Some(Split::Train), &["2", "3"]),
            image("a.jpg", Some(Split::Test), &["1"]),
            image("c.jpg", Some(Split::Train), &[])
        ]
    );
    for (text, words) in [
        (r#"{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}"#, "image 1"),
        (r#"{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}"#, "the id 1"),
        (r#"{"images": [{"id": 1, "file_name": "../a"}], "annotations": []}"#, "../a"),
        (r#"{"images": [{"id": 1, "file_name": "a", "split": "x"}], "annotations": []}"#, "train, val, test"),
        (r#"{"images": [], "annotations": [{"image_id": 1, "bbox": [1]}]}"#, "no captions of COCO"),
        (r#"{"images": []}"#, "annotations"),
        ("[", "no captions of COCO"),
    ] {
        let why = refused(read_coco(text.as_bytes(), None));
        assert!(why.contains(words), "{text}: {why}");
    }
}

#[test]
fn an_image_folder_has_its_captions_in_columns_or_fields() {
    let at = ImageFolder { folder: "data/train".into(), split: Some(Split::Train) };
    let csv =
        "file_name,label,text,caption_1,caption_2\na.jpg,3,one,two,\nsub/b.jpg,1,\"[\"\"x\"\", \"\"y, z\"\"]\",,w\n";
    let expected = [
        image("data/train/a.jpg", Some(Split::Train), &["one", "two"]),
        image("data/train/sub/b.jpg", Some(Split::Train), &["x", "y, z", "w"]),
    ];
    assert_eq!(read_metadata_csv(csv.as_bytes(), &at).unwrap(), expected);
    let jsonl = r#"{"file_name": "a.jpg", "label": 3, "caption_0": "one", "caption_1": "two", "text": null}

        {"file_name": "sub/b.jpg", "captions": ["x", "y, z", "w"]}"#;
    assert_eq!(read_metadata_jsonl(jsonl.as_bytes(), &at).unwrap(), expected);
    // a split of the row's own, and a folder that names none
    let own = "file_name,split,text\na.jpg,validation,x\nb.jpg,,y\n";
    let read = read_metadata_csv(own.as_bytes(), &ImageFolder::default()).unwrap();
    assert_eq!(read, [image("a.jpg", Some(Split::Val), &["x"]), image("b.jpg", None, &["y"])]);
}

#[test]
fn what_an_image_folder_cannot_hold_is_named() {
    let at = ImageFolder::default();
    for (csv, words) in [
        ("file_name,label\na,1\n", "no column with captions"),
        ("filename,text\na,1\n", "rename `filename`"),
        ("file_name,text\na,['x', 'y']\n", "2 fields"),
        ("file_name,text\na,\"['x', 'y']\"\n", "no JSON list"),
        ("file_name,text\n../a,x\n", "../a"),
        ("", "empty"),
    ] {
        let why = refused(read_metadata_csv(csv.as_bytes(), &at));
        assert!(why.contains(words) || csv.contains("['x', 'y']"), "{csv}: {why}");
    }
    for (line, words) in [
        (r#"{"file_name": "a"}"#, "no column with captions"),
        (r#"{"file_name": 1, "text": "x"}"#, "file_name"),
        (r#"{"file_name": "a", "text": 1}"#, "neither a text"),
        (r#"{"file_name": "a", "text": [1]}"#, "no text"),
        (r#"{"file_name": "/a", "text": "x"}"#, "/a"),
        (r#"{"file_name": "a", "text": "x", "split": 1}"#, "no text"),
        (r#"["a"]"#, "an object"),
    ] {
        let why = refused(read_metadata_jsonl(line.as_bytes(), &at));
        assert!(why.contains(words), "{line}: {why}");
    }
}

#[test]
fn names_and_beginnings_tell_these_formats_apart() {
    let coco = |split| Some(CaptionFormat::Coco { split });
    let head = br#"{"info": {}, "images": [{"license": 3, "file_name": "a.jpg", "id": 1}], "annot"#;
    assert_eq!(sniff("annotations/captions_train2017.json", head), coco(Some(Split::Train)));
    assert_eq!(sniff("captions.json", br#"{"annotations": [{"image_id": 1, "#), coco(None));
    assert_eq!(sniff("captions.jsonl", head), None);
    let karpathy =
        br#"{"images": [{"sentids": [0], "sentences": [{"raw": "has \"file_name\" in it"}], "filename": "a"}"#;
    assert_eq!(sniff("dataset_coco.json", karpathy), Some(CaptionFormat::Karpathy));
    let at = |folder: &str, split| ImageFolder { folder: folder.into(), split };
    let csv = b"file_name,text\n";
    assert_eq!(sniff("metadata.csv", csv), Some(CaptionFormat::MetadataCsv(at("", None))));
    assert_eq!(sniff("test/Metadata.csv", csv), Some(CaptionFormat::MetadataCsv(at("test", Some(Split::Test)))));
    assert_eq!(sniff("metadata.csv", b"file_name,label\n"), None, "labels are no captions");
    assert_eq!(sniff("captions.csv", csv), None);
    let jsonl = br#"{"file_name": "a.jpg", "#;
    assert_eq!(
        sniff("x/validation/metadata.jsonl", jsonl),
        Some(CaptionFormat::MetadataJsonl(at("x/validation", Some(Split::Val))))
    );
    // parts of one data set are read together; two of one split are not
    let part = |name: &str| (name.to_owned(), sniff(name, csv).unwrap());
    assert_eq!(choose(vec![part("train/metadata.csv"), part("test/metadata.csv")]).unwrap().len(), 2);
    assert!(choose(vec![part("train/metadata.csv"), part("metadata.csv")]).unwrap_err().contains("source.tables"));
}

#[test]
fn nwpu_captions_lie_by_class() {
    let text = r#"{"bridge": [{"filename": "bridge_1.jpg", "split": "val", "imgid": 1, "raw": "1", "raw_1": "2",
        "raw_2": " ", "raw_3": "2", "raw_4": "5", "sentids": 1}],
        "airplane": [{"filename": "airplane_1.jpg", "split": "test", "raw": "x"}]}"#;
    assert_eq!(sniff("dataset_nwpu.json", text.as_bytes()), Some(CaptionFormat::Nwpu));
    assert_eq!(sniff("NWPU/dataset.json", text.as_bytes()), None);
    assert_eq!(
        read_nwpu(text.as_bytes()).unwrap(),
        [
            image("airplane/airplane_1.jpg", Some(Split::Test), &["x"]),
            image("bridge/bridge_1.jpg", Some(Split::Val), &["1", "2", "2", "5"])
        ]
    );
    for (text, words) in [
        (r#"{"a": [{"filename": "../x", "raw": "1"}]}"#, "../x"),
        (r#"{"..": [{"filename": "x", "raw": "1"}]}"#, "../x"),
        (r#"{"a": [{"filename": "x", "raw": "1", "split": "all"}]}"#, "train, val, test"),
        (r#"{"a": {"filename": "x"}}"#, "NWPU-Captions"),
    ] {
        let why = refused(read_nwpu(text.as_bytes()));
        assert!(why.contains(words), "{text}: {why}");
    }
}
