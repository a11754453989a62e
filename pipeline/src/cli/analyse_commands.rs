//! `urbancross analyse`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use manifests::words::count;
use manifests::{BuildSpec, PairSpec};
use report::format_number;
use workers::WorkerError;

use super::arguments::SetArgs;
use super::numbers::within;
use super::report_commands::open_built;
use super::{check_page, figures, stop_flag, write_page};
use crate::analyse::{
    Analysis, BeforeAndAfter, CaptionerLine, Comparison, Draw, MOST_SAMPLED, SegmenterLine, Way,
    analyse as analyse_build, before_and_after, compare, moves_in_words, name_of, prompts, related,
};
use crate::build::Build;
use crate::clock::now;
use crate::given::{read_builds, read_pairs, spread};
use crate::page::analysis as page;
use crate::progress::Progress;
use crate::say;
use crate::search::SearchModel;
use crate::terminal::plain_lines;

/// Tags that a line names.
const NAMED: usize = 8;

#[derive(Debug, Args)]
pub(super) struct AnalyseArgs {
    #[arg(
        required = true,
        help = "Build specs; of pair specs, queries before and after adaptation; or folders of them"
    )]
    specs: Vec<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
    #[arg(long, value_name = "TEXT", help = "Also name the tags that are close to this, by the build's model")]
    related: Vec<String>,
    #[arg(
        long,
        help = "Also caption a sample without tags, with visual features and with tags in the prompt: the paper's Figure 7"
    )]
    prompts: bool,
    #[arg(
        long,
        value_name = "NAME[=WEIGHTS]",
        help = "Also caption a sample with this captioner, such as geotags, given, instructblip or llava; several: side by side"
    )]
    captioner: Vec<String>,
    #[arg(
        long,
        value_name = "NAME[=WEIGHTS]",
        help = "Also cut a sample with this segmenter, such as felzenszwalb, sam or none; several: side by side"
    )]
    segmenter: Vec<String>,
    #[command(flatten)]
    draw: DrawArgs,
    #[arg(
        long,
        value_name = "PRICE",
        value_parser = within("a number", 0.0..=1e6),
        allow_negative_numbers = true,
        help = "What an hour of this machine costs: shows what captions and segments would cost at that rate"
    )]
    price_per_hour: Option<f64>,
    #[arg(long, value_name = "FILE", help = "Also write a page with charts here")]
    html: Option<PathBuf>,
    #[arg(long, help = "Machine-readable output")]
    json: bool,
}

#[derive(Debug, Args)]
struct DrawArgs {
    #[arg(
        long,
        value_name = "IMAGES",
        default_value_t = 24,
        value_parser = within("a whole number", 1..=MOST_SAMPLED),
        allow_negative_numbers = true,
        help = "Images of a sample, of each country"
    )]
    sample: usize,
    #[arg(
        long,
        default_value_t = 0,
        value_parser = within("a whole number", 0..=u64::MAX),
        allow_negative_numbers = true,
        help = "Draws other images"
    )]
    seed: u64,
}

/// All that is asked of one build.
async fn analysed(
    build: &Build,
    path: &Path,
    args: &AnalyseArgs,
    progress: &Progress,
) -> Result<Analysis, WorkerError> {
    let (mut analysis, set) = (analyse_build(build).await?, &args.set.set);
    if !args.related.is_empty() {
        let model = SearchModel::of_build(build).await?;
        analysis.related = tokio::task::block_in_place(|| related(&model, &analysis.tags.visible, &args.related))?;
    }
    let draw = (Draw { images: args.draw.sample, seed: args.draw.seed }, args.price_per_hour);
    if args.prompts {
        analysis.prompts = Some(compare(build, (&prompts(&build.spec)?, &[]), draw, progress).await?);
    }
    if !(args.captioner.is_empty() && args.segmenter.is_empty()) {
        let captioners = ways(build, (path, set), "caption.captioner", &args.captioner)?;
        let segmenters = ways(build, (path, set), "segment.segmenter", &args.segmenter)?;
        analysis.compared = Some(compare(build, (&captioners, &segmenters), draw, progress).await?);
    }
    Ok(analysis)
}

pub(super) async fn analyse(args: AnalyseArgs) -> Result<()> {
    check_page(args.html.as_deref())?;
    let (mut analyses, set) = (Vec::new(), &args.set.set);
    let progress = Progress::new(args.json);
    let (of_pairs, specs): (Vec<PathBuf>, Vec<PathBuf>) =
        spread(&args.specs)?.into_iter().partition(|path| PairSpec::is_at(path));
    let of_builds =
        args.prompts || [&args.captioner, &args.segmenter, &args.related].into_iter().any(|named| !named.is_empty());
    if let Some(pair) = of_pairs.first().filter(|_| of_builds) {
        let why = format!(
            "{} is a pair spec, of which recall before and after is told; --prompts, --captioner, --segmenter and --related \
             are for build specs",
            pair.display()
        );
        return Err(WorkerError::Configuration(why).into());
    }
    let all = specs.len() + of_pairs.len();
    let (specs, mut left_out) = read_builds(specs, set)?;
    let (of_pairs, pairs_left_out) = read_pairs(of_pairs, set)?;
    left_out.append(pairs_left_out);
    if specs.is_empty() && of_pairs.is_empty() {
        left_out.refuse((all, "spec"))?;
    }
    let builds = if specs.is_empty() { Vec::new() } else { open_built(specs, &mut left_out, of_pairs.len()).await? };
    let (files, builds): (Vec<PathBuf>, Vec<Build>) = builds.into_iter().unzip();
    left_out.say();
    // one that cannot be analysed is left out of several
    let mut leave_out = |name: &str, error: WorkerError| {
        if all == 1 || matches!(error, WorkerError::Stopped) {
            return Err(error);
        }
        crate::aside!("warning: {name} is left out: {error}");
        left_out.add(name, &error);
        Ok(())
    };
    for (build, path) in builds.iter().zip(&files) {
        match analysed(build, path, &args, &progress).await {
            Ok(analysis) => {
                analyses.push((build, Analysis { spec: Some(path.display().to_string()), ..analysis }));
            }
            Err(error) => leave_out(&path.display().to_string(), error)?,
        }
    }
    let countries: Vec<String> = analyses.iter().map(|(_, one)| one.country.clone()).collect();
    for (_, one) in &mut analyses {
        // one alone is known by its country
        if countries.iter().filter(|country| **country == one.country).count() == 1 {
            one.spec = None;
        }
    }
    let mut pairs = Vec::new();
    for of in of_pairs {
        let compared = async {
            let pair = of.open(&stop_flag()).await?;
            let compared = before_and_after(&pair, &progress).await?;
            Ok((pair, compared))
        };
        match compared.await {
            Ok(compared) => pairs.push(compared),
            Err(error) => leave_out(&of.name(), error)?,
        }
    }
    if args.json {
        let of_builds = analyses.iter().map(|(_, one)| serde_json::json!(one));
        let of_pairs = pairs.iter().map(|(_, of)| serde_json::json!(of));
        let told: Vec<serde_json::Value> = of_builds.chain(of_pairs).chain(left_out.json()).collect();
        say!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        let of_builds = analyses.iter().flat_map(|(_, one)| in_words(one));
        let lines = of_builds.chain(pairs.iter().flat_map(|(_, of)| pair_in_words(of)));
        lines.into_iter().try_for_each(|line| Ok::<_, anyhow::Error>(say!("{}", plain_lines(&line))))?;
    }
    if let Some(path) = args.html {
        write_page(&path, &page::make(&analyses, &pairs, &now()).await?)?;
    }
    Ok(left_out.end()?)
}

fn pair_in_words(of: &BeforeAndAfter) -> Vec<String> {
    vec![
        format!("{}:", of.pair),
        format!("  before {}", figures(&of.before.recall.exact.pessimistic)),
        format!("  after  {}", figures(&of.after.recall.exact.pessimistic)),
        format!("  texts  {}", moves_in_words(&of.changes.text_moves)),
        format!("  images {}", moves_in_words(&of.changes.image_moves)),
    ]
}

/// The build's spec with each of the captioners or segmenters in it; with its own if none was named.
fn ways(
    build: &Build,
    (path, set): (&Path, &[String]),
    field: &str,
    named: &[String],
) -> Result<Vec<Way>, WorkerError> {
    if named.is_empty() {
        let spec = build.spec.clone();
        let name = match field {
            "caption.captioner" => name_of(&spec.caption.captioner),
            _ => name_of(&spec.segment.segmenter),
        };
        return Ok(vec![Way { name, prompt: None, spec }]);
    }
    let way = |text: &String| {
        let (name, weights) = text.split_once('=').map_or((text.as_str(), None), |(name, of)| (name, Some(of)));
        let section = field.split('.').next().unwrap_or_default();
        let mut set = set.to_vec();
        set.push(format!("{field}={name}"));
        set.extend(weights.map(|weights| format!("{section}.{name}.weights={weights}")));
        let spec = BuildSpec::read(path, &set).map_err(|e| WorkerError::Configuration(e.to_string()))?;
        Ok(Way { name: text.clone(), prompt: None, spec })
    };
    named.iter().map(way).collect()
}

fn in_words(one: &Analysis) -> Vec<String> {
    let tags = &one.tags;
    let named = |tags: &mut dyn Iterator<Item = &String>| tags.take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let captions: u64 = one.captions_by_words.values().sum();
    let mut lines = vec![
        format!(
            "{}: {}, {} of them different, {:.1} an image; {}",
            one.name(),
            count(tags.tags, "tag"),
            tags.distinct_tags,
            tags.mean_tags,
            count(captions, "caption")
        ),
        format!("  frequent: {}", named(&mut tags.visible.iter().map(|(tag, _)| tag))),
    ];
    let clusters = one.plane.tags.iter().map(|placed| placed.cluster + 1).max().unwrap_or(0);
    lines.extend((0..clusters).map(|cluster| {
        let mut members = one.plane.tags.iter().filter(|placed| placed.cluster == cluster).map(|placed| &placed.tag);
        format!("  go together: {}", named(&mut members))
    }));
    lines.extend(
        one.related.iter().map(|of| format!("  {:?}: {}", of.text, named(&mut of.tags.iter().map(|(tag, _)| tag)))),
    );
    lines.extend([&one.prompts, &one.compared].into_iter().flatten().flat_map(comparison_in_words));
    lines
}

fn comparison_in_words(of: &Comparison) -> Vec<String> {
    let mut lines = vec![format!("  {} by seed {}:", count(of.images, "image"), of.seed)];
    let price =
        |price: Option<f64>| price.map_or(String::new(), |price| format!(", {} for 1,000", format_number(price, None)));
    let captioner = |line: &CaptionerLine| {
        let figure = |name: &str, figure: Option<f64>| figure.map(|figure| format!("{name} {figure:.3}"));
        let with = line.segmenter.as_ref().map_or(String::new(), |segmenter| format!(" with segments of {segmenter}"));
        let figures = [
            figure("CLIPScore", line.figures.clip_score),
            figure("PerceptionScore", line.figures.perception_score),
            figure("coverage", line.figures.coverage),
            figure("hallucination", line.figures.hallucination),
            (line.failed > 0).then(|| format!("{} without a caption", line.failed)),
        ];
        let figures: Vec<String> = figures.into_iter().flatten().collect();
        let (seconds, price) = (line.seconds_a_caption, price(line.price_of_a_thousand));
        format!("  captions {}{with}: {}; {seconds:.3} s an image{price}", line.captioner, figures.join(", "))
    };
    lines.extend(of.captioners.iter().map(captioner));
    let segmenter = |line: &SegmenterLine| {
        let (seconds, price) = (line.seconds_an_image, price(line.price_of_a_thousand));
        let (name, segments) = (&line.segmenter, line.segments_an_image);
        format!("  segments {name}: {segments:.1} an image; {seconds:.3} s an image{price}")
    };
    lines.extend(of.segmenters.iter().map(segmenter));
    lines
}
