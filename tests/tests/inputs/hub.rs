//! Weights of a hub: who is let in, where its token goes, and what needs no network at all.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device};
use models::sentence::{Reading, SentenceEncoder};
use pipeline_tests::urbancross;

/// The files of `acme/clip`, the smallest that pass for what their names say.
fn files() -> [(&'static str, Vec<u8>); 3] {
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    [("config.json", b"{}".to_vec()), ("tokenizer.json", b"{}".to_vec()), ("model.safetensors", weights)]
}

fn file(name: &str) -> Option<Vec<u8>> {
    files().into_iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes)
}

/// What a server was asked for: the path and who asks.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server on loopback: its port, and what it was asked. An answer is a status with headers, and a body; of one whose
/// headers name another length the connection dies early.
fn serve(answer: impl Fn(&str, Option<&str>) -> (String, Vec<u8>) + Send + 'static) -> (u16, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Asked::default());
    let log = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let request = lines.next().unwrap_or_default();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let visitor = lines.filter_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
            });
            let visitor = visitor.last();
            let (head, body) = answer(&path, visitor.as_deref());
            log.lock().unwrap().push((path, visitor));
            let length = match head.contains("content-length") {
                true => String::new(),
                false => format!("content-length: {}\r\n", body.len()),
            };
            let _gone = write!(stream, "HTTP/1.1 {head}\r\n{length}connection: close\r\n\r\n")
                .and_then(|()| stream.write_all(&body));
        }
    });
    (port, asked)
}

fn found(name: &str) -> (String, Vec<u8>) {
    file(name).map_or_else(|| ("404 Not Found".into(), Vec::new()), |bytes| ("200 OK".into(), bytes))
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// `urbancross weights --fetch` in a world of its own.
struct Fetch {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Fetch {
    fn new(source: &str, hub: u16) -> Self {
        Self::of(&format!("[model]\ninit = {source:?}\n"), hub)
    }

    fn of(sections: &str, hub: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spec = format!(
            "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"world\"\n[work]\nurl = \"work\"\n\
             {sections}[weights.options]\nretries = 0\ntimeout_seconds = 20\n"
        );
        std::fs::write(folder.path().join("spec.toml"), spec).unwrap();
        let variables = vec![("HF_ENDPOINT", format!("http://127.0.0.1:{hub}"))];
        Self { folder, variables }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn home(&self) -> std::path::PathBuf {
        self.folder.path().join("home")
    }

    /// What the hub's own tools have fetched: these files of `acme/clip`, the branch `main` at the commit `abc`.
    fn with_snapshot(self, names: &[&str]) -> Self {
        let root = self.home().join("hub/models--acme--clip");
        for folder in ["refs", "blobs", "snapshots/abc"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("refs/main"), "abc").unwrap();
        for name in names {
            std::fs::write(root.join("blobs").join(name), file(name).unwrap()).unwrap();
            let blob = Path::new("../../blobs").join(name);
            std::os::unix::fs::symlink(blob, root.join("snapshots/abc").join(name)).unwrap();
        }
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(urbancross());
        command.arg(arguments[0]).arg(self.folder.path().join("spec.toml")).args(&arguments[1..]);
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "URBANCROSS_LOG"] {
            command.env_remove(name);
        }
        command.env("URBANCROSS_CACHE", self.folder.path().join("cache")).env("HF_HOME", self.home());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    /// Exit code, and everything that is said.
    fn fetch(&self) -> (Option<i32>, String) {
        let output = self.run(&["weights", "--fetch", "--json"]);
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        (output.status.code(), said.concat())
    }
}

#[test]
fn the_token_opens_a_gated_repository_and_goes_nowhere_else() {
    let (elsewhere, asked_elsewhere) = serve(|path, _| found(name_of(path)));
    let (hub, _) = serve(move |path, visitor| match visitor {
        Some("Bearer hf_good") if file(name_of(path)).is_some() => {
            (format!("302 Found\r\nlocation: http://127.0.0.1:{elsewhere}/{}", name_of(path)), Vec::new())
        }
        Some("Bearer hf_good") => ("404 Not Found".into(), Vec::new()),
        Some(_) => ("403 Forbidden".into(), Vec::new()),
        None => ("401 Unauthorized".into(), Vec::new()),
    });
    let page = format!("http://127.0.0.1:{hub}/acme/clip");
    let (code, said) = Fetch::new("acme/clip", hub).fetch();
    assert_eq!(code, Some(65), "{said}");
    assert!(["HF_TOKEN", "licence", &page].iter().all(|word| said.contains(word)), "{said}");
    let (code, said) = Fetch::new("acme/clip", hub).with("HF_TOKEN", "hf_stranger").fetch();
    assert_eq!(code, Some(65), "{said}");
    assert!(["the token of HF_TOKEN", "accept the licence", &page].iter().all(|word| said.contains(word)), "{said}");
    assert!(!said.contains("hf_stranger"), "{said}");
    assert!(asked_elsewhere.lock().unwrap().is_empty());

    let by_file = Fetch::new("acme/clip", hub);
    std::fs::create_dir_all(by_file.home()).unwrap();
    std::fs::write(by_file.home().join("token"), "hf_good\n").unwrap();
    // by its address the hub is the hub too
    let by_address = Fetch::new(&format!("{page}/resolve/main"), hub).with("HF_TOKEN", "hf_good");
    for fetch in [by_file, by_address.with("URBANCROSS_LOG", "trace")] {
        let (code, said) = fetch.fetch();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("model.safetensors") && !said.contains("hf_good"), "{said}");
    }
    let asked = asked_elsewhere.lock().unwrap();
    assert!(asked.len() >= 6 && asked.iter().all(|(_, visitor)| visitor.is_none()), "{asked:?}");
}

/// Nobody stands between this machine and itself: a proxy of the environment would read the token.
#[test]
fn a_hub_on_this_machine_is_asked_without_a_proxy() {
    let (hub, asked) = serve(|path, _| found(name_of(path)));
    let (proxy, asked_proxy) = serve(|path, _| found(name_of(path)));
    let mut fetch = Fetch::new("acme/clip", hub).with("HF_TOKEN", "hf_good").with("no_proxy", "");
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        fetch = fetch.with(name, &format!("http://127.0.0.1:{proxy}"));
    }
    let (code, said) = fetch.fetch();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(*asked_proxy.lock().unwrap(), []);
    assert!(asked.lock().unwrap().iter().all(|(_, visitor)| visitor.as_deref() == Some("Bearer hf_good")));
}

/// A server that is not the hub is never shown the hub's token.
#[test]
fn another_server_is_shown_no_token() {
    let (hub, _) = serve(|_, _| ("500 Fault".into(), Vec::new()));
    let (other, asked) = serve(|path, _| found(name_of(path)));
    let fetch = Fetch::new(&format!("http://127.0.0.1:{other}/clip"), hub).with("HF_TOKEN", "hf_good");
    let (code, said) = fetch.fetch();
    assert_eq!(code, Some(0), "{said}");
    assert!(asked.lock().unwrap().iter().all(|(_, visitor)| visitor.is_none()));
    assert!(!said.contains("plain http"), "nobody is on the way: {said}");
    // 0.0.0.0 is this machine too, under a name that does not say so
    let (code, said) = Fetch::new(&format!("http://0.0.0.0:{other}/clip"), hub).fetch();
    assert!(code == Some(0) && said.contains("plain http"), "{said}");
}

#[test]
fn what_the_hubs_own_tools_have_fetched_is_used_where_it_lies() {
    let names = files().map(|(name, _)| name);
    for variable in ["HF_HUB_OFFLINE", "HF_TOKEN"] {
        let (hub, asked) = serve(|path, _| found(name_of(path)));
        let fetch = Fetch::new("acme/clip", hub).with_snapshot(&names).with(variable, "1");
        let (code, said) = fetch.fetch();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("\"cached\"") && said.contains("\"locked\": true"), "{said}");
        assert!(names.iter().all(|name| said.contains(name)), "{said}");
        assert_eq!(*asked.lock().unwrap(), []);
        // others tidy that cache: what is gone is fetched again, and the lock still holds
        std::fs::remove_dir_all(fetch.home()).unwrap();
        let (code, said) = fetch.fetch();
        match variable {
            "HF_HUB_OFFLINE" => assert!(code == Some(65) && said.contains("HF_HUB_OFFLINE is set"), "{said}"),
            _ => assert_eq!(code, Some(0), "{said}"),
        }
        assert_eq!(asked.lock().unwrap().is_empty(), variable == "HF_HUB_OFFLINE");
    }
}

/// Tools fetch single files: the hub is asked for the others, of the same commit.
#[test]
fn a_part_of_a_repository_is_completed() {
    let (hub, asked) = serve(|path, _| match path.contains("/resolve/abc/") {
        true => found(name_of(path)),
        false => ("404 Not Found".into(), Vec::new()),
    });
    let (code, said) = Fetch::new("acme/clip", hub).with_snapshot(&["config.json", "model.safetensors"]).fetch();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("tokenizer.json"), "{said}");
    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|(path, _)| path.ends_with("/tokenizer.json")), "{asked:?}");
    assert!(!asked.iter().any(|(path, _)| path.ends_with("/model.safetensors")), "{asked:?}");
}

/// A hub that is away in the middle leaves nothing that passes for a whole network, neither now nor later.
#[test]
fn what_is_fetched_in_part_is_not_taken_for_whole() {
    for missing in ["tokenizer.json", "model.safetensors"] {
        let is_back = Arc::new(AtomicBool::new(false));
        let now = is_back.clone();
        let (hub, _) = serve(move |path, _| match name_of(path) == missing && !now.load(Ordering::SeqCst) {
            true => ("503 Service Unavailable".into(), Vec::new()),
            false => found(name_of(path)),
        });
        let fetch = Fetch::new("acme/clip", hub);
        for _ in 0..2 {
            let (code, said) = fetch.fetch();
            assert!(code == Some(75) && said.contains("503"), "{missing}: {said}");
            assert!(!fetch.folder.path().join("work/weights").exists(), "{missing}: nothing is locked");
        }
        is_back.store(true, Ordering::SeqCst);
        let (code, said) = fetch.fetch();
        assert!(code == Some(0) && said.contains(missing), "{missing}: {said}");
    }
}

/// What a person puts beside the files of a fetch that came no further is whole, and so is nothing else.
#[test]
fn weights_put_by_hand_are_taken_after_a_fetch_that_failed() {
    let (hub, _) = serve(|path, _| match name_of(path) {
        "config.json" => found("config.json"),
        _ => ("503 Service Unavailable".into(), Vec::new()),
    });
    // or the connection dies for good in the middle of the weights
    let (whole, is_dead) = (file("model.safetensors").unwrap(), AtomicBool::new(false));
    let (dying, _) = serve(move |path, _| match name_of(path) {
        _ if is_dead.load(Ordering::SeqCst) => ("503 Service Unavailable".into(), Vec::new()),
        "model.safetensors" => {
            is_dead.store(true, Ordering::SeqCst);
            (format!("200 OK\r\ncontent-length: {}", whole.len()), whole[..whole.len() / 2].to_vec())
        }
        name => found(name),
    });
    for hub in [hub, dying] {
        let fetch = Fetch::new("acme/clip", hub);
        let (code, said) = fetch.fetch();
        assert_eq!(code, Some(75), "{said}");
        let cache = fetch.folder.path().join("cache");
        let config = walkdir_find(&cache, "config.json");
        for name in ["model.safetensors", "tokenizer.json"] {
            std::fs::write(config.with_file_name(name), file(name).unwrap()).unwrap();
        }
        let (code, said) = fetch.fetch();
        assert_eq!(code, Some(0), "{said}");
    }
    // a lock names all that is needed: what came before the connection died is a part of it
    let is_away = Arc::new(AtomicBool::new(false));
    let now = is_away.clone();
    let (leaving, _) = serve(move |path, _| match name_of(path) == "tokenizer.json" && now.load(Ordering::SeqCst) {
        // that of a captioner, which this network has not
        _ if path.contains("qformer_tokenizer") => ("404 Not Found".into(), Vec::new()),
        true => ("503 Service Unavailable".into(), Vec::new()),
        false => found(name_of(path)),
    });
    let fetch = Fetch::new("acme/clip", leaving);
    let (code, said) = fetch.fetch();
    assert_eq!(code, Some(0), "{said}");
    let cache = fetch.folder.path().join("cache");
    std::fs::remove_dir_all(&cache).unwrap();
    is_away.store(true, Ordering::SeqCst);
    let (code, said) = fetch.fetch();
    assert!(code == Some(75) && said.contains("tokenizer.json"), "{said}");
    let fetch = fetch.with("HF_HUB_OFFLINE", "1");
    let (code, said) = fetch.fetch();
    assert!(code == Some(65) && said.contains("put config.json, model.safetensors, tokenizer.json"), "{said}");
    let vocabulary = walkdir_find(&cache, "model.safetensors").with_file_name("tokenizer.json");
    std::fs::write(vocabulary, file("tokenizer.json").unwrap()).unwrap();
    let (code, said) = fetch.fetch();
    assert_eq!(code, Some(0), "{said}");
    // two of three files, by the hub's own tools
    let fetch = Fetch::new("acme/clip", hub).with_snapshot(&["config.json", "model.safetensors"]);
    let (code, said) = fetch.fetch();
    assert!(code == Some(75) && said.contains("HF_HUB_OFFLINE=1 says so"), "{said}");
    assert!(!fetch.folder.path().join("work/weights").exists(), "nothing is locked");
    // said so, they are all of it
    let fetch = fetch.with("HF_HUB_OFFLINE", "1");
    let looked = String::from_utf8_lossy(&fetch.run(&["doctor"]).stdout).into_owned();
    assert!(looked.contains("the first run takes it from there"), "{looked}");
    let (code, said) = fetch.fetch();
    assert_eq!(code, Some(0), "{said}");
}

/// Most say nothing of images. One that does is read.
#[test]
fn a_processors_settings_are_kept_if_they_are_of_images() {
    for (text, is_kept) in
        [(r#"{"processor_class": "LlavaProcessor"}"#, false), (r#"{"image_processor": {"resample": 3}}"#, true)]
    {
        let (hub, _) = serve(move |path, _| match name_of(path) {
            "processor_config.json" => ("200 OK".into(), text.into()),
            name => found(name),
        });
        let fetch = Fetch::new("acme/clip", hub);
        let (code, said) = fetch.fetch();
        assert!(code == Some(0) && said.contains("\"locked\": true"), "{said}");
        assert_eq!(said.contains("\"processor_config.json\""), is_kept, "{said}");
        // another machine fetches what the lock names
        std::fs::remove_dir_all(fetch.folder.path().join("cache")).unwrap();
        let (code, said) = fetch.fetch();
        assert!(code == Some(0) && said.contains("\"processor_config.json\"") == is_kept, "{said}");
    }
}

/// A committed sentence encoder of three layers, with a pooling and a linear map of its own.
const ENCODER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../stages/models/tests/goldens/sentence_xlmr_cls_dense");
/// What earlier versions fetched of it, as does whoever loads its Transformer alone.
const TRANSFORMER: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

fn vectors(encoder: &Path) -> Vec<Vec<f32>> {
    let encoder = SentenceEncoder::load(encoder, &Device::Cpu, DType::F32, Reading::default()).unwrap();
    encoder.encode(&["many planes", "a river and a bridge"]).unwrap()
}

fn of_encoder(path: &str) -> (String, Vec<u8>) {
    let name = path.split_once("/files/").or(path.split_once("/resolve/abc/")).map_or("", |(_, name)| name);
    match std::fs::read(Path::new(ENCODER).join(name)) {
        Ok(bytes) => ("200 OK".into(), bytes),
        Err(_) => ("404 Not Found".into(), Vec::new()),
    }
}

fn fetch_encoder(source: &str, hub: u16) -> Fetch {
    let sections = format!("[caption]\nstructured = true\n[text_retrieval]\nencoder = {source:?}\n");
    Fetch::of(&sections, hub)
}

/// An encoder without its modules gives vectors, too, but others.
#[test]
fn an_encoder_comes_with_its_modules() {
    let same = |fetch: &Fetch| {
        let (code, said) = fetch.fetch();
        assert!(code == Some(0) && said.contains("\"2_Dense/model.safetensors\""), "{said}");
        let list = walkdir_find(&fetch.folder.path().join("cache"), "modules.json");
        assert_eq!(vectors(list.parent().unwrap()), vectors(Path::new(ENCODER)));
    };
    let (hub, asked) = serve(|path, _| of_encoder(path));
    same(&fetch_encoder(&format!("http://127.0.0.1:{hub}/files"), hub));

    // the hub's own tools have fetched all of it, or its Transformer alone
    let modules = ["modules.json", "tokenizer_config.json", "sentence_bert_config.json", "1_Pooling/config.json"];
    let dense = ["2_Dense/config.json", "2_Dense/model.safetensors"];
    asked.lock().unwrap().clear();
    for (kept, is_all) in [([&TRANSFORMER[..], &modules, &dense].concat(), true), (TRANSFORMER.to_vec(), false)] {
        let by_name = fetch_encoder("acme/encoder", hub);
        let root = by_name.home().join("hub/models--acme--encoder");
        for name in kept {
            let file = root.join("snapshots/abc").join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::copy(Path::new(ENCODER).join(name), file).unwrap();
        }
        std::fs::create_dir_all(root.join("refs")).unwrap();
        std::fs::write(root.join("refs/main"), "abc").unwrap();
        // who may not ask the hub takes what is there, and leaves nothing that passes for the whole
        let mut offline = by_name.with("HF_HUB_OFFLINE", "1");
        for _ in 0..2 {
            let (code, said) = offline.fetch();
            assert!(code == Some(0) && said.contains("\"modules.json\"") == is_all, "{said}");
        }
        std::fs::remove_dir_all(offline.folder.path().join("work/weights")).unwrap();
        offline.variables.pop();
        same(&offline);
        assert_eq!(asked.lock().unwrap().is_empty(), is_all);
    }
}

/// Earlier versions fetched the Transformer alone. Builds that are locked to it share a cache with those that are not.
#[test]
fn encoders_with_and_without_their_modules_lie_apart() {
    let missing = Arc::new(Mutex::new(None::<&str>));
    let now = missing.clone();
    let (hub, _) = serve(move |path, _| match *now.lock().unwrap() {
        Some(ending) if path.ends_with(ending) => ("503 Service Unavailable".into(), Vec::new()),
        _ => of_encoder(path),
    });
    let shared = tempfile::tempdir().unwrap();
    let cache = shared.path().join("cache");
    let build = || {
        let source = format!("http://127.0.0.1:{hub}/files");
        fetch_encoder(&source, hub).with("URBANCROSS_CACHE", &cache.display().to_string())
    };
    let (held, free) = (build(), build());
    let (code, said) = held.fetch();
    assert_eq!(code, Some(0), "{said}");
    let locks = std::fs::read_dir(held.folder.path().join("work/weights")).unwrap();
    let [lock]: [_; 1] = locks.map(|lock| lock.unwrap().path()).collect::<Vec<_>>().try_into().unwrap();
    let mut pins: serde_json::Value = serde_json::from_slice(&std::fs::read(&lock).unwrap()).unwrap();
    pins["files"].as_object_mut().unwrap().retain(|name, _| TRANSFORMER.contains(&name.as_str()));
    std::fs::write(&lock, pins.to_string()).unwrap();
    std::fs::remove_dir_all(&cache).unwrap();
    let fetched = |fetch: &Fetch, with_modules: bool| {
        let (code, said) = fetch.fetch();
        assert!(code == Some(0) && said.contains("\"cached\""), "{said}");
        assert_eq!(said.contains("\"modules.json\""), with_modules, "{said}");
    };
    fetched(&held, false);
    // what lies there is no excuse for a network that is down, at once or after the list
    for ending in ["", "/1_Pooling/config.json"] {
        let seen = free.run(&["doctor"]).stdout;
        assert!(String::from_utf8_lossy(&seen).contains("not here yet"), "{}", String::from_utf8_lossy(&seen));
        *missing.lock().unwrap() = Some(ending);
        let (code, said) = free.fetch();
        assert!(code == Some(75) && said.contains("503"), "{said}");
        assert!(!free.folder.path().join("work/weights").exists(), "nothing is locked");
        fetched(&held, false);
    }
    *missing.lock().unwrap() = None;
    for _ in 0..2 {
        for _ in 0..2 {
            fetched(&free, true);
            fetched(&held, false);
        }
        std::fs::remove_dir_all(&cache).unwrap();
    }
}

#[test]
fn an_encoder_that_has_no_modules_is_asked_for_them_once() {
    let (hub, asked) = serve(|path, _| match TRANSFORMER.contains(&name_of(path)) {
        true => of_encoder(path),
        false => ("404 Not Found".into(), Vec::new()),
    });
    let fetch = fetch_encoder(&format!("http://127.0.0.1:{hub}/files"), hub);
    let locks = fetch.folder.path().join("work/weights");
    for is_locked in [false, true, false] {
        if !is_locked && locks.exists() {
            std::fs::remove_dir_all(&locks).unwrap();
        }
        let is_first = asked.lock().unwrap().is_empty();
        let before = asked.lock().unwrap().len();
        let (code, said) = fetch.fetch();
        assert!(code == Some(0) && said.contains("\"cached\"") && !said.contains("\"modules.json\""), "{said}");
        assert_eq!(asked.lock().unwrap().len() > before, is_first, "{said}");
    }
}

/// The file of that name below a folder.
fn walkdir_find(folder: &Path, name: &str) -> std::path::PathBuf {
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => pending.push(path),
                path if path.ends_with(name) => return path,
                _ => {}
            }
        }
    }
    panic!("{name} is not below {}", folder.display());
}

#[test]
fn offline_means_that_nobody_is_asked() {
    let (hub, asked) = serve(|path, _| found(name_of(path)));
    let page = format!("http://127.0.0.1:{hub}/acme/clip/resolve/main");
    for source in ["acme/clip", &page] {
        let fetch = Fetch::new(source, hub).with("HF_HUB_OFFLINE", "1");
        let (code, said) = fetch.fetch();
        assert!(code == Some(65) && said.contains("HF_HUB_OFFLINE") && said.contains("config.json"), "{said}");
        // a run says so before it does anything
        let refused = fetch.run(&["run"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(65) && said.contains("HF_HUB_OFFLINE"), "{said}");
    }
    assert_eq!(*asked.lock().unwrap(), []);
}
