//! What the page of edits asks for, as plain data: refreshes of tags, and what became of them.

use crate::ask::ImageName;

/// A refresh of a country's tags that moved rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    /// Version of the table of refreshed tags that it wrote.
    pub version: u64,
    /// When that was.
    pub written: String,
    /// What it was, in words: an extract, or a diff with its number.
    pub origin: String,
    /// The moment of OpenStreetMap that it shows.
    pub moment: String,
    /// Images with other tags; `None`: too many shards to count while somebody waits.
    pub images: Option<u64>,
}

/// What became of a refresh, until the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edited {
    /// Which it is.
    pub edit: Edit,
    /// Until when, in words.
    pub until: String,
    /// What became of each step's rows.
    pub steps: Vec<Moved>,
    /// Some of the images whose tags are others, those with other captions first.
    pub images: Vec<Retagged>,
    /// How many more there are.
    pub others: u64,
}

/// What became of a step's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Name of the step.
    pub step: String,
    /// Rows that came in.
    pub added: u64,
    /// Rows that left.
    pub removed: u64,
    /// Rows of another content.
    pub changed: u64,
    /// Rows that were made again and are what they were.
    pub remade: u64,
    /// Rows that stand, their words being the same.
    pub carried: u64,
    /// Rows with nothing new.
    pub kept: u64,
    /// Why rows were made again.
    pub why: Vec<String>,
}

/// An image whose tags are others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retagged {
    /// Which image.
    pub image: ImageName,
    /// Whether its picture is still in the tables.
    pub pictured: bool,
    /// Tags of its object before.
    pub tags_before: Vec<String>,
    /// Tags of its object afterwards; `None`: the object is gone.
    pub tags_after: Option<Vec<String>>,
    /// Objects around that came, or that have other tags now: their tags.
    pub around_new: Vec<String>,
    /// Objects around that went, or had other tags: their tags.
    pub around_gone: Vec<String>,
    /// Its captions before; none where it had no row.
    pub captions_before: Vec<String>,
    /// Its captions afterwards.
    pub captions_after: Vec<String>,
}
