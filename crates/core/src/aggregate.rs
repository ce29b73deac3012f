//! Aggregate functions as data: what they take, what they give and what their partial state looks like.
//! The planner types with it, the window operators compute by it; both must agree, so it stands here.

use std::fmt;

use arrow_schema::{DataType, Field};

use crate::batch::event_time_type;

/// What is computed over the rows of a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AggregateFunction {
    /// Rows, or values that are not null.
    Count,
    /// Distinct values that are not null.
    CountDistinct,
    /// Total; null over no values.
    Sum,
    /// Arithmetic mean as `DOUBLE`; null over no values.
    Avg,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
    /// Value of the row with the least event time; ties keep the row that came first.
    First,
    /// Value of the row with the greatest event time; ties keep the row that came last.
    Last,
}

impl AggregateFunction {
    /// All functions by their SQL names.
    pub const NAMES: [(&'static str, AggregateFunction); 7] = [
        ("count", AggregateFunction::Count),
        ("sum", AggregateFunction::Sum),
        ("avg", AggregateFunction::Avg),
        ("min", AggregateFunction::Min),
        ("max", AggregateFunction::Max),
        ("first", AggregateFunction::First),
        ("last", AggregateFunction::Last),
    ];

    /// Type of the result over an argument of `argument` type (`None` for `count(*)`).
    ///
    /// **Errors**: a sentence when the function does not take that type.
    pub fn output_type(self, argument: Option<&DataType>) -> Result<DataType, String> {
        use AggregateFunction::*;
        let Some(argument) = argument else {
            return if self == Count { Ok(DataType::Int64) } else { Err(format!("{self} needs an argument")) };
        };
        match self {
            Count | CountDistinct => Ok(DataType::Int64),
            Sum => match argument {
                t if t.is_integer() => Ok(DataType::Int64),
                t if t.is_floating() => Ok(DataType::Float64),
                DataType::Decimal128(_, scale) => Ok(DataType::Decimal128(38, *scale)),
                other => Err(format!("sum needs a number, not {other}")),
            },
            Avg if argument.is_numeric() => Ok(DataType::Float64),
            Avg => Err(format!("avg needs a number, not {argument}")),
            Min | Max if argument.is_nested() => Err(format!("{self} cannot compare values of type {argument}")),
            Min | Max | First | Last => Ok(argument.clone()),
        }
    }

    /// Columns of the partial state that a local phase sends to the final phase; `None` when there is no such form
    /// (distinct sets), and the window then runs in one phase.
    ///
    /// Sums of floats carry a compensation term (Neumaier), so that their result does not depend on the order of
    /// rows in any digit a user would look at.
    pub fn partial_fields(self, name: &str, argument: Option<&DataType>) -> Option<Vec<Field>> {
        use AggregateFunction::*;
        let field = |suffix: &str, data_type: DataType| Field::new(format!("{name}{suffix}"), data_type, true);
        let float_sum = || vec![field("", DataType::Float64), field("#compensation", DataType::Float64)];
        Some(match self {
            CountDistinct => return None,
            Count => vec![field("", DataType::Int64)],
            Sum => match self.output_type(argument).ok()? {
                DataType::Float64 => float_sum(),
                other => vec![field("", other)],
            },
            Avg => {
                let mut fields = float_sum();
                fields.push(field("#count", DataType::Int64));
                fields
            }
            Min | Max => vec![field("", argument?.clone())],
            First | Last => vec![field("", argument?.clone()), field("#time", event_time_type())],
        })
    }
}

impl fmt::Display for AggregateFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AggregateFunction::Count => "count",
            AggregateFunction::CountDistinct => "count distinct",
            AggregateFunction::Sum => "sum",
            AggregateFunction::Avg => "avg",
            AggregateFunction::Min => "min",
            AggregateFunction::Max => "max",
            AggregateFunction::First => "first",
            AggregateFunction::Last => "last",
        })
    }
}

/// What the compiler of expressions knows about one expression.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedExpression {
    /// Type of the result.
    pub data_type: DataType,
    /// Whether the result may be null.
    pub nullable: bool,
    /// The columns it reads, without repeats, in the order of the schema.
    pub columns: Vec<String>,
}

/// A named expression: one item of a select list.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedItem {
    /// Name of the resulting column.
    pub name: String,
    /// The expression.
    pub expression: TypedExpression,
}

/// A named aggregate call.
#[derive(Clone, Debug, PartialEq)]
pub struct TypedAggregate {
    /// Name of the resulting column.
    pub name: String,
    /// What is computed.
    pub function: AggregateFunction,
    /// Over what; `None` for `count(*)`.
    pub argument: Option<TypedExpression>,
    /// Only over rows for which this is true.
    pub filter: Option<TypedExpression>,
    /// Type of the result.
    pub data_type: DataType,
}

/// One column to order by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderItem {
    /// The column.
    pub column: String,
    /// Greatest first.
    pub is_descending: bool,
}
