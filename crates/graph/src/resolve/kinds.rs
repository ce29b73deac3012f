//! The output schema of each kind of operator, and what it reads of its input.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use weir_core::batch::{
    CHANGE_COLUMN, EVENT_TIME_KEY, change_field, event_time_index, event_time_type, is_changing, with_event_time,
};
use weir_core::key_hash::is_key_type;
use weir_core::{Settings, TypedAggregate};

use super::{ResolvedInput, no_column};
use crate::catalog::Catalog;
use crate::descriptor::{FlatMap, OperatorKind, Project, WatermarkStrategy, WindowAggregate, WindowJoin, WindowTopN};
use crate::limits::EXPRESSION_BYTES_MAX;
use crate::window::WindowSpec;
use crate::window_schema::{self, WINDOW_END, WINDOW_START, WINDOW_TIME};
use crate::{join_schema, row_schema};

/// What one operator is resolved with. Problems go to `settings`.
pub(super) struct Context<'a> {
    pub(super) catalog: &'a dyn Catalog,
    pub(super) settings: &'a Settings<'a>,
    pub(super) inputs: &'a [ResolvedInput],
}

/// What is found out about one operator.
pub(super) struct Typed {
    pub(super) output: SchemaRef,
    pub(super) aggregates: Vec<TypedAggregate>,
    pub(super) reads: Option<BTreeSet<String>>,
    pub(super) parallelism_max: Option<u32>,
    pub(super) can_project: bool,
    /// Of a sink.
    pub(super) partition_by: Option<Vec<String>>,
    /// Of a sink.
    pub(super) takes_store_keys: bool,
}

impl Typed {
    fn new(output: SchemaRef) -> Self {
        Typed {
            output,
            aggregates: Vec::new(),
            reads: None,
            parallelism_max: None,
            can_project: false,
            partition_by: None,
            takes_store_keys: false,
        }
    }

    fn reading(mut self, columns: impl IntoIterator<Item = String>) -> Self {
        self.reads = Some(columns.into_iter().collect());
        self
    }
}

/// Types one operator; `None` when its output cannot be known (problems say why).
pub(super) fn resolve(kind: &OperatorKind, kind_name: &str, context: &Context<'_>) -> Option<Typed> {
    match kind {
        OperatorKind::Source => {
            let source = context.catalog.source(kind_name, context.settings)?;
            let mut typed = Typed::new(source.schema);
            typed.parallelism_max = source.parallelism_max;
            typed.can_project = source.can_project;
            Some(typed)
        }
        OperatorKind::Sink => context.sink(kind_name),
        OperatorKind::Filter(filter) => {
            let columns = context.expression("predicate", &filter.predicate, Some(&DataType::Boolean))?.columns;
            Some(Typed::new(context.schema().clone()).reading(columns))
        }
        OperatorKind::Project(project) => context.project(project),
        OperatorKind::FlatMap(flat_map) => context.flat_map(flat_map),
        OperatorKind::Union => context.union(),
        OperatorKind::KeyBy(key_by) => {
            context.keys("key", &key_by.key, 0)?;
            Some(Typed::new(context.schema().clone()).reading(key_by.key.iter().cloned()))
        }
        OperatorKind::Watermark(strategy) => context.watermark(strategy),
        OperatorKind::Window(window) => context.window(window),
        OperatorKind::WindowJoin(join) => context.window_join(join),
        OperatorKind::WindowTopN(top) => context.window_top_n(top),
        OperatorKind::LastByKey(last) => {
            context.keys("key", &last.key, 0)?;
            for item in &last.order_by {
                context.order_item("order_by", item)?;
            }
            context.known(row_schema::last_by_key(context.schema()))
        }
        OperatorKind::FirstByKey(first) => {
            context.keys("key", &first.key, 0)?;
            context.known(row_schema::first_by_key(context.schema()))
        }
        OperatorKind::Absence(absence) => {
            context.keys("key", &absence.key, 0)?;
            context.known(row_schema::absence(context.schema()))
        }
    }
}

impl Context<'_> {
    fn schema(&self) -> &SchemaRef {
        &self.inputs[0].schema
    }

    fn known(&self, schema: Result<SchemaRef, String>) -> Option<Typed> {
        match schema {
            Ok(schema) => Some(Typed::new(schema)),
            Err(reason) => {
                self.settings.problem("", reason);
                None
            }
        }
    }

    /// Records an error of `field`; the result without it.
    fn check<T>(&self, field: &str, text: &str, result: Result<T, String>) -> Option<T> {
        if text.len() > EXPRESSION_BYTES_MAX {
            self.settings
                .problem(field, format!("an expression of {} bytes; at most {EXPRESSION_BYTES_MAX}", text.len()));
            return None;
        }
        result.map_err(|reason| self.settings.problem(field, reason)).ok()
    }

    fn expression(&self, field: &str, sql: &str, wanted: Option<&DataType>) -> Option<weir_core::TypedExpression> {
        let typed = self.check(field, sql, self.catalog.expression(sql, self.schema()))?;
        match wanted {
            Some(wanted) if *wanted != typed.data_type => {
                self.settings.problem(field, format!("must be {wanted}, but '{sql}' is {}", typed.data_type));
                None
            }
            _ => Some(typed),
        }
    }

    fn order_item(&self, field: &str, sql: &str) -> Option<weir_core::OrderItem> {
        self.check(field, sql, self.catalog.order_item(sql, self.schema()))
    }

    /// The fields of key columns; all wrong names are reported.
    fn keys(&self, field: &str, names: &[String], input: usize) -> Option<Vec<Field>> {
        let schema = &self.inputs[input].schema;
        let mut fields = Vec::new();
        for name in names {
            match schema.field_with_name(name) {
                Ok(column) if !is_key_type(column.data_type()) => {
                    let reason =
                        format!("'{name}' is {} and cannot be a key", weir_core::data_type::name(column.data_type()));
                    self.settings.problem(field, reason);
                }
                Ok(_) if fields.iter().any(|f: &Field| f.name() == name) => {
                    self.settings.problem(field, format!("'{name}' is named twice"));
                }
                Ok(column) => fields.push(column.clone()),
                Err(_) => {
                    let (reason, near) = no_column(schema, name);
                    self.settings.problem_near(field, reason, near);
                }
            }
        }
        (fields.len() == names.len()).then_some(fields)
    }

    fn sink(&self, kind_name: &str) -> Option<Typed> {
        let sink = self.catalog.sink(kind_name, self.settings, self.schema())?;
        if is_changing(self.schema()) && !sink.takes_changes {
            let reason = "the input updates its rows, and this sink takes only streams that never do";
            self.settings.problem("inputs", reason);
        }
        let mut typed = Typed::new(self.schema().clone());
        typed.parallelism_max = sink.parallelism_max;
        typed.partition_by = sink.partition_by;
        typed.takes_store_keys = sink.takes_store_keys;
        Some(typed)
    }

    fn project(&self, project: &Project) -> Option<Typed> {
        let schema = self.schema();
        let event_time = event_time_index(schema).map(|index| schema.field(index).name().clone());
        let mut fields: Vec<Field> = Vec::new();
        let mut reads = BTreeSet::new();
        let mut new_event_time = None;
        let mut is_complete = true;
        for sql in &project.columns {
            let Some(items) = self.check("columns", sql, self.catalog.select_item(sql, schema)) else {
                is_complete = false;
                continue;
            };
            for item in items.into_iter().filter(|item| item.name != CHANGE_COLUMN) {
                if fields.iter().any(|field| *field.name() == item.name) {
                    self.settings.problem("columns", format!("two columns are named '{}'", item.name));
                }
                if event_time.as_deref().is_some_and(|column| passes_on(sql, column, &item.name)) {
                    new_event_time = Some(item.name.clone());
                }
                reads.extend(item.expression.columns);
                fields.push(Field::new(item.name, item.expression.data_type, item.expression.nullable));
            }
        }
        if is_changing(schema) {
            fields.push(change_field());
            reads.insert(CHANGE_COLUMN.to_owned());
        }
        let output = with_event_time(&Schema::new(fields), new_event_time.as_deref());
        is_complete.then(|| Typed::new(output).reading(reads))
    }

    fn flat_map(&self, flat_map: &FlatMap) -> Option<Typed> {
        let schema = self.schema();
        let Ok(index) = schema.index_of(&flat_map.array) else {
            let (reason, near) = no_column(schema, &flat_map.array);
            self.settings.problem_near("array", reason, near);
            return None;
        };
        let DataType::List(item) = schema.field(index).data_type() else {
            let found = weir_core::data_type::name(schema.field(index).data_type());
            self.settings.problem("array", format!("'{}' is {found}, not an array", flat_map.array));
            return None;
        };
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        fields[index] = Field::new(&flat_map.name, item.data_type().clone(), true);
        if fields.iter().filter(|field| *field.name() == flat_map.name).count() > 1 {
            self.settings.problem("as", format!("there is a column '{}' already", flat_map.name));
        }
        Some(Typed::new(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))))
    }

    fn union(&self) -> Option<Typed> {
        let first = self.schema();
        let mut fields: Vec<Field> = first.fields().iter().map(|field| field.as_ref().clone()).collect();
        for (number, input) in self.inputs.iter().enumerate().skip(1) {
            let columns = |schema: &Schema| -> Vec<String> {
                let name =
                    |field: &Arc<Field>| format!("{} {}", field.name(), weir_core::data_type::name(field.data_type()));
                schema.fields().iter().map(name).collect()
            };
            let (own, other) = (columns(first), columns(&input.schema));
            if own != other {
                let reason = format!(
                    "input {number} has columns ({}), input 0 has ({}); they must be the same",
                    other.join(", "),
                    own.join(", ")
                );
                self.settings.problem("inputs", reason);
                return None;
            }
            if first.metadata().get(EVENT_TIME_KEY) != input.schema.metadata().get(EVENT_TIME_KEY) {
                let reason = format!("input {number} and input 0 do not have the same event-time column");
                self.settings.problem("inputs", reason);
                return None;
            }
            for (field, other) in fields.iter_mut().zip(input.schema.fields()) {
                field.set_nullable(field.is_nullable() || other.is_nullable());
            }
        }
        Some(Typed::new(Arc::new(Schema::new_with_metadata(fields, first.metadata().clone()))))
    }

    fn watermark(&self, strategy: &WatermarkStrategy) -> Option<Typed> {
        let schema = self.schema();
        let (data_type, columns) = match &strategy.time {
            Some(sql) => {
                let typed = self.expression("time", sql, None)?;
                (typed.data_type, typed.columns)
            }
            None => match schema.field_with_name(&strategy.column) {
                Ok(field) => (field.data_type().clone(), vec![strategy.column.clone()]),
                Err(_) => {
                    let (reason, near) = no_column(schema, &strategy.column);
                    self.settings.problem_near("column", reason, near);
                    return None;
                }
            },
        };
        if !matches!(data_type, DataType::Timestamp(_, _)) {
            let found = weir_core::data_type::name(&data_type);
            let cure = "give a timestamp in 'time', like from_epoch_millis(event_time_ms)";
            self.settings.problem("time", format!("event time must be a timestamp, not {found}; {cure}"));
            return None;
        }
        let field = Field::new(&strategy.column, event_time_type(), false);
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        match fields.iter_mut().find(|field| *field.name() == strategy.column) {
            Some(existing) => *existing = field,
            None => fields.push(field),
        }
        let output = with_event_time(&Schema::new(fields), Some(&strategy.column));
        Some(Typed::new(output).reading(columns))
    }

    fn window(&self, window: &WindowAggregate) -> Option<Typed> {
        let schema = self.schema();
        let keys = self.keys("key", &window.key, 0);
        let mut aggregates = Vec::new();
        for sql in &window.aggregates {
            aggregates.extend(self.check("aggregates", sql, self.catalog.aggregate(sql, schema)));
        }
        let keys = keys.filter(|_| aggregates.len() == window.aggregates.len())?;
        if keys.is_empty() && aggregates.is_empty() {
            self.settings.problem("aggregates", "a window without key needs at least one aggregate");
        }
        let mut names: BTreeSet<&str> = [WINDOW_START, WINDOW_END, WINDOW_TIME].into();
        let own = keys.iter().map(|key| key.name().as_str()).chain(aggregates.iter().map(|a| a.name.as_str()));
        for name in own {
            if !names.insert(name) {
                self.settings.problem("aggregates", format!("two columns of the result are named '{name}'"));
            }
        }
        let mut reads: BTreeSet<String> = window.key.iter().cloned().collect();
        for aggregate in &aggregates {
            let parts = aggregate.argument.iter().chain(&aggregate.filter);
            reads.extend(parts.flat_map(|expression| expression.columns.iter().cloned()));
        }
        reads.extend(event_time_index(schema).map(|index| schema.field(index).name().clone()));
        let mut typed = Typed::new(window_schema::output_schema(&keys, &aggregates, window.allowed_lateness));
        typed.aggregates = aggregates;
        Some(typed.reading(reads))
    }

    fn window_join(&self, join: &WindowJoin) -> Option<Typed> {
        let left = self.keys("left_key", &join.left_key, 0);
        let right = self.keys("right_key", &join.right_key, 1);
        let (left, right) = (left?, right?);
        if left.len() != right.len() {
            self.settings.problem("right_key", format!("has {} columns, left_key has {}", right.len(), left.len()));
            return None;
        }
        for (left, right) in left.iter().zip(&right) {
            if left.data_type() != right.data_type() {
                let spelled =
                    |field: &Field| format!("'{}' ({})", field.name(), weir_core::data_type::name(field.data_type()));
                let reason = format!("{} cannot equal {}: cast one in a project before", spelled(right), spelled(left));
                self.settings.problem("right_key", reason);
            }
        }
        if join.window == WindowSpec::Same {
            self.inputs.iter().for_each(|input| self.window_columns(&input.schema));
        }
        self.known(join_schema::output_schema(self.schema(), &self.inputs[1].schema, &join.window, join.join_type))
    }

    fn window_columns(&self, schema: &Schema) {
        for name in [WINDOW_START, WINDOW_END] {
            if schema.field_with_name(name).ok().map(Field::data_type) != Some(&event_time_type()) {
                let reason = format!("needs results of a window: there is no column '{name}'");
                self.settings.problem("inputs", reason);
            }
        }
    }

    fn window_top_n(&self, top: &WindowTopN) -> Option<Typed> {
        self.window_columns(self.schema());
        self.keys("partition", &top.partition, 0)?;
        for item in &top.order_by {
            self.order_item("order_by", item)?;
        }
        self.known(row_schema::top_n(self.schema(), top.rank_column.as_deref()))
    }
}

/// Whether a select item passes column `column` on as `name`, unchanged.
fn passes_on(sql: &str, column: &str, name: &str) -> bool {
    let words: Vec<&str> = sql.split_whitespace().map(|word| word.trim_matches(['"', '`'])).collect();
    match words.as_slice() {
        ["*"] => column == name,
        [only] => *only == column,
        [first, as_word, _] => *first == column && as_word.eq_ignore_ascii_case("as"),
        _ => false,
    }
}
