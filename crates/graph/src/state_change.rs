//! Whether the state of one plan may go on in another: asked at submission, before anything is deployed (pure).
//!
//! State is what an operator keeps over rows, so its columns follow from the operator's settings and its input. What may
//! change: an aggregate is added, a column of rows that may be null is added, a number becomes wider
//! ([`weir_core::widening`]), and whatever the state does not depend on. Anything else is a problem, with the operator, the
//! setting or column, and the cause. Operators look again at what they read back; nothing that is taken here is refused
//! there, but for rows that hold nulls where they should not.

use std::collections::BTreeMap;

use arrow_schema::{DataType, Schema, SchemaRef};
use weir_core::batch::event_time_index;
use weir_core::data_type;
use weir_core::widening::{fits, row_changes};
use weir_core::{AggregateFunction, OperatorUid, Problem, TypedAggregate};

use crate::catalog::Catalog;
use crate::descriptor::{OperatorKind, WindowAggregate, WindowTopN};
use crate::plan::{JobPlan, Phase, PlannedOperator, PlannedRole};

/// Every reason why operators of `new` cannot take over the state that operators of the same name have in `old`.
///
/// An operator of another kind is not looked at: its state is refused whole.
pub fn state_changes(old: &JobPlan, new: &JobPlan, catalog: &dyn Catalog) -> Vec<Problem> {
    let before = keepers(old);
    let mut problems = Vec::new();
    for (uid, new) in keepers(new) {
        if let Some(old) = before.get(uid).filter(|old| old.kind == new.kind) {
            problems.extend(operator_changes(old, new, catalog));
        }
    }
    problems
}

/// The operators that may have state beyond their connector's. A local phase keeps no rows.
fn keepers(plan: &JobPlan) -> BTreeMap<&OperatorUid, &PlannedOperator> {
    let operators = plan.vertices.iter().flat_map(|vertex| &vertex.operators);
    let keepers = operators.filter(|operator| operator.role == PlannedRole::Operator && operator.phase != Phase::Local);
    keepers.map(|operator| (&operator.uid, operator)).collect()
}

fn operator_changes(old: &PlannedOperator, new: &PlannedOperator, catalog: &dyn Catalog) -> Vec<Problem> {
    let uid = new.uid.as_str();
    let mut found = Changes { uid, problems: Vec::new() };
    let read = |operator: &PlannedOperator| OperatorKind::read_planned(&operator.kind, uid, &operator.settings);
    match (read(old), read(new)) {
        (Ok(was), Ok(is)) => found.compare((&was, &old.inputs), (&is, &new.inputs), catalog),
        (Err(reason), _) | (_, Err(reason)) => found.add("", format!("its settings cannot be read: {reason}")),
    }
    found.problems
}

struct Changes<'a> {
    uid: &'a str,
    problems: Vec<Problem>,
}

impl Changes<'_> {
    fn add(&mut self, field: &str, reason: String) {
        let (operator, field) = (self.uid.to_owned(), field.to_owned());
        self.problems.push(Problem { operator, field, reason, nearest: None });
    }

    /// A setting that says what state means.
    fn same<T: PartialEq>(&mut self, field: &str, was: &T, is: &T, spell: impl Fn(&T) -> String) {
        if was != is {
            let (was, is) = (spell(was), spell(is));
            self.add(field, format!("the state was kept with {was}, the job has {is}; give the operator a new uid"));
        }
    }

    fn duration(&mut self, field: &str, was: i64, is: i64) {
        self.same(field, &was, &is, |micros| format!("{micros} us"));
    }

    fn compare(
        &mut self,
        (was, old): (&OperatorKind, &[SchemaRef]),
        (is, new): (&OperatorKind, &[SchemaRef]),
        catalog: &dyn Catalog,
    ) {
        use OperatorKind::*;
        let schemas = |input: usize| Some((old.get(input)?.as_ref(), new.get(input)?.as_ref()));
        let Some(first) = schemas(0) else { return };
        match (was, is) {
            (Window(was), Window(is)) => self.window((was, first.0), (is, first.1), catalog),
            (WindowJoin(was), WindowJoin(is)) => {
                self.same("window", &was.window, &is.window, |window| format!("{window:?}"));
                self.same("join", &was.join_type, &is.join_type, |join| format!("{join:?}").to_lowercase());
                let keys = [("left_key", &was.left_key, &is.left_key), ("right_key", &was.right_key, &is.right_key)];
                for (input, (field, was, is)) in keys.into_iter().enumerate() {
                    let Some(schemas) = schemas(input) else { continue };
                    self.keys(field, (was, is), schemas);
                    self.rows(schemas);
                }
            }
            (WindowTopN(was), WindowTopN(is)) => {
                self.top_n(was, is);
                self.orders((&was.order_by, &is.order_by), first, catalog);
                self.rows(first);
            }
            (LastByKey(was), LastByKey(is)) => {
                self.keys("key", (&was.key, &is.key), first);
                self.orders((&was.order_by, &is.order_by), first, catalog);
            }
            (FirstByKey(was), FirstByKey(is)) => {
                self.keys("key", (&was.key, &is.key), first);
                self.rows(first);
            }
            (Absence(was), Absence(is)) => {
                self.duration("timeout", was.timeout, is.timeout);
                self.keys("key", (&was.key, &is.key), first);
                self.rows(first);
            }
            _ => {}
        }
    }

    fn top_n(&mut self, was: &WindowTopN, is: &WindowTopN) {
        self.same("partition", &was.partition, &is.partition, |columns| list(columns));
        self.same("limit", &was.limit, &is.limit, i64::to_string);
        self.same("ties", &was.ties, &is.ties, bool::to_string);
    }

    /// The columns that rows are dealt and found by: the same in the same order, each as wide or wider.
    fn keys(&mut self, field: &str, (was, is): (&[String], &[String]), (old, new): (&Schema, &Schema)) {
        if was != is {
            return self.same(field, &list(was), &list(is), String::clone);
        }
        is.iter().for_each(|name| self.column(field, name, (old, new)));
    }

    /// One column whose values are kept.
    fn column(&mut self, field: &str, name: &str, (old, new): (&Schema, &Schema)) {
        let type_in = |schema: &Schema| schema.field_with_name(name).ok().map(|column| column.data_type().clone());
        if let (Some(was), Some(is)) = (type_in(old), type_in(new)) {
            self.wider(field, &format!("the column '{name}'"), &was, &is);
        }
    }

    fn wider(&mut self, field: &str, what: &str, was: &DataType, is: &DataType) {
        if !fits(was, is) {
            let (was, is) = (data_type::name(was), data_type::name(is));
            self.add(
                field,
                format!("{what} is {was} in state and {is} in the job, which is neither the same nor wider"),
            );
        }
    }

    /// What rows were ordered by; event time where nothing is named.
    fn orders(&mut self, (was, is): (&[String], &[String]), (old, new): (&Schema, &Schema), catalog: &dyn Catalog) {
        let read = |orders: &[String], schema: &Schema| -> Vec<(String, bool)> {
            let event_time = event_time_index(schema).filter(|_| orders.is_empty());
            let event_time = event_time.map(|column| (schema.field(column).name().clone(), false));
            let item = |sql: &String| match catalog.order_item(sql, schema) {
                Ok(item) => (item.column, item.is_descending),
                Err(_) => (sql.clone(), false),
            };
            orders.iter().map(item).chain(event_time).collect()
        };
        let (was, is) = (read(was, old), read(is, new));
        let spell = |orders: &Vec<(String, bool)>| {
            let item =
                |(column, descends): &(String, bool)| format!("{column}{}", if *descends { " DESC" } else { "" });
            list(&orders.iter().map(item).collect::<Vec<_>>())
        };
        self.same("order_by", &was, &is, spell);
        if was == is {
            is.iter().for_each(|(name, _)| self.column("order_by", name, (old, new)));
        }
    }

    /// Whole rows that are kept.
    fn rows(&mut self, (old, new): (&Schema, &Schema)) {
        fn fields(schema: &Schema) -> impl Iterator<Item = &arrow_schema::Field> + Clone {
            schema.fields().iter().map(AsRef::as_ref)
        }
        for (column, reason) in row_changes(fields(old), fields(new)) {
            self.add(&column, reason);
        }
    }

    fn window(
        &mut self,
        (was, old): (&WindowAggregate, &Schema),
        (is, new): (&WindowAggregate, &Schema),
        catalog: &dyn Catalog,
    ) {
        self.same("window", &was.window, &is.window, |window| format!("{window:?}"));
        self.duration("allowed_lateness", was.allowed_lateness, is.allowed_lateness);
        self.keys("key", (&was.key, &is.key), (old, new));
        let read = |calls: &[String], schema: &Schema| -> BTreeMap<String, (String, TypedAggregate)> {
            let typed = |sql: &String| catalog.aggregate(sql, schema).ok().map(|call| (sql.clone(), call));
            calls.iter().filter_map(typed).map(|(sql, call)| (call.name.clone(), (sql, call))).collect()
        };
        let calls = read(&is.aggregates, new);
        for (name, (was, before)) in read(&was.aggregates, old) {
            match calls.get(&name) {
                None => {
                    let reason = format!("state has the aggregate '{name}' ({was}), which the job no longer has");
                    self.add("aggregates", reason);
                }
                Some((is, _)) if plain(&was) != plain(is) => self.add(
                    "aggregates",
                    format!(
                        "the aggregate '{name}' was '{was}' and is '{is}'; give the new one another name beside it"
                    ),
                ),
                Some((_, now)) => self.aggregate(&before, now),
            }
        }
    }

    /// The same call over columns that may have other types now.
    fn aggregate(&mut self, was: &TypedAggregate, is: &TypedAggregate) {
        let (old, new) = (kept_types(was), kept_types(is));
        let what = format!("the aggregate '{}'", is.name);
        if old.len() != new.len() {
            let argument = |call: &TypedAggregate| {
                call.argument.as_ref().map_or_else(String::new, |argument| data_type::name(&argument.data_type))
            };
            let reason = format!("{what} is kept another way over {} than over {}", argument(was), argument(is));
            return self.add("aggregates", reason);
        }
        old.iter().zip(&new).for_each(|(was, is)| self.wider("aggregates", &what, was, is));
    }
}

/// The types of what is kept for one call.
fn kept_types(call: &TypedAggregate) -> Vec<DataType> {
    let argument = call.argument.as_ref().map(|argument| &argument.data_type);
    match (call.function.partial_fields(&call.name, argument), call.function, argument) {
        (Some(fields), ..) => fields.iter().map(|field| field.data_type().clone()).collect(),
        (None, AggregateFunction::CountDistinct, Some(argument)) => {
            vec![DataType::new_list(argument.clone(), true)]
        }
        (None, ..) => Vec::new(),
    }
}

fn list(columns: &[String]) -> String {
    format!("[{}]", columns.join(", "))
}

/// SQL without the marks that mean nothing: spaces and case outside of quotes.
fn plain(sql: &str) -> String {
    let mut quote = None;
    let mut plain = String::with_capacity(sql.len());
    let mut was_word = false;
    let mut has_gap = false;
    for mark in sql.chars() {
        match quote {
            Some(end) => {
                plain.push(mark);
                quote = quote.filter(|_| mark != end);
                was_word = false;
            }
            None if mark.is_whitespace() => has_gap = true,
            None => {
                let is_word = mark.is_alphanumeric() || mark == '_';
                // A gap between two words keeps them apart.
                if has_gap && was_word && is_word {
                    plain.push(' ');
                }
                quote = Some(mark).filter(|mark| matches!(mark, '\'' | '"' | '`'));
                plain.extend(mark.to_lowercase());
                was_word = is_word;
                has_gap = false;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn spaces_and_case_mean_nothing_outside_of_quotes() {
        assert_eq!(plain("SUM( price )  AS total"), plain("sum(price) as\ttotal"));
        assert_ne!(plain("sum(price) AS total"), plain("sum(cost) AS total"));
        assert_ne!(plain("count(*) FILTER (WHERE a = 'X y') AS n"), plain("count(*) FILTER (WHERE a = 'x y') AS n"));
        assert_ne!(plain("max(a b)"), plain("max(ab)"));
    }
}
