//! What the pages ask for, as plain data.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::trouble::Trouble;

/// Finished builds, as the pages see them. Ids of images are looked up in tables, whatever they look like.
#[async_trait]
pub trait Atlas: Send + Sync + 'static {
    /// What can be searched, and with which models.
    async fn about(&self) -> Result<About, Trouble>;

    /// The best images for a query.
    async fn search(&self, question: Question) -> Result<Answer, Trouble>;

    /// A picture, as a JPEG that this program has encoded.
    async fn picture(&self, image: ImageName, size: Size) -> Result<Vec<u8>, Trouble>;

    /// Everything that is known of an image.
    async fn image(&self, image: ImageName) -> Result<Image, Trouble>;

    /// Where images lie; the same until the tables change.
    async fn points(&self) -> Result<Arc<Points>, Trouble>;

    /// Images in the space of a model, in two dimensions; the same until the tables change. Computed when it is first asked
    /// for, which may take seconds.
    async fn plot(&self, model: String, layout: Layout) -> Result<Arc<Plot>, Trouble>;

    /// Borders of all countries: lines of degrees east and north.
    async fn borders(&self) -> Result<Arc<Vec<Vec<[f32; 2]>>>, Trouble>;
}

/// What an atlas holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct About {
    /// Models that searches can be made with; the first one is what a page begins with.
    pub models: Vec<Model>,
    /// Countries whose images are searched.
    pub countries: Vec<String>,
    /// Images with a place, a year or a vector.
    pub images: u64,
    /// First and last calendar year of the pictures.
    pub years: Option<(i32, i32)>,
    /// Least and largest ground resolution.
    pub gsd_meters: Option<(f64, f64)>,
    /// Names of splits.
    pub splits: Vec<String>,
    /// Most frequent tags, as OpenStreetMap writes them.
    pub tags: Vec<String>,
}

/// A model that searches can be made with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Model {
    /// What addresses call it.
    pub id: String,
    /// What people call it.
    pub name: String,
}

/// An image of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageName {
    /// Country of the build.
    pub country: String,
    /// As in its tables.
    pub id: String,
}

/// How large a picture is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    /// As it is in the tables.
    Full,
    /// For a card among others.
    Thumbnail,
}

/// What is searched for.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// What the pictures show.
    Text(String),
    /// A picture from elsewhere, JPEG or PNG: bytes that nobody has looked at.
    Picture(Vec<u8>),
    /// An image of the builds, which is not among the answers.
    Like(ImageName),
}

/// A rectangle on the map, in degrees; `west` is larger than `east` across the date line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Degrees east of its left edge.
    pub west: f64,
    /// Degrees north of its lower edge.
    pub south: f64,
    /// Degrees east of its right edge.
    pub east: f64,
    /// Degrees north of its upper edge.
    pub north: f64,
}

/// Which images are looked at; all of them by default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Narrowed {
    /// Only those of a country.
    pub country: Option<String>,
    /// Only those in a rectangle.
    pub within: Option<Bounds>,
    /// First and last calendar year.
    pub years: Option<(i32, i32)>,
    /// Least and largest ground resolution.
    pub gsd_meters: Option<(f64, f64)>,
    /// Only those of a split.
    pub split: Option<String>,
    /// Tags that an object in the picture must have; a key alone wants any value.
    pub tags: Vec<(String, Option<String>)>,
}

/// A search.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// What is searched for.
    pub query: Query,
    /// Id of the model to search with; `None`: the first one.
    pub model: Option<String>,
    /// Which images are looked at.
    pub narrowed: Narrowed,
    /// Answers at most.
    pub most: usize,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answer {
    /// Name of the model that it was searched with.
    pub model: String,
    /// Images that were compared with the query.
    pub compared: u64,
    /// What a reader should know, such as that images were left out.
    pub note: Option<String>,
    /// Best first.
    pub found: Vec<Found>,
}

/// An image that was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Found {
    /// From 1.
    pub rank: usize,
    /// Cosine of the angle to the query.
    pub score: f64,
    /// Which image it is.
    #[serde(flatten)]
    pub image: ImageName,
    /// `train`, `val`, `test` or `dropped`.
    pub split: Option<String>,
    /// As the tables have them.
    pub captions: Vec<String>,
    /// Of the object that the picture was taken for, as OpenStreetMap writes them.
    pub tags: Vec<String>,
    /// Degrees north of its middle.
    pub latitude: Option<f64>,
    /// Degrees east of its middle.
    pub longitude: Option<f64>,
    /// Calendar year of the picture.
    pub year: Option<i32>,
    /// Ground resolution.
    pub gsd_meters: Option<f64>,
    /// Address of the object at OpenStreetMap.
    pub object: Option<String>,
}

/// Everything that is known of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Image {
    /// As in an answer, without rank and score.
    pub found: Found,
    /// Width of the picture in pixels.
    pub width: u32,
    /// Height of the picture in pixels.
    pub height: u32,
    /// Its captions.
    pub captions: Vec<CaptionOf>,
    /// Tags of objects around, as OpenStreetMap writes them.
    pub around: Vec<Vec<String>>,
    /// Its segments, those that train the model first.
    pub segments: Vec<SegmentOf>,
    /// What each stage says of it, in order.
    pub lineage: Vec<Step>,
}

/// A caption of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CaptionOf {
    /// What it says.
    pub text: String,
    /// Who wrote it, in words.
    pub source: String,
    /// What is known of its quality, in words.
    pub quality: Vec<String>,
    /// Why it is below the thresholds, where it is.
    pub flagged: Option<String>,
}

/// A segment of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SegmentOf {
    /// Run lengths of its mask, columns first, beginning with what is outside.
    pub runs: Vec<u32>,
    /// Share of the picture.
    pub share: f64,
    /// Similarity to the captions.
    pub similarity: Option<f32>,
    /// Whether it trains the model.
    pub selected: bool,
}

/// What a stage says of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Name of the stage.
    pub stage: String,
    /// How the row came to be.
    pub lines: Vec<String>,
}

/// Images as columns: one entry for each image in every list. Numbers stand for names in the lists of names.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Points {
    /// Images that there are; fewer are in the columns where these are a sample.
    pub of: u64,
    /// Names of countries.
    pub countries: Vec<String>,
    /// Names of splits; what an image without one says is an empty name.
    pub splits: Vec<String>,
    /// Classes of tags, most frequent first; the last one is what others are.
    pub classes: Vec<String>,
    /// Ids of images.
    pub id: Vec<String>,
    /// Place in `countries`.
    pub country: Vec<u16>,
    /// Place in `splits`.
    pub split: Vec<u8>,
    /// Place in `classes`.
    pub class: Vec<u8>,
    /// Across: degrees east, or the first of two dimensions.
    pub x: Vec<f32>,
    /// Upwards: degrees north, or the second dimension.
    pub y: Vec<f32>,
}

/// How images are laid out in a plane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// In the two directions in which vectors differ most.
    #[default]
    Variance,
    /// So that neighbours among the vectors are neighbours in the plane.
    Neighbours,
}

/// Images in the space of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plot {
    /// Name of the model.
    pub model: String,
    /// Share of the variance that each of the two directions has, where they are directions.
    pub shares: Option<[f64; 2]>,
    /// The images.
    pub points: Points,
    /// Classes of places at which images find their own captions, best first; the last one is of images that are not
    /// measured.
    pub errors: Vec<String>,
    /// Place in `errors` of each image.
    pub error: Vec<u8>,
    /// Countries of which no image is measured, and why.
    pub unmeasured: Vec<String>,
}
