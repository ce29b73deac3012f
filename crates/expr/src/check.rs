//! Checks and prepares a syntax tree before DataFusion plans it: names of columns and functions (with the nearest
//! right one), what an expression over one row may not contain, `MOD(a, b)` as `a % b`, `SUBSTRING` as a
//! call, and long chains of conditions balanced. Called by `compile`. *Pure*.

use std::ops::ControlFlow;

use arrow_schema::Schema;
use datafusion_sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    Ident, Query, Subscript, Value, VisitMut, VisitorMut,
};
use weir_core::settings::nearest;

use crate::error::ExpressionError;
use crate::registry::{Lookup, Registry};
use crate::{PADDING_MAX, names};

/// Checks the tree and rewrites it in place.
pub(crate) fn check(expr: &mut Expr, schema: &Schema, registry: &Registry) -> Result<(), ExpressionError> {
    match expr.visit(&mut Check { schema, registry }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The lower-case name of a function, if it is a single word.
pub(crate) fn function_name(function: &Function) -> Option<String> {
    match function.name.0.as_slice() {
        [part] => part.as_ident().map(|ident| ident.value.to_lowercase()),
        _ => None,
    }
}

struct Check<'a> {
    schema: &'a Schema,
    registry: &'a Registry,
}

impl VisitorMut for Check<'_> {
    type Break = ExpressionError;

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<ExpressionError> {
        ControlFlow::Break(subquery())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<ExpressionError> {
        match self.expr(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Check<'_> {
    fn expr(&self, expr: &mut Expr) -> Result<(), ExpressionError> {
        match expr {
            Expr::Identifier(name) => names::column(&name.value, self.schema).map(drop),
            Expr::CompoundIdentifier(parts) => names::path(parts, self.schema),
            Expr::CompoundFieldAccess { access_chain, .. } => {
                access_chain.iter_mut().for_each(field_by_text);
                Ok(())
            }
            Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. } => {
                balance(expr);
                Ok(())
            }
            Expr::Function(_) => {
                if let Expr::Function(function) = expr {
                    self.function(function)?;
                }
                modulo(expr);
                Ok(())
            }
            Expr::Value(value) => match &value.value {
                Value::Placeholder(mark) => Err(ExpressionError::not_allowed(
                    format!("the placeholder {mark}"),
                    "there is nobody to fill it; in a job file write ${name} and submit with -D name=value",
                )),
                _ => Ok(()),
            },
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => Err(subquery()),
            Expr::SimilarTo { .. } => Err(ExpressionError::not_allowed(
                "SIMILAR TO",
                "DataFusion reads its pattern as a plain regular expression; write x ~ 'regex', or LIKE",
            )),
            Expr::Substring { .. } => {
                substring(expr);
                Ok(())
            }
            Expr::Lambda(_) => Err(ExpressionError::not_allowed("a lambda", "use flat_map over the array")),
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => {
                Err(ExpressionError::not_allowed("*", "name the columns; * stands alone, or in count(*)"))
            }
            _ => Ok(()),
        }
    }

    fn function(&self, function: &Function) -> Result<(), ExpressionError> {
        let unknown = |nearest| ExpressionError::UnknownFunction { name: function.name.to_string(), nearest };
        let name = function_name(function).ok_or_else(|| unknown(None))?;
        if function.over.is_some() {
            return Err(ExpressionError::not_allowed(
                format!("the window function {name} OVER"),
                "an expression sees one row; use a window operator",
            ));
        }
        match self.registry.look_up(&name) {
            Lookup::Scalar => {}
            Lookup::NotRepeatable => return Err(ExpressionError::NotRepeatable { function: name }),
            Lookup::LeftOut(why) => return Err(ExpressionError::not_allowed(format!("the function {name}"), why)),
            Lookup::Aggregate => {
                return Err(ExpressionError::not_allowed(
                    format!("the aggregate function {name}"),
                    "an expression sees one row; list it under 'aggregates' of a window operator",
                ));
            }
            Lookup::Unknown => return Err(unknown(nearest(&name, self.registry.names()))),
        }
        if function.filter.is_some() || !function.within_group.is_empty() {
            return Err(ExpressionError::not_allowed("FILTER", "only aggregate functions take it"));
        }
        if name == "lpad" || name == "rpad" { padding(&name, &function.args) } else { Ok(()) }
    }
}

fn subquery() -> ExpressionError {
    ExpressionError::not_allowed("a subquery", "an expression sees one row of one input; use a join")
}

/// Writes `a[1].name` as `a[1]['name']`, so that a field is not taken for a column.
fn field_by_text(access: &mut AccessExpr) {
    if let AccessExpr::Dot(Expr::Identifier(field)) = access {
        let name = Value::SingleQuotedString(field.value.clone());
        *access = AccessExpr::Subscript(Subscript::Index { index: Expr::Value(name.into()) });
    }
}

/// Writes `MOD(a, b)` as `(a) % (b)`.
fn modulo(expr: &mut Expr) {
    let Expr::Function(function) = expr else { return };
    if function_name(function).as_deref() != Some("mod") {
        return;
    }
    if let FunctionArguments::List(list) = &mut function.args
        && let [
            FunctionArg::Unnamed(FunctionArgExpr::Expr(dividend)),
            FunctionArg::Unnamed(FunctionArgExpr::Expr(divisor)),
        ] = list.args.as_mut_slice()
    {
        let nested = |expr: &mut Expr| Box::new(Expr::Nested(Box::new(take(expr))));
        let (left, right) = (nested(dividend), nested(divisor));
        *expr = Expr::BinaryOp { left, op: BinaryOperator::Modulo, right };
    }
}

/// Writes `SUBSTRING(x FROM a FOR b)`, which the parser also makes of `substr(x, a, b)`, as a call like any other.
fn substring(expr: &mut Expr) {
    let Expr::Substring { expr: text, substring_from, substring_for, .. } = expr else { return };
    let one = || Box::new(Expr::Value(Value::Number("1".to_owned(), false).into()));
    let from = substring_from.take().unwrap_or_else(one);
    let arguments = [Some(Box::new(take(text))), Some(from), substring_for.take()];
    let unnamed = |argument: Box<Expr>| FunctionArg::Unnamed(FunctionArgExpr::Expr(*argument));
    let list = FunctionArgumentList {
        duplicate_treatment: None,
        args: arguments.into_iter().flatten().map(unnamed).collect(),
        clauses: Vec::new(),
    };
    *expr = Expr::Function(Function {
        name: Ident::new("substr").into(),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    });
}

/// Padding asks for memory by a number; the number must be small and known.
fn padding(name: &str, arguments: &FunctionArguments) -> Result<(), ExpressionError> {
    let FunctionArguments::List(list) = arguments else { return Ok(()) };
    let Some(length) = list.args.get(1) else { return Ok(()) };
    if length.to_string().parse::<u64>().is_ok_and(|length| length <= PADDING_MAX) {
        return Ok(());
    }
    Err(ExpressionError::not_allowed(
        format!("{name} to a length of {length}"),
        format!("the length must be a number written out, at most {PADDING_MAX}"),
    ))
}

/// Turns `((a AND b) AND c) AND d` into `(a AND b) AND (c AND d)`: the same order from left to right, a depth of
/// log2(n) instead of n.
fn balance(expr: &mut Expr) {
    let Expr::BinaryOp { op, .. } = expr else { return };
    let chain_op = op.clone();
    let mut operands = Vec::new();
    let mut rest = take(expr);
    loop {
        match rest {
            Expr::BinaryOp { left, op, right } if op == chain_op => {
                operands.push(*right);
                rest = *left;
            }
            first => {
                operands.push(first);
                break;
            }
        }
    }
    operands.reverse();
    *expr = join(operands, &chain_op);
}

fn join(mut operands: Vec<Expr>, op: &BinaryOperator) -> Expr {
    if operands.len() <= 1 {
        return operands.pop().unwrap_or_else(nothing);
    }
    let right = operands.split_off(operands.len().div_ceil(2));
    Expr::BinaryOp { left: Box::new(join(operands, op)), op: op.clone(), right: Box::new(join(right, op)) }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, nothing())
}

fn nothing() -> Expr {
    Expr::Value(Value::Null.into())
}
