//! Many builds at once in one store, for a long time: the program's own planner, stages and tables, each country with a
//! source of its own whose captions change before each of its runs. Nothing is lost or doubled, and a look stays cheap.
//!
//! usage: build_scale [COUNTRIES] [COMMITS] [FOLDER]
//!
//! A folder in memory (`/dev/shm`) keeps synced writes from being what is measured.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use manifests::{Artifact, BuildSpec};
use pipeline::run_options::RunOptions;
use pipeline_tests::{column, open, run_with};
use workers::WorkerError;

const TABLE: &str = "dataframe/table.csv";
/// Images of a country, one of which gets another caption before each run.
const IMAGES: usize = 3;

fn source(folder: &Path, country: usize) -> PathBuf {
    folder.join(format!("source{country}"))
}

fn spec(folder: &Path, country: usize) -> Result<BuildSpec, Box<dyn Error>> {
    let text = format!(
        r#"
country = "country{country}"
[source]
kind = "skyscript"
url = "{}"
tables = ["{TABLE}"]
tokens = ["FI"]
country_code = "FI"
[work]
url = "{}"
shards = 2
"#,
        source(folder, country).display(),
        folder.join("work").display()
    );
    Ok(BuildSpec::parse(&text, "scale", &[])?)
}

/// The caption of an image after so many edits: each edit is one of the next image.
fn title(image: usize, generation: u64) -> String {
    let since = (generation + (IMAGES - image) as u64) % IMAGES as u64;
    let last = generation.saturating_sub(since);
    format!("a satellite image of field number {last} of {image}")
}

fn write_table(folder: &Path, images: &[String], country: usize, generation: u64) -> std::io::Result<()> {
    let row = |(i, path): (usize, &String)| format!("{path},{0},{0},0.3\n", title(i, generation));
    let rows: String = images.iter().enumerate().map(row).collect();
    let table = source(folder, country).join(TABLE);
    std::fs::write(&table, format!("filepath,title,title_multi_objects,similarity_CLIP_openai\n{rows}"))
}

/// Runs one country's build after each edit; returns how many runs gave up because others committed all the time.
async fn one_country(
    folder: PathBuf,
    images: Arc<[String]>,
    country: usize,
    rounds: u64,
    done: Arc<AtomicU64>,
) -> Result<u64, String> {
    let mut given_up = 0;
    for generation in 0..rounds {
        write_table(&folder, &images, country, generation).map_err(|e| e.to_string())?;
        loop {
            let spec = spec(&folder, country).map_err(|e| e.to_string())?;
            let options = RunOptions { until: Some("geotags".into()), ..RunOptions::default() };
            match run_with(spec, options).await {
                Ok(_) => break,
                // ends with 75, and is started again
                Err(WorkerError::Transient(_)) => given_up += 1,
                Err(error) => return Err(format!("country {country}, generation {generation}: {error}")),
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(given_up)
}

/// Seconds that a first look at one country takes.
async fn look(folder: &Path) -> Result<(f64, u64), Box<dyn Error>> {
    let began = Instant::now();
    let build = open(spec(folder, 0)?).await?;
    let version = build.pin(Artifact::Geotags).await?.version.unwrap_or(0);
    Ok((began.elapsed().as_secs_f64(), version))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (countries, commits) = (number(64)? as usize, number(10_000)?);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(parent)?;
    let (folder, rounds) = (folder.path().to_owned(), commits.div_ceil(countries as u64));
    let settings = sandbox::Settings { tiles_per_country: 24, side_px: 64, seed: 7 };
    sandbox::generate(&folder.join("world"), &settings, &mut |_, _| {})?;
    let images = images(&folder.join("world"))?;
    for country in 0..countries {
        let source = source(&folder, country);
        std::fs::create_dir_all(source.join("dataframe"))?;
        for archive in ["images2.zip", "meta2.zip"] {
            std::fs::copy(folder.join("world").join(archive), source.join(archive))?;
        }
    }
    let (began, done) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    // a run stays on its thread, as in the program
    let runtime = tokio::runtime::Handle::current();
    let runs: Vec<_> = (0..countries)
        .map(|country| {
            let (runtime, folder, images, done) = (runtime.clone(), folder.clone(), images.clone(), done.clone());
            std::thread::spawn(move || runtime.block_on(one_country(folder, images, country, rounds, done)))
        })
        .collect();
    let mut next = commits / 8;
    while !runs.iter().all(|run| run.is_finished()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if done.load(Ordering::Relaxed) >= next {
            let (seconds, version) = look(&folder).await?;
            println!("version {version}: a first look takes {:.1} ms beside the others", 1e3 * seconds);
            next += commits / 8;
        }
    }
    let mut given_up = 0;
    for run in runs {
        given_up += run.join().map_err(|_| "a run panicked")??;
    }
    let took = began.elapsed();
    let (seconds, version) = look(&folder).await?;
    // each run with a change commits once, after the version in which the table was made
    assert_eq!(version, rounds * countries as u64, "commits that were lost, or made twice");
    for country in 0..countries {
        let build = open(spec(&folder, country)?).await?;
        let titles = column(&build, Artifact::Geotags, "title").await;
        assert_eq!(titles.len(), IMAGES, "rows of country {country}");
        for (image, path) in images.iter().enumerate() {
            let stem = Path::new(path).file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            let found = titles.iter().find(|(id, _)| id.contains(stem)).map(|(_, title)| title.as_str());
            assert_eq!(found, Some(title(image, rounds - 1).as_str()), "country {country}, {path}");
        }
    }
    println!(
        "{countries} countries side by side, {version} commits in {:.0} s ({:.1}/s), {given_up} runs given up and started \
         again; none lost, none doubled; a first look takes {:.1} ms",
        took.as_secs_f64(),
        version as f64 / took.as_secs_f64(),
        1e3 * seconds
    );
    Ok(())
}

/// The first Finnish images of a sandbox world that lie in `images2`.
fn images(world: &Path) -> Result<Arc<[String]>, Box<dyn Error>> {
    let table = std::fs::read_to_string(world.join("dataframe/SkyScript_sandbox.csv"))?;
    let paths = table.lines().filter_map(|line| line.split(',').next());
    let found: Vec<String> =
        paths.filter(|p| p.starts_with("images2/") && p.contains("_FI_")).map(str::to_owned).collect();
    Ok(found.get(..IMAGES).ok_or("too few Finnish images in images2")?.into())
}
