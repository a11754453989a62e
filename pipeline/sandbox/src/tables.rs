//! The CSV tables: two layouts, as SkyScript has two.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use crate::archive::Staged;
use crate::error::SandboxError;
use crate::meta::Meta;
use crate::titles;

/// Layout of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `filepath,title,title_multi_objects,similarity_CLIP_openai`
    Plain,
    /// The language-polished tables, with their columns in another order.
    Polished,
}

/// Both layouts.
pub const LAYOUTS: [Layout; 2] = [Layout::Plain, Layout::Polished];

impl Layout {
    pub fn file(self) -> &'static str {
        match self {
            Layout::Plain => "dataframe/SkyScript_sandbox.csv",
            Layout::Polished => "dataframe/SkyScript_sandbox_polished.csv",
        }
    }

    pub fn header(self) -> &'static [&'static str] {
        match self {
            Layout::Plain => &["filepath", "title", "title_multi_objects", "similarity_CLIP_openai"],
            Layout::Polished => &["title", "filepath", "title_raw"],
        }
    }

    /// Titles of a tile, by column.
    pub fn titles(self, meta: &Meta) -> [(&'static str, String); 2] {
        let multi = titles::multi(&meta.center, &meta.surrounding);
        match self {
            Layout::Plain => [
                ("title", format!("{}{}", titles::PREFIX, titles::describe(&meta.center))),
                ("title_multi_objects", format!("{}{multi}", titles::PREFIX)),
            ],
            Layout::Polished => {
                [("title", format!("An aerial image. It shows: {}", multi.trim_end())), ("title_raw", multi)]
            }
        }
    }
}

/// A table in the making.
pub struct Table {
    staged: Staged,
    layout: Layout,
    rows: csv::Writer<BufWriter<File>>,
}

impl Table {
    pub fn create(folder: &Path, layout: Layout) -> Result<Table, SandboxError> {
        let (staged, writer) = Staged::create(&folder.join(layout.file()))?;
        let mut rows = csv::Writer::from_writer(writer);
        rows.write_record(layout.header()).map_err(|error| SandboxError::csv(staged.path(), error))?;
        Ok(Table { staged, layout, rows })
    }

    /// Adds the row of an image.
    pub fn put(&mut self, filepath: &str, meta: &Meta, similarity: f32) -> Result<(), SandboxError> {
        let titles = self.layout.titles(meta);
        let row = self.layout.header().iter().map(|&column| match column {
            "filepath" => filepath.to_owned(),
            "similarity_CLIP_openai" => format!("{similarity:.6}"),
            title => titles.iter().find(|(name, _)| *name == title).map(|(_, text)| text.clone()).unwrap_or_default(),
        });
        self.write(row)
    }

    fn write(&mut self, row: impl Iterator<Item = String>) -> Result<(), SandboxError> {
        self.rows.write_record(row).map_err(|error| SandboxError::csv(self.staged.path(), error))
    }

    pub fn complete(self) -> Result<Staged, SandboxError> {
        let path = self.staged.path();
        let writer = self.rows.into_inner().map_err(|error| SandboxError::storage(path)(error.into_error()))?;
        self.staged.complete(writer)?;
        Ok(self.staged)
    }
}

/// Copies a table, with new titles for the rows that `refreshed` has a meta record for (it is asked
/// by `filepath`).
pub fn retitle<'a>(
    folder: &Path,
    layout: Layout,
    refreshed: impl Fn(&str) -> Option<&'a Meta>,
) -> Result<Staged, SandboxError> {
    let path = folder.join(layout.file());
    let damaged = |reason: String| SandboxError::damaged(&path, reason);
    let mut reader = csv::Reader::from_path(&path).map_err(|error| damaged(error.to_string()))?;
    let header = reader.headers().map_err(|error| damaged(error.to_string()))?;
    if header.iter().ne(layout.header().iter().copied()) {
        let found = header.iter().collect::<Vec<_>>().join(",");
        return Err(damaged(format!("its header is {found}, expected {}", layout.header().join(","))));
    }
    let mut table = Table::create(folder, layout)?;
    for row in reader.records() {
        let row = row.map_err(|error| damaged(error.to_string()))?;
        let filepath = layout
            .header()
            .iter()
            .zip(&row)
            .find_map(|(&column, field)| (column == "filepath").then_some(field))
            .unwrap_or_default();
        let titles = refreshed(filepath).map(|meta| layout.titles(meta));
        let fields = layout.header().iter().zip(&row).map(|(&column, field)| {
            titles
                .iter()
                .flatten()
                .find(|(name, _)| *name == column)
                .map_or_else(|| field.to_owned(), |(_, text)| text.clone())
        });
        table.write(fields)?;
    }
    table.complete()
}
