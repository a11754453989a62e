//! Structured captions, and captions that images are asked with, from the files that a spec names.

use std::path::Path;

use candle_core::Device;
use models::ModelError;
use sources::rsrt::{ByImage, StructuredText, read_queries, read_structured};
use wording::{VARIANTS, Variant};

use crate::captioners::{Images, Opened, QueryText, StructuredCaption, Writer};
use crate::device::opening_error;
use crate::stage::{StageContext, StageError};

/// Field of the spec that names structured captions.
pub(crate) const STRUCTURED_FIELD: &str = "caption.structured_file";
/// Field of the spec that names captions that images are asked with.
pub(crate) const QUERY_FIELD: &str = "text_retrieval.query_file";

/// Such a file is held whole.
const MAX_BYTES: u64 = 1 << 30;

/// Whether the file of a field can be read.
///
/// # Errors
/// What is wrong with it, with the line.
pub(crate) fn examine(field: &str, path: &Path) -> Result<(), String> {
    let bytes = bytes_of(path).map_err(|e| e.to_string())?;
    let read = match field {
        QUERY_FIELD => read_queries(&bytes).map(drop),
        _ => read_structured(&bytes).map(drop),
    };
    read.map_err(|e| format!("{}: {e}", path.display()))
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, ModelError> {
    let at = |source: std::io::Error| ModelError::Io { path: path.to_owned(), source };
    let wrong = |reason: String| Err(ModelError::Malformed { path: path.to_owned(), reason });
    let metadata = std::fs::metadata(path).map_err(at)?;
    match metadata.len() {
        _ if !metadata.is_file() => wrong("it is no file: name one of JSON lines".into()),
        bytes if bytes > MAX_BYTES => wrong(format!("it has {bytes} bytes, at most {MAX_BYTES} are read")),
        _ => std::fs::read(path).map_err(at),
    }
}

/// Texts of the images of a file.
struct Texts<T> {
    field: &'static str,
    texts: ByImage<T>,
}

impl<T> Texts<T> {
    fn open(
        field: &'static str,
        context: &StageContext<'_>,
        read: fn(&[u8]) -> Result<ByImage<T>, sources::SourceError>,
    ) -> Result<Self, StageError> {
        let path = context.weights(field, field)?;
        let configuration = |why: String| StageError::Configuration { stage: field, why };
        let bytes = bytes_of(path).map_err(|e| opening_error(field, &Device::Cpu, e.to_string(), &e))?;
        let texts = read(&bytes).map_err(|e| configuration(format!("{}: {e}", path.display())))?;
        Ok(Self { field, texts })
    }

    fn of(&self, image_id: &str) -> Result<&T, String> {
        self.texts.of(image_id)?.ok_or_else(|| format!("{} says nothing of it", self.field))
    }
}

pub(super) fn open_structured(context: &StageContext<'_>) -> Opened<StructuredCaption> {
    Ok(Box::new(Texts::open(STRUCTURED_FIELD, context, read_structured)?))
}

pub(super) fn open_queries(context: &StageContext<'_>) -> Opened<QueryText> {
    Ok(Box::new(Texts::open(QUERY_FIELD, context, read_queries)?))
}

impl Writer<StructuredCaption> for Texts<Vec<StructuredText>> {
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<StructuredCaption, String>>, StageError> {
        let one = |image_id: &str| {
            let given = self.of(image_id)?;
            let variant = |text: &StructuredText| Variant {
                one_sentence: text.one_sentence.clone(),
                feature: text.feature.clone(),
                caption: text.caption.clone(),
            };
            match given.len() {
                0 => Err(format!("all that {} says of it is blank", self.field)),
                few => Ok(StructuredCaption {
                    variants: given.iter().map(variant).collect(),
                    attempts: 0,
                    flagged: (few < VARIANTS).then(|| format!("{few} of {VARIANTS} variants are given")),
                    served: None,
                }),
            }
        };
        Ok(images.tags.iter().map(|tags| one(tags.image_id)).collect())
    }
}

impl Writer<QueryText> for Texts<String> {
    fn write(&self, images: &Images<'_>) -> Result<Vec<Result<QueryText, String>>, StageError> {
        let one = |image_id: &str| Ok(QueryText { text: self.of(image_id)?.clone(), ..QueryText::default() });
        Ok(images.tags.iter().map(|tags| one(tags.image_id)).collect())
    }
}
