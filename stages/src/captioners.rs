//! Ways to put an image into words. Each is a file of its own and a line in [`of`]; the stages that write captions know
//! none of them.

mod answers;
mod geotags;
mod given;
mod instructblip;
mod llava;
mod network;
mod prompt;
mod quality;
mod server;
pub(crate) mod tags;
pub(crate) mod told;

use manifests::Artifact;
use manifests::BuildSpec;
use manifests::plan::Usage;
use manifests::spec::{Captioner, SecondPassSpec};
use wording::Variant;

use crate::segment_names;
use crate::stage::{Input, InputRows, ModelUse, StageContext, StageError};
use crate::table::{Columns, TableError};
pub(crate) use given::{QUERY_FIELD, STRUCTURED_FIELD, examine as examine_texts};
pub(crate) use quality::Quality;
pub(crate) use tags::ImageTags;

/// What the captioner is told of an image.
const TAGS: Input = Input {
    artifact: Artifact::Geotags,
    digests: &["tags_digest"],
    columns: &["title", "title_multi_objects", "given_captions", "center_tags", "surrounding_tags", "tags_digest"],
};
/// What it sees of an image, if it looks.
const PIXELS: Input = Input { artifact: Artifact::Images, digests: &["bytes_digest"], columns: &["bytes"] };

/// What the image's segments show, where captions are written twice.
const REGIONS: Input = Input { artifact: Artifact::SegmentNames, digests: &["names_digest"], columns: &["regions"] };

/// What people decided about an image's captions, where somebody did.
const REVIEWS: Input = Input {
    artifact: Artifact::CaptionReviews,
    digests: &["review_digest"],
    columns: &["decision", "captions", "captioner", "author", "decided_at", "inputs"],
};

/// The captioner of a name.
pub(crate) fn of(captioner: Captioner) -> &'static dyn Captions {
    match captioner {
        Captioner::Geotags => &geotags::Geotags,
        Captioner::Given => &given::Given,
        Captioner::Instructblip => &instructblip::InstructBlip,
        Captioner::Llava => &llava::Llava,
        Captioner::Server => &server::Server,
    }
}

/// A captioner.
pub(crate) trait Captions: Sync {
    /// Does it look at pixels, or only at tags?
    fn looks(&self) -> bool;

    /// Does it name tags that its words leave out?
    fn drops_tags(&self) -> bool;

    /// How it writes captions.
    fn captions(&self) -> Way<Caption>;

    /// How it writes structured captions; `None`: it does not.
    fn structured(&self) -> Option<Way<StructuredCaption>>;

    /// How it says what an image shows, to search captions with; `None`: it does not. Whoever looks is told no tags.
    fn query_text(&self) -> Option<Way<QueryText>>;
}

/// What a stage reads for a captioner.
pub(crate) fn inputs(captioner: &dyn Captions) -> &'static [Input] {
    if captioner.looks() { &[TAGS, PIXELS] } else { &[TAGS] }
}

/// The same for words that captions are searched with: whoever looks is told nothing else.
pub(crate) fn query_inputs(captioner: &dyn Captions) -> &'static [Input] {
    if captioner.looks() { &[PIXELS] } else { &[TAGS] }
}

/// The same for words that a person may have accepted, edited or rejected, by one who knows the segments or not.
pub(crate) fn reviewed_inputs(captioner: &dyn Captions, is_second: bool) -> &'static [Input] {
    match (captioner.looks(), is_second) {
        (true, false) => &[TAGS, PIXELS, REVIEWS],
        (false, false) => &[TAGS, REVIEWS],
        (true, true) => &[TAGS, PIXELS, REGIONS, REVIEWS],
        (false, true) => &[TAGS, REGIONS, REVIEWS],
    }
}

type Opened<T> = Result<Box<dyn Writer<T>>, StageError>;

/// How one kind of text is written.
pub(crate) struct Way<T> {
    /// The networks that it asks.
    pub(crate) model: fn(&BuildSpec) -> ModelUse,
    /// What changes words beside the captioner's name: batch sizes do not.
    pub(crate) settings: fn(&BuildSpec) -> Option<serde_json::Value>,
    /// All that its words depend on of an image's tags; `None` where they allow none.
    pub(crate) told: fn(&ImageTags<'_>) -> Option<String>,
    pub(crate) open: fn(&StageContext<'_>) -> Opened<T>,
}

impl<T> Way<T> {
    /// The part of a spec that changes rows.
    pub(crate) fn parameters(&self, captioner: Captioner, spec: &BuildSpec) -> serde_json::Value {
        let mut parameters = serde_json::json!({ "captioner": captioner });
        if let (Some(all), Some(serde_json::Value::Object(settings))) =
            (parameters.as_object_mut(), (self.settings)(spec))
        {
            all.extend(settings);
        }
        parameters
    }
}

/// What a captioner is given of some images, in order.
pub(crate) struct Images<'a> {
    pub(crate) tags: Vec<ImageTags<'a>>,
    /// Encoded; none where it does not look.
    pub(crate) bytes: Vec<&'a [u8]>,
}

impl<'a> Images<'a> {
    /// `given` are the captions that came with the images.
    pub(crate) fn read(rows: &'a InputRows, given: &'a [Vec<String>]) -> Result<Self, TableError> {
        let bytes = match rows.tables.get(&Artifact::Images) {
            None => Vec::new(),
            Some(images) => {
                let bytes = Columns::new(Artifact::Images, images).binary("bytes")?;
                (0..rows.len()).map(|row| bytes.value(row)).collect()
            }
        };
        Ok(Images { tags: ImageTags::read(rows, given)?, bytes })
    }

    /// Adds what segments show, as far as they have names.
    pub(crate) fn tell_regions(&mut self, rows: &InputRows, how: &SecondPassSpec) -> Result<(), TableError> {
        let Some(names) = rows.tables.get(&Artifact::SegmentNames) else { return Ok(()) };
        let columns = Columns::new(Artifact::SegmentNames, names);
        for (row, tags) in self.tags.iter_mut().enumerate() {
            let words = segment_names::in_words(&columns, row, how.most_regions)?;
            tags.regions = words.map(|words| how.sentence.replace("{regions}", &words));
        }
        Ok(())
    }
}

/// A captioner at work. What it writes of an image does not depend on the others.
pub(crate) trait Writer<T>: Send {
    /// One result for each image; `Err` says why there is none.
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<T, String>>, StageError>;

    /// What a server was asked for since the last call.
    fn usage(&self) -> Usage {
        Usage::default()
    }
}

/// A writer that looks at one image after the other.
struct EachImage<T>(fn(&ImageTags<'_>) -> Result<T, String>);

impl<T: Send> Writer<T> for EachImage<T> {
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<T, String>>, StageError> {
        use rayon::prelude::*;
        Ok(images.tags.par_iter().map(self.0).collect())
    }
}

/// Captions of one image. Here and below, `served` is what a server said that it was.
#[derive(Default)]
pub(crate) struct Caption {
    pub(crate) captions: Vec<String>,
    pub(crate) dropped_tags: Vec<String>,
    /// Of generated captions.
    pub(crate) quality: Vec<Quality>,
    pub(crate) flagged: Option<String>,
    pub(crate) served: Option<String>,
}

/// What is asked with an image.
#[derive(Debug, Default)]
pub(crate) struct QueryText {
    pub(crate) text: String,
    /// Answers that were asked for.
    pub(crate) attempts: usize,
    /// Why the text may say little.
    pub(crate) flagged: Option<String>,
    pub(crate) served: Option<String>,
}

impl QueryText {
    /// What was said to a prompt.
    fn heard(answer: &str, prompt: &str, attempts: usize) -> Self {
        let text = prompt::said(answer, prompt);
        let flagged = text.is_empty().then(|| "the answer says nothing".to_owned());
        QueryText { text, attempts, flagged, served: None }
    }
}

/// Structured captions of one image.
#[derive(Debug, Default)]
pub(crate) struct StructuredCaption {
    pub(crate) variants: Vec<Variant>,
    /// Answers that were asked for.
    pub(crate) attempts: usize,
    /// Why there are fewer than five.
    pub(crate) flagged: Option<String>,
    pub(crate) served: Option<String>,
}
