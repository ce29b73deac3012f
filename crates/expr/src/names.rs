//! Looks up columns and struct fields by the names as written. Called by `check` and `items`.

use arrow_schema::{DataType, Fields, Schema};
use datafusion_sql::sqlparser::ast::Ident;
use weir_core::batch::CHANGE_COLUMN;
use weir_core::settings::nearest;

use crate::error::ExpressionError;

/// Of a long list of names, this many are shown.
const SHOWN_MAX: usize = 20;

/// The index of a column.
pub(crate) fn column(name: &str, schema: &Schema) -> Result<usize, ExpressionError> {
    schema.index_of(name).map_err(|_| unknown("column", name, schema.fields()))
}

/// Finds `column.field.field`; the first part is a column.
pub(crate) fn path(parts: &[Ident], schema: &Schema) -> Result<(), ExpressionError> {
    let Some((first, fields)) = parts.split_first() else { return Ok(()) };
    let mut data_type = schema.field(column(&first.value, schema)?).data_type();
    let mut parent = &first.value;
    for part in fields {
        let DataType::Struct(fields) = data_type else {
            let known = weir_core::data_type::name(data_type);
            return Err(ExpressionError::typing(format!("'{parent}' is {known} and has no field '{part}'")));
        };
        let Some((_, field)) = fields.find(&part.value) else { return Err(unknown("field", &part.value, fields)) };
        data_type = field.data_type();
        parent = &part.value;
    }
    Ok(())
}

fn unknown(what: &'static str, name: &str, fields: &Fields) -> ExpressionError {
    let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).filter(|name| *name != CHANGE_COLUMN).collect();
    let mut known = names.iter().take(SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN_MAX {
        known.push_str(&format!(" and {} more", names.len() - SHOWN_MAX));
    }
    let nearest = nearest(name, names.iter().copied());
    ExpressionError::UnknownColumn { what, name: name.to_owned(), nearest, known }
}
