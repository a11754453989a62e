//! What a build reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::StoreOptions;
use super::check::{Problems, positive};

/// Where the input lies. The source store is only ever read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Layout of the source.
    pub kind: SourceKind,
    /// Folder of the archives: `file://`, `s3://`, `gs://`, `az://`, `http(s)://` or a plain path.
    pub url: String,
    /// How the source store is reached.
    #[serde(default)]
    pub options: StoreOptions,
    /// SkyScript: CSV files below `url`. Captioned folder: the caption files; empty: the only one there is, or all
    /// `*_caps.txt`, or all tar archives of WebDataset.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Source tokens of image names that belong to the country (`["FI"]`); global sources are
    /// decided by the box. Empty: every source.
    #[serde(default)]
    pub tokens: Vec<String>,
    /// ISO 3166 code whose polygon must hold the box centre (`"FI"`); empty: no check.
    #[serde(default)]
    pub country_code: String,
    /// SkyScript: images with more metres per pixel are left out. Where a name does not tell it, the picture is
    /// measured against its box, so that a change has all pictures looked at again.
    #[serde(default = "default_max_gsd_meters")]
    pub max_gsd_meters: f64,
    /// SkyScript: read the meta archives (boxes and tags). Without them captions come from titles.
    #[serde(default = "yes")]
    pub meta: bool,
    /// Captioned folder: folder of the images below `url`; empty: `url` itself.
    #[serde(default = "default_image_folder")]
    pub image_folder: String,
    /// Captioned folder: images whose names end with `.tif` or `.tiff` are GeoTIFFs: the boxes of their ground are read, for
    /// maps, searches by place and exports. One whose coordinate system is not known is left out, with the reason.
    #[serde(default)]
    pub georeferenced: bool,
    /// Take only the first images in order of their id; 0: all.
    #[serde(default)]
    pub max_images: usize,
    /// Pixel limit of one image, checked before it is decoded.
    #[serde(default = "default_max_image_pixels")]
    pub max_image_pixels: u64,
    /// How `tags refresh` reads OpenStreetMap.
    #[serde(default)]
    pub osm: OsmSpec,
}

/// What counts when tags are refreshed from OpenStreetMap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OsmSpec {
    /// Keys that say nothing of what is to be seen; `source:*` stands for all that begin with `source:`.
    #[serde(default = "default_ignored_keys")]
    pub ignored_keys: Vec<String>,
    /// A refresh that would change more than this share of the rows stops and asks.
    #[serde(default = "default_accept_share")]
    pub accept_share: f64,
    /// Metres around each image of which everything is kept for diffs. More makes it rarer that an extract is needed
    /// again, and the state larger.
    #[serde(default = "default_margin_meters")]
    pub margin_meters: f64,
}

impl Default for OsmSpec {
    fn default() -> Self {
        Self {
            ignored_keys: default_ignored_keys(),
            accept_share: default_accept_share(),
            margin_meters: default_margin_meters(),
        }
    }
}

impl OsmSpec {
    /// Whether a key says nothing of what is to be seen.
    pub fn ignores(&self, key: &str) -> bool {
        self.ignored_keys.iter().any(|ignored| match ignored.strip_suffix('*') {
            Some(beginning) => key.starts_with(beginning),
            None => key == ignored,
        })
    }

    fn check(&self, problems: &mut Problems) {
        let mut of = problems.section("source.osm");
        of.share("accept_share", self.accept_share);
        of.within("margin_meters", self.margin_meters, 0.0..=2000.0, "100.0 keeps a street's width around each image");
        if self.ignored_keys.iter().any(|key| key.trim_end_matches('*').is_empty()) {
            of.refuse("ignored_keys", &self.ignored_keys, "an empty key, or * alone, would ignore everything");
        }
    }
}

impl SourceSpec {
    pub(super) fn check(&self, problems: &mut Problems) {
        self.options.check("source.options", problems);
        self.osm.check(problems);
        let mut of = problems.section("source");
        of.within("max_gsd_meters", self.max_gsd_meters, positive(1e6), "it is the side of a pixel on the ground");
        of.count("max_image_pixels", self.max_image_pixels, 1 << 32);
        for table in &self.tables {
            if let Some(why) = leads_elsewhere(table) {
                of.refuse("tables", &self.tables, &format!("{table:?} {why}"));
            }
        }
        let folder = self.image_folder();
        if !folder.is_empty()
            && let Some(why) = leads_elsewhere(folder)
        {
            of.refuse("image_folder", &self.image_folder, &format!("it {why}"));
        }
        if self.tokens.iter().any(|token| token.trim().is_empty()) {
            of.refuse("tokens", &self.tokens, "no image name has an empty token; [] takes every source");
        }
    }

    /// The folder of the images below `url`, without what may stand around it.
    pub fn image_folder(&self) -> &str {
        let folder = self.image_folder.trim_end_matches('/').trim_start_matches("./");
        if folder == "." { "" } else { folder }
    }
}

/// Why a path is none below `source.url`.
fn leads_elsewhere(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("names nothing: write a path below source.url")
    } else if path.contains("://") || path.starts_with('/') || path.split('/').any(|part| part == "..") {
        Some("does not lie below source.url: write a path relative to it, without ..")
    } else if path.split('/').any(|part| part.is_empty() || part == ".") || path.contains(char::is_control) {
        Some("is no plain path below source.url: write it as folder/file")
    } else {
        None
    }
}

/// What the source store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// SkyScript's zips, CSVs and meta pickles.
    Skyscript,
    /// A folder of images with a caption file.
    Captioned,
}

fn default_max_gsd_meters() -> f64 {
    0.5
}
fn default_image_folder() -> String {
    "images".into()
}
fn default_max_image_pixels() -> u64 {
    64 << 20
}
fn default_ignored_keys() -> Vec<String> {
    const KEYS: [&str; 13] = [
        "attribution",
        "check_date",
        "check_date:*",
        "created_by",
        "fixme",
        "FIXME",
        "import",
        "note",
        "note:*",
        "source",
        "source:*",
        "survey:date",
        "source_ref",
    ];
    KEYS.map(str::to_owned).to_vec()
}
fn default_accept_share() -> f64 {
    0.1
}
fn default_margin_meters() -> f64 {
    100.0
}
fn yes() -> bool {
    true
}
