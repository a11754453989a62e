//! Our columns as Delta types.

use delta_kernel::schema::{ArrayType, DataType, StructField, StructType};
use delta_kernel::{KernelError, SnapshotRef};
use manifests::{Artifact, Field, FieldType};

/// Columns that the table lacks because it was made by an older version.
pub(super) fn missing_fields(artifact: Artifact, snapshot: &SnapshotRef) -> Vec<StructField> {
    let schema = snapshot.schema();
    artifact
        .fields()
        .iter()
        .filter(|field| schema.field(field.name).is_none())
        .filter_map(|field| delta_field(field).ok())
        .collect()
}

/// Top-level columns are nullable in Delta: a column of a later version must be addable to files
/// that do not have it.
pub(super) fn delta_field(field: &Field) -> Result<StructField, KernelError> {
    Ok(StructField::nullable(field.name, delta_type(&field.kind)?))
}

fn delta_type(kind: &FieldType) -> Result<DataType, KernelError> {
    Ok(match kind {
        FieldType::Text => DataType::STRING,
        FieldType::Int32 => DataType::INTEGER,
        FieldType::Int64 => DataType::LONG,
        FieldType::Float32 => DataType::FLOAT,
        FieldType::Float64 => DataType::DOUBLE,
        FieldType::Bool => DataType::BOOLEAN,
        FieldType::Binary => DataType::BINARY,
        FieldType::List(item) => DataType::from(ArrayType::new(delta_type(item)?, false)),
        FieldType::Struct(fields) => {
            let fields = fields
                .iter()
                .map(|f| Ok(StructField::new(f.name, delta_type(&f.kind)?, f.nullable)))
                .collect::<Result<Vec<_>, KernelError>>()?;
            DataType::from(StructType::try_new(fields)?)
        }
    })
}
