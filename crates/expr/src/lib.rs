//! SQL expression text and an Arrow schema in, typed and compiled expressions out. Called by the planner at
//! submission (for types) and by the operators (for values); built on DataFusion's parser, functions, types and
//! coercions. It must not know graphs, operators or the network.
//!
//! One expression walks through these files:
//!
//! ```text
//! text -> parse (depth) -> check (names, refusals) -> compile -> fold -> checked -> Expression
//!                                      registry, functions --^
//! ```
//!
//! What differs from plain DataFusion, on purpose:
//! - names of columns are matched as written, capitals included;
//! - a result depends on the row and on nothing else: no clocks, no random numbers, and whether a row fails does not
//!   depend on the rows it shares a batch with;
//! - integer arithmetic that overflows fails instead of wrapping around;
//! - `TIMESTAMP` is microseconds in UTC, as everywhere in Weir, and results never are views, dictionaries or
//!   unsigned numbers.

mod error;
mod expression;
mod items;
mod predicate;

mod check;
mod checked;
mod compile;
mod depth;
mod fold;
mod functions;
mod guarded;
mod names;
mod parse;
mod registry;
mod result_type;

pub use error::{EvaluationError, ExpressionError};
pub use expression::{Expression, RowResults};
pub use items::{AggregateCall, SelectItem, aggregate_call, order_item, select_item};
pub use predicate::Predicate;

/// Most bytes of one expression.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of one expression: parentheses, calls, `CASE`, and operators that are applied to each other.
pub const DEPTH_MAX: usize = 50;
/// Most `AND`s and `OR`s of one expression.
pub const CONDITIONS_MAX: usize = 1_000;
/// Most bytes of a constant that is computed while compiling.
pub const CONSTANT_BYTES_MAX: usize = 64 * 1024;
/// Longest text `lpad` and `rpad` may be asked for.
pub const PADDING_MAX: u64 = 1_000;
