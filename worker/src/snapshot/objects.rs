//! The state objects of one task at one checkpoint, filled one after the other. A full one goes to the uploader, which
//! takes few at once, and each has its buffer from the worker's allowance; so what is encoded and not yet uploaded is
//! bounded, by task and in all.

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use weir_checkpoint::state_object::SectionHeader;
use weir_checkpoint::{SectionRef, StateObjectWriter};

use super::buffers::{Loan, ObjectBuffers};
use super::encode::of_store;
use crate::error::TaskError;

/// Full objects that wait for the uploader.
const WAITING_MAX: usize = 1;
/// An object that stays below this needs no buffer from the allowance: tasks with little state do not wait for those with
/// much. **Units**: bytes.
const SMALL_BYTES: usize = 128 << 10;
/// Sections of one object, at least. Where memory is little, so are they.
const SECTIONS_MIN: usize = 8;
/// Most bytes of rows in one section, about.
const SECTION_BYTES_MAX: usize = 2 << 20;

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
    open: FullObject,
    closed: usize,
    buffers: ObjectBuffers,
    runtime: Handle,
    full: mpsc::Sender<FullObject>,
}

/// An object with its buffer.
#[derive(Debug, Default)]
pub struct FullObject {
    writer: StateObjectWriter,
    loan: Option<Loan>,
}

impl FullObject {
    /// The object to store at `path`, and the references to its sections. The buffer comes back when the last reader of the
    /// bytes is gone.
    pub fn finish(self, path: &str) -> (bytes::Bytes, Vec<SectionRef>) {
        let (bytes, start, sections) = self.writer.finish_buffer(path);
        (Loan::lend(self.loan, bytes, start), sections)
    }

    /// Bytes so far.
    pub fn len_bytes(&self) -> usize {
        self.writer.len_bytes()
    }
}

impl Objects {
    /// Objects in these buffers; full ones come out of the queue, in order. `runtime` is where the uploader runs.
    pub fn new(buffers: ObjectBuffers, runtime: Handle) -> (Self, mpsc::Receiver<FullObject>) {
        let (full, queue) = mpsc::channel(WAITING_MAX);
        (Objects { open: FullObject::default(), closed: 0, buffers, runtime, full }, queue)
    }

    /// Bytes of rows in one section, about.
    pub fn section_bytes(&self) -> usize {
        (self.buffers.object_bytes() / SECTIONS_MIN).min(SECTION_BYTES_MAX)
    }

    /// Adds a section of about `expected_bytes`, which `write` appends to what the buffer holds. Waits for a buffer, and for
    /// the uploader when objects are filled faster than they leave; never on a task's thread.
    ///
    /// **Errors**: those of `write`; the uploader has given up.
    pub fn append(
        &mut self,
        header: SectionHeader,
        expected_bytes: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), TaskError>,
    ) -> Result<Place, TaskError> {
        if self.open.len_bytes() + expected_bytes > SMALL_BYTES {
            self.borrow()?;
        }
        let section = self.open.writer.append_with(header, |error| of_store(&error), write)?;
        let place = Place { object: self.closed, section };
        // Rows can be larger than they looked.
        if self.open.len_bytes() > SMALL_BYTES {
            self.borrow()?;
        }
        // One more section would go beyond the buffer.
        if self.open.len_bytes() + self.section_bytes() > self.buffers.object_bytes() {
            self.close()?;
        }
        Ok(place)
    }

    /// Nothing more is added.
    ///
    /// **Errors**: the uploader has given up.
    pub fn finish(mut self) -> Result<(), TaskError> {
        if self.open.writer.is_empty() { Ok(()) } else { self.close() }
    }

    /// The open object goes on in a buffer of the allowance.
    fn borrow(&mut self) -> Result<(), TaskError> {
        if self.open.loan.is_none() {
            let (buffer, loan) = self.buffers.borrow(&self.runtime, &self.full).ok_or_else(given_up)?;
            self.open.writer.continue_in(buffer);
            self.open.loan = Some(loan);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), TaskError> {
        self.closed += 1;
        self.full.blocking_send(std::mem::take(&mut self.open)).map_err(|_| given_up())
    }
}

/// The uploader tells why it gave up; this is only heard when it did not.
fn given_up() -> TaskError {
    TaskError::internal("internal", "the upload of state was given up")
}

#[cfg(test)]
mod tests;
