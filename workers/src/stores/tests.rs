use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use super::*;
use manifests::spec::StoreOptions;

/// An object store with room for one object, which takes the first write and does not answer it.
fn forgetful_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut object: Option<Vec<u8>> = None;
        for mut stream in listener.incoming().flatten() {
            let (mut head, mut length) = (String::new(), 0);
            let mut reader = BufReader::new(&stream);
            while !head.ends_with("\r\n\r\n") {
                let from = head.len();
                reader.read_line(&mut head).unwrap();
                if let Some(value) = head[from..].to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let (status, answer) = match (&object, head.starts_with("PUT")) {
                (None, true) => {
                    object = Some(body);
                    continue;
                }
                (Some(_), true) => ("412 Precondition Failed", &[][..]),
                (Some(object), false) => ("200 OK", &object[..]),
                (None, false) => ("404 Not Found", &[][..]),
            };
            let more = "etag: \"1\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nconnection: close";
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n\r\n", answer.len());
            stream.write_all(&[head.as_bytes(), answer].concat()).unwrap();
        }
    });
    endpoint
}

/// With a client in between that tries again by itself, a worker takes its own write for another's.
#[tokio::test]
async fn a_write_whose_answer_was_lost_on_the_way_is_ours() {
    let options = StoreOptions {
        endpoint: forgetful_server(),
        region: "nowhere".into(),
        path_style: true,
        allow_http: true,
        anonymous: Some(true),
        ..StoreOptions::default()
    };
    let work = WorkStore::open("s3://work/build", &options).unwrap();
    assert!(work.put_if_absent("a", Bytes::from_static(b"mine")).await.unwrap());
    assert!(!work.put_if_absent("a", Bytes::from_static(b"mine")).await.unwrap(), "only the first was ours");
}

#[tokio::test]
async fn the_local_store_creates_once() {
    let folder = tempfile::tempdir().unwrap();
    let work = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
    assert!(work.probe_put_if_absent(8).await.unwrap());
    assert!(work.put_if_absent("a/b", Bytes::from_static(b"1")).await.unwrap());
    assert!(!work.put_if_absent("a/b", Bytes::from_static(b"2")).await.unwrap());
    assert_eq!(work.get("a/b").await.unwrap().unwrap(), "1");
    assert_eq!(work.list("a").await.unwrap(), ["b"]);
    assert!(work.get("nothing").await.unwrap().is_none());
}

#[test]
fn addresses_that_cannot_work_are_refused() {
    let open = |url: &str| WorkStore::open(url, &StoreOptions::default()).err().unwrap().to_string();
    assert!(open("ftp://host/x").contains("unknown scheme"));
    assert!(open("https://host/x").contains("conditional write"));
    assert!(open("file://w3").contains("file:///w3"), "{}", open("file://w3"));
    assert!(open("file:///a#b").contains("%23") && open("s3://bucket/a?b").contains("%3F"));
}

#[test]
fn a_file_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for place in [file.clone(), file.join("below/it")] {
        let refused = WorkStore::open(place.to_str().unwrap(), &StoreOptions::default()).err().unwrap();
        let said = refused.to_string();
        assert!(refused.exit_code() == 65 && said.contains(&format!("{} is a file", file.display())), "{said}");
    }
    let error = crate::durable::create_folder(&file).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
}

/// Where no folder can be made no later try makes one.
#[cfg(target_os = "linux")]
#[test]
fn a_place_that_takes_no_folder_is_refused_for_good() {
    let work = WorkStore::open("/proc/foo", &StoreOptions::default()).unwrap();
    let refused = work.make().unwrap_err();
    let said = refused.to_string();
    assert!(refused.exit_code() == 65 && said.contains("work.url: ") && said.contains("/proc/foo: "), "{said}");
}

#[tokio::test]
async fn a_store_is_made_when_it_is_asked_for_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("new");
    let work = WorkStore::open(place.to_str().unwrap(), &StoreOptions::default()).unwrap();
    assert!(work.get("a").await.unwrap().is_none() && !work.is_there().await.unwrap());
    let error = work.required().await.unwrap_err().to_string();
    assert!(error.contains(place.to_str().unwrap()) && !place.exists(), "{error}");
    work.make().unwrap();
    work.required().await.unwrap();
}

#[test]
fn who_is_refused_hears_whether_credentials_were_sent() {
    let said = |url: &str, anonymous: Option<bool>| {
        let options = StoreOptions { anonymous, region: "nowhere".into(), ..StoreOptions::default() };
        let error = object_store::Error::PermissionDenied { path: "a".into(), source: "403".into() };
        SourceStore::open(url, &options).unwrap().fault("a", error).to_string()
    };
    let (unsigned, signed) = (said("s3://bucket/x", None), said("s3://bucket/x", Some(false)));
    assert!(unsigned.contains("without credentials") && unsigned.contains("anonymous = false"), "{unsigned}");
    assert!(signed.contains("anonymous = true"), "{signed}");
    let web = said("https://host/x", None);
    assert!(web.contains("public files") && !web.contains("anonymous"), "{web}");
}

/// A server may give every answer the time at which it is sent.
#[test]
fn an_object_without_an_etag_is_known_by_its_time_unless_that_is_now() {
    let meta = |seconds: u64| ObjectMeta {
        location: Path::from("a"),
        last_modified: (SystemTime::now() - Duration::from_secs(seconds)).into(),
        size: 3,
        e_tag: None,
        version: None,
    };
    assert_eq!(tag(&meta(1)), None);
    assert!(tag(&meta(100)).is_some_and(|tag| tag.starts_with("T/3-")));
    assert_eq!(tag(&ObjectMeta { e_tag: Some("e".into()), ..meta(100) }).as_deref(), Some("e"));
}

/// Each machine of a cluster may have its own copy of a source.
#[tokio::test]
async fn a_copy_of_a_file_is_that_file_and_a_later_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let [file, copy] = ["a.png", "copy"].map(|name| folder.path().join(name));
    std::fs::write(&file, "pixels").unwrap();
    let source = SourceStore::open(&folder.path().display().to_string(), &StoreOptions::default()).unwrap();
    let listed = source.head("a.png").await.unwrap().unwrap().e_tag.unwrap();
    let read = async || source.get_range("a.png", 0..6, Some(&listed)).await;
    // as rsync leaves it: another inode, the same time
    let time = std::fs::metadata(&file).unwrap().modified().unwrap();
    std::fs::write(&copy, "pixels").unwrap();
    std::fs::File::options().write(true).open(&copy).unwrap().set_modified(time).unwrap();
    std::fs::rename(&copy, &file).unwrap();
    let copied = source.head("a.png").await.unwrap().unwrap().e_tag.unwrap();
    assert!(copied != listed && source.is_same(&listed, &copied), "{listed} {copied}");
    assert_eq!(read().await.unwrap(), "pixels");
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(time + std::time::Duration::from_secs(1))
        .unwrap();
    assert!(matches!(read().await, Err(WorkerError::Outdated(_))));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(read().await, Err(WorkerError::Outdated(_))));
}
