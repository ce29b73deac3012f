//! Room in one channel, counted in bytes. The sending task takes, the receiving side gives back what its task has
//! consumed. One element always passes while there is any room, so that no channel can block for ever.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;
use weir_core::StreamElement;

use crate::error::TaskError;

/// What an element costs besides its rows, so that elements without rows are bounded too.
pub const ELEMENT_BYTES: usize = 64;

/// What an element costs within a worker.
pub fn cost(element: &StreamElement) -> usize {
    match element {
        StreamElement::Batch(batch) => batch.size_bytes() + ELEMENT_BYTES,
        _ => ELEMENT_BYTES,
    }
}

/// The sender's account of one channel.
#[derive(Debug)]
pub struct Credits {
    available: AtomicI64,
    room: Notify,
    broken: OnceLock<TaskError>,
}

impl Credits {
    /// Opens an account with `bytes` of room, at least one.
    pub fn new(bytes: usize) -> Self {
        let bytes = i64::try_from(bytes.max(1)).unwrap_or(i64::MAX);
        Credits { available: AtomicI64::new(bytes), room: Notify::new(), broken: OnceLock::new() }
    }

    /// Whether an element may be sent now.
    pub fn has_room(&self) -> bool {
        self.available.load(Ordering::Acquire) > 0
    }

    /// Waits until an element may be sent. For one waiter: the sending task.
    ///
    /// **Errors**: the channel broke. **Cancel safety**: nothing is taken.
    pub async fn wait_for_room(&self) -> Result<(), TaskError> {
        loop {
            if let Some(error) = self.broken.get() {
                return Err(error.clone());
            }
            if self.has_room() {
                return Ok(());
            }
            self.room.notified().await;
        }
    }

    /// Takes what one element costs; the account may go below zero by that element.
    pub fn take(&self, bytes: usize) {
        self.available.fetch_sub(bytes as i64, Ordering::AcqRel);
    }

    /// Gives room back.
    pub fn give(&self, bytes: usize) {
        let before = self.available.fetch_add(bytes as i64, Ordering::AcqRel);
        if before <= 0 && before + bytes as i64 > 0 {
            self.room.notify_one();
        }
    }

    /// The channel cannot be used any more; whoever waits for room is told.
    pub fn fail(&self, error: TaskError) {
        // The first cause is kept; a later one is its consequence.
        let _ = self.broken.set(error);
        self.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_element_always_passes_then_room_must_come_back() {
        let credits = Credits::new(1);
        assert!(credits.has_room());
        credits.take(1000);
        assert!(!credits.has_room());
        credits.give(999);
        assert!(!credits.has_room(), "a debt of 998 became a credit");
        credits.give(1);
        credits.wait_for_room().await.expect("room came back");
    }

    #[tokio::test]
    async fn broken_channel_wakes_its_sender() {
        let credits = Credits::new(1);
        credits.take(10);
        let error = TaskError::external(crate::error::EXCHANGE_LOST, "gone");
        let (result, ()) = tokio::join!(credits.wait_for_room(), async { credits.fail(error.clone()) });
        assert_eq!(result, Err(error));
    }
}
