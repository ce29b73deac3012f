//! All functions, by name, made once: DataFusion's without those that are not repeatable or not bounded, and ours.
//! Used by `check` (which names exist) and `compile` (as DataFusion's context).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow_schema::{DataType, Field, FieldRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, TableReference, not_impl_err, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF};
use datafusion_functions::core::planner::CoreFunctionPlanner;
use datafusion_functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion_functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion_functions_nested::planner::{FieldAccessPlanner, NestedFunctionPlanner};
use datafusion_sql::sqlparser::ast::DataType as SqlType;

use crate::functions;

/// Names of DataFusion's aggregate functions, so that each is refused as what it is.
const AGGREGATES: [&str; 32] = [
    "any_value",
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "first",
    "first_value",
    "grouping",
    "last",
    "last_value",
    "listagg",
    "max",
    "mean",
    "median",
    "min",
    "nth_value",
    "row_number",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var_pop",
    "var_samp",
];

/// Functions whose result has a size that a number in the expression or in a record decides.
const UNBOUNDED: [&str; 8] =
    ["repeat", "range", "generate_series", "gen_series", "array_repeat", "list_repeat", "array_resize", "list_resize"];

/// Functions that speak about the engine and not about the record.
const ABOUT_ENGINE: [&str; 6] =
    ["version", "arrow_metadata", "arrow_field", "with_metadata", "input_file_name", "file_row_index"];

/// Clock functions that SQL knows and DataFusion may not.
const CLOCKS: [&str; 7] = [
    "current_timestamp",
    "localtimestamp",
    "localtime",
    "proctime",
    "current_row_timestamp",
    "sysdate",
    "unix_timestamp",
];

/// What a function name stands for.
pub(crate) enum Lookup {
    /// May be called.
    Scalar,
    /// Aggregates rows.
    Aggregate,
    /// Gives another result each time.
    NotRepeatable,
    /// Exists in DataFusion, and not here, for this reason.
    LeftOut(&'static str),
    /// Nothing.
    Unknown,
}

/// The functions and planners of all expressions.
pub(crate) struct Registry {
    functions: BTreeMap<String, Arc<ScalarUDF>>,
    not_repeatable: Vec<String>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    types: Arc<dyn TypePlanner>,
    options: Arc<ConfigOptions>,
}

impl Registry {
    /// The registry of this process.
    pub(crate) fn get() -> &'static Registry {
        static REGISTRY: OnceLock<Registry> = OnceLock::new();
        REGISTRY.get_or_init(Registry::new)
    }

    fn new() -> Registry {
        let mut registry = Registry {
            functions: BTreeMap::new(),
            not_repeatable: CLOCKS.iter().map(|name| (*name).to_owned()).collect(),
            planners: vec![
                Arc::new(CoreFunctionPlanner::default()),
                Arc::new(NestedFunctionPlanner),
                Arc::new(FieldAccessPlanner),
                Arc::new(DatetimeFunctionPlanner),
                Arc::new(UnicodeFunctionPlanner),
            ],
            types: Arc::new(Types),
            options: Arc::new(ConfigOptions::new()),
        };
        let theirs = datafusion_functions::all_default_functions();
        let nested = datafusion_functions_nested::all_default_nested_functions();
        for function in theirs.into_iter().chain(nested).chain(functions::all()) {
            registry.add(&function);
        }
        registry
    }

    fn add(&mut self, function: &Arc<ScalarUDF>) {
        let names = std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str));
        for name in names {
            let name = name.to_lowercase();
            if function.signature().volatility != Volatility::Immutable {
                self.not_repeatable.push(name);
            } else if left_out(&name).is_none() {
                self.functions.insert(name, function.clone());
            }
        }
    }

    /// Finds out what a lower-case name stands for.
    pub(crate) fn look_up(&self, name: &str) -> Lookup {
        if self.functions.contains_key(name) || matches!(name, "mod" | "make_map" | "map") {
            Lookup::Scalar
        } else if let Some(why) = left_out(name) {
            Lookup::LeftOut(why)
        } else if self.not_repeatable.iter().any(|other| other == name) {
            Lookup::NotRepeatable
        } else if AGGREGATES.contains(&name) {
            Lookup::Aggregate
        } else {
            Lookup::Unknown
        }
    }

    /// The names that may be called.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str).chain(["mod"])
    }

    /// DataFusion's settings.
    pub(crate) fn options(&self) -> &Arc<ConfigOptions> {
        &self.options
    }
}

fn left_out(name: &str) -> Option<&'static str> {
    if UNBOUNDED.contains(&name) {
        Some("the size of its result has no bound")
    } else if ABOUT_ENGINE.contains(&name) {
        Some("it tells about the engine and not about the record")
    } else {
        None
    }
}

impl ContextProvider for Registry {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        not_impl_err!("an expression has no tables, not even {name}")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(self.types.clone())
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.get(name).or_else(|| self.functions.get(&name.to_lowercase())).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Reads type names in `CAST` as [`weir_core::data_type::parse`] reads them in schemas, where DataFusion differs.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let data_type = match sql_type {
            SqlType::Timestamp(Some(precision), _) if *precision > 6 => {
                return plan_err!("TIMESTAMP({precision}): a timestamp's precision is 0 to 6 digits");
            }
            SqlType::Timestamp(..) => weir_core::batch::event_time_type(),
            SqlType::Bytes(_) | SqlType::Varbinary(_) | SqlType::Binary(_) => DataType::Binary,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}
