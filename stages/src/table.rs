//! Between plain schemas and Arrow: typed columns, lists of structs, nothing clever.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field as ArrowField, Fields, Schema, SchemaRef};
use manifests::{Artifact, Field, FieldType};

/// Why a batch cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A column is not there, or has another type.
    #[error(
        "table {table} has no column {column} of type {kind}; it was written by another program, or by another version of this one"
    )]
    Column {
        /// Name of the table.
        table: &'static str,
        /// Name of the column.
        column: String,
        /// The type that was wanted.
        kind: &'static str,
    },
    /// Columns do not make a batch of the table.
    #[error("cannot build columns of {table}: {why}")]
    Build {
        /// Name of the table.
        table: &'static str,
        /// Arrow's words.
        why: String,
    },
}

fn arrow_type(kind: &FieldType) -> DataType {
    match kind {
        FieldType::Text => DataType::Utf8,
        FieldType::Int32 => DataType::Int32,
        FieldType::Int64 => DataType::Int64,
        FieldType::Float32 => DataType::Float32,
        FieldType::Float64 => DataType::Float64,
        FieldType::Bool => DataType::Boolean,
        FieldType::Binary => DataType::Binary,
        FieldType::List(item) => DataType::List(Arc::new(list_item(item))),
        FieldType::Struct(fields) => DataType::Struct(arrow_fields(fields)),
    }
}

/// Delta calls the item of a list `element`; items are never null.
fn list_item(item: &FieldType) -> ArrowField {
    ArrowField::new("element", arrow_type(item), false)
}

fn arrow_fields(fields: &[Field]) -> Fields {
    fields.iter().map(|f| ArrowField::new(f.name, arrow_type(&f.kind), f.nullable)).collect()
}

/// Arrow schema of a table: identity columns, then content.
pub fn schema(artifact: Artifact) -> SchemaRef {
    Arc::new(Schema::new(arrow_fields(&artifact.fields())))
}

/// Arrow schema of the content columns alone.
pub fn content_schema(artifact: Artifact) -> SchemaRef {
    Arc::new(Schema::new(arrow_fields(&artifact.content_fields())))
}

/// Typed access to the columns of a batch.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    artifact: Artifact,
    batch: &'a RecordBatch,
}

macro_rules! column {
    ($name:ident, $array:ty, $kind:literal) => {
        /// The column of this name.
        ///
        /// # Errors
        /// [`TableError::Column`] if there is none of this type.
        pub fn $name(&self, column: &str) -> Result<&'a $array, TableError> {
            self.batch
                .column_by_name(column)
                .and_then(|c| c.as_any().downcast_ref::<$array>())
                .ok_or_else(|| self.missing(column, $kind))
        }
    };
}

impl<'a> Columns<'a> {
    /// The columns of a batch; `artifact` is named in errors.
    pub fn new(artifact: Artifact, batch: &'a RecordBatch) -> Self {
        Self { artifact, batch }
    }

    column!(text, StringArray, "text");
    column!(binary, BinaryArray, "binary");
    column!(int32, Int32Array, "int32");
    column!(int64, Int64Array, "int64");
    column!(float32, Float32Array, "float32");
    column!(float64, Float64Array, "float64");
    column!(bool, BooleanArray, "bool");
    column!(list, ListArray, "list");
    column!(structure, StructArray, "struct");

    fn missing(&self, column: &str, kind: &'static str) -> TableError {
        TableError::Column { table: self.artifact.name(), column: column.to_owned(), kind }
    }

    /// A list of texts per row; null rows are empty.
    ///
    /// # Errors
    /// [`TableError::Column`] if it is no list of texts.
    pub fn texts(&self, column: &str) -> Result<Vec<Vec<String>>, TableError> {
        let list = self.list(column)?;
        (0..list.len())
            .map(|row| {
                if list.is_null(row) {
                    return Ok(Vec::new());
                }
                let items = list.value(row);
                let items = items.as_string_opt::<i32>().ok_or_else(|| self.missing(column, "list of text"))?;
                Ok(items.iter().flatten().map(str::to_owned).collect())
            })
            .collect()
    }

    /// The vectors of a column of float lists; null lists are empty.
    ///
    /// # Errors
    /// [`TableError::Column`] if it is no list of f32.
    pub fn vectors(&self, column: &str) -> Result<Vec<Vec<f32>>, TableError> {
        use arrow::array::AsArray;
        let list = self.list(column)?;
        let vector = |row: usize| match list.value(row).as_primitive_opt::<arrow::datatypes::Float32Type>() {
            Some(values) if !list.is_null(row) => values.values().to_vec(),
            _ => Vec::new(),
        };
        Ok((0..list.len()).map(vector).collect())
    }

    /// The structs of one row of a list column, as columns of their own.
    ///
    /// # Errors
    /// [`TableError::Column`] if it is no list of structs.
    pub fn structs(&self, column: &str, row: usize) -> Result<RecordBatch, TableError> {
        let list = self.list(column)?;
        let items = list.value(row);
        let items = items.as_struct_opt().ok_or_else(|| self.missing(column, "list of structs"))?;
        Ok(RecordBatch::from(items.clone()))
    }

    /// Columns of a batch that came from [`structs`](Self::structs).
    pub fn inner(&self, batch: &'a RecordBatch) -> Columns<'a> {
        Columns { artifact: self.artifact, batch }
    }
}

/// `None` becomes null.
pub fn option_text(array: &StringArray, row: usize) -> Option<&str> {
    (!array.is_null(row)).then(|| array.value(row))
}

/// Assembles a list column from the concatenated items of all rows. `lengths[row]` is `None` for a
/// null row.
pub(crate) fn list_of(item: &FieldType, lengths: &[Option<usize>], items: ArrayRef) -> Result<ArrayRef, TableError> {
    let offsets = OffsetBuffer::from_lengths(lengths.iter().map(|l| l.unwrap_or(0)));
    let nulls = NullBuffer::from_iter(lengths.iter().map(Option::is_some));
    ListArray::try_new(Arc::new(list_item(item)), offsets, items, Some(nulls))
        .map(|list| Arc::new(list) as ArrayRef)
        .map_err(|e| TableError::Build { table: "list", why: e.to_string() })
}

/// [`list_of`] without null rows: the field of a struct that must be there.
pub(crate) fn required_list_of(item: &FieldType, lengths: &[usize], items: ArrayRef) -> Result<ArrayRef, TableError> {
    let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
    ListArray::try_new(Arc::new(list_item(item)), offsets, items, None)
        .map(|list| Arc::new(list) as ArrayRef)
        .map_err(|e| TableError::Build { table: "list", why: e.to_string() })
}

/// A column of lists of texts.
///
/// # Errors
/// [`TableError::Build`] with Arrow's words.
pub fn text_lists(rows: &[Option<Vec<String>>]) -> Result<ArrayRef, TableError> {
    let lengths: Vec<_> = rows.iter().map(|r| r.as_ref().map(Vec::len)).collect();
    let items = StringArray::from_iter_values(rows.iter().flatten().flatten());
    list_of(&FieldType::Text, &lengths, Arc::new(items))
}

/// A column of lists of f32.
pub(crate) fn float_lists(rows: &[Option<Vec<f32>>]) -> Result<ArrayRef, TableError> {
    let lengths: Vec<_> = rows.iter().map(|r| r.as_ref().map(Vec::len)).collect();
    let items = Float32Array::from_iter_values(rows.iter().flatten().flatten().copied());
    list_of(&FieldType::Float32, &lengths, Arc::new(items))
}

/// A column of lists of structs: `columns` hold the items of all rows, one after another.
pub(crate) fn struct_lists(
    artifact: Artifact,
    column: &'static str,
    lengths: &[Option<usize>],
    columns: Vec<ArrayRef>,
) -> Result<ArrayRef, TableError> {
    let build = |why: String| TableError::Build { table: artifact.name(), why };
    let field = artifact.content_fields().into_iter().find(|f| f.name == column);
    let Some(Field { kind: FieldType::List(item), .. }) = field else {
        return Err(build(format!("{column} is no list")));
    };
    let FieldType::Struct(fields) = item.as_ref() else {
        return Err(build(format!("{column} is no list of structs")));
    };
    let items = StructArray::try_new(arrow_fields(fields), columns, None).map_err(|e| build(e.to_string()))?;
    list_of(&item, lengths, Arc::new(items))
}

/// A column of structs, of which those where `nulls` says so are null.
///
/// # Errors
/// [`TableError::Build`] if the columns are not those of the struct.
pub fn structures(
    artifact: Artifact,
    column: &'static str,
    columns: Vec<ArrayRef>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, TableError> {
    let build = |why: String| TableError::Build { table: artifact.name(), why };
    let field = artifact.content_fields().into_iter().find(|f| f.name == column);
    let Some(Field { kind: FieldType::Struct(fields), .. }) = field else {
        return Err(build(format!("{column} is no struct")));
    };
    StructArray::try_new(arrow_fields(&fields), columns, nulls)
        .map(|array| Arc::new(array) as ArrayRef)
        .map_err(|e| build(e.to_string()))
}

/// A batch of an artifact's content columns.
///
/// # Errors
/// [`TableError::Build`] if the columns are not those of the table.
pub fn content(artifact: Artifact, columns: Vec<ArrayRef>) -> Result<RecordBatch, TableError> {
    RecordBatch::try_new(content_schema(artifact), columns)
        .map_err(|e| TableError::Build { table: artifact.name(), why: e.to_string() })
}

/// A column of texts.
pub fn texts<S: Into<String>>(values: impl IntoIterator<Item = Option<S>>) -> ArrayRef {
    Arc::new(values.into_iter().map(|v| v.map(Into::into)).collect::<StringArray>())
}

/// A column of 32-bit integers.
pub fn int32s(values: impl IntoIterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int32Array>())
}

/// A column of 64-bit integers.
pub fn int64s(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

/// A column of bools.
pub fn bools(values: impl IntoIterator<Item = Option<bool>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<BooleanArray>())
}

/// A column of double-precision floats.
pub fn float64s(values: impl IntoIterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Float64Array>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_null_apart_from_empty() {
        let column = text_lists(&[Some(vec!["a".into(), "b".into()]), None, Some(vec![])]).unwrap();
        let schema = Schema::new(vec![ArrowField::new("captions", column.data_type().clone(), true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap();
        let columns = Columns::new(Artifact::Captions, &batch);
        assert_eq!(columns.texts("captions").unwrap(), [vec!["a".to_owned(), "b".to_owned()], vec![], vec![]]);
        assert!(columns.list("captions").unwrap().is_null(1) && !columns.list("captions").unwrap().is_null(2));
        assert!(columns.text("captions").unwrap_err().to_string().contains("captions"));
    }

    #[test]
    fn every_table_has_an_arrow_schema() {
        for artifact in Artifact::TABLES {
            assert_eq!(schema(artifact).fields().len(), artifact.fields().len());
        }
    }
}
