//! From a submitted graph to a job that can start: size, conversion, checks and plan, the state it begins with, splits.
//! All problems at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use weir_checkpoint::{CheckpointError, CheckpointStore, Manifest, layout, read_manifest};
use weir_core::error::report;
use weir_core::{OperatorUid, Problem};
use weir_graph::limits::GRAPH_BYTES_MAX;
use weir_graph::state_change::state_changes;
use weir_graph::{JobPlan, SubmittedJob};
use weir_operator_api::Split;
use weir_proto::v1;

use super::failure;
use super::master::Surroundings;
use super::settle::as_it_was;
use crate::catalog::ConnectorCatalog;
use crate::meta::Origin;
use crate::recovery::plan::{Unclaimed, check};
use crate::splits::enumerate::enumerate;
use crate::wire;

/// A job that is right and can be placed.
#[derive(Clone, Debug)]
pub(crate) struct PreparedJob {
    /// The graph as submitted, with its configuration.
    pub(crate) graph: v1::JobGraph,
    /// The plan.
    pub(crate) plan: JobPlan,
    /// The same as it travels to workers.
    pub(crate) wire_plan: v1::JobPlan,
    /// Splits of the sources that were listed: of those that begin afresh.
    pub(crate) splits: BTreeMap<OperatorUid, Vec<Split>>,
    /// Configuration in force, defaults included.
    pub(crate) config: BTreeMap<String, String>,
    /// Where its checkpoints are kept.
    pub(crate) store: Arc<dyn CheckpointStore>,
}

impl PreparedJob {
    /// The graph as it is kept.
    pub(crate) fn graph_bytes(&self) -> Bytes {
        self.graph.encode_to_vec().into()
    }
}

/// What a user wants a job to begin with.
#[derive(Clone, Debug)]
pub(crate) struct RestoreWish {
    /// Directory of a checkpoint or savepoint.
    pub(crate) path: String,
    /// Whether state that nobody takes is left out.
    pub(crate) unclaimed: Unclaimed,
}

/// A manifest that a job goes on from.
#[derive(Clone, Debug)]
pub(crate) struct RestorePoint {
    /// What it says.
    pub(crate) manifest: Arc<Manifest>,
    /// The store its objects lie in; empty when it is the job's own.
    pub(crate) store: String,
    /// What happens to state that nobody takes.
    pub(crate) unclaimed: Unclaimed,
}

/// Checks and plans a job, finds the state it begins with, and lists the splits of its sources.
///
/// **Errors**: everything that is wrong with it.
pub(crate) async fn prepare(
    graph: v1::JobGraph,
    wish: Option<RestoreWish>,
    around: &Surroundings,
) -> Result<(PreparedJob, Option<(Origin, RestorePoint)>), Vec<Problem>> {
    let mut job = plan(graph, around).await?;
    let found = match wish {
        Some(wish) => Some(find(&job, &wish, around).await?),
        None => None,
    };
    let known = match &found {
        Some((_, point)) => state_fits(&job, point, around).await?,
        None => BTreeSet::new(),
    };
    job.splits = enumerate(&job.plan, &known, around).await?;
    Ok((job, found))
}

/// Whether the operators of the job can take over what the manifest has; the sources that it knows.
///
/// **Errors**: everything that does not fit, by operator and setting or column.
async fn state_fits(
    job: &PreparedJob,
    point: &RestorePoint,
    around: &Surroundings,
) -> Result<BTreeSet<OperatorUid>, Vec<Problem>> {
    let manifest = &point.manifest;
    let known = check(manifest, &job.plan, point.unclaimed);
    let before = match as_it_was(manifest, job) {
        Ok(graph) => plan(graph, around).await,
        Err(problem) => Err(vec![problem]),
    };
    let changes = match before {
        Ok(before) => state_changes(&before.plan, &job.plan, &ConnectorCatalog::new(around.registry.clone())),
        // The job may fit all the same. The operators look at every table before they go on from it.
        Err(problems) => {
            let checkpoint = manifest.checkpoint;
            tracing::warn!(%checkpoint, problems = %failure::listed(&problems), "the job of a checkpoint cannot be planned");
            Vec::new()
        }
    };
    match known {
        Ok(known) if changes.is_empty() => Ok(known),
        known => Err(known.err().into_iter().flatten().chain(changes).collect()),
    }
}

/// Checks and plans a job; its splits are not listed.
///
/// **Errors**: everything that is wrong with it.
pub(crate) async fn plan(graph: v1::JobGraph, around: &Surroundings) -> Result<PreparedJob, Vec<Problem>> {
    let size = graph.encoded_len();
    if size > GRAPH_BYTES_MAX {
        return Err(whole_job("", format!("the job graph has {size} bytes, {GRAPH_BYTES_MAX} are allowed")));
    }
    let catalog = ConnectorCatalog::new(around.registry.clone());
    let submitted = graph.clone();
    // Typing the expressions of a large job takes long: not on a thread that serves others.
    let planning = tokio::task::spawn_blocking(move || -> Result<_, Vec<Problem>> {
        let job = wire::submitted_job(submitted)?;
        let plan = weir_graph::plan::plan(&job, &catalog)?;
        Ok((wire::plan(&plan), config_in_force(&job), plan))
    });
    let (wire_plan, config, plan) =
        planning.await.unwrap_or_else(|error| Err(whole_job("", format!("planning the job broke: {error}"))))?;
    let store = around.stores.of_job(&plan.options.checkpoints);
    let store = store.map_err(|error| whole_job("execution.checkpointing.dir", report(&error)))?;
    Ok(PreparedJob { graph, plan, wire_plan, splits: BTreeMap::new(), config, store })
}

/// Reads the manifest that a user named.
async fn find(
    job: &PreparedJob,
    wish: &RestoreWish,
    around: &Surroundings,
) -> Result<(Origin, RestorePoint), Vec<Problem>> {
    let wrong = |error: CheckpointError| {
        let reason = format!("'{}' cannot be restored: {} [{}]", wish.path, report(&error), error.code());
        vec![Problem { operator: String::new(), field: "fromSavepoint".to_owned(), reason, nearest: None }]
    };
    let located = layout::locate(&wish.path);
    let store = around.stores.open(&located.store, &job.plan.options.checkpoints.store).map_err(wrong)?;
    let manifest = Arc::new(read_manifest(store.as_ref(), &located.manifest).await.map_err(wrong)?);
    let origin = Origin {
        store: store.url().to_owned(),
        manifest: located.manifest,
        leaves_out_unclaimed: wish.unclaimed == Unclaimed::LeftOut,
    };
    let point = RestorePoint { manifest, store: foreign(store.url(), job), unclaimed: wish.unclaimed };
    Ok((origin, point))
}

/// The address of a store as a task needs it: empty for the job's own.
pub(crate) fn foreign(url: &str, job: &PreparedJob) -> String {
    if url == job.store.url() { String::new() } else { url.to_owned() }
}

fn whole_job(field: &str, reason: String) -> Vec<Problem> {
    vec![Problem { operator: String::new(), field: field.to_owned(), reason, nearest: None }]
}

fn config_in_force(job: &SubmittedJob) -> BTreeMap<String, String> {
    let defaults = weir_graph::config::KEYS.iter().map(|key| (key.name.to_owned(), key.default.to_owned()));
    let mut config: BTreeMap<String, String> = defaults.collect();
    let as_text = |value: &weir_core::Value| value.as_text().map_or_else(|| value.to_string(), str::to_owned);
    config.extend(job.config.iter().map(|(name, value)| (name.clone(), as_text(value))));
    config
}
