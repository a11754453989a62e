//! Exports: rows and models for other programs.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use manifests::BuildSpec;
use manifests::words::count;
use workers::export::{Format, lacking_in_words};

use super::numbers::within;
use super::stop_flag;
use crate::build::Build;
use crate::export::{self, DataExport};
use crate::trainings::by_another_model;
use crate::{aside, say};

/// A tebibyte: whoever wants one file gets one.
const MOST_FILE_MIB: u64 = 1 << 20;

/// What is exported.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["format", "model", "curves"]))]
pub(super) struct ExportArgs {
    #[arg(long, value_enum, help = "Layout of images, captions or vectors")]
    format: Option<FormatName>,
    #[arg(
        long,
        conflicts_with_all = ["split", "file_mib", "unfinished"],
        help = "The trained model, with its vocabulary"
    )]
    model: bool,
    #[arg(
        long,
        conflicts_with_all = ["split", "file_mib", "unfinished"],
        help = "The curves of its trainings, for TensorBoard"
    )]
    curves: bool,
    #[arg(long, value_enum, help = "Images of this split alone; may be given several times")]
    split: Vec<SplitName>,
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 256,
        value_parser = within("a whole number of MiB", 1..=MOST_FILE_MIB),
        allow_negative_numbers = true,
        help = "Size at which a file of hf or webdataset is closed and another begun"
    )]
    file_mib: u64,
    #[arg(long, help = "Leave out shards that a table lacks rows of, which are refused otherwise")]
    unfinished: bool,
    #[arg(long, short, alias = "out", value_name = "DIR", help = "Folder to make; it must not be there, or be empty")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FormatName {
    /// A data set of Hugging Face: Parquet with images in it
    Hf,
    /// Tar archives of images, texts and JSON
    Webdataset,
    /// The ground of each image as a polygon, without pixels
    Geoparquet,
    /// Vectors of images and captions for NumPy, with their ids
    Npy,
    /// Structured captions as RSRT has them: JSON lines, a file for each split
    Rsrt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SplitName {
    Train,
    Val,
    Test,
}

impl FormatName {
    fn format(self) -> Format {
        match self {
            Self::Hf => Format::HuggingFace,
            Self::Webdataset => Format::WebDataset,
            Self::Geoparquet => Format::GeoParquet,
            Self::Npy => Format::Npy,
            Self::Rsrt => Format::Rsrt,
        }
    }
}

impl SplitName {
    /// As it stands in the table.
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

pub(super) async fn export(spec: BuildSpec, args: &ExportArgs) -> Result<()> {
    let build = Build::open_work(spec, stop_flag()).await?;
    let output = args.output.display();
    if args.curves {
        let trainings = export::curves(&build, &args.output).await?;
        say!("{output}: curves of {}; see them with `tensorboard --logdir {output}`", trainings.join(" and "));
        return Ok(());
    }
    let Some(format) = args.format else {
        let record = export::model(&build, &args.output).await?;
        say!("{output}: the model of {} ({})", build.spec.country, record.trained.best_validation());
        return Ok(());
    };
    let wanted = DataExport {
        format: format.format(),
        splits: args.split.iter().map(|split| split.name().to_owned()).collect(),
        file_bytes: args.file_mib << 20,
        unfinished: args.unfinished,
    };
    let written = export::data(&build, &wanted, &args.output).await?;
    let (images, files): (u64, _) = (written.images.values().sum(), written.files.len());
    let (splits, captions) = (written.splits_in_words(), count(written.captions, "caption"));
    say!("{output}: {} ({splits}), {captions}, in {}", count(images, "image"), count(files, "file"));
    if !written.without.is_empty() {
        aside!("warning: left out for want of rows: {}", lacking_in_words(&written.without));
    }
    if let Some(model) = &written.model
        && let Some(why) = by_another_model(&build, "vectors", model).await?
    {
        aside!("warning: {why}");
    }
    Ok(())
}
