//! From a submitted graph to a job that can start: size, conversion, checks and plan, splits. All problems at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use weir_core::{Clock, OperatorUid, Problem};
use weir_graph::limits::GRAPH_BYTES_MAX;
use weir_graph::{JobPlan, SubmittedJob};
use weir_operator_api::{Registry, Split};
use weir_proto::v1;

use crate::catalog::ConnectorCatalog;
use crate::splits::enumerate::enumerate;
use crate::wire;

/// A job that is right and can start.
#[derive(Debug)]
pub(crate) struct PreparedJob {
    /// The plan.
    pub(crate) plan: JobPlan,
    /// The same as it travels to workers.
    pub(crate) wire_plan: v1::JobPlan,
    /// Splits of every source.
    pub(crate) splits: BTreeMap<OperatorUid, Vec<Split>>,
    /// Configuration in force, defaults included.
    pub(crate) config: BTreeMap<String, String>,
}

/// Checks and plans a job, and lists the splits of its sources.
///
/// **Errors**: everything that is wrong with it.
pub(crate) async fn prepare(
    graph: v1::JobGraph,
    registry: &Registry,
    clock: &Arc<dyn Clock>,
    enumerate_timeout: Duration,
) -> Result<PreparedJob, Vec<Problem>> {
    let size = graph.encoded_len();
    if size > GRAPH_BYTES_MAX {
        return Err(whole_job(format!("the job graph has {size} bytes, {GRAPH_BYTES_MAX} are allowed")));
    }
    let catalog = ConnectorCatalog::new(registry.clone());
    // Typing the expressions of a large job takes long: not on a thread that serves others.
    let planning = tokio::task::spawn_blocking(move || -> Result<_, Vec<Problem>> {
        let job = wire::submitted_job(graph)?;
        let plan = weir_graph::plan::plan(&job, &catalog)?;
        Ok((wire::plan(&plan), config_in_force(&job), plan))
    });
    let (wire_plan, config, plan) =
        planning.await.unwrap_or_else(|error| Err(whole_job(format!("planning the job broke: {error}"))))?;
    let splits = enumerate(&plan, registry, clock, enumerate_timeout).await?;
    Ok(PreparedJob { plan, wire_plan, splits, config })
}

fn whole_job(reason: String) -> Vec<Problem> {
    vec![Problem { operator: String::new(), field: String::new(), reason, nearest: None }]
}

fn config_in_force(job: &SubmittedJob) -> BTreeMap<String, String> {
    let defaults = weir_graph::config::KEYS.iter().map(|key| (key.name.to_owned(), key.default.to_owned()));
    let mut config: BTreeMap<String, String> = defaults.collect();
    let as_text = |value: &weir_core::Value| value.as_text().map_or_else(|| value.to_string(), str::to_owned);
    config.extend(job.config.iter().map(|(name, value)| (name.clone(), as_text(value))));
    config
}
