//! The memory for state objects, one allowance for all tasks of a worker: `objects` borrows a buffer for each object it
//! fills, which comes back when the object is uploaded, or dropped for whatever reason. It knows nothing of checkpoints.
//!
//! An object that is being filled never needs a second buffer, and one that is full needs none to be uploaded. So who waits
//! for a buffer holds none, and no two tasks wait for each other. Buffers are used again: their pages are touched once.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Objects are not smaller than this however little memory there is, and not larger however much. **Units**: bytes.
const OBJECT_BYTES: (usize, usize) = (4 << 20, 32 << 20);
/// Largest object as a share of the allowance.
const OBJECTS_OF_ALLOWANCE: usize = 4;
/// Least number of buffers: one is filled while another is uploaded.
const BUFFERS_MIN: usize = 2;
/// Empty buffers that are kept.
const IDLE_MAX: usize = 8;
/// A closed object is at most so much larger than it should be, unless a single row is. **Units**: bytes.
const SLACK_BYTES: usize = 256 << 10;

/// The buffers of a worker; cheap to clone.
#[derive(Clone, Debug)]
pub struct ObjectBuffers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    object_bytes: usize,
    count: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Vec<u8>>>,
}

/// The right to one buffer, and the way back for it.
#[derive(Debug)]
pub struct Loan {
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

/// The bytes of a full object on their way to a store.
struct Lent {
    bytes: Vec<u8>,
    /// Where the object begins.
    start: usize,
    /// Small objects are not lent.
    loan: Option<Loan>,
}

impl ObjectBuffers {
    /// Buffers that take `allowance` bytes together: an eighth of a worker's memory.
    pub fn of_allowance(allowance: usize) -> Self {
        let (least, most) = OBJECT_BYTES;
        let object_bytes = (allowance / OBJECTS_OF_ALLOWANCE).clamp(least, most);
        ObjectBuffers::new(object_bytes, allowance / object_bytes)
    }

    /// So many buffers of this size, two at least.
    pub fn new(object_bytes: usize, count: usize) -> Self {
        let count = count.clamp(BUFFERS_MIN, Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(count));
        ObjectBuffers { shared: Arc::new(Shared { object_bytes, count, permits, idle: Mutex::default() }) }
    }

    /// An object is closed when it is about this large. **Units**: bytes.
    pub fn object_bytes(&self) -> usize {
        self.shared.object_bytes
    }

    /// How many are lent now.
    pub fn lent(&self) -> usize {
        self.shared.count - self.shared.permits.available_permits()
    }

    /// Waits for a buffer, first come, first served. `None` when nobody takes full objects any more. Blocks: never to be
    /// called on a thread of a runtime.
    pub fn borrow<T>(&self, runtime: &Handle, full: &mpsc::Sender<T>) -> Option<(Vec<u8>, Loan)> {
        let permits = Arc::clone(&self.shared.permits);
        let permit = permits.clone().try_acquire_owned().ok().or_else(|| {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = full.closed() => None,
                    permit = permits.acquire_owned() => permit.ok(),
                }
            })
        })?;
        let idle = self.shared.idle.lock().pop();
        let buffer = idle.unwrap_or_else(|| Vec::with_capacity(self.shared.object_bytes + SLACK_BYTES));
        Some((buffer, Loan { shared: Arc::clone(&self.shared), _permit: permit }))
    }
}

impl Loan {
    /// The bytes of a finished object, which begin at `start`, and whose buffer comes back when the last reader drops them.
    pub fn lend(loan: Option<Loan>, bytes: Vec<u8>, start: usize) -> Bytes {
        match loan {
            Some(_) => Bytes::from_owner(Lent { bytes, start, loan }),
            None => Bytes::from(bytes).slice(start..),
        }
    }

    /// The buffer comes back empty. One that grew too large goes.
    fn give_back(&self, mut buffer: Vec<u8>) {
        let most = self.shared.object_bytes + 2 * SLACK_BYTES;
        let mut idle = self.shared.idle.lock();
        if buffer.capacity() <= most && idle.len() < IDLE_MAX.min(self.shared.count) {
            buffer.clear();
            idle.push(buffer);
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            loan.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_follow_from_the_allowance() {
        let of = |memory: usize| {
            let buffers = ObjectBuffers::of_allowance(memory / 8);
            (buffers.shared.object_bytes >> 20, buffers.shared.count)
        };
        assert_eq!(of(128 << 20), (4, 4), "the least memory of a worker");
        assert_eq!(of(512 << 20), (16, 4));
        assert_eq!(of(1 << 30), (32, 4));
        assert_eq!(of(16 << 30), (32, 64));
        assert_eq!(of(1 << 20), (4, 2), "one to fill and one to upload, however little there is");
    }

    #[tokio::test]
    async fn buffers_come_back_with_their_pages_when_the_last_reader_is_gone() {
        let buffers = ObjectBuffers::new(1 << 20, 2);
        let (full, _queue) = mpsc::channel::<()>(1);
        let (mut bytes, loan) = buffers.borrow(&Handle::current(), &full).expect("one is free");
        bytes.extend_from_slice(b"state");
        let place = bytes.as_ptr();
        let lent = Loan::lend(Some(loan), bytes, 1);
        let part = lent.slice(1..);
        drop(lent);
        assert_eq!((&part[..], buffers.lent()), (&b"ate"[..], 1));
        drop(part);
        assert_eq!(buffers.lent(), 0);
        let (bytes, _loan) = buffers.borrow(&Handle::current(), &full).expect("one is free");
        assert!(bytes.is_empty() && bytes.as_ptr() == place);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_gets_the_next_or_hears_that_nobody_takes_objects_any_more() {
        let buffers = ObjectBuffers::new(1 << 20, 2);
        let (full, queue) = mpsc::channel::<()>(1);
        let mut held: Vec<_> = (0..2).filter_map(|_| buffers.borrow(&Handle::current(), &full)).collect();
        let waiting = |full: mpsc::Sender<()>| {
            let buffers = buffers.clone();
            tokio::task::spawn_blocking(move || buffers.borrow(&Handle::current(), &full).map(|(_, loan)| loan))
        };
        let next = waiting(full.clone());
        held.pop();
        assert!(next.await.expect("it ends").is_some());
        let held_again = buffers.borrow(&Handle::current(), &full);
        let given_up = waiting(full.clone());
        drop(queue);
        let given_up =
            tokio::time::timeout(Duration::from_secs(30), given_up).await.expect("it hears").expect("it ends");
        assert!(given_up.is_none());
        drop((held, held_again));
        assert_eq!(buffers.lent(), 0);
    }
}
