//! The atlas over a finished build: answers as a search gives them, newer versions noticed, and a program that lets in
//! only whom it should.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas::{Atlas, Bounds, Desk, ImageName, Layout, Narrowed, Query, Question, Size, Trouble};
use manifests::Artifact;
use pipeline::build::Build;
use pipeline::progress::Progress;
use pipeline::run_options::RunOptions;
use pipeline::search::{self, SearchModel, Searcher};
use pipeline::serve::{Served, Specs, StoreDesk};
use pipeline_tests::{World, column, edit_a_finnish_image, networks, run, run_with, urbancross};
use tokio::runtime::Handle;
use workers::search::Filter;

const TEXT: &str = "a satellite image of a soccer pitch";

async fn built(tiles: usize) -> (World, Build) {
    let world = World::new(tiles);
    let (build, _) = run(world.spec("work", &[])).await.unwrap();
    std::fs::write(world.path("finland.toml"), world.spec_text("work")).unwrap();
    (world, build)
}

async fn served(paths: &[PathBuf], set: &[&str]) -> Served {
    let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    let (specs, _) = Specs::read(paths, &set).unwrap();
    let every = Duration::from_millis(200);
    Served::open(specs, every, Handle::current(), Arc::default(), &Progress::new(true)).await.unwrap()
}

fn asked(narrowed: Narrowed) -> Question {
    Question { query: Query::Text(TEXT.into()), model: None, narrowed, most: 1000 }
}

fn finnish(id: &str) -> ImageName {
    ImageName { country: "finland".into(), id: id.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_say_what_the_tables_say_and_notice_newer_versions() {
    let (world, build) = built(60).await;
    let served = served(&[world.path("finland.toml")], &[]).await;

    // the same answer as the command's
    let model = SearchModel::of_build(&build).await.unwrap();
    let searcher = Searcher::open(model, [&build], &Progress::new(true)).await.unwrap();
    let query = search::Query::Text(TEXT.into());
    let question = search::Question { query, filter: Filter::default(), countries: Vec::new(), most: 1000 };
    let expected = searcher.search(&question).await.unwrap();
    let answer = served.search(asked(Narrowed::default())).await.unwrap();
    let expected: Vec<(String, f64)> = expected.found.into_iter().map(|found| (found.image_id, found.score)).collect();
    assert_eq!(pairs(&answer), expected);

    let about = served.about().await.unwrap();
    let good = column(&build, Artifact::Geotags, "status").await.into_values().filter(|status| status == "ok").count();
    assert_eq!((about.countries, about.images), (vec!["finland".to_owned()], good as u64));
    an_area_narrows(&served, &answer).await;
    points_and_plot_have_every_image(&served, &answer).await;
    an_image_has_all(&served, &build, &answer.found[0].image.id).await;
    what_is_not_there_is_not_there(&served).await;
    an_edit_is_noticed(&served, &world).await;
}

/// Ids and scores.
fn pairs(answer: &atlas::Answer) -> Vec<(String, f64)> {
    answer.found.iter().map(|found| (found.image.id.clone(), found.score)).collect()
}

async fn an_area_narrows(served: &Served, all: &atlas::Answer) {
    let mut places: Vec<f64> = all.found.iter().filter_map(|found| found.latitude).collect();
    places.sort_by(f64::total_cmp);
    let middle = places[places.len() / 2];
    let within = Some(Bounds { west: -180.0, south: middle, east: 180.0, north: 90.0 });
    let north = served.search(asked(Narrowed { within, ..Narrowed::default() })).await.unwrap();
    assert!(!north.found.is_empty() && north.found.len() < all.found.len());
    let expected: Vec<&str> =
        all.found.iter().filter(|f| f.latitude.unwrap() >= middle).map(|f| f.image.id.as_str()).collect();
    assert_eq!(north.found.iter().map(|found| found.image.id.as_str()).collect::<Vec<_>>(), expected);
}

async fn points_and_plot_have_every_image(served: &Served, all: &atlas::Answer) {
    let points = served.points().await.unwrap();
    assert_eq!(points.id.len() as u64, points.of);
    for found in &all.found {
        let at = points.id.iter().position(|id| *id == found.image.id).unwrap();
        assert!((f64::from(points.y[at]) - found.latitude.unwrap()).abs() < 1e-4);
        assert_eq!(Some(&points.splits[usize::from(points.split[at])]), found.split.as_ref());
    }
    let plot = served.plot(String::new(), Layout::Variance).await.unwrap();
    assert_eq!(plot.points.id.len(), all.found.len());
    let shares = plot.shares.unwrap();
    assert!(shares[0] >= shares[1] && shares[1] > 0.01, "{shares:?}");
    let spread = |values: &[f32]| {
        values.iter().copied().fold(f32::MIN, f32::max) - values.iter().copied().fold(f32::MAX, f32::min)
    };
    assert!(spread(&plot.points.x) > 0.01 && spread(&plot.points.y) > 0.01);
    assert_eq!(served.plot("finland".into(), Layout::Variance).await.unwrap(), plot);
    // the same images side by side with their neighbours, and the same errors
    let beside = served.plot(String::new(), Layout::Neighbours).await.unwrap();
    assert_eq!((&beside.points.id, &beside.error, beside.shares), (&plot.points.id, &plot.error, None));
    assert!(beside.points.x != plot.points.x && spread(&beside.points.x) > 1.0 && spread(&beside.points.y) > 1.0);
    // those of the test split are measured, and nothing else
    assert!(plot.unmeasured.is_empty(), "{:?}", plot.unmeasured);
    let unmeasured = plot.errors.len() - 1;
    let of_points = |at: usize| plot.points.splits[usize::from(plot.points.split[at])].as_str();
    let is_test: Vec<bool> = (0..plot.error.len()).map(|at| of_points(at) == "test").collect();
    let is_measured: Vec<bool> = plot.error.iter().map(|error| usize::from(*error) < unmeasured).collect();
    assert!(is_test == is_measured && is_test.contains(&true), "{is_test:?} {is_measured:?}");
}

async fn an_image_has_all(served: &Served, build: &Build, id: &str) {
    let image = served.image(finnish(id)).await.unwrap();
    assert!(!image.captions.is_empty() && image.captions[0].source.contains("OpenStreetMap"), "{:?}", image.captions);
    assert_eq!(image.found.captions[0], image.captions[0].text);
    let stages: Vec<&str> = image.lineage.iter().map(|step| step.stage.as_str()).collect();
    assert_eq!(stages.first(), Some(&"geotags"));
    assert!(stages.contains(&"image_embeddings") && stages.contains(&"splits"), "{stages:?}");
    let split = column(build, Artifact::Splits, "split").await;
    let step = image.lineage.iter().find(|step| step.stage == "splits").unwrap();
    assert!(split[id].contains(&step.lines[0]), "{:?} and {}", step.lines, split[id]);
    assert!(!image.segments.is_empty());
    for segment in &image.segments {
        let pixels: u64 = segment.runs.iter().map(|run| u64::from(*run)).sum();
        assert_eq!(pixels, u64::from(image.width) * u64::from(image.height));
        let inside: u64 = segment.runs.iter().skip(1).step_by(2).map(|run| u64::from(*run)).sum();
        assert!((inside as f64 / pixels as f64 - segment.share).abs() < 1e-9);
    }
    assert!(image.segments.array_windows().all(|[a, b]| a.selected >= b.selected));
    assert!(image.segments.iter().any(|segment| segment.similarity.is_some()), "features are of these segments");

    let jpeg = served.picture(finnish(id), Size::Full).await.unwrap();
    assert_eq!(pixels::dimensions(&jpeg).unwrap(), (image.width, image.height));
    let small = served.picture(finnish(id), Size::Thumbnail).await.unwrap();
    assert!(pixels::dimensions(&small).unwrap().0 <= 168);
    let like = Question { query: Query::Like(finnish(id)), ..asked(Narrowed::default()) };
    assert!(served.search(like).await.unwrap().found.iter().all(|found| found.image.id != id));
    let by_picture = Question { query: Query::Picture(jpeg), most: 1, ..asked(Narrowed::default()) };
    assert_eq!(served.search(by_picture).await.unwrap().found[0].image.id, id);
}

async fn what_is_not_there_is_not_there(served: &Served) {
    for (country, id) in
        [("finland", "../../geotags"), ("finland", "/etc/passwd"), ("..", "x"), ("peru", "x"), ("finland", "")]
    {
        let image = ImageName { country: country.into(), id: id.into() };
        for size in [Size::Full, Size::Thumbnail] {
            let trouble = served.picture(image.clone(), size).await.unwrap_err();
            assert!(matches!(trouble, Trouble::NotThere(_)), "{image:?}: {trouble:?}");
        }
        assert!(matches!(served.image(image).await, Err(Trouble::NotThere(_))));
    }
    let question = Question { model: Some("../model".into()), ..asked(Narrowed::default()) };
    assert!(matches!(served.search(question).await, Err(Trouble::Refused(why)) if why.contains("finland")));
}

/// Whoever asks sets off a look; the newer version answers a moment later, and nobody has waited.
async fn an_edit_is_noticed(served: &Served, world: &World) {
    let edited = edit_a_finnish_image(world);
    let before = served.image(finnish(&edited[0])).await.unwrap();
    run(world.spec("work", &[])).await.unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let now = served.image(finnish(&edited[0])).await.unwrap();
        if now.found != before.found || now.around != before.around {
            break;
        }
        assert!(Instant::now() < until, "the edit was not noticed: {now:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a reader sees while a run commits one table after the other: rows of each other, and answers by one model.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_makes_is_served_when_it_is_whole() {
    let world = World::new(40);
    networks::clip(&world.path("clip"), 1);
    let scored = format!("caption.score.clip={}", world.path("clip").display());
    let (spec, scored) = ([world.path("finland.toml")], scored.as_str());
    std::fs::write(&spec[0], world.spec_text("work")).unwrap();
    let until = async |step: &str| {
        let options = RunOptions { until: Some(step.into()), ..RunOptions::default() };
        run_with(world.spec("work", &[scored]), options).await.unwrap().0
    };
    let (build, _) = run(world.spec("work", &[scored])).await.unwrap();
    let server = served(&spec, &[scored]).await;
    let before = pairs(&server.search(asked(Narrowed::default())).await.unwrap());

    // captions are new, and their scores are of the earlier ones
    let old = column(&build, Artifact::Captions, "captions_digest").await;
    sandbox::edit_tags(&world.path("world"), 0.5, 1).unwrap();
    let new = column(&until("captions").await, Artifact::Captions, "captions_digest").await;
    let (id, _) = old.iter().find(|(id, old)| new.get(*id).is_some_and(|new| !new.is_empty() && new != *old)).unwrap();
    let has_scores = |image: &atlas::Image| {
        image.captions.iter().flat_map(|caption| &caption.quality).any(|quality| quality.starts_with("CLIPScore"))
    };
    let image = server.image(finnish(id)).await.unwrap();
    assert!(has_scores(&image), "{:?}", image.captions);
    let now = once("new captions", async || {
        server.image(finnish(id)).await.ok().filter(|now| now.found.captions != image.found.captions)
    })
    .await;
    assert!(!now.captions.is_empty() && !has_scores(&now), "{:?}", now.captions);

    // a model that has embedded no image yet finds none: the older one answers
    until("pretrain").await;
    for _ in 0..20 {
        assert_eq!(pairs(&server.search(asked(Narrowed::default())).await.unwrap()), before);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("text_embeddings").await;
    once("other scores", async || {
        let answer = server.search(asked(Narrowed::default())).await.unwrap();
        (pairs(&answer) != before).then_some(())
    })
    .await;
    let unmeasured = server.plot(String::new(), Layout::Variance).await.unwrap().unmeasured.clone();
    assert!(unmeasured.len() == 1 && unmeasured[0].contains("not evaluated"), "{unmeasured:?}");
    until("evaluate").await;
    once("the evaluation", async || {
        let plot = server.plot(String::new(), Layout::Variance).await.unwrap();
        plot.unmeasured.is_empty().then_some(())
    })
    .await;
    assert!(has_scores(&server.image(finnish(id)).await.unwrap()));

    // what an earlier spec asked for is no more
    let image = served(&spec, &[]).await.image(finnish(id)).await.unwrap();
    assert!(!has_scores(&image) && image.segments.iter().any(|segment| segment.similarity.is_some()));
    let whole = "pretrain.segments_per_image=0";
    run(world.spec("work", &[whole])).await.unwrap();
    let image = served(&spec, &[whole]).await.image(finnish(id)).await.unwrap();
    assert!(!image.segments.is_empty());
    assert!(image.segments.iter().all(|segment| segment.similarity.is_none() && !segment.selected));
}

/// Asks again and again, which sets off looks at the store, until there is what is waited for.
async fn once<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A running server.
struct Server {
    program: Child,
    port: u16,
    query: String,
}

impl Server {
    fn start(spec: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(urbancross());
        command.arg("serve").arg(spec).args(more).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut program = command.spawn().unwrap();
        let mut said = BufReader::new(program.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "the server ended before it listened");
            if let Some(address) = line.strip_prefix("open ") {
                break address.trim().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let (place, query) = address.split_once('?').map_or((address.as_str(), ""), |(place, query)| (place, query));
        let port = place.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
        Self { program, port, query: query.to_owned() }
    }

    /// The head and the body of an answer.
    fn ask(&self, request: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        // a server that refuses may close before all is sent
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no answer to {request}")), answer)
    }

    fn get(&self, path: &str, headers: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n"), &[])
    }

    fn upload(&self, bytes: &[u8]) -> (u16, String) {
        let head = format!(
            "POST /api/search HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        );
        self.ask(&head, bytes)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_lets_in_whom_it_should_and_ends_when_told() {
    let (world, _) = built(40).await;
    let spec = world.path("finland.toml");
    let own = Arc::new(Server::start(&spec, &["--listen", "127.0.0.1:0"]));
    assert_eq!(own.query, "", "on loopback no token is needed");
    let host = "host: localhost\r\n";
    let (status, page) = own.get("/", host);
    assert!(status == 200 && page.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{page}");
    let (status, answer) = own.get("/api/search?text=a+lake&most=2", host);
    assert!(status == 200 && answer.matches("\"score\"").count() == 2, "{answer}");
    assert_eq!(own.get("/", "host: rebound.example\r\n").0, 421);
    for path in
        ["/assets/../../../etc/passwd", "/picture?country=finland&id=..%2F..%2Fetc%2Fpasswd", "/%2e%2e/etc/passwd"]
    {
        assert_eq!(own.get(path, host).0, 404, "{path}");
    }
    let tell = |what: (u16, String)| assert!(what.0 == 422 && what.1.contains("the picture"), "{what:?}");
    tell(own.upload(b"GIF89a, which is none that a build takes"));
    tell(own.upload(&vec![0; (8 << 20) + 1]));
    // a small file that would be gigabytes of pixels
    let mut bomb = pixels::encode_png(&pixels::Rgb::new(2, 2, vec![9; 12]).unwrap());
    bomb[16..24].copy_from_slice(&[0, 0, 255, 255, 0, 0, 255, 255]);
    tell(own.upload(&bomb));

    let open = Server::start(&spec, &["--listen", "0.0.0.0:0"]);
    assert_eq!(open.get("/", host).0, 401);
    let (status, answer) = open.get(&format!("/space?{}", open.query), host);
    assert!(status == 303 && answer.contains("location: /space\r\n") && answer.contains("SameSite=Strict"), "{answer}");
    let token = open.query.strip_prefix("token=").unwrap();
    assert_eq!(open.get("/space", &format!("{host}cookie: urbancross_atlas={token}\r\n")).0, 200);
    assert_eq!(open.get("/space", &format!("{host}cookie: urbancross_atlas={}\r\n", "0".repeat(32))).0, 401);

    let refused = Command::new(urbancross())
        .arg("serve")
        .arg(&spec)
        .args(["--listen", &format!("127.0.0.1:{}", own.port)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("--listen"), "{said}");

    // clients that ask for more than they read do not keep it from ending
    let mut idle = TcpStream::connect(("127.0.0.1", open.port)).unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut open = open;
    let pid = open.program.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let until = Instant::now() + Duration::from_secs(15);
    let status = loop {
        if let Some(status) = open.program.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < until, "the server goes on after SIGTERM");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_in_words() {
    let world = World::new(8);
    std::fs::write(world.path("finland.toml"), world.spec_text("work")).unwrap();
    let serve = |more: &[&str], token: &str| {
        let mut command = Command::new(urbancross());
        command.arg("serve").arg(world.path("finland.toml")).args(["--listen", "127.0.0.1:0"]).args(more);
        let output = command.env("URBANCROSS_TOKEN", token).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = serve(&[], "a-token-that-is-long-enough");
    assert!(code == Some(65) && said.contains("run"), "{said}");
    let (code, said) = serve(&[], "short");
    assert!(code == Some(65) && said.contains("URBANCROSS_TOKEN") && said.contains("16"), "{said}");
    let (code, said) = serve(&["--tiles", "https://tiles.example.org/{z}.png"], "a-token-that-is-long-enough");
    assert!(code == Some(65) && said.contains("{x} is missing"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_not_told_where_a_store_was() {
    let world = World::new(3);
    std::fs::write(world.path("finland.toml"), world.spec_text("work")).unwrap();
    std::fs::create_dir(world.path("work")).unwrap();
    let (specs, _) = Specs::read(&[world.path("finland.toml")], &[]).unwrap();
    let desk = StoreDesk::open(&specs).await.unwrap();
    std::fs::remove_dir_all(world.path("work")).unwrap();
    let trouble = desk.edits("finland".into()).await.unwrap_err();
    assert!(matches!(&trouble, Trouble::Broken(why) if why.contains("there is no work store")), "{trouble:?}");
    assert!(!trouble.to_string().contains("work"), "{trouble}");
}
