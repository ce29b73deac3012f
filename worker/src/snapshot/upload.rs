//! Uploads what a task froze, beside the stream, and answers the coordinator. A store that is slow or fails costs the
//! checkpoint, never the task: the answer says why.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use weir_checkpoint::layout;
use weir_checkpoint::state_object::SectionHeader;
use weir_checkpoint::{
    ChannelState, CheckpointError, CheckpointStore, Incarnation, OperatorTaskState, SectionRef, SubtaskState,
    TableScope, TableState, TaskState,
};
use weir_core::planted::{self, planted};
use weir_core::random::SplitMix64;
use weir_core::{CheckpointId, Clock, FencingToken, JobId, OperatorUid};
use weir_operator_api::OperatorError;
use weir_proto::v1;
use weir_state::state_table::FreezeError;
use weir_state::{FrozenTable, StateScope};

use super::copies::{CopiedStore, LocalCopies};
use super::encode::{append, of_store};
use super::in_flight;
use super::objects::{FullObject, Objects, Place};
use super::reuse::{Memory, Pieces};
use super::stores::Stores;
use super::take::{OperatorSnapshot, TaskSnapshot};
use crate::error::TaskError;
use crate::input::Carried;
use crate::input::in_flight::ChannelAtCut;
use crate::seed::seed;

/// Orders to trigger that are remembered for barriers that come later.
const ORDERS_REMEMBERED: usize = 16;

/// How much later an object comes than it should: the planted mistake `manifest-before-last-object`.
const PLANTED_PAUSE: Duration = Duration::from_millis(500);

/// An order to take a checkpoint, as it came.
#[derive(Clone, Debug)]
pub struct TriggerOrder {
    /// When it came, monotonic.
    pub came_at: Duration,
    /// Directory of a savepoint; empty for a checkpoint.
    pub savepoint_directory: String,
    /// The newest completed checkpoint; 0 for none.
    pub base: CheckpointId,
}

/// What the tasks of one attempt need for their checkpoints.
#[derive(Clone)]
pub struct Checkpointing {
    inner: Arc<Inner>,
}

struct Inner {
    job: JobId,
    token: FencingToken,
    incarnation: Incarnation,
    url: String,
    options: BTreeMap<String, String>,
    stores: Stores,
    /// Copies on the own disk, when the job wants them and the store is another machine.
    copies: Option<Arc<LocalCopies>>,
    /// Objects that each checkpoint of this attempt refers to.
    written: Mutex<BTreeMap<CheckpointId, BTreeSet<String>>>,
    clock: Arc<dyn Clock>,
    random: Mutex<SplitMix64>,
    orders: watch::Sender<BTreeMap<CheckpointId, TriggerOrder>>,
    given_up: watch::Sender<CheckpointId>,
    cancel: CancellationToken,
}

/// A part of a checkpoint, written.
#[derive(Debug)]
pub struct Written {
    /// As it goes into the manifest.
    pub state: TaskState,
    /// What it cost.
    pub stats: v1::CheckpointStats,
}

impl Checkpointing {
    /// Reads the order of the coordinator.
    ///
    /// **Errors**: an incarnation or a store address that cannot be understood.
    pub fn new(
        (job, token): (JobId, FencingToken),
        setup: &v1::CheckpointSetup,
        stores: Stores,
        clock: Arc<dyn Clock>,
        cancel: CancellationToken,
    ) -> Result<Self, TaskError> {
        let incarnation = setup.incarnation.parse::<Incarnation>().map_err(|error| {
            TaskError::internal(crate::error::DEPLOY_INVALID, format!("unreadable order to deploy: {error}"))
        })?;
        let options: BTreeMap<String, String> = setup.store_options.clone().into_iter().collect();
        let store = stores.get(&setup.store, &options).map_err(|error| of_store(&error))?;
        let inner = Inner {
            job,
            token,
            incarnation,
            url: setup.store.clone(),
            options,
            copies: stores.copies(store.url()).filter(|_| setup.keeps_local_copies),
            written: Mutex::default(),
            stores,
            random: Mutex::new(SplitMix64::new(seed(clock.as_ref()))),
            orders: watch::channel(BTreeMap::new()).0,
            given_up: watch::channel(CheckpointId(0)).0,
            clock,
            cancel,
        };
        Ok(Checkpointing { inner: Arc::new(inner) })
    }

    /// An order came; snapshots of this checkpoint may be uploaded.
    pub fn ordered(&self, checkpoint: CheckpointId, order: TriggerOrder) {
        self.inner.orders.send_modify(|orders| {
            orders.insert(checkpoint, order);
            while orders.len() > ORDERS_REMEMBERED {
                orders.pop_first();
            }
        });
    }

    /// The checkpoint and all before it will not be completed.
    pub fn give_up(&self, checkpoint: CheckpointId) {
        self.inner.given_up.send_modify(|given_up| *given_up = checkpoint.max(*given_up));
    }

    /// The checkpoint is committed: copies that only older ones refer to are not wanted any more.
    pub fn completed(&self, checkpoint: CheckpointId) -> impl Future<Output = ()> + Send + use<> {
        let (copies, job) = (self.inner.copies.clone(), self.inner.job);
        let mut written = self.inner.written.lock();
        *written = written.split_off(&checkpoint);
        let kept: BTreeSet<String> = written.values().flatten().cloned().collect();
        async move {
            if let Some(copies) = copies {
                copies.retain(job, &kept).await;
            }
        }
    }

    /// The store of a checkpoint to restore from, with the copies in front of it.
    ///
    /// **Errors**: an address that cannot be understood.
    pub fn restore_store(&self, url: &str) -> Result<Arc<dyn CheckpointStore>, TaskError> {
        let store = self.store(url)?;
        match &self.inner.copies {
            Some(copies) => Ok(Arc::new(CopiedStore::new(store, Arc::clone(copies)))),
            None => Ok(store),
        }
    }

    /// The store at an address; the job's own when it is empty.
    ///
    /// **Errors**: an address that cannot be understood.
    pub fn store(&self, url: &str) -> Result<Arc<dyn CheckpointStore>, TaskError> {
        let url = if url.is_empty() { &self.inner.url } else { url };
        self.inner.stores.get(url, &self.inner.options).map_err(|error| of_store(&error))
    }

    /// Encodes and uploads one part of a checkpoint; `None` when the attempt or the checkpoint is given up meanwhile.
    /// `memory` is the task's.
    pub async fn write(&self, snapshot: TaskSnapshot, memory: &Mutex<Memory>) -> Option<Result<Written, TaskError>> {
        let checkpoint = snapshot.checkpoint;
        let mut given_up = self.inner.given_up.subscribe();
        let is_given_up = async {
            if given_up.wait_for(|given_up| *given_up >= checkpoint).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = self.inner.cancel.cancelled() => None,
            () = is_given_up => None,
            written = self.carry_out(snapshot, memory) => Some(written),
        }
    }

    async fn carry_out(&self, snapshot: TaskSnapshot, memory: &Mutex<Memory>) -> Result<Written, TaskError> {
        let inner = &self.inner;
        let checkpoint = snapshot.checkpoint;
        let order = self.order(checkpoint).await?;
        let mut snapshot = snapshot;
        let (mut channels, is_unaligned) = (Vec::new(), snapshot.in_flight.is_some());
        if let Some(in_flight) = snapshot.in_flight.take() {
            channels = in_flight.complete().await?;
            snapshot.alignment = inner.clock.monotonic().saturating_sub(snapshot.began_at);
        }
        let micros = |duration: Duration| duration.as_micros() as u64;
        let mut stats = v1::CheckpointStats {
            start_delay_us: micros(snapshot.began_at.saturating_sub(order.came_at)),
            alignment_us: micros(snapshot.alignment),
            freeze_us: micros(snapshot.freeze),
            is_unaligned,
            ..v1::CheckpointStats::default()
        };
        let is_savepoint = !order.savepoint_directory.is_empty();
        // A savepoint is whole.
        let buffers = inner.stores.buffers();
        let full_bytes = buffers.object_bytes() as u64;
        let known = if is_savepoint { Pieces::new() } else { memory.lock().reusable(order.base, full_bytes) };
        let began = inner.clock.monotonic();
        let (objects, full) = Objects::new(buffers.clone(), Handle::current());
        let encoding = tokio::task::spawn_blocking(move || encode_all(snapshot, channels, &known, objects));
        let uploaded = self.upload(full, &order, &mut stats).await;
        let uploaded_at = inner.clock.monotonic();
        let encoded =
            encoding.await.map_err(|error| TaskError::internal("internal", format!("encoding broke: {error}")));
        // An upload that failed is why encoding could not go on.
        let sections = uploaded?;
        let Encoded { operators, in_flight_bytes } = encoded??;
        stats.in_flight_bytes = in_flight_bytes;
        stats.write_us = micros(uploaded_at.saturating_sub(began)).saturating_sub(stats.upload_us);
        let mut pieces = Pieces::new();
        let operators = operators.into_iter().map(|operator| operator.finish(&sections, &mut pieces)).collect();
        let state = TaskState { operators };
        stats.bytes = state.section_bytes();
        if !is_savepoint {
            memory.lock().wrote(checkpoint, pieces);
            inner.written.lock().entry(checkpoint).or_default().extend(state.object_paths().map(str::to_owned));
        }
        Ok(Written { state, stats })
    }

    /// The order for a checkpoint; a barrier from another worker may have been faster than it.
    async fn order(&self, checkpoint: CheckpointId) -> Result<TriggerOrder, TaskError> {
        let mut orders = self.inner.orders.subscribe();
        let orders = orders.wait_for(|orders| orders.keys().next_back().is_some_and(|last| *last >= checkpoint)).await;
        let orders = orders.map_err(|_| TaskError::internal("internal", "the attempt is gone"))?;
        let missing = || TaskError::internal("internal", format!("checkpoint {checkpoint} was not ordered here"));
        orders.get(&checkpoint).cloned().ok_or_else(missing)
    }

    /// Uploads objects as they are filled; gives the sections of each.
    async fn upload(
        &self,
        mut full: mpsc::Receiver<FullObject>,
        order: &TriggerOrder,
        stats: &mut v1::CheckpointStats,
    ) -> Result<Vec<Vec<SectionRef>>, TaskError> {
        let store = self.store(&order.savepoint_directory)?;
        let (mut uploaded, mut waited) = (Vec::new(), Duration::ZERO);
        while let Some(object) = full.recv().await {
            let path = self.path(order);
            let (bytes, sections) = object.finish(&path);
            stats.new_bytes += bytes.len() as u64;
            let began = self.inner.clock.monotonic();
            if planted(planted::MANIFEST_BEFORE_LAST_OBJECT) {
                let (store, pause) = (Arc::clone(&store), self.inner.clock.sleep(PLANTED_PAUSE));
                tokio::spawn(async move {
                    pause.await;
                    store.put_new(&path, bytes).await
                });
                uploaded.push(sections);
                continue;
            }
            let copied = bytes.clone();
            store.put_new(&path, bytes).await.map_err(|error: CheckpointError| of_store(&error))?;
            if let Some(copies) = self.inner.copies.as_ref().filter(|_| order.savepoint_directory.is_empty()) {
                copies.keep(&path, copied).await;
            }
            waited += self.inner.clock.monotonic().saturating_sub(began);
            uploaded.push(sections);
        }
        stats.upload_us = waited.as_micros() as u64;
        Ok(uploaded)
    }

    /// The path of a new object.
    fn path(&self, order: &TriggerOrder) -> String {
        let inner = &self.inner;
        let mut random = inner.random.lock();
        if order.savepoint_directory.is_empty() {
            layout::state_object(inner.job, inner.incarnation, inner.token, &mut *random)
        } else {
            layout::savepoint_object(&mut *random)
        }
    }
}

/// The channels of a task with what they had in flight.
type Channels = Vec<(ChannelAtCut, Vec<Carried>)>;

/// Operators whose rows are written.
struct Encoded {
    operators: Vec<EncodedOperator>,
    in_flight_bytes: u64,
}

/// An operator whose rows are written.
struct EncodedOperator {
    state: OperatorTaskState,
    /// For each table of the state, its pieces.
    pieces: Vec<Vec<Piece>>,
    /// For each channel with elements in flight, its section.
    channels: Vec<Option<Place>>,
}

/// Some rows of a table.
struct Piece {
    number: Option<u64>,
    place: PiecePlace,
}

enum PiecePlace {
    /// In an earlier checkpoint.
    Known(Vec<SectionRef>),
    /// In the objects of this one.
    New(Vec<Place>),
}

impl EncodedOperator {
    /// Puts the references in, and notes those of rows with numbers.
    fn finish(mut self, sections: &[Vec<SectionRef>], noted: &mut Pieces) -> OperatorTaskState {
        let of_place = |place: Place| sections.get(place.object).and_then(|object| object.get(place.section)).cloned();
        for (table, pieces) in self.state.state.tables.iter_mut().zip(self.pieces) {
            for Piece { number, place } in pieces {
                let references = match place {
                    PiecePlace::Known(references) => references,
                    PiecePlace::New(places) => places.into_iter().filter_map(of_place).collect(),
                };
                if let Some(number) = number {
                    noted.insert((self.state.uid.clone(), table.name.clone(), number), references.clone());
                }
                table.sections.extend(references);
            }
        }
        for (channel, number) in self.state.state.channels.iter_mut().zip(self.channels) {
            channel.section = number.and_then(of_place);
        }
        self.state
    }
}

/// Writes all rows that are not known.
fn encode_all(
    snapshot: TaskSnapshot,
    channels: Channels,
    known: &Pieces,
    mut objects: Objects,
) -> Result<Encoded, TaskError> {
    let mut operators = Vec::with_capacity(snapshot.operators.len());
    for mut operator in snapshot.operators {
        let mut tables = Vec::with_capacity(operator.tables.len());
        for table in &mut operator.tables {
            let pieces = encode_table(&operator.uid, table, known, &mut objects);
            tables.push(pieces.map_err(|error| TaskError { operator: Some(operator.uid.clone()), ..error })?);
        }
        operators.push(EncodedOperator { state: without_sections(operator), pieces: tables, channels: Vec::new() });
    }
    let mut in_flight_bytes = 0;
    // The head of the chain is who takes what the channels bring.
    if let Some(head) = operators.first_mut() {
        for (channel, elements) in channels {
            let rows = elements.len() as u64;
            let section = match rows {
                0 => None,
                _ => {
                    let payload = in_flight::encode(elements, &channel.schema)?;
                    in_flight_bytes += payload.len() as u64;
                    let (first_key_group, last_key_group) = (0, 0);
                    let table = in_flight::IN_FLIGHT_TABLE.to_owned();
                    let header = SectionHeader { table, rows, first_key_group, last_key_group };
                    Some(objects.append(header, payload.len(), |buffer| {
                        buffer.extend_from_slice(&payload);
                        Ok(())
                    })?)
                }
            };
            head.channels.push(section);
            head.state.state.channels.push(ChannelState {
                edge: channel.edge.to_string(),
                sender: channel.sender,
                watermark: channel.watermark,
                section: None,
            });
        }
    }
    objects.finish()?;
    Ok(Encoded { operators, in_flight_bytes })
}

fn encode_table(
    uid: &OperatorUid,
    table: &mut FrozenTable,
    known: &Pieces,
    objects: &mut Objects,
) -> Result<Vec<Piece>, TaskError> {
    // What is written needs no memory any more.
    let frozen = std::mem::take(&mut table.pieces);
    let table = &*table;
    let mut pieces = Vec::with_capacity(frozen.len());
    let (mut loose, mut loose_bytes) = (Vec::new(), 0);
    for piece in frozen {
        let number = piece.number();
        let earlier = number.and_then(|number| known.get(&(uid.clone(), table.name.clone(), number)));
        if let Some(earlier) = earlier {
            pieces.push(Piece { number, place: PiecePlace::Known(earlier.clone()) });
            continue;
        }
        let unreadable = |error: FreezeError| OperatorError::internal("state cannot be put together").because(error);
        let batches = piece.rows().map(|rows| rows.map_err(|error| TaskError::of_operator(uid, &unreadable(error))));
        if number.is_some() {
            let mut places = Vec::new();
            let (mut few, mut few_bytes) = (Vec::new(), 0);
            for rows in batches {
                gather(table, rows?, (&mut few, &mut few_bytes), &mut places, objects)?;
            }
            places.extend(append(&table.name, table.scope, few, objects)?);
            pieces.push(Piece { number, place: PiecePlace::New(places) });
            continue;
        }
        let mut places = Vec::new();
        for rows in batches {
            gather(table, rows?, (&mut loose, &mut loose_bytes), &mut places, objects)?;
        }
        pieces.push(Piece { number, place: PiecePlace::New(places) });
    }
    let places = append(&table.name, table.scope, loose, objects)?;
    pieces.push(Piece { number: None, place: PiecePlace::New(places) });
    Ok(pieces)
}

/// Many small batches become few sections; not more of them is held than makes one.
fn gather(
    table: &FrozenTable,
    rows: RecordBatch,
    (few, few_bytes): (&mut Vec<RecordBatch>, &mut usize),
    places: &mut Vec<Place>,
    objects: &mut Objects,
) -> Result<(), TaskError> {
    *few_bytes += rows.get_array_memory_size();
    few.push(rows);
    if *few_bytes >= objects.section_bytes() {
        places.extend(append(&table.name, table.scope, std::mem::take(few), objects)?);
        *few_bytes = 0;
    }
    Ok(())
}

/// The state of an operator as it goes into a manifest, before its rows have a place.
pub fn without_sections(operator: OperatorSnapshot) -> OperatorTaskState {
    let tables = operator.tables.iter().map(|table| TableState {
        name: table.name.clone(),
        version: table.version,
        scope: match table.scope {
            StateScope::Keyed => TableScope::Keyed,
            StateScope::Shared => TableScope::Shared,
        },
        sections: Vec::new(),
    });
    let state = SubtaskState {
        subtask_index: operator.subtask,
        has_ended: operator.has_ended,
        watermark_in: operator.watermark_in,
        watermark_out: operator.watermark_out,
        counters: operator.counters,
        tables: tables.collect(),
        splits: operator.splits,
        sink_states: operator.sink_states,
        committables: operator.committables,
        channels: Vec::new(),
    };
    OperatorTaskState { uid: operator.uid, state }
}
