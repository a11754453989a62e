//! `urbancross search`.

use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{ArgGroup, Args};
use manifests::words::count;
use manifests::{BuildSpec, PairSpec};
use pixels::DecodeLimits;
use workers::WorkerError;
use workers::search::{Filter, Found, Near, Tag};

use super::arguments::SetArgs;
use super::numbers::within;
use super::{check_page, stop_flag, write_page};
use crate::build::Build;
use crate::clock::now;
use crate::page::search as page;
use crate::progress::Progress;
use crate::search::{Adapted, Answer, Indexing, MOST_FOUND, Query, Question, SearchModel, Searcher};
use crate::terminal::{Graphics, kitty, plain, sixel};
use crate::{aside, say};

/// No two places are further apart.
const MOST_KILOMETRES: f64 = 20_038.0;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("query").required(true)))]
pub(super) struct SearchArgs {
    #[arg(help = "Build spec; or a pair spec, whose target's images are searched with the adapted model")]
    spec: PathBuf,
    #[arg(help = "What the pictures show, such as \"two parking lots beside a stadium\"", group = "query")]
    text: Option<String>,
    #[arg(long, value_name = "FILE", group = "query", help = "Search by a picture: JPEG, PNG, TIFF, BMP or WebP")]
    image: Option<PathBuf>,
    #[arg(long, value_name = "IMAGE_ID", group = "query", help = "Search for images like this one")]
    like: Option<String>,
    #[arg(
        long = "text",
        conflicts_with_all = ["model", "at", "image", "like"],
        help = "Search what was written about the images, by the sentence encoder of the spec"
    )]
    by_text: bool,
    #[arg(long, value_name = "SPEC", help = "Also search the images of this build, with the same model")]
    also: Vec<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
    #[arg(long, value_enum, help = "Of a pair: its model before or after adaptation; after, if not said")]
    model: Option<Adapted>,
    #[arg(
        long,
        value_name = "VERSION",
        conflicts_with_all = ["also", "model"],
        help = "Search the vectors of this version of the table image_embeddings, with the model that made them"
    )]
    at: Option<u64>,
    #[arg(
        long,
        value_name = "LAT,LON",
        value_parser = place,
        allow_hyphen_values = true,
        help = "Only images around this place, in degrees north and east"
    )]
    near: Option<(f64, f64)>,
    #[arg(
        long,
        value_name = "KM",
        default_value_t = 10.0,
        value_parser = within("a number of kilometres", 0.0..=MOST_KILOMETRES),
        allow_negative_numbers = true,
        requires = "near",
        help = "How far from the place"
    )]
    within: f64,
    #[arg(long, value_name = "NAME", help = "Only images of this country, where several specs are searched")]
    country: Vec<String>,
    #[arg(long, value_name = "YEARS", value_parser = years, help = "Only pictures of this year, or of 2018-2020")]
    year: Option<RangeInclusive<i32>>,
    #[arg(long, value_name = "METERS", value_parser = meters, help = "Only pixels of at most 0.8 m, or of 0.5-1.0")]
    gsd: Option<RangeInclusive<f64>>,
    #[arg(long, value_parser = ["train", "val", "test", "dropped"], help = "Only images of this split")]
    split: Option<String>,
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = tag, help = "Only images with this tag, such as leisure=pitch")]
    tag: Vec<Tag>,
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = within("a whole number", 1..=MOST_FOUND),
        allow_negative_numbers = true,
        help = "Images to show"
    )]
    top: usize,
    #[arg(
        long,
        value_enum,
        default_value_t = Indexing::Auto,
        help = "Keep copies of the vectors on this machine, for fast searches; auto: if there are very many"
    )]
    index: Indexing,
    #[arg(long, value_name = "FILE", help = "Also write a page with the pictures here")]
    html: Option<PathBuf>,
    #[arg(long, help = "Machine-readable output")]
    json: bool,
}

fn place(text: &str) -> Result<(f64, f64), String> {
    let wrong = || "it must be two numbers, degrees north and east, such as 60.17,24.94".to_owned();
    let (north, east) = text.split_once(',').ok_or_else(wrong)?;
    let degrees = |text: &str, most: f64| text.trim().parse().ok().filter(|value: &f64| value.abs() <= most);
    degrees(north, 90.0).zip(degrees(east, 180.0)).ok_or_else(wrong)
}

fn years(text: &str) -> Result<RangeInclusive<i32>, String> {
    let wrong = || "it must be a year or two, such as 2019 or 2018-2020".to_owned();
    let year = |text: &str| text.trim().parse::<u16>().map(i32::from).map_err(|_| wrong());
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let years = year(from)?..=year(to)?;
    if years.is_empty() { Err(wrong()) } else { Ok(years) }
}

fn meters(text: &str) -> Result<RangeInclusive<f64>, String> {
    let wrong = || "it must be meters a pixel, at most or from and to, such as 0.8 or 0.5-1.0".to_owned();
    let number = |text: &str| text.trim().parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
    let (from, to) = text.split_once('-').unwrap_or(("0", text));
    let meters = number(from).ok_or_else(wrong)?..=number(to).ok_or_else(wrong)?;
    if meters.is_empty() { Err(wrong()) } else { Ok(meters) }
}

fn tag(text: &str) -> Result<Tag, String> {
    let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
    if key.is_empty() || value == Some("") {
        return Err("it must be a tag of OpenStreetMap, such as leisure=pitch, or only its key".into());
    }
    Ok(Tag { key: key.to_owned(), value: value.map(str::to_owned) })
}

pub(super) async fn search(args: SearchArgs) -> Result<()> {
    check_page(args.html.as_deref())?;
    let progress = Progress::new(args.json);
    let question = question(&args)?;
    let (model, builds) = open(&args).await?;
    let mut searcher = match (model, args.at, builds.first()) {
        (None, Some(version), Some(build)) => Searcher::open_at(build, version).await?,
        (None, ..) => return Err(WorkerError::Broken("no model was chosen".into()).into()),
        (Some(model), ..) => Searcher::open(model, &builds, &progress).await?,
    };
    searcher.index(args.index, &progress).await;
    let answer = searcher.search(&question).await?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print(&searcher, &answer).await?;
    }
    match &args.html {
        None => Ok(()),
        Some(path) => {
            let pictures = searcher.pictures(&answer.found).await?;
            let of_query = match &answer.query {
                Query::Text(_) => None,
                Query::Picture { bytes, .. } => {
                    crate::page::thumbnail_of(bytes, &stages::images::limits(&searcher.model().spec))
                }
                Query::Like(id) | Query::LikeIn { id, .. } => searcher.picture_of(id).await?,
            };
            write_page(path, &page::make(&answer, &pictures, of_query, &now()))
        }
    }
}

fn question(args: &SearchArgs) -> Result<Question> {
    let query = match (&args.text, &args.image, &args.like) {
        (_, Some(path), _) => Query::Picture { name: path.display().to_string(), bytes: read_picture(path)? },
        (_, _, Some(id)) => Query::Like(id.clone()),
        (text, None, None) => Query::Text(text.clone().unwrap_or_default()),
    };
    let near = args.near.map(|(latitude, longitude)| Near { latitude, longitude, kilometres: args.within });
    let filter = Filter {
        near,
        within: None,
        years: args.year.clone(),
        gsd_meters: args.gsd.clone(),
        split: args.split.clone(),
        tags: args.tag.clone(),
        without: None,
    };
    Ok(Question { query, filter, countries: args.country.clone(), most: args.top })
}

fn read_picture(path: &Path) -> Result<Vec<u8>, WorkerError> {
    let most = DecodeLimits::default().max_bytes;
    let mut bytes = Vec::new();
    // a pipe or a device does not say how much there is
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|error| WorkerError::of_io(path, &error))?;
    if bytes.len() as u64 > most {
        return Err(WorkerError::Configuration(format!(
            "{}: more than the {most} bytes that a picture may have",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Opens what is searched, and finds the model to search with; none for `--at`: a version's rows tell.
async fn open(args: &SearchArgs) -> Result<(Option<SearchModel>, Vec<Build>)> {
    let stop = stop_flag();
    let mut builds = Vec::with_capacity(1 + args.also.len());
    let model = if PairSpec::is_at(&args.spec) {
        if args.at.is_some() {
            let why = format!("{} is a pair spec; --at is for the tables of one build", args.spec.display());
            return Err(WorkerError::Configuration(why).into());
        }
        if args.by_text {
            let why = format!("{} is a pair spec; --text searches builds, whatever was adapted", args.spec.display());
            return Err(WorkerError::Configuration(why).into());
        }
        let (pair, source, target) = PairSpec::read(&args.spec, &args.set.set)?;
        let source = Build::open_work(source, stop.clone()).await?;
        let target = Build::open_work(target, stop.clone()).await?;
        let model = SearchModel::of_pair(&pair, &source, &target, args.model.unwrap_or_default()).await?;
        builds.push(target);
        model
    } else {
        let build = Build::open_work(BuildSpec::read(&args.spec, &args.set.set)?, stop.clone()).await?;
        if args.model.is_some() {
            let why = format!(
                "{} is the spec of a build, which has one model; --model chooses between those of a pair spec",
                args.spec.display()
            );
            return Err(WorkerError::Configuration(why).into());
        }
        if args.at.is_some() {
            return Ok((None, vec![build]));
        }
        let model = match args.by_text {
            true => SearchModel::of_texts(&build).await?,
            false => SearchModel::of_build(&build).await?,
        };
        builds.push(build);
        model
    };
    for path in &args.also {
        let spec = BuildSpec::read(path, &[])?;
        let is_there = |build: &Build| (&build.spec.country, &build.spec.work.url) == (&spec.country, &spec.work.url);
        if !builds.iter().any(is_there) {
            builds.push(Build::open_work(spec, stop.clone()).await?);
        }
    }
    Ok((Some(model), builds))
}

/// What was found, for people: pictures where the terminal can draw them, and addresses where not.
async fn print(searcher: &Searcher<&Build>, answer: &Answer) -> Result<()> {
    let graphics = Graphics::of_output();
    let pictures = match graphics {
        Graphics::Kitty | Graphics::Sixel => searcher.pictures(&answer.found).await?,
        Graphics::None => page::Pictures::new(),
    };
    for found in &answer.found {
        let picture = pictures.get(&(found.country.clone(), found.image_id.clone()));
        if let Some(drawn) = picture.and_then(|jpeg| drawn(jpeg, graphics)) {
            say!("{drawn}");
        }
        for line in lines_of(found) {
            say!("{line}");
        }
    }
    let searched = format!("{} compared {}", count(answer.compared, "image"), page::by_what(answer));
    match answer.found.is_empty() {
        true => aside!("nothing was found: no image passes the filters"),
        false if graphics == Graphics::None => aside!("{searched}; --html FILE shows the pictures"),
        false => aside!("{searched}"),
    }
    for warning in page::warnings(answer) {
        aside!("warning: {warning}");
    }
    Ok(())
}

fn drawn(jpeg: &[u8], graphics: Graphics) -> Option<String> {
    let rgb = pixels::decode(jpeg, &DecodeLimits::default()).ok()?;
    match graphics {
        Graphics::Kitty => Some(kitty(&pixels::encode_png(&rgb))),
        Graphics::Sixel => Some(sixel(&rgb)),
        Graphics::None => None,
    }
}

fn lines_of(found: &Found) -> Vec<String> {
    let mut lines =
        vec![format!("{:>3}  {:.4}  {}  {}", found.rank, found.score, found.image_id, page::facts(found).join(", "))];
    let tags: Vec<String> = page::tags(found).collect();
    let more = found.captions.first().cloned().into_iter().chain((!tags.is_empty()).then(|| tags.join(" ")));
    lines.extend(more.chain(found.object.clone()).map(|line| format!("{:13}{line}", "")));
    lines.iter().map(|line| plain(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_people_write_them() {
        assert_eq!(place("60.17, -24.94"), Ok((60.17, -24.94)));
        assert_eq!((years("2019"), years("2018-2020")), (Ok(2019..=2019), Ok(2018..=2020)));
        assert_eq!((meters("0.8"), meters("0.5-1")), (Ok(0.0..=0.8), Ok(0.5..=1.0)));
        assert_eq!(tag("leisure=pitch"), Ok(Tag { key: "leisure".into(), value: Some("pitch".into()) }));
        assert_eq!(tag("building"), Ok(Tag { key: "building".into(), value: None }));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_one_that_is() {
        for wrong in ["60.17", "91,0", "0,181", "north,east", "nan,0", ""] {
            assert!(place(wrong).unwrap_err().contains("60.17,24.94"), "{wrong}");
        }
        for wrong in ["2020-2018", "-5", "soon", ""] {
            assert!(years(wrong).unwrap_err().contains("2018-2020"), "{wrong}");
        }
        for wrong in ["1-0.5", "-1", "inf", "fine"] {
            assert!(meters(wrong).unwrap_err().contains("0.5-1.0"), "{wrong}");
        }
        for wrong in ["", "=pitch", "leisure="] {
            assert!(tag(wrong).unwrap_err().contains("leisure=pitch"), "{wrong}");
        }
    }
}
