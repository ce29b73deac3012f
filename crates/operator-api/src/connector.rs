//! Factories of sources and sinks, and the registry in which each process's wiring puts them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use weir_core::{OperatorUid, Settings, Value};

use crate::Result;
use crate::sink::{SinkCommitter, SinkContext, SinkWriter};
use crate::source::{ReaderContext, SourceReader, Split};

/// What a source says about itself for given settings.
#[derive(Clone, Debug)]
pub struct SourceProperties {
    /// Schema of its rows.
    pub schema: SchemaRef,
    /// Whether it ends by itself.
    pub is_bounded: bool,
    /// Whether it can leave out columns nobody reads, losing no error by that.
    pub can_project: bool,
    /// Most subtasks that are of use, if limited.
    pub parallelism_max: Option<u32>,
}

/// What a sink says about itself for given settings and input.
#[derive(Clone, Debug, Default)]
pub struct SinkProperties {
    /// Most subtasks it can run with, if limited (1 for a single output file).
    pub parallelism_max: Option<u32>,
    /// Whether it can take updates and deletes, not only inserts.
    pub takes_changes: bool,
    /// Whether the job's keys of object stores (`s3.*`) hold for it where its settings have none.
    pub takes_store_keys: bool,
    /// Columns whose equal values must come to one subtask, if it matters.
    pub partition_by: Option<Vec<String>>,
}

/// Makes the sources of one kind.
#[async_trait]
pub trait SourceFactory: Send + Sync {
    /// The kind in a job graph, like `file_source`.
    fn kind(&self) -> &'static str;

    /// Checks settings and describes the source; `None` after recording problems. Pure: touches no file or network.
    fn describe(&self, settings: &Settings<'_>) -> Option<SourceProperties>;

    /// Decides the splits, once per job start, in the coordinator. Looks at the outside world (lists files).
    ///
    /// **Errors**: a missing file or the like: the job fails at submission with this message.
    async fn enumerate(
        &self,
        uid: &OperatorUid,
        settings: &BTreeMap<String, Value>,
        parallelism: u32,
    ) -> Result<Vec<Split>>;

    /// Opens a reader in a worker.
    async fn reader(&self, context: ReaderContext) -> Result<Box<dyn SourceReader>>;
}

/// Makes the sinks of one kind.
#[async_trait]
pub trait SinkFactory: Send + Sync {
    /// The kind in a job graph, like `file_sink`.
    fn kind(&self) -> &'static str;

    /// Checks settings against the input and describes the sink; `None` after recording problems. Pure.
    fn describe(&self, settings: &Settings<'_>, input: &Schema) -> Option<SinkProperties>;

    /// Opens a writer in a worker.
    async fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>>;

    /// Whether writers that die leave output behind, hidden, that has to be swept when the job ends early.
    fn leaves_output(&self) -> bool {
        false
    }

    /// Opens a committer in a worker.
    async fn committer(&self, settings: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>>;
}

/// The connectors of a process, by kind.
#[derive(Clone, Default)]
pub struct Registry {
    sources: BTreeMap<&'static str, Arc<dyn SourceFactory>>,
    sinks: BTreeMap<&'static str, Arc<dyn SinkFactory>>,
}

impl Registry {
    /// Adds a kind of source.
    pub fn with_source(mut self, factory: impl SourceFactory + 'static) -> Self {
        self.sources.insert(factory.kind(), Arc::new(factory));
        self
    }

    /// Adds a kind of sink.
    pub fn with_sink(mut self, factory: impl SinkFactory + 'static) -> Self {
        self.sinks.insert(factory.kind(), Arc::new(factory));
        self
    }

    /// Finds a kind of source.
    pub fn source(&self, kind: &str) -> Option<&Arc<dyn SourceFactory>> {
        self.sources.get(kind)
    }

    /// Finds a kind of sink.
    pub fn sink(&self, kind: &str) -> Option<&Arc<dyn SinkFactory>> {
        self.sinks.get(kind)
    }

    /// All kinds of sources.
    pub fn source_kinds(&self) -> Vec<&'static str> {
        self.sources.keys().copied().collect()
    }

    /// All kinds of sinks.
    pub fn sink_kinds(&self) -> Vec<&'static str> {
        self.sinks.keys().copied().collect()
    }
}
