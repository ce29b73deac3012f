//! Asks the connectors for the splits of the sources of a plan, once, at submission; a source that goes on from a
//! checkpoint has its splits from there. What cannot be listed is a problem of the job like any other: the user sees it
//! before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use weir_core::error::report;
use weir_core::{OperatorUid, Problem};
use weir_graph::JobPlan;
use weir_graph::plan::{PlannedOperator, PlannedRole};
use weir_operator_api::{Registry, Split};

use crate::job::failure::seconds;
use crate::job::master::Surroundings;

/// Splits of every source that is not `known`.
///
/// **Errors**: one problem per source that could not be listed or took too long.
pub(crate) async fn enumerate(
    plan: &JobPlan,
    known: &BTreeSet<OperatorUid>,
    around: &Surroundings,
) -> Result<BTreeMap<OperatorUid, Vec<Split>>, Vec<Problem>> {
    let timeout = around.enumerate_timeout;
    let sources = plan.vertices.iter().flat_map(|vertex| {
        let sources = vertex.operators.iter().filter(|operator| operator.role == PlannedRole::Source);
        sources.filter(|source| !known.contains(&source.uid)).map(|source| (source, vertex.parallelism))
    });
    let listings = sources.map(|(source, parallelism)| async move {
        let listed = tokio::select! {
            listed = list(source, parallelism, &around.registry) => listed,
            () = around.clock.sleep(timeout) => Err(format!("its splits could not be listed within {}", seconds(timeout))),
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
