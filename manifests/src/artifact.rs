//! The tables and their schemas, as plain data.
//!
//! Every table has one row per `image_id`, the identity columns of [`IDENTITY`], and for each
//! field that a later stage reads a column with that field's digest.

use serde::{Deserialize, Serialize};

/// What a stage reads or writes. [`Artifact::Listing`] and [`Artifact::Assignment`] are no tables: the planner makes
/// them (from the source store, and from all boxes at once) and writes them in slices, one for each shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Artifact {
    /// What the source store offers: one row per wanted image, with the places of its bytes.
    Listing,
    /// The split of every image, computed over all boxes of a country.
    Assignment,
    /// Tags as OpenStreetMap has them now, of the images for which somebody has asked.
    TagRefreshes,
    /// Tags of the object that an image was taken for and of those around it, with box, time and ground resolution.
    Geotags,
    /// Which split each image is in, or why in none.
    Splits,
    /// Size and digest of each image, or why it cannot be used.
    Images,
    /// What people decided about captions: rows of the images that somebody has reviewed, and of no others.
    CaptionReviews,
    /// Texts of each image, before its captioner knows its segments, where that writes twice.
    DraftCaptions,
    /// How well each segment fits the drafts.
    DraftScores,
    /// What the best segments show, and how much of the image.
    SegmentNames,
    /// Texts of each image.
    Captions,
    /// Five texts of three fields per image, for retrieval of text by text.
    StructuredCaptions,
    /// Masks of each image's segments.
    Segments,
    /// An embedding of each segment.
    SegmentFeatures,
    /// How well each segment fits the captions.
    SegmentScores,
    /// How well captions fit their images.
    CaptionScores,
    /// What tells noisy pairs apart: similarities, perceptual hashes, vectors, and what captions name beside the tags.
    PairQuality,
    /// The trained model's embedding of each image.
    ImageEmbeddings,
    /// The trained model's embedding of each caption.
    TextEmbeddings,
    /// A sentence encoder's embeddings of the structured captions, which text is searched in.
    StructuredEmbeddings,
    /// What a captioner that sees an image alone says of it, to search captions with.
    QueryTexts,
    /// The sentence encoder's embedding of that text.
    QueryEmbeddings,
    /// The sentence encoder's embedding of each caption.
    SentenceEmbeddings,
}

/// Type of a column. Delta Lake has no half floats: vectors of them are little-endian binaries.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldType {
    /// UTF-8.
    Text,
    /// Signed.
    Int32,
    /// Signed.
    Int64,
    /// IEEE single precision.
    Float32,
    /// IEEE double precision.
    Float64,
    /// True or false.
    Bool,
    /// Bytes of any length.
    Binary,
    /// Items of one type.
    List(Box<FieldType>),
    /// Named fields.
    Struct(Vec<Field>),
}

/// A column of a table, or a field of a struct.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name in the table.
    pub name: &'static str,
    /// What it holds.
    pub kind: FieldType,
    /// Whether a row may leave it out.
    pub nullable: bool,
}

fn required(name: &'static str, kind: FieldType) -> Field {
    Field { name, kind, nullable: false }
}

fn optional(name: &'static str, kind: FieldType) -> Field {
    Field { name, kind, nullable: true }
}

/// Columns that say where the bytes of an object lie: a whole object, or a member of an archive.
fn place() -> FieldType {
    use FieldType::*;
    Struct(vec![
        optional("object", Text),
        optional("etag", Text),
        // of a member alone, but that the size is also that of a whole object
        optional("member", Text),
        optional("stored", Bool),
        optional("crc32", Int64),
        optional("compressed_bytes", Int64),
        optional("uncompressed_bytes", Int64),
        optional("header_offset", Int64),
    ])
}

/// Columns that every table begins with.
pub fn identity_fields() -> Vec<Field> {
    use FieldType::*;
    vec![
        required("image_id", Text),
        // "ok" or "error"; a failed row keeps its identity, says why in `error`, and has null content
        required("status", Text),
        optional("error", Text),
        required("recipe", Text),
        required("stage_version", Int32),
        required("model", Text),
        required("parameters", Text),
        required("inputs", Text),
    ]
}

impl Artifact {
    /// The tables, in the order in which stages write them; people write the reviews, and `tags refresh` what it found.
    pub const TABLES: [Artifact; 21] = [
        Artifact::TagRefreshes,
        Artifact::Geotags,
        Artifact::Splits,
        Artifact::Images,
        Artifact::CaptionReviews,
        Artifact::DraftCaptions,
        Artifact::DraftScores,
        Artifact::SegmentNames,
        Artifact::Captions,
        Artifact::StructuredCaptions,
        Artifact::Segments,
        Artifact::SegmentFeatures,
        Artifact::SegmentScores,
        Artifact::CaptionScores,
        Artifact::PairQuality,
        Artifact::ImageEmbeddings,
        Artifact::TextEmbeddings,
        Artifact::StructuredEmbeddings,
        Artifact::QueryTexts,
        Artifact::QueryEmbeddings,
        Artifact::SentenceEmbeddings,
    ];

    /// Name of the table and of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Artifact::Listing => "listing",
            Artifact::Assignment => "assignment",
            Artifact::TagRefreshes => "tag_refreshes",
            Artifact::Geotags => "geotags",
            Artifact::Splits => "splits",
            Artifact::Images => "images",
            Artifact::CaptionReviews => "caption_reviews",
            Artifact::DraftCaptions => "draft_captions",
            Artifact::DraftScores => "draft_scores",
            Artifact::SegmentNames => "segment_names",
            Artifact::Captions => "captions",
            Artifact::StructuredCaptions => "structured_captions",
            Artifact::Segments => "segments",
            Artifact::SegmentFeatures => "segment_features",
            Artifact::SegmentScores => "segment_scores",
            Artifact::CaptionScores => "caption_scores",
            Artifact::PairQuality => "pair_quality",
            Artifact::ImageEmbeddings => "image_embeddings",
            Artifact::TextEmbeddings => "text_embeddings",
            Artifact::StructuredEmbeddings => "structured_embeddings",
            Artifact::QueryTexts => "query_texts",
            Artifact::QueryEmbeddings => "query_embeddings",
            Artifact::SentenceEmbeddings => "sentence_embeddings",
        }
    }

    /// Whether it is a Delta table; the others live in slices of the planner.
    pub fn is_table(self) -> bool {
        Artifact::TABLES.contains(&self)
    }

    /// Whether it holds rows of some images only: a stage that reads it makes the others' rows without. As long as a shard
    /// has none, nothing tells that the stage reads it.
    pub fn is_sparse(self) -> bool {
        matches!(self, Artifact::CaptionReviews | Artifact::TagRefreshes)
    }

    /// Version of the schema, written into every part file. A reader refuses files of a newer
    /// version; columns that an older file lacks are read as null.
    pub fn schema_version(self) -> u32 {
        match self {
            // 2: quality and flag of generated captions; 3: what a server said it was
            Artifact::DraftCaptions | Artifact::Captions => 3,
            // 2: what a server said it was
            Artifact::StructuredCaptions | Artifact::QueryTexts => 2,
            // 2: vectors, and what captions name beside the tags
            Artifact::PairQuality => 2,
            _ => 1,
        }
    }

    /// Most rows of one Parquet row group: the unit of reading and of training's shuffle.
    pub fn row_group_rows(self) -> usize {
        match self {
            Artifact::Images => 64,
            Artifact::SegmentFeatures => 256,
            _ => 1024,
        }
    }

    /// The columns after the identity columns. Content is nullable: a failed row has none.
    pub fn content_fields(self) -> Vec<Field> {
        use FieldType::*;
        let list = |kind: FieldType| List(Box::new(kind));
        match self {
            Artifact::Listing => vec![
                required("image_id", Text),
                required("filepath", Text),
                optional("title", Text),
                optional("title_multi_objects", Text),
                optional("given_captions", list(Text)),
                optional("given_split", Text),
                required("text_digest", Text),
                required("image_digest", Text),
                required("meta_digest", Text),
                required("image", place()),
                optional("meta", place()),
            ],
            Artifact::Assignment => vec![
                required("image_id", Text),
                required("split", Text),
                optional("split_reason", Text),
                required("split_digest", Text),
            ],
            Artifact::TagRefreshes => vec![
                // canonical JSON: an object of tags, and an array of such objects, the nearest to the middle first
                optional("center_tags", Text),
                optional("surrounding_tags", Text),
                // why there are none: the object that the image was taken for is gone
                optional("gone", Text),
                // what changed them last: "extract" or "diff", with its number and moment as far as they are known
                optional("origin", Text),
                optional("sequence", Int64),
                optional("moment", Text),
                optional("refresh_digest", Text),
            ],
            Artifact::Geotags => vec![
                optional("filepath", Text),
                optional("source", Text),
                optional("osm_kind", Text),
                optional("osm_id", Int64),
                optional("year", Int32),
                optional("title", Text),
                optional("title_multi_objects", Text),
                optional("given_captions", list(Text)),
                optional("given_split", Text),
                optional("west", Float64),
                optional("south", Float64),
                optional("east", Float64),
                optional("north", Float64),
                optional("time", Text),
                optional("gsd_meters", Float64),
                // canonical JSON: an object of tags, and an array of such objects
                optional("center_tags", Text),
                optional("surrounding_tags", Text),
                optional("tags_digest", Text),
                optional("box_digest", Text),
            ],
            Artifact::Splits => {
                vec![optional("split", Text), optional("split_reason", Text), optional("split_digest", Text)]
            }
            Artifact::Images => vec![
                optional("bytes", Binary),
                optional("width", Int32),
                optional("height", Int32),
                optional("bytes_digest", Text),
            ],
            // what was seen is in `inputs`
            Artifact::CaptionReviews => vec![
                // "accept", "edit" or "reject"
                optional("decision", Text),
                // the words that stand from now on; none of a rejected image
                optional("captions", list(Text)),
                // who wrote them: "person", or the captioner whose words were accepted
                optional("captioner", Text),
                optional("author", Text),
                // UTC, to the second
                optional("decided_at", Text),
                optional("review_digest", Text),
            ],
            Artifact::DraftCaptions | Artifact::Captions => vec![
                optional("captioner", Text),
                optional("captions", list(Text)),
                optional("dropped_tags", list(Text)),
                optional("captions_digest", Text),
                // of generated captions, one for each
                optional(
                    "quality",
                    list(Struct(vec![
                        required("words", Int32),
                        required("repetition", Float32),
                        required("tag_coverage", Float32),
                        required("attempts", Int32),
                    ])),
                ),
                // why a caption is below the thresholds, where it is
                optional("flagged", Text),
                // digest of what the captioner was told of the tags; none where a person decided, or in older rows
                optional("told", Text),
                // the model that a server says it is, where one wrote
                optional("served", Text),
            ],
            Artifact::StructuredCaptions => vec![
                optional("captioner", Text),
                // five where all went well, no two equal
                optional(
                    "variants",
                    list(Struct(vec![
                        required("one_sentence", Text),
                        required("feature", Text),
                        required("caption", Text),
                    ])),
                ),
                // answers that the captioner was asked for
                optional("attempts", Int32),
                // why there are fewer than five, where there are
                optional("flagged", Text),
                optional("variants_digest", Text),
                // as of captions
                optional("told", Text),
                // the model that a server says it is, where one wrote
                optional("served", Text),
            ],
            Artifact::Segments => vec![
                optional("width", Int32),
                optional("height", Int32),
                optional(
                    "segments",
                    list(Struct(vec![
                        // COCO run lengths, compressed form
                        required("rle", Text),
                        required("x", Int32),
                        required("y", Int32),
                        required("w", Int32),
                        required("h", Int32),
                        required("area_px", Int64),
                        optional("predicted_iou", Float32),
                        optional("stability_score", Float32),
                        optional("point_x", Float32),
                        optional("point_y", Float32),
                    ])),
                ),
                optional("segments_digest", Text),
            ],
            Artifact::SegmentFeatures => vec![
                optional(
                    "features",
                    list(Struct(vec![
                        required("segment", Int32),
                        // little-endian f16, L2-normalised
                        required("vector", Binary),
                    ])),
                ),
                optional("features_digest", Text),
            ],
            Artifact::DraftScores | Artifact::SegmentScores => vec![
                optional(
                    "scores",
                    list(Struct(vec![
                        required("segment", Int32),
                        required("similarity", Float32),
                        required("selected", Bool),
                    ])),
                ),
                optional("scores_digest", Text),
            ],
            Artifact::SegmentNames => vec![
                // of the segments that the drafts have chosen
                optional(
                    "segments",
                    list(Struct(vec![
                        required("segment", Int32),
                        required("name", Text),
                        required("similarity", Float32),
                    ])),
                ),
                // all segments of a name together, the largest first
                optional("regions", list(Struct(vec![required("name", Text), required("percent", Int32)]))),
                // of the regions
                optional("names_digest", Text),
            ],
            Artifact::PairQuality => vec![
                // 64 bits in hexadecimal
                optional("hash", Text),
                // cosines with the captions, in their order, by the CLIP that scores segments
                optional("similarities", list(Float32)),
                // of the image, by the same CLIP: little-endian f16, L2-normalised
                optional("vector", Binary),
                // what the captions name, in their order
                optional(
                    "grounding",
                    list(Struct(vec![
                        // different things that the word table knows
                        required("named", Int32),
                        // share of them that no tag names; null: there is nothing to hold them against
                        optional("untagged_share", Float32),
                        // those, with commas between
                        required("untagged", Text),
                    ])),
                ),
                optional("quality_digest", Text),
            ],
            Artifact::CaptionScores => vec![
                // one for each caption, in their order
                optional(
                    "scores",
                    list(Struct(vec![
                        required("clip_score", Float32),
                        required("phrases", Int32),
                        // of the segmented area; null where the image has no segment
                        optional("explained_share", Float32),
                        optional("perception_score", Float32),
                    ])),
                ),
                // why a caption is below the thresholds, where one is
                optional("flagged", Text),
                optional("scores_digest", Text),
            ],
            Artifact::ImageEmbeddings => vec![optional("embedding", list(Float32)), optional("embedding_digest", Text)],
            Artifact::TextEmbeddings => vec![
                optional("texts", list(Struct(vec![required("text", Text), required("embedding", list(Float32))]))),
                optional("embedding_digest", Text),
            ],
            // vectors of these: little-endian f16, L2-normalised
            Artifact::StructuredEmbeddings => vec![
                // one for each variant, in their order
                optional("variants", list(Struct(vec![required("vector", Binary)]))),
                optional("embedding_digest", Text),
            ],
            Artifact::QueryTexts => vec![
                optional("captioner", Text),
                optional("text", Text),
                // answers that the captioner was asked for
                optional("attempts", Int32),
                // why the text may say little, where it may
                optional("flagged", Text),
                optional("text_digest", Text),
                // as of captions
                optional("told", Text),
                // the model that a server says it is, where one wrote
                optional("served", Text),
            ],
            Artifact::QueryEmbeddings => vec![optional("vector", Binary), optional("embedding_digest", Text)],
            Artifact::SentenceEmbeddings => vec![
                optional(
                    "texts",
                    list(Struct(vec![
                        required("text", Text),
                        // as a query
                        required("vector", Binary),
                        // as what is searched, where its prefix makes another vector of it
                        optional("document_vector", Binary),
                    ])),
                ),
                optional("embedding_digest", Text),
            ],
        }
    }

    /// All columns of the table: identity, then content.
    pub fn fields(self) -> Vec<Field> {
        let mut fields = if self.is_table() { identity_fields() } else { Vec::new() };
        fields.extend(self.content_fields());
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_distinct_names_and_columns() {
        let names: std::collections::BTreeSet<_> = Artifact::TABLES.iter().map(|a| a.name()).collect();
        assert_eq!(names.len(), Artifact::TABLES.len());
        for artifact in Artifact::TABLES {
            let fields = artifact.fields();
            let columns: std::collections::BTreeSet<_> = fields.iter().map(|f| f.name).collect();
            assert_eq!(columns.len(), fields.len(), "{}", artifact.name());
            assert!(
                artifact.content_fields().iter().all(|f| f.nullable),
                "{}: a failed row has no content",
                artifact.name()
            );
        }
    }
}
