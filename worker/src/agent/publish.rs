//! Makes prepared output visible, or removes it, on the coordinator's order.

use std::time::Duration;

use weir_core::OperatorUid;
use weir_operator_api::{Committable, Leftovers, SinkState};
use weir_proto::convert::{self, ConvertError};
use weir_proto::v1;
use weir_proto::v1::worker_message::Message;

use super::Worker;
use super::reports::{Place, failure};
use crate::error::{DEPLOY_INVALID, TaskError};

/// Longest time that publishing one sink may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(600);
/// Code of a sink that did not publish in time.
const PUBLISH_TIMED_OUT: &str = "publish-timeout";

/// Carries out one order and gives the answer.
pub(crate) async fn publish(worker: Worker, order: v1::Publish) -> Message {
    let (token, operator, checkpoint_id) = (order.token.clone(), order.operator.clone(), order.checkpoint_id);
    let clock = worker.environment.clock.clone();
    let published = tokio::select! {
        published = carry_out(&worker, order) => published,
        () = clock.sleep(PUBLISH_TIMEOUT) => Err(TaskError::external(
            PUBLISH_TIMED_OUT,
            format!("publishing took longer than {PUBLISH_TIMEOUT:?}"),
        )),
    };
    let failure = published.err().map(|error| {
        let error = TaskError { operator: Some(OperatorUid(operator.clone())), ..error };
        let place = Place { worker: &worker.id, vertex: "", subtask_index: 0, clock: clock.as_ref() };
        tracing::error!(%operator, "publishing failed: {error}");
        failure(&error, place)
    });
    Message::Published(v1::Published { token, operator, failure, checkpoint_id })
}

async fn carry_out(worker: &Worker, order: v1::Publish) -> Result<(), TaskError> {
    let uid = OperatorUid(order.operator);
    let unreadable =
        |error: ConvertError| TaskError::internal(DEPLOY_INVALID, format!("unreadable order to publish: {error}"));
    let settings = convert::struct_to_map(order.settings).map_err(unreadable)?;
    let mut committables = Vec::with_capacity(order.committables.len());
    for committable in order.committables {
        let (sink, subtask, description) = convert::committable_from_proto(committable).map_err(unreadable)?;
        committables.push(Committable { sink, subtask, description });
    }
    let factory = worker.environment.registry.sink(&order.kind).ok_or_else(|| {
        TaskError::internal(DEPLOY_INVALID, format!("this worker has no sink of kind '{}'", order.kind))
    })?;
    let failed = |error| TaskError::of_operator(&uid, &error);
    let mut committer = factory.committer(&settings).await.map_err(failed)?;
    if !order.discard {
        if order.keep {
            committer.keep();
        }
        return committer.publish(committables).await.map_err(failed);
    }
    committer.discard(committables).await.map_err(failed)?;
    if order.sweep {
        let (job, _) = convert::token_from_proto(order.token).map_err(unreadable)?;
        let mut kept = Vec::with_capacity(order.kept.len());
        for memory in order.kept {
            let (_, subtask, value) = convert::committable_from_proto(memory).map_err(unreadable)?;
            kept.push(SinkState { subtask, values: vec![value], tables: Vec::new() });
        }
        committer.sweep(Leftovers { job, sink: uid.clone(), kept }).await.map_err(failed)?;
    }
    Ok(())
}
