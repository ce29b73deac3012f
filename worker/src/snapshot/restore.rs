//! From the references in an order to restore to the rows and values that operators take back: fetched on the control
//! threads, verified by the store, cut to the task's key groups. Anything missing or damaged ends the task with the
//! name of the object; nothing is skipped.
//!
//! Keyed rows of operators come one section after the other, so that state larger than memory can be taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use weir_checkpoint::{ChannelState, CheckpointStore, SectionRef, SubtaskState, TableScope, TaskState};
use weir_core::{EventTime, KeyGroupRange, OperatorUid, SubtaskIndex};
use weir_operator_api::SinkState;
use weir_state::{StateScope, StateTable};

use super::{encode, in_flight};
use crate::error::{DEPLOY_INVALID, TaskError};
use crate::input::in_flight::RestoredChannel;

/// Sections of one task that are fetched at once.
const FETCHES_MAX: usize = 4;

/// What one operator takes back at once.
#[derive(Clone, Debug)]
pub struct RestoredOperator {
    /// Least input watermark of the old subtasks.
    pub watermark_in: EventTime,
    /// Least output watermark of the old subtasks.
    pub watermark_out: EventTime,
    /// Counts to go on from.
    pub counters: BTreeMap<String, u64>,
    /// Rows, one table per name.
    pub tables: Vec<StateTable>,
    /// For sinks: what each old subtask gave.
    pub sinks: Vec<SinkState>,
    /// What the channels of the task had in flight, of the head of a chain.
    pub in_flight: Vec<RestoredChannel>,
}

/// Schema of the rows of each edge that feeds the task, by name.
pub type EdgeSchemas = BTreeMap<String, SchemaRef>;

/// What the operators of one task take back at once, by their names in the state.
pub type RestoredTask = BTreeMap<OperatorUid, RestoredOperator>;

/// How an operator gets its keyed rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyedRows {
    /// One section after the other, behind everything else.
    Follow,
    /// With everything else.
    AtOnce,
    /// They are another operator's.
    NotHere,
}

/// Keyed rows that follow.
#[derive(Clone, Debug)]
pub struct KeyedSection {
    operator: OperatorUid,
    table: String,
    version: u32,
    section: SectionRef,
}

/// Fetches what a task takes back at once, and lists the keyed rows that follow.
///
/// **Errors**: an object that is missing, damaged or unreadable, by name.
pub async fn begin(
    state: TaskState,
    store: Arc<dyn CheckpointStore>,
    range: KeyGroupRange,
    (keyed_rows, edges): (BTreeMap<OperatorUid, KeyedRows>, EdgeSchemas),
) -> Result<(RestoredTask, Vec<KeyedSection>), TaskError> {
    let mut by_operator: BTreeMap<OperatorUid, Vec<SubtaskState>> = BTreeMap::new();
    for operator in state.operators {
        by_operator.entry(operator.uid).or_default().push(operator.state);
    }
    let (mut restored, mut follow) = (RestoredTask::new(), Vec::new());
    for (id, mut givers) in by_operator {
        let how = keyed_rows.get(&id).copied().unwrap_or(KeyedRows::AtOnce);
        if how != KeyedRows::AtOnce {
            for table in givers.iter_mut().flat_map(|giver| &mut giver.tables) {
                if table.scope == TableScope::Keyed {
                    let sections = std::mem::take(&mut table.sections).into_iter();
                    let own = sections.filter(|section| section.intersects(range.start, range.end));
                    let (operator, name, version) = (&id, &table.name, table.version);
                    follow.extend(own.filter(|_| how == KeyedRows::Follow).map(|section| KeyedSection {
                        operator: operator.clone(),
                        table: name.clone(),
                        version,
                        section,
                    }));
                }
            }
        }
        let operator = fetch_operator(givers, &store, range, &edges).await;
        let operator = operator.map_err(|error| TaskError { operator: Some(id.clone()), ..error })?;
        restored.insert(id, operator);
    }
    Ok((restored, follow))
}

/// The keyed rows, section by section, some of which are fetched ahead on the threads of `control`.
pub fn keyed_rows(
    sections: Vec<KeyedSection>,
    store: Arc<dyn CheckpointStore>,
    range: KeyGroupRange,
    control: Handle,
) -> impl Stream<Item = Result<(OperatorUid, StateTable), TaskError>> {
    let fetched = stream::iter(sections).map(move |KeyedSection { operator, table, version, section }| {
        let store = Arc::clone(&store);
        let fetching = control.spawn(async move { fetch_rows(&store, &table, version, section, range).await });
        async move {
            let rows = match fetching.await {
                Ok(rows) => rows,
                Err(error) => match error.try_into_panic() {
                    Ok(payload) => Err(TaskError::panic(payload.as_ref())),
                    Err(_) => Err(TaskError::external(crate::error::OPEN_TIMEOUT, "the worker is shutting down")),
                },
            };
            match rows {
                Ok(table) => Ok((operator, table)),
                Err(error) => Err(TaskError { operator: Some(operator), ..error }),
            }
        }
    });
    fetched.buffered(FETCHES_MAX)
}

async fn fetch_rows(
    store: &Arc<dyn CheckpointStore>,
    table: &str,
    version: u32,
    section: SectionRef,
    range: KeyGroupRange,
) -> Result<StateTable, TaskError> {
    let payload = store.get_section(&section).await.map_err(|error| encode::of_store(&error))?;
    let rows = encode::read(table, &payload, StateScope::Keyed, range)?;
    Ok(StateTable { name: table.to_owned(), version, scope: StateScope::Keyed, batches: rows.into_iter().collect() })
}

async fn fetch_operator(
    givers: Vec<SubtaskState>,
    store: &Arc<dyn CheckpointStore>,
    range: KeyGroupRange,
    edges: &EdgeSchemas,
) -> Result<RestoredOperator, TaskError> {
    let least = |of: fn(&SubtaskState) -> EventTime| givers.iter().map(of).min().unwrap_or(EventTime::MIN);
    let mut operator = RestoredOperator {
        watermark_in: least(|giver| giver.watermark_in),
        watermark_out: least(|giver| giver.watermark_out),
        counters: BTreeMap::new(),
        tables: Vec::new(),
        sinks: Vec::new(),
        in_flight: Vec::new(),
    };
    for giver in givers {
        for (name, count) in giver.counters {
            *operator.counters.entry(name).or_default() += count;
        }
        for channel in giver.channels {
            operator.in_flight.push(fetch_channel(channel, store, edges).await?);
        }
        let mut own = Vec::new();
        for table in giver.tables {
            let scope = match table.scope {
                TableScope::Keyed => StateScope::Keyed,
                TableScope::Shared => StateScope::Shared,
            };
            let wanted = table.sections.into_iter();
            let wanted =
                wanted.filter(|section| scope == StateScope::Shared || section.intersects(range.start, range.end));
            let name = table.name.clone();
            let batches: Vec<_> = stream::iter(wanted)
                .map(|section| {
                    let (store, name) = (Arc::clone(store), name.clone());
                    async move {
                        let payload = store.get_section(&section).await.map_err(|error| encode::of_store(&error))?;
                        encode::read(&name, &payload, scope, range)
                    }
                })
                .buffered(FETCHES_MAX)
                .try_collect()
                .await?;
            let batches = batches.into_iter().flatten().collect();
            own.push(StateTable { name: table.name, version: table.version, scope, batches });
        }
        if giver.sink_states.is_empty() {
            own.clone().into_iter().for_each(|table| merge(&mut operator.tables, table));
        }
        operator.sinks.push(sink_state(giver.subtask_index, giver.sink_states, own));
    }
    Ok(operator)
}

async fn fetch_channel(
    channel: ChannelState,
    store: &Arc<dyn CheckpointStore>,
    edges: &EdgeSchemas,
) -> Result<RestoredChannel, TaskError> {
    let ChannelState { edge, sender, watermark, section } = channel;
    let elements = match section {
        None => Vec::new(),
        Some(section) => {
            let schema = edges.get(&edge).ok_or_else(|| {
                let message = format!("the checkpoint has rows in flight on '{edge}', which does not feed this task");
                TaskError::internal(DEPLOY_INVALID, message)
            })?;
            let payload = store.get_section(&section).await.map_err(|error| encode::of_store(&error))?;
            in_flight::decode(payload, schema)?
        }
    };
    Ok(RestoredChannel { edge, sender, watermark, elements })
}

fn sink_state(subtask: SubtaskIndex, values: Vec<weir_core::Value>, tables: Vec<StateTable>) -> SinkState {
    SinkState { subtask, values, tables }
}

/// Adds rows to the table of that name; tables without rows are left out.
fn merge(tables: &mut Vec<StateTable>, table: StateTable) {
    let known = tables.iter_mut().find(|known| known.name == table.name && known.version == table.version);
    match known {
        Some(known) => known.batches.extend(table.batches),
        None if table.batches.is_empty() => {}
        None => tables.push(table),
    }
}
