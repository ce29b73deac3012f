//! What can be wrong with an expression (found while compiling, at submission) and with a row (found while running).

use arrow_schema::DataType;
use datafusion_common::DataFusionError;
use weir_core::{ErrorDomain, RetryHint};

/// Why a text is not an expression over a schema. The user can cure all of them but [`ExpressionError::Internal`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExpressionError {
    /// Nothing but blanks and comments.
    #[error("the expression is empty; write a column or a SQL expression")]
    Empty,
    /// Longer than [`crate::TEXT_BYTES_MAX`].
    #[error(
        "the expression has {bytes} bytes, more than the {} allowed; compute parts of it in a project before",
        crate::TEXT_BYTES_MAX
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nested deeper than [`crate::DEPTH_MAX`].
    #[error("the expression nests deeper than {} levels; compute parts of it in a project before", crate::DEPTH_MAX)]
    TooDeep,
    /// More `AND`s and `OR`s than [`crate::CONDITIONS_MAX`].
    #[error(
        "the expression has more than {} ANDs and ORs; a long list of values is written x IN (...)",
        crate::CONDITIONS_MAX
    )]
    TooManyConditions,
    /// Not SQL.
    #[error("syntax error: {message}")]
    Syntax {
        /// The parser's words, with line and column.
        message: String,
    },
    /// More text after a complete expression.
    #[error("one expression is expected, but after it comes '{rest}' (line {line}, column {column})")]
    Trailing {
        /// Beginning of the rest.
        rest: String,
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
    },
    /// No such column or field.
    #[error("no {what} '{name}'{}; there are: {known}", did_you_mean(.nearest))]
    UnknownColumn {
        /// `column`, or `field` of a struct.
        what: &'static str,
        /// As written.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// The names that exist.
        known: String,
    },
    /// No such function.
    #[error("no function '{name}'{}", did_you_mean(.nearest))]
    UnknownFunction {
        /// As written.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// No such aggregate function.
    #[error("no aggregate function '{name}'{}; there are: {known}", did_you_mean(.nearest))]
    UnknownAggregate {
        /// As written.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// The names that exist.
        known: String,
    },
    /// A function whose result changes from call to call.
    #[error(
        "{function} gives another result each time it is called, and after a recovery the same records must give \
         the same results; use a column of the record, such as its event time"
    )]
    NotRepeatable {
        /// The function.
        function: String,
    },
    /// Something SQL has, but an expression over one row has not.
    #[error("{what} cannot be used here: {why}")]
    NotAllowed {
        /// The thing.
        what: String,
        /// The reason, and the cure.
        why: String,
    },
    /// Types that do not fit.
    #[error("{message}")]
    Type {
        /// What does not fit.
        message: String,
    },
    /// A part without columns that fails.
    #[error("'{part}' fails for every row: {message}")]
    ConstantFails {
        /// The part.
        part: String,
        /// How.
        message: String,
    },
    /// A condition that is not true or false.
    #[error("a condition must be BOOLEAN, but this is {}", weir_core::data_type::name(.data_type))]
    NotBoolean {
        /// What it is.
        data_type: DataType,
    },
    /// A result without a name.
    #[error("'{text}' needs a name: write '{text} AS name'")]
    MissingName {
        /// The expression.
        text: String,
    },
    /// A fault of Weir or of a library.
    #[error("the expression compiler failed: {message}")]
    Internal {
        /// What it said.
        message: String,
    },
}

impl ExpressionError {
    /// Whose fault it is.
    pub fn domain(&self) -> ErrorDomain {
        match self {
            ExpressionError::Internal { .. } => ErrorDomain::Internal,
            _ => ErrorDomain::User,
        }
    }

    /// What to do: the same text never compiles later.
    pub fn retry_hint(&self) -> RetryHint {
        RetryHint::GiveUp
    }

    pub(crate) fn not_allowed(what: impl Into<String>, why: impl Into<String>) -> Self {
        ExpressionError::NotAllowed { what: what.into(), why: why.into() }
    }

    pub(crate) fn typing(message: impl Into<String>) -> Self {
        ExpressionError::Type { message: message.into() }
    }
}

impl From<DataFusionError> for ExpressionError {
    fn from(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::Internal(message) => ExpressionError::Internal { message: message.clone() },
            _ => ExpressionError::Type { message: message(&error) },
        }
    }
}

/// A row, or the whole batch, could not be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvaluationError {
    /// The expression fails on this row, whatever rows are beside it. Send it to the dead-letter output.
    #[error("row {row}: {message}")]
    Row {
        /// Index of the first such row in the batch.
        row: u32,
        /// What failed.
        message: String,
    },
    /// The batch has another schema than the one compiled against: a fault of the caller.
    #[error("the batch does not fit the expression '{expression}': column {index} is {found}, expected {expected}")]
    Schema {
        /// The text of the expression.
        expression: String,
        /// The first column that differs.
        index: usize,
        /// Its type, or `missing`.
        found: String,
        /// The type compiled against.
        expected: DataType,
    },
}

impl EvaluationError {
    /// Whose fault it is.
    pub fn domain(&self) -> ErrorDomain {
        match self {
            EvaluationError::Row { .. } => ErrorDomain::User,
            EvaluationError::Schema { .. } => ErrorDomain::Internal,
        }
    }

    /// What to do: the same rows never evaluate later.
    pub fn retry_hint(&self) -> RetryHint {
        RetryHint::GiveUp
    }
}

/// The message of a DataFusion error on one line, without its kind and without suggestions that do not apply here.
pub(crate) fn message(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            arrow_schema::ArrowError::DivideByZero => "division by zero".to_owned(),
            arrow_schema::ArrowError::ComputeError(text)
            | arrow_schema::ArrowError::CastError(text)
            | arrow_schema::ArrowError::ParseError(text)
            | arrow_schema::ArrowError::InvalidArgumentError(text)
            | arrow_schema::ArrowError::ArithmeticOverflow(text) => text.clone(),
            other => other.to_string(),
        },
        other => other.message().into_owned(),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    // A function's own words come wrapped in those of the planner that asked it.
    let line = line.rsplit_once("Error during planning: ").map_or(line.as_str(), |(_, words)| words);
    line.trim_end_matches('.').to_owned()
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}
