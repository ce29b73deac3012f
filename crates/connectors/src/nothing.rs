//! The committer of sinks that have nothing to publish: what they show is visible at once, or never.

use async_trait::async_trait;
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{Committable, OperatorError, Result};

/// Publishes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NothingToCommit;

#[async_trait]
impl SinkCommitter for NothingToCommit {
    async fn publish(&mut self, committables: Vec<Committable>) -> Result<()> {
        match committables.first() {
            None => Ok(()),
            Some(first) => Err(OperatorError::internal(format!("'{}' never prepares anything to publish", first.sink))),
        }
    }

    async fn discard(&mut self, _committables: Vec<Committable>) -> Result<()> {
        Ok(())
    }
}
