//! SkyScript's CSVs, read by column name.
//!
//! Two layouts are published: `filepath,title,title_multi_objects[,similarity_…]` and the
//! language-polished `filepath,title_raw,title`. Columns come in any order; unknown ones are
//! ignored.

use std::io::Read;

use crate::SourceError;
use crate::records::{Record, Records};

/// Row errors kept word for word; further ones are only counted.
const KEPT_ERRORS: usize = 10;

/// One image and its texts.
#[derive(Clone, Debug, PartialEq)]
pub struct CsvRow {
    /// `images2/a198234555_CH_19.jpg`; see [`crate::name::ImageName`].
    pub filepath: String,
    /// Caption of the focus object, or the polished caption.
    pub title: String,
    /// Caption of the focus object and its surroundings.
    pub title_multi_objects: Option<String>,
    /// The rule-made caption that was polished.
    pub title_raw: Option<String>,
    /// Image–text similarity of the CLIP model that filtered the list (column `similarity…`).
    pub similarity: Option<f32>,
    /// Line of the file, from 1.
    pub line: u64,
}

/// Which of the two layouts a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsvLayout {
    /// `filepath,title,title_multi_objects[,similarity_…]`
    Rules,
    /// `filepath,title_raw,title`
    Polished,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvSummary {
    /// The layout that the header told.
    pub layout: CsvLayout,
    /// Rows handed to the callback.
    pub rows: u64,
    /// Rows left out.
    pub row_errors: u64,
    /// The first ten of them, with their lines.
    pub first_errors: Vec<String>,
}

/// Streams a CSV and calls `on_row` for every good row; broken rows are counted, not fatal.
///
/// # Errors
/// [`SourceError::Table`] for a file without header, without a `filepath` or `title` column or
/// with one of them twice; [`SourceError::Io`]; whatever `on_row` returns.
pub fn read_csv(
    reader: impl Read,
    on_row: &mut dyn FnMut(CsvRow) -> Result<(), SourceError>,
) -> Result<CsvSummary, SourceError> {
    let mut records = Records::new(reader)?;
    let columns = match records.next() {
        Some(header) => Columns::find(&header?)?,
        None => return Err(SourceError::Table("the file is empty".into())),
    };
    let mut summary = CsvSummary {
        layout: match columns.title_raw {
            Some(_) => CsvLayout::Polished,
            None => CsvLayout::Rules,
        },
        rows: 0,
        row_errors: 0,
        first_errors: Vec::new(),
    };
    while let Some(record) = records.next() {
        match record.and_then(|record| columns.row(&record)) {
            Ok(row) => {
                on_row(row)?;
                summary.rows += 1;
            }
            Err(error) if error.spoils_one_row() => {
                summary.row_errors += 1;
                if summary.first_errors.len() < KEPT_ERRORS {
                    summary.first_errors.push(error.to_string());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(summary)
}

/// Index of the column called `wanted` in a header (case and surrounding blanks ignored).
///
/// # Errors
/// [`SourceError::Table`] naming the columns found and the nearest one, or the doublet.
pub(crate) fn required_column(names: &[String], wanted: &str) -> Result<usize, SourceError> {
    optional_column(names, wanted)?.ok_or_else(|| {
        if let [only] = names
            && only.contains(wanted)
            && let Some(separator) = only.chars().find(|c| [';', '\t', '|'].contains(c))
        {
            let separator = separator.escape_debug();
            return SourceError::Table(format!(
                "its columns are separated by `{separator}`: write it with commas, and captions that hold commas in quotes"
            ));
        }
        let nearest = names
            .iter()
            .map(|name| (strsim::damerau_levenshtein(name, wanted), name))
            .min()
            .filter(|(distance, _)| *distance <= wanted.len() / 2);
        let hint = nearest.map_or(String::new(), |(_, name)| format!("; rename `{name}` if that is meant"));
        SourceError::Table(format!("no column `{wanted}` among the columns found: {}{hint}", names.join(", ")))
    })
}

pub(crate) fn optional_column(names: &[String], wanted: &str) -> Result<Option<usize>, SourceError> {
    let mut found = names.iter().enumerate().filter(|(_, name)| *name == wanted);
    let first = found.next().map(|(index, _)| index);
    match found.next() {
        None => Ok(first),
        Some(_) => Err(SourceError::Table(format!("two columns are called `{wanted}`: remove one"))),
    }
}

/// Column names of a header, without case and surrounding blanks.
pub(crate) fn header_names(header: &Record<'_>) -> Result<Vec<String>, SourceError> {
    let name = |column| header.text(column).map(|n| n.trim().to_ascii_lowercase());
    (0..header.len())
        .map(name)
        .collect::<Result<_, _>>()
        .map_err(|error| SourceError::Table(format!("header: {error}")))
}

struct Columns {
    count: usize,
    filepath: usize,
    title: usize,
    title_multi_objects: Option<usize>,
    title_raw: Option<usize>,
    similarity: Option<usize>,
}

impl Columns {
    fn find(header: &Record<'_>) -> Result<Self, SourceError> {
        let names = header_names(header)?;
        Ok(Self {
            count: names.len(),
            filepath: required_column(&names, "filepath")?,
            title: required_column(&names, "title")?,
            title_multi_objects: optional_column(&names, "title_multi_objects")?,
            title_raw: optional_column(&names, "title_raw")?,
            similarity: names.iter().position(|name| name.starts_with("similarity")),
        })
    }

    fn row(&self, record: &Record<'_>) -> Result<CsvRow, SourceError> {
        let row_error = |problem: String| SourceError::Row { line: record.line, problem };
        record.check_columns(self.count)?;
        let filepath = record.text(self.filepath)?.trim();
        if filepath.is_empty() {
            return Err(row_error("the filepath is empty".into()));
        }
        let text = |column: Option<usize>| column.map(|column| record.text(column).map(str::to_owned)).transpose();
        let similarity = match self.similarity.map(|column| record.text(column)) {
            None => None,
            Some(field) => match field?.trim() {
                "" => None,
                number => {
                    Some(number.parse().map_err(|_| row_error(format!("the similarity `{number}` is not a number")))?)
                }
            },
        };
        Ok(CsvRow {
            filepath: filepath.to_owned(),
            title: record.text(self.title)?.to_owned(),
            title_multi_objects: text(self.title_multi_objects)?,
            title_raw: text(self.title_raw)?,
            similarity,
            line: record.line,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<(Vec<CsvRow>, CsvSummary), SourceError> {
        let mut rows = Vec::new();
        let summary = read_csv(text.as_ref(), &mut |row| {
            rows.push(row);
            Ok(())
        })?;
        Ok((rows, summary))
    }

    #[test]
    fn columns_are_found_by_name_in_any_order() {
        let (rows, summary) = read(
            "\u{feff}similarity_CLIP_openai,Title_Multi_Objects,extra, filepath ,title\r\n\
             0.25,\"a, b \",x,images2/a1_CH_19.jpg,\"say \"\"hi\"\"\"\r\n",
        )
        .unwrap();
        assert_eq!(summary.layout, CsvLayout::Rules);
        assert_eq!(
            rows,
            [CsvRow {
                filepath: "images2/a1_CH_19.jpg".into(),
                title: "say \"hi\"".into(),
                title_multi_objects: Some("a, b ".into()),
                title_raw: None,
                similarity: Some(0.25),
                line: 2,
            }]
        );
    }

    #[test]
    fn the_polished_layout_is_recognised() {
        let (rows, summary) = read("filepath,title_raw,title\nf,raw,An aerial image.\n").unwrap();
        assert_eq!(summary.layout, CsvLayout::Polished);
        assert_eq!(rows[0].title_raw.as_deref(), Some("raw"));
        assert_eq!(rows[0].title, "An aerial image.");
        assert_eq!(rows[0].title_multi_objects, None);
    }

    #[test]
    fn broken_rows_are_counted_with_their_lines() {
        let mut text = b"filepath,title\na,1\nb\nc,1,2\n,3\n".to_vec();
        text.extend(b"d,\xff\xfe\ne,2\n");
        let (rows, summary) = read(&text).unwrap();
        let kept: Vec<_> = rows.iter().map(|row| (&row.filepath[..], row.line)).collect();
        assert_eq!(kept, [("a", 2), ("e", 7)]);
        assert_eq!((summary.rows, summary.row_errors), (2, 4));
        for (error, line) in summary.first_errors.iter().zip(3..) {
            assert!(error.starts_with(&format!("line {line}: ")), "{error}");
        }
        assert!(summary.first_errors[3].contains("not UTF-8"));
    }

    #[test]
    fn errors_beyond_ten_are_only_counted() {
        let text = format!("filepath,title\n{}", "x\n".repeat(25));
        let (_, summary) = read(text).unwrap();
        assert_eq!((summary.row_errors, summary.first_errors.len()), (25, 10));
    }

    #[test]
    fn a_missing_column_is_named_with_the_nearest() {
        let error = read("file_path,title\n").unwrap_err().to_string();
        assert!(error.contains("`filepath`"), "{error}");
        assert!(error.contains("file_path, title"), "{error}");
        assert!(error.contains("rename `file_path`"), "{error}");
        let error = read("a,title\n").unwrap_err().to_string();
        assert!(!error.contains("rename"), "{error}");
        for bad in ["", "filepath\n", "filepath,title,title\n"] {
            assert!(matches!(read(bad), Err(SourceError::Table(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_callback_may_stop() {
        let result = read_csv("filepath,title\na,b\n".as_bytes(), &mut |_| Err(SourceError::Setting("enough".into())));
        assert!(matches!(result, Err(SourceError::Setting(_))));
    }
}
