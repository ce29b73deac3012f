//! The state objects of one task at one checkpoint, filled one after the other. A full one goes to the uploader, which
//! takes few at once, so what is encoded and not yet uploaded is bounded.

use tokio::sync::mpsc;
use weir_checkpoint::StateObjectWriter;
use weir_checkpoint::state_object::SectionHeader;

use super::encode::of_store;
use crate::error::TaskError;

/// An object is closed when it is this large; its last section may go beyond. **Units**: bytes.
pub const OBJECT_BYTES: usize = 32 << 20;
/// Full objects that wait for the uploader.
const WAITING_MAX: usize = 1;

/// Where a section lies: the number of its object in the order of uploads, and its number in there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which object.
    pub object: usize,
    /// Which section of it.
    pub section: usize,
}

/// Objects that are being filled.
pub struct Objects {
    open: StateObjectWriter,
    closed: usize,
    object_bytes: usize,
    full: mpsc::Sender<StateObjectWriter>,
}

impl Objects {
    /// Objects of about this size; full ones come out of the queue, in order.
    pub fn new(object_bytes: usize) -> (Self, mpsc::Receiver<StateObjectWriter>) {
        let (full, queue) = mpsc::channel(WAITING_MAX);
        (Objects { open: StateObjectWriter::new(), closed: 0, object_bytes, full }, queue)
    }

    /// Adds a section. Waits for the uploader when objects are filled faster than they leave; never on a task's thread.
    ///
    /// **Errors**: the uploader has given up.
    pub fn append(&mut self, header: SectionHeader, payload: &[u8]) -> Result<Place, TaskError> {
        let section = self.open.append(header, payload).map_err(|error| of_store(&error))?;
        let place = Place { object: self.closed, section };
        if self.open.len_bytes() >= self.object_bytes {
            self.close()?;
        }
        Ok(place)
    }

    /// Nothing more is added.
    ///
    /// **Errors**: the uploader has given up.
    pub fn finish(mut self) -> Result<(), TaskError> {
        if self.open.is_empty() { Ok(()) } else { self.close() }
    }

    fn close(&mut self) -> Result<(), TaskError> {
        self.closed += 1;
        let full = std::mem::take(&mut self.open);
        // The uploader tells why it gave up; this is only heard when it did not.
        let gone = |_| TaskError::internal("internal", "the upload of state was given up");
        self.full.blocking_send(full).map_err(gone)
    }
}
