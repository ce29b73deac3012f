//! The checkpoint stores a worker has open: one handle per address and settings, shared by all tasks, and the memory for
//! what is written to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use weir_checkpoint::{CheckpointError, CheckpointStore, StoreOptions};
use weir_core::Clock;
use weir_core::random::SplitMix64;

use super::buffers::ObjectBuffers;
use super::copies::LocalCopies;
use crate::seed::seed;

/// Opens a store at a URL; the process's own way outside of tests.
pub type OpenStore =
    Arc<dyn Fn(&str, &BTreeMap<String, String>) -> Result<Arc<dyn CheckpointStore>, CheckpointError> + Send + Sync>;

type Handles = BTreeMap<(String, Vec<(String, String)>), Arc<dyn CheckpointStore>>;

/// Open stores; cheap to clone.
#[derive(Clone)]
pub struct Stores {
    open: OpenStore,
    handles: Arc<Mutex<Handles>>,
    copies: Option<Arc<LocalCopies>>,
    buffers: ObjectBuffers,
}

/// Memory for objects where nobody says how much there is. **Units**: bytes.
const ALLOWANCE_BYTES: usize = 128 << 20;

impl Stores {
    /// Stores that are opened with `open`.
    pub fn new(open: OpenStore) -> Self {
        let buffers = ObjectBuffers::of_allowance(ALLOWANCE_BYTES);
        Stores { open, handles: Arc::default(), copies: None, buffers }
    }

    /// Fills these buffers with what is uploaded.
    pub fn with_buffers(mut self, buffers: ObjectBuffers) -> Self {
        self.buffers = buffers;
        self
    }

    /// The buffers of all tasks.
    pub fn buffers(&self) -> &ObjectBuffers {
        &self.buffers
    }

    /// Keeps copies of what is uploaded, and reads them first.
    pub fn with_copies(mut self, copies: LocalCopies) -> Self {
        self.copies = Some(Arc::new(copies));
        self
    }

    /// The copies of what was uploaded to the store at `url`: a directory needs none.
    pub fn copies(&self, url: &str) -> Option<Arc<LocalCopies>> {
        self.copies.clone().filter(|_| !url.starts_with("file:"))
    }

    /// Stores at real addresses, with the credentials of this process.
    pub fn of_process(clock: Arc<dyn Clock>) -> Self {
        Stores::new(Arc::new(move |url, keys| {
            let options = StoreOptions::from_config(keys)?;
            let random = SplitMix64::new(seed(clock.as_ref()));
            weir_checkpoint::open(url, &options, Arc::clone(&clock), Box::new(random))
        }))
    }

    /// The store at `url`.
    ///
    /// **Errors**: an address or setting that cannot be understood.
    pub fn get(
        &self,
        url: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<Arc<dyn CheckpointStore>, CheckpointError> {
        let key = (url.to_owned(), options.iter().map(|(name, value)| (name.clone(), value.clone())).collect());
        let mut handles = self.handles.lock();
        if let Some(store) = handles.get(&key) {
            return Ok(Arc::clone(store));
        }
        let store = (self.open)(url, options)?;
        handles.insert(key, Arc::clone(&store));
        Ok(store)
    }
}
