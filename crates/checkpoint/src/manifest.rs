//! The manifest: everything a job needs to go on from a checkpoint or savepoint, and where its state lies.
//!
//! The coordinator writes it last, create-if-absent, and reads it at a restore. It names state objects and knows nothing
//! of what they hold. A disk format: one line (`envelope.rs`) and JSON; the golden file in `tests/golden` shows it whole.
//! A field is never changed silently: any change is a new [`FORMAT_VERSION`], and every older version stays readable.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_core::key_group::KEY_GROUP_COUNT_MAX;
use weir_core::{CheckpointId, EventTime, FencingToken, JobId, OperatorUid, SplitIndex, SubtaskIndex, Value};

use crate::layout::{self, Incarnation, Named};
use crate::{CheckpointError, Result, envelope, json};

/// Version of the format that this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 2;
/// Greatest manifest that is written or read, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;

const MAGIC: &str = "weir-manifest";

/// One completed checkpoint or savepoint of a job.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Whose.
    #[serde(with = "json::job_id")]
    pub job: JobId,
    /// The job's name, for people.
    pub job_name: String,
    /// The life of the job that wrote it.
    #[serde(with = "json::incarnation")]
    pub incarnation: Incarnation,
    /// Which checkpoint; ids grow over all attempts of a job.
    #[serde(with = "json::checkpoint_id")]
    pub checkpoint: CheckpointId,
    /// Whose it is: ours or the user's.
    pub kind: CheckpointKind,
    /// Who wrote it; makes the bytes of each writer its own, so that an unclear answer of the store can be settled.
    #[serde(with = "json::token")]
    pub attempt: FencingToken,
    /// Wall time of the writer, milliseconds since 1970-01-01 UTC.
    pub created_unix_ms: i64,
    /// Key groups of the job; a restore keeps the number.
    pub key_group_count: u32,
    /// The submitted job graph, in the encoding of the one who wrote it; opaque here.
    #[serde(with = "json::hex_bytes")]
    pub graph: Bytes,
    /// The operators in topological order.
    pub operators: Vec<OperatorState>,
}

/// Whose a checkpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointKind {
    /// Weir's: it is deleted when newer ones have taken its place. Paths are relative to the checkpoint store.
    Checkpoint,
    /// The user's: self-contained and never deleted. Paths are relative to its own directory.
    Savepoint,
}

/// The state of one operator.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorState {
    /// The user's stable name of the operator.
    #[serde(with = "json::operator_uid")]
    pub uid: OperatorUid,
    /// What it is, like `window`; a restore into another kind is refused.
    pub kind: String,
    /// Subtasks it had.
    pub parallelism: u32,
    /// One for each subtask, in order.
    pub subtasks: Vec<SubtaskState>,
}

/// The state of one subtask of an operator.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubtaskState {
    /// Which subtask.
    #[serde(with = "json::subtask_index")]
    pub subtask_index: SubtaskIndex,
    /// Whether all its input had come: it has finished and nothing more comes out of it.
    pub has_ended: bool,
    /// Input watermark at the barrier, microseconds.
    #[serde(with = "json::event_time")]
    pub watermark_in: EventTime,
    /// Output watermark at the barrier, microseconds.
    #[serde(with = "json::event_time")]
    pub watermark_out: EventTime,
    /// Counts that go on over restarts (late records, bad records, records in and out).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u64>,
    /// Rows of state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableState>,
    /// Places in the splits of a source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<SplitState>,
    /// What a sink needs to go on, in the connector's own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "json::values")]
    pub sink_states: Vec<Value>,
    /// Output that this checkpoint commits, in the connector's own words: published again after a restore.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "json::values")]
    pub committables: Vec<Value>,
    /// What its channels had in flight when the barrier overtook it; none where the barrier waited. Since version 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelState>,
}

impl SubtaskState {
    /// A subtask of which there is nothing to say yet.
    pub fn new(subtask_index: SubtaskIndex) -> Self {
        SubtaskState {
            subtask_index,
            has_ended: false,
            watermark_in: EventTime::MIN,
            watermark_out: EventTime::MIN,
            counters: BTreeMap::new(),
            tables: Vec::new(),
            splits: Vec::new(),
            sink_states: Vec::new(),
            committables: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// Every section it refers to.
    pub fn sections(&self) -> impl Iterator<Item = &SectionRef> {
        let of_tables = self.tables.iter().flat_map(|table| &table.sections);
        of_tables.chain(self.channels.iter().filter_map(|channel| channel.section.as_ref()))
    }
}

/// What one channel into a subtask had in flight when the barrier overtook it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelState {
    /// Name of its edge, the same in every plan that has it.
    pub edge: String,
    /// The sending subtask.
    #[serde(with = "json::subtask_index")]
    pub sender: SubtaskIndex,
    /// Its watermark at the cut, microseconds.
    #[serde(with = "json::event_time")]
    pub watermark: EventTime,
    /// Its elements in order; `None` when nothing was in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<SectionRef>,
}

/// Where a source stands in one split.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitState {
    /// Which split, over the whole source.
    #[serde(with = "json::split_index")]
    pub index: SplitIndex,
    /// What it is, in the connector's own words.
    #[serde(with = "json::value")]
    pub description: Value,
    /// Where to go on, in the connector's own words; `None` when it was not begun.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "json::optional_value")]
    pub position: Option<Value>,
    /// Whether it was read to its end.
    pub is_finished: bool,
}

/// One state of an operator subtask: rows under a name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableState {
    /// Unique in the operator.
    pub name: String,
    /// Version of the meaning of its columns.
    pub version: u32,
    /// Who gets which rows at a restore.
    pub scope: TableScope,
    /// Where the rows are; none for a table without rows.
    pub sections: Vec<SectionRef>,
}

/// Who gets which rows of a table at a restore; as `weir_state::StateScope`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableScope {
    /// The subtask that owns the row's key group.
    Keyed,
    /// Every subtask gets all rows.
    Shared,
}

/// A part of a state object: the unit that is read and verified.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SectionRef {
    /// The object it lies in.
    pub object: ObjectRef,
    /// First byte in the object.
    pub offset: u64,
    /// Bytes in the object; what the section holds is some bytes less (see `state_object.rs`).
    pub length: u64,
    /// xxh3-128 of the section.
    #[serde(with = "json::hex128")]
    pub checksum: u128,
    /// Rows in it.
    pub rows: u64,
    /// First key group with rows in it; 0 in a shared table.
    pub first_key_group: u32,
    /// Last key group with rows in it; 0 in a shared table.
    pub last_key_group: u32,
}

impl SectionRef {
    /// Whether the section may hold rows of the key groups `[start, end)`.
    pub fn intersects(&self, start: u32, end: u32) -> bool {
        self.first_key_group < end && start <= self.last_key_group
    }
}

/// One object of a store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Where, relative to the store (or to the directory of the savepoint).
    pub path: String,
    /// In bytes.
    pub length: u64,
    /// xxh3-128 of all its bytes.
    #[serde(with = "json::hex128")]
    pub checksum: u128,
}

impl Manifest {
    /// The bytes to store.
    ///
    /// **Errors**: `Malformed` when the manifest breaks a rule of the format, so that it could not be read again.
    pub fn encode(&self) -> Result<Bytes> {
        let place = self.path();
        self.validate(&place)?;
        let body = to_json(self, &place)?;
        Ok(envelope::seal(MAGIC, FORMAT_VERSION, &body))
    }

    /// Reads a manifest; `place` is where it lies, for messages.
    ///
    /// **Errors**: see [`envelope::open`]; `Malformed` when it is whole and breaks a rule of the format. Nothing of a
    /// manifest that gives an error is to be used.
    pub fn decode(bytes: &[u8], place: &str) -> Result<Manifest> {
        let (_, body) = envelope::open(MAGIC, FORMAT_VERSION, bytes, place)?;
        let manifest: Manifest = from_json(body, place)?;
        manifest.validate(place)?;
        Ok(manifest)
    }

    /// Where this manifest belongs in its store.
    pub fn path(&self) -> String {
        match self.kind {
            CheckpointKind::Checkpoint => layout::checkpoint_manifest(self.job, self.incarnation, self.checkpoint),
            CheckpointKind::Savepoint => layout::MANIFEST.to_owned(),
        }
    }

    /// Every object it needs, by path.
    pub fn objects(&self) -> BTreeMap<&str, &ObjectRef> {
        self.sections().map(|section| (section.object.path.as_str(), &section.object)).collect()
    }

    /// Bytes of state it refers to.
    pub fn state_bytes(&self) -> u64 {
        self.sections().fold(0, |sum, section| sum.saturating_add(section.length))
    }

    fn sections(&self) -> impl Iterator<Item = &SectionRef> {
        let subtasks = self.operators.iter().flat_map(|operator| &operator.subtasks);
        subtasks.flat_map(SubtaskState::sections)
    }

    /// Whether a barrier overtook: then it restores task by task, each as it was.
    pub fn is_unaligned(&self) -> bool {
        self.operators.iter().flat_map(|operator| &operator.subtasks).any(|subtask| !subtask.channels.is_empty())
    }

    fn validate(&self, place: &str) -> Result<()> {
        let rule = |reason: String| Err(CheckpointError::Malformed { place: place.to_owned(), reason });
        if !(1..=KEY_GROUP_COUNT_MAX).contains(&self.key_group_count) {
            return rule(format!("{} key groups", self.key_group_count));
        }
        let mut uids = BTreeSet::new();
        for operator in &self.operators {
            let uid = &operator.uid;
            if !uids.insert(uid) {
                return rule(format!("operator '{uid}' comes twice"));
            }
            let indexes = operator.subtasks.iter().map(|subtask| subtask.subtask_index.0);
            if operator.parallelism == 0 || !indexes.eq(0..operator.parallelism) {
                let (count, of) = (operator.subtasks.len(), operator.parallelism);
                return rule(format!("operator '{uid}' has not its subtasks in order ({count} of {of})"));
            }
            for subtask in &operator.subtasks {
                check_subtask(subtask).or_else(|reason| rule(format!("operator '{uid}': {reason}")))?;
            }
        }
        let mut objects: BTreeMap<&str, &ObjectRef> = BTreeMap::new();
        for section in self.sections() {
            let path = section.object.path.as_str();
            let is_own = match self.kind {
                CheckpointKind::Checkpoint => matches!(layout::parse(path), Some(Named::StateObject { .. })),
                CheckpointKind::Savepoint => path.strip_prefix("data/").is_some_and(|name| !name.contains('/')),
            };
            if !is_own {
                return rule(format!("'{path}' is not a state object of a {:?}", self.kind).to_lowercase());
            }
            if section.last_key_group >= self.key_group_count {
                return rule(format!("a section of '{path}' has key group {}", section.last_key_group));
            }
            if *objects.entry(path).or_insert(&section.object) != &section.object {
                return rule(format!("'{path}' has two lengths or checksums"));
            }
        }
        Ok(())
    }
}

/// The rules of one subtask's state, for manifests and task states alike; the reason when one is broken.
pub(crate) fn check_subtask(subtask: &SubtaskState) -> Result<(), String> {
    let index = subtask.subtask_index;
    let mut names = BTreeSet::new();
    for table in &subtask.tables {
        if !names.insert(&table.name) {
            return Err(format!("subtask {index} has table '{}' twice", table.name));
        }
        check_sections(&table.sections).map_err(|why| format!("subtask {index}: table '{}': {why}", table.name))?;
    }
    let mut channels = BTreeSet::new();
    for channel in &subtask.channels {
        let (edge, sender) = (&channel.edge, channel.sender);
        if !channels.insert((edge, sender)) {
            return Err(format!("subtask {index} has the channel from subtask {sender} of '{edge}' twice"));
        }
        check_sections(&channel.section).map_err(|why| format!("subtask {index}: channel of '{edge}': {why}"))?;
    }
    let mut splits = BTreeSet::new();
    if let Some(split) = subtask.splits.iter().find(|split| !splits.insert(split.index)) {
        return Err(format!("subtask {index} has split {} twice", split.index));
    }
    let of_splits = subtask.splits.iter().flat_map(|split| split.position.iter().chain([&split.description]));
    let mut values = subtask.sink_states.iter().chain(&subtask.committables).chain(of_splits);
    match values.any(|value| value.depth() > json::VALUE_DEPTH_MAX) {
        true => Err(format!("subtask {index} has a value nested deeper than {}", json::VALUE_DEPTH_MAX)),
        false => Ok(()),
    }
}

fn check_sections<'a>(sections: impl IntoIterator<Item = &'a SectionRef>) -> Result<(), String> {
    for section in sections {
        let path = &section.object.path;
        layout::check_path(path).map_err(|error| error.to_string())?;
        let end = section.offset.checked_add(section.length);
        if end.is_none_or(|end| end > section.object.length) || section.first_key_group > section.last_key_group {
            return Err(format!("a section does not fit '{path}'"));
        }
    }
    Ok(())
}

pub(crate) fn to_json(content: &impl Serialize, place: &str) -> Result<Vec<u8>> {
    let malformed = |reason: String| CheckpointError::Malformed { place: place.to_owned(), reason };
    let body = serde_json::to_vec_pretty(content).map_err(|error| malformed(error.to_string()))?;
    if body.len() > MANIFEST_BYTES_MAX {
        return Err(malformed(format!("{} bytes; at most {MANIFEST_BYTES_MAX}", body.len())));
    }
    Ok(body)
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(body: &[u8], place: &str) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| CheckpointError::Malformed { place: place.to_owned(), reason: error.to_string() })
}
