//! The card of exported rows: what is in the folder, how it is opened, what it was made of.

use manifests::BuildSpec;
use manifests::plan::PinnedTable;
use manifests::spec::SourceKind;
use manifests::words::count;
use workers::export::{Format, Written, WrittenFile, lacking_in_words};

use super::licence;
use crate::page::capitalised;

/// What a card says.
pub(super) struct Facts<'a> {
    pub spec: &'a BuildSpec,
    pub format: Format,
    pub tables: &'a [PinnedTable],
    pub written: &'a Written,
    /// What people decided about captions.
    pub reviews: &'a PinnedTable,
    /// When the build last changed: the same build gives the same card.
    pub changed_at: String,
}

impl Facts<'_> {
    pub(super) fn title(&self) -> String {
        format!("Satellite images of {} with captions", capitalised(&self.spec.country))
    }

    pub(super) fn images(&self) -> u64 {
        self.written.images.values().sum()
    }

    /// Files that belong to a split, by split.
    fn splits(&self) -> Vec<(&str, Vec<&WrittenFile>)> {
        let mut splits: Vec<(&str, Vec<&WrittenFile>)> = Vec::new();
        for file in &self.written.files {
            let Some(split) = file.split.as_deref() else { continue };
            match splits.iter_mut().find(|(name, _)| *name == split) {
                Some((_, files)) => files.push(file),
                None => splits.push((split, vec![file])),
            }
        }
        // as they are used
        splits.sort_by_key(|(name, _)| ["train", "validation", "test"].iter().position(|known| known == name));
        splits
    }

    /// Markdown, with the header that the hub reads.
    pub(super) fn card(&self) -> String {
        format!(
            "---\n{}---\n\n# {}\n\n{}\n\n{}\n{}\n{}",
            self.header(),
            self.title(),
            self.what(),
            self.opening(),
            self.made_of(),
            licence::section(self.spec, &self.written.sources),
        )
    }

    fn header(&self) -> String {
        let size = match self.images() {
            0..1_000 => "n<1K",
            1_000..10_000 => "1K<n<10K",
            10_000..100_000 => "10K<n<100K",
            100_000..1_000_000 => "100K<n<1M",
            _ => "1M<n<10M",
        };
        let mut header = format!(
            "pretty_name: {}\n{}language:\n- en\nsize_categories:\n- {size}\ntags:\n- remote-sensing\n- geospatial\n",
            self.title(),
            licence::header(self.spec),
        );
        match self.format {
            Format::HuggingFace => {
                header += "- croissant\ntask_categories:\n- image-to-text\n";
                header += &self.dataset_info();
            }
            Format::WebDataset => header += "- webdataset\ntask_categories:\n- image-to-text\n",
            Format::GeoParquet | Format::Npy | Format::Rsrt => {}
        }
        header
    }

    /// Which files are which split. The columns are described in the files themselves.
    fn dataset_info(&self) -> String {
        let splits = self.splits();
        let (mut configs, mut infos) = (String::new(), String::new());
        let mut total = 0;
        for (split, files) in &splits {
            let bytes: u64 = files.iter().map(|file| file.bytes).sum();
            let rows: u64 = files.iter().map(|file| file.rows).sum();
            configs += &format!("  - split: {split}\n    path: data/{split}-*.parquet\n");
            infos += &format!("  - name: {split}\n    num_bytes: {bytes}\n    num_examples: {rows}\n");
            total += bytes;
        }
        format!(
            "configs:\n- config_name: default\n  data_files:\n{configs}dataset_info:\n  splits:\n{infos}  \
             download_size: {total}\n  dataset_size: {total}\n"
        )
    }

    fn what(&self) -> String {
        let of_splits = self.written.splits_in_words();
        match self.format {
            Format::Npy => format!(
                "Vectors of {} ({of_splits}) and {} by the model of {}{}, each of length one: the product of two is \
                 their cosine. Row n of `images.npy` is what row n of `images.parquet` says, and so for captions.",
                count(self.images(), "image"),
                count(self.written.captions, "caption"),
                capitalised(&self.spec.country),
                self.written.model.as_ref().map_or(String::new(), |digest| format!(" (digest `{digest}`)")),
            ),
            _ => format!(
                "{} ({of_splits}) with {}. Which split an image is in keeps neighbours and copies apart: train on `train` \
                 alone.",
                count(self.images(), "image"),
                count(self.written.captions, "caption"),
            ),
        }
    }

    fn opening(&self) -> String {
        let code = match self.format {
            Format::HuggingFace => {
                "from datasets import load_dataset\n\
                 images = load_dataset(\"FOLDER\", split=\"train\")\n\
                 images[0][\"image\"], images[0][\"captions\"]"
            }
            Format::WebDataset => {
                "import webdataset as wds\n\
                 images = wds.WebDataset(\"FOLDER/train-{00000..N}.tar\", shardshuffle=False).decode(\"pil\")\n\
                 for sample in images:\n    sample[\"jpg\"], sample[\"txt\"], sample[\"json\"][\"captions\"]"
            }
            Format::GeoParquet => {
                "import geopandas\n\
                 ground = geopandas.read_parquet(\"FOLDER/images.parquet\")   # or DuckDB with its extension spatial"
            }
            Format::Rsrt => {
                "import json\n\
                 images = [json.loads(line) for line in open(\"FOLDER/test.jsonl\", encoding=\"utf-8\")]\n\
                 images[0][\"image\"], images[0][\"variants\"][0][\"one_sentence\"]"
            }
            Format::Npy => {
                "import numpy, pandas\n\
                 images = numpy.load(\"FOLDER/images.npy\", mmap_mode=\"r\")\n\
                 ids = pandas.read_parquet(\"FOLDER/images.parquet\")"
            }
        };
        let columns = match self.format {
            Format::Npy => "",
            Format::Rsrt => {
                "\nEach line is an image: its path, `variants` of `one_sentence`, `feature` and `caption`, and in `model` who wrote \
                 them.\n"
            }
            _ => {
                "\nEach image has its `image_id`, `captions`, who wrote them (`captioner`: `person` where somebody did), `split`, \
                 `country`, and where they are known the token of its `source`, the OpenStreetMap object that it was taken for \
                 (`osm_kind`, `osm_id`), `year`, `time`, metres per pixel (`gsd_meters`), the box of its ground in degrees, and \
                 the tags of that object and of those around it as JSON (`center_tags`, `surrounding_tags`).\n"
            }
        };
        format!("```python\n{code}\n```\n{columns}")
    }

    fn made_of(&self) -> String {
        let versions: Vec<String> = self
            .tables
            .iter()
            .filter_map(|table| Some(format!("{} {}", table.artifact.name(), table.version?)))
            .collect();
        let source = match self.spec.source.kind {
            SourceKind::Skyscript => "SkyScript archives",
            SourceKind::Captioned => "a folder of captioned images",
        };
        let reviewed = match self.reviews.version.filter(|_| self.reviews.rows() > 0) {
            None => String::new(),
            Some(version) => format!(
                " People have accepted, written or rejected the captions of {} (version {version} of caption_reviews).",
                count(self.reviews.rows(), "image")
            ),
        };
        let left_out = match self.written.without.is_empty() {
            true => String::new(),
            false => format!(
                " Left out are the images of shards that tables had no rows of: {}.",
                lacking_in_words(&self.written.without)
            ),
        };
        format!(
            "## What it was made of\n\n{source}, by urbancross {}, last changed {}. Versions of the tables: \
             {}.{reviewed}{left_out}\n",
            env!("CARGO_PKG_VERSION"),
            self.changed_at,
            versions.join(", "),
        )
    }
}
