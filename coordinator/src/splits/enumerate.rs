//! Asks the connectors for the splits of every source of a plan, once, at submission. What cannot be listed is a
//! problem of the job like any other: the user sees it before anything runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use weir_core::error::report;
use weir_core::{Clock, OperatorUid, Problem};
use weir_graph::JobPlan;
use weir_graph::plan::{PlannedOperator, PlannedRole};
use weir_operator_api::{Registry, Split};

use crate::job::failure::seconds;

/// Splits of every source.
///
/// **Errors**: one problem per source that could not be listed or took longer than `timeout`.
pub(crate) async fn enumerate(
    plan: &JobPlan,
    registry: &Registry,
    clock: &Arc<dyn Clock>,
    timeout: Duration,
) -> Result<BTreeMap<OperatorUid, Vec<Split>>, Vec<Problem>> {
    let sources = plan.vertices.iter().flat_map(|vertex| {
        let sources = vertex.operators.iter().filter(|operator| operator.role == PlannedRole::Source);
        sources.map(|source| (source, vertex.parallelism))
    });
    let listings = sources.map(|(source, parallelism)| async move {
        let listed = tokio::select! {
            listed = list(source, parallelism, registry) => listed,
            () = clock.sleep(timeout) => Err(format!("its splits could not be listed within {}", seconds(timeout))),
        };
        (source.uid.clone(), listed)
    });
    let mut splits = BTreeMap::new();
    let mut problems = Vec::new();
    for (uid, listed) in join_all(listings).await {
        match listed {
            Ok(listed) => {
                splits.insert(uid, listed);
            }
            Err(reason) => {
                problems.push(Problem { operator: uid.0, field: String::new(), reason, nearest: None });
            }
        }
    }
    if problems.is_empty() { Ok(splits) } else { Err(problems) }
}

async fn list(source: &PlannedOperator, parallelism: u32, registry: &Registry) -> Result<Vec<Split>, String> {
    let factory = registry.source(&source.kind).ok_or_else(|| format!("there is no source '{}'", source.kind))?;
    let listed = factory.enumerate(&source.uid, &source.settings, parallelism).await;
    listed.map_err(|error| format!("{} [{}]", report(&error), error.code))
}
