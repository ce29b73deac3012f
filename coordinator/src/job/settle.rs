//! Settling: a job that goes on from a checkpoint with elements in flight, with other tasks than it was taken with, or with
//! operators that may make of a row something else. What was in flight is processed by the tasks it was meant for: the job
//! runs as it was, takes one checkpoint in which every barrier waits, and goes on from that one as it is to be. Part of the
//! master.
//!
//! Nothing of this is kept: the graph in the metadata is the new one all the time. Whatever dies before the aligned
//! checkpoint is committed, the next attempt finds the same checkpoint and begins again here.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use tokio::sync::oneshot;
use weir_checkpoint::Manifest;
use weir_core::{ErrorDomain, Problem};
use weir_graph::plan::PlannedRole;
use weir_proto::v1;

use super::failure;
use super::master::{Master, Signal};
use super::orders::Manual;
use super::submit::{PreparedJob, plan};
use crate::recovery::plan::fits;

const PARALLELISM: &str = "parallelism.default";

impl Master {
    /// Whether the state must be settled first; then the job is planned as it was, and comes back by
    /// [`Master::planned_as_it_was`].
    pub(super) fn settles(&mut self) -> bool {
        let Some(point) = &self.point else { return false };
        if self.settling.is_some() || !point.manifest.is_unaligned() {
            return false;
        }
        let graph = as_it_was(&point.manifest, &self.job);
        let has_changed = graph.as_ref().is_ok_and(|graph| gives_other_rows(graph, &self.job));
        if !has_changed && fits(&point.manifest, &self.job.plan) {
            return false;
        }
        let around = self.around.clone();
        self.later(async move {
            Signal::PlannedAsItWas(Box::new(match graph {
                Ok(graph) => plan(graph, &around).await,
                Err(problem) => Err(vec![problem]),
            }))
        });
        true
    }

    pub(super) fn planned_as_it_was(&mut self, result: Result<PreparedJob, Vec<Problem>>) {
        match result {
            Ok(mut job) => {
                job.splits.clone_from(&self.job.splits);
                tracing::info!("what was in flight is processed as the job was, before it goes on as it is to be");
                self.settling = Some(Box::new(std::mem::replace(&mut self.job, job)));
                self.record.lock().begin_attempt(&self.job.plan, self.job.config.clone());
                self.state_known();
            }
            Err(problems) => {
                let failure = failure::of_coordinator(
                    "restore-refused",
                    ErrorDomain::User,
                    failure::listed(&problems),
                    self.wall_unix_us(),
                );
                self.happened(super::lifecycle::Event::StateLost(failure));
            }
        }
    }

    /// The next checkpoint of a job that settles: the one after which it goes on as it is to be.
    pub(super) fn settling_checkpoint(&self) -> Option<Manual> {
        // Nobody waits for the answer.
        self.settling.clone().map(|job| Manual::Rescale(job, oneshot::channel().0))
    }

    /// All tasks run: what was in flight is settled by the next checkpoint.
    pub(super) fn settle(&mut self) {
        if let Some(manual) = self.settling_checkpoint() {
            self.ask(manual);
        }
    }

    /// An attempt is over: the next one finds out for itself whether there is something to settle.
    pub(super) fn stop_settling(&mut self) {
        if let Some(job) = self.settling.take() {
            let listed = std::mem::take(&mut self.job.splits);
            self.job = *job;
            self.job.splits = listed;
        }
    }
}

/// Whether rows in flight may have other columns, or mean something else, in the job than in the graph they come from. What
/// a sink is told changes no row on its way there.
fn gives_other_rows(before: &v1::JobGraph, job: &PreparedJob) -> bool {
    let operators = job.plan.vertices.iter().flat_map(|vertex| &vertex.operators);
    let sinks = operators.filter(|operator| operator.role == PlannedRole::Sink);
    let sinks: BTreeSet<&str> = sinks.map(|sink| sink.uid.as_str()).collect();
    let others = |graph: &'_ v1::JobGraph| -> BTreeMap<String, v1::Operator> {
        let others = graph.operators.iter().filter(|operator| !sinks.contains(operator.uid.as_str()));
        others.map(|operator| (operator.uid.clone(), operator.clone())).collect()
    };
    others(before) != others(&job.graph)
}

/// The graph that the manifest was taken with, under the configuration that the job has now but for its parallelism.
pub(super) fn as_it_was(manifest: &Manifest, job: &PreparedJob) -> Result<v1::JobGraph, Problem> {
    let mut graph = v1::JobGraph::decode(manifest.graph.clone()).map_err(|error| Problem {
        operator: String::new(),
        field: "fromSavepoint".to_owned(),
        reason: format!("the graph in the checkpoint cannot be read: {error}"),
        nearest: None,
    })?;
    let parallelism = graph.config.remove(PARALLELISM);
    graph.config.clone_from(&job.graph.config);
    graph.config.remove(PARALLELISM);
    graph.config.extend(parallelism.map(|parallelism| (PARALLELISM.to_owned(), parallelism)));
    Ok(graph)
}
