//! Items of lists in a job: select items, aggregate calls, orderings. Used by the planner and the operators.

use arrow_schema::{DataType, SchemaRef};
use datafusion_sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments,
    SelectItem as SqlItem,
};
use weir_core::settings::nearest;
use weir_core::{AggregateFunction, OrderItem, TypedAggregate, TypedItem};

use crate::check::function_name;
use crate::error::ExpressionError;
use crate::expression::Expression;
use crate::predicate::Predicate;
use crate::{names, parse};

/// A named expression.
#[derive(Clone, Debug)]
pub struct SelectItem {
    /// Name of the resulting column.
    pub name: String,
    /// What it holds.
    pub expression: Expression,
}

impl SelectItem {
    /// What the planner needs to know.
    pub fn typed(&self) -> TypedItem {
        TypedItem { name: self.name.clone(), expression: self.expression.typed().clone() }
    }
}

/// A named call of an aggregate function.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// Name of the resulting column.
    pub name: String,
    /// What is computed.
    pub function: AggregateFunction,
    /// Over what; `None` for `count(*)`.
    pub argument: Option<Expression>,
    /// Only over rows for which this is true.
    pub filter: Option<Predicate>,
    /// Type of the result.
    pub data_type: DataType,
}

impl AggregateCall {
    /// What the planner needs to know.
    pub fn typed(&self) -> TypedAggregate {
        TypedAggregate {
            name: self.name.clone(),
            function: self.function,
            argument: self.argument.as_ref().map(|argument| argument.typed().clone()),
            filter: self.filter.as_ref().map(|filter| filter.typed().clone()),
            data_type: self.data_type.clone(),
        }
    }
}

/// Compiles one item of a select list: `*` (all columns, hidden ones too), `column`, `struct.field`,
/// `expression AS name`.
pub fn select_item(sql: &str, schema: &SchemaRef) -> Result<Vec<SelectItem>, ExpressionError> {
    let (tree, name) = match parse::select_item(sql, schema)? {
        SqlItem::Wildcard(options) if options.to_string().is_empty() || options.to_string() == "*" => {
            return (0..schema.fields().len()).map(|index| column_item(index, schema)).collect();
        }
        SqlItem::Wildcard(_) | SqlItem::QualifiedWildcard(..) => {
            return Err(ExpressionError::not_allowed("a * with additions", "use * alone, or name the columns"));
        }
        SqlItem::ExprWithAliases { .. } => {
            return Err(ExpressionError::not_allowed("several names", "an expression has one result"));
        }
        SqlItem::ExprWithAlias { expr, alias } => (expr, alias.value),
        SqlItem::UnnamedExpr(expr) => {
            let name = match &expr {
                Expr::Identifier(name) => Some(name.value.clone()),
                Expr::CompoundIdentifier(path) => path.last().map(|name| name.value.clone()),
                _ => None,
            };
            let name = name.ok_or_else(|| ExpressionError::MissingName { text: sql.trim().to_owned() })?;
            (expr, name)
        }
    };
    if name.is_empty() {
        return Err(ExpressionError::MissingName { text: tree.to_string() });
    }
    let text = tree.to_string();
    Ok(vec![SelectItem { name, expression: Expression::from_tree(tree, &text, schema)? }])
}

fn column_item(index: usize, schema: &SchemaRef) -> Result<SelectItem, ExpressionError> {
    Ok(SelectItem { name: schema.field(index).name().clone(), expression: Expression::pick(index, schema)? })
}

/// Compiles one aggregate call: `count(*) AS n`, `count(DISTINCT x) AS n`, `sum(x) FILTER (WHERE y > 0) AS total`.
pub fn aggregate_call(sql: &str, schema: &SchemaRef) -> Result<AggregateCall, ExpressionError> {
    let missing_name = || ExpressionError::MissingName { text: sql.trim().to_owned() };
    let (tree, name) = match parse::select_item(sql, schema)? {
        SqlItem::ExprWithAlias { expr, alias } if !alias.value.is_empty() => (expr, alias.value),
        SqlItem::UnnamedExpr(Expr::Function(_)) => return Err(missing_name()),
        _ => return Err(not_a_call(sql)),
    };
    let Expr::Function(call) = tree else { return Err(not_a_call(sql)) };
    let function = aggregate_function(&call)?;
    let list = arguments(&call, function)?;
    let (function, argument) = argument(function, list, schema)?;
    let filter = match call.filter {
        Some(filter) => {
            let text = filter.to_string();
            Some(Predicate::from_tree(*filter, &text, schema)?)
        }
        None => None,
    };
    let data_type = function.output_type(argument.as_ref().map(Expression::data_type));
    let data_type = data_type.map_err(ExpressionError::typing)?;
    Ok(AggregateCall { name, function, argument, filter, data_type })
}

fn not_a_call(sql: &str) -> ExpressionError {
    ExpressionError::typing(format!(
        "'{}' is not one call of an aggregate function with a name, such as sum(x) AS total; compute on its result in \
         a project after the window",
        sql.trim()
    ))
}

fn aggregate_function(call: &Function) -> Result<AggregateFunction, ExpressionError> {
    let name = function_name(call).unwrap_or_else(|| call.name.to_string());
    let names = || AggregateFunction::NAMES.iter().map(|(name, _)| *name);
    match AggregateFunction::NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, function)) => Ok(*function),
        None => Err(ExpressionError::UnknownAggregate {
            nearest: nearest(&name, names()),
            known: names().collect::<Vec<_>>().join(", "),
            name,
        }),
    }
}

fn arguments(call: &Function, function: AggregateFunction) -> Result<&FunctionArgumentList, ExpressionError> {
    let refuse = |what: &str, why: &str| Err(ExpressionError::not_allowed(format!("{what} in {function}"), why));
    if call.over.is_some() {
        return refuse("OVER", "the window operator says over which rows");
    }
    if !call.within_group.is_empty() {
        return refuse("WITHIN GROUP", "these functions have no order; first and last go by event time");
    }
    match &call.args {
        FunctionArguments::List(list) if !list.clauses.is_empty() || call.null_treatment.is_some() => {
            refuse("a clause after the argument", "use FILTER (WHERE ...) to leave rows out")
        }
        FunctionArguments::List(list) => Ok(list),
        _ => refuse("a missing argument list", "write for example count(*)"),
    }
}

fn argument(
    function: AggregateFunction,
    list: &FunctionArgumentList,
    schema: &SchemaRef,
) -> Result<(AggregateFunction, Option<Expression>), ExpressionError> {
    use AggregateFunction::{Count, CountDistinct};
    let is_distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    let tree = match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if function == Count && !is_distinct => {
            return Ok((Count, None));
        }
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(tree))] => tree.clone(),
        _ if function == Count => {
            return Err(ExpressionError::typing("count takes one argument: count(*), count(x) or count(DISTINCT x)"));
        }
        _ => return Err(ExpressionError::typing(format!("{function} takes one argument, a column or an expression"))),
    };
    let text = tree.to_string();
    let argument = Some(Expression::from_tree(tree, &text, schema)?);
    match (is_distinct, function) {
        (false, function) => Ok((function, argument)),
        (true, Count) => match argument.as_ref().map(Expression::data_type) {
            Some(nested) if nested.is_nested() => Err(ExpressionError::typing(format!(
                "count(DISTINCT {text}) would compare values of type {}; count a field of it, or CAST it to STRING",
                weir_core::data_type::name(nested)
            ))),
            _ => Ok((CountDistinct, argument)),
        },
        (true, function) => Err(ExpressionError::not_allowed(
            format!("DISTINCT in {function}"),
            "only count(DISTINCT x) knows it; for min and max it changes nothing",
        )),
    }
}

/// Compiles one ordering: `column`, `column ASC`, `column DESC`.
pub fn order_item(sql: &str, schema: &SchemaRef) -> Result<OrderItem, ExpressionError> {
    let item = parse::order_item(sql, schema)?;
    let Expr::Identifier(column) = item.expr else {
        return Err(ExpressionError::not_allowed(
            format!("an order by '{}'", item.expr),
            "it takes a column; compute the value in a project before",
        ));
    };
    names::column(&column.value, schema)?;
    if item.options.nulls_first.is_some() {
        return Err(ExpressionError::not_allowed("NULLS FIRST or LAST", "nulls always come last"));
    }
    if item.with_fill.is_some() {
        return Err(ExpressionError::not_allowed("WITH FILL", "rows are ordered, not made"));
    }
    Ok(OrderItem { column: column.value, is_descending: item.options.asc == Some(false) })
}
