//! Cuts a run of an operator at every place, carries its state over to fresh operators at the same or another
//! parallelism, and compares what they give with the straight run. Tests of operators with state use it.
//!
//! It deals rows and state as the engine does: rows by key group (or by split), keyed tables by key group in small
//! batches sorted by it, shared tables whole. After each event the rows of all subtasks together, output by output, and
//! the least watermark must be those of the straight run; where one operator follows one, also what came in which order.
//!
//! In one run of three the old subtasks are told again and again to put their state on disk; in another one checkpoints
//! are written so slowly that several are held at once, each of which must stay as it was taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use weir_core::key_hash::hash_columns;
use weir_core::{Batch, EventTime, KeyGroup, KeyGroupRange, OutputTag, SplitIndex, SubtaskIndex};
use weir_operator_api::{Operator, OperatorContext, SplitEvent};
use weir_state::state_table::KEY_GROUP_COLUMN;
use weir_state::{FrozenTable, StateScope, StateTable};

use crate::clock::FakeClock;
use crate::recorder::{Recorded, tag_name};
use crate::rows::print_rows;
use crate::script::{Event, Runner};

/// Rows per batch of restored tables: few, so that every table comes in several.
const BATCH_ROWS: usize = 3;

/// How rows reach subtasks.
#[derive(Clone, Debug)]
pub enum Deal {
    /// By the hash of these columns of each input; all to the first key group where there are none.
    ByKey(Vec<Vec<usize>>),
    /// By their split: the operator runs in the chain of a source.
    BySplit,
}

/// An operator to be cut.
pub struct Cuts<'a> {
    /// The context of its only subtask.
    pub context: OperatorContext,
    /// How rows reach subtasks.
    pub deal: Deal,
    /// Makes the operator of one subtask.
    pub make: &'a dyn Fn(&OperatorContext) -> Box<dyn Operator>,
}

impl Cuts<'_> {
    /// Cuts before every event and after the last, from every parallelism of `from` to every one of `to`.
    pub fn check_everywhere(&self, events: &[Event], from: &[u32], to: &[u32]) {
        let straight = self.straight(events);
        for before in from {
            self.check_strains(events, &straight, *before);
            for place in 0..=events.len() {
                for after in to {
                    self.check_place(events, &straight, place, (*before, *after));
                }
            }
        }
    }

    /// Cuts before the event `place`, at one parallelism before and one after.
    pub fn check_at(&self, events: &[Event], place: usize, parallelism: (u32, u32)) {
        let straight = self.straight(events);
        self.check_strains(events, &straight, parallelism.0);
        self.check_place(events, &straight, place, parallelism);
    }

    fn straight(&self, events: &[Event]) -> Vec<Outcome> {
        let mut straight = Subtasks::new(self, 1);
        events.iter().map(|event| straight.feed(event)).collect()
    }

    /// The whole run uncut, with state on disk and with slow checkpoints.
    fn check_strains(&self, events: &[Event], straight: &[Outcome], parallelism: u32) {
        for strain in [Strain::Spilling, Strain::SlowCheckpoints, Strain::Both] {
            let mut strained = Subtasks::new(self, parallelism);
            strained.strain = strain;
            for (event, expected) in events.iter().zip(straight) {
                let found = strained.feed(event);
                found.compare(expected, parallelism == 1, &format!("{strain:?}, uncut, after {}", name(event)));
                strained.put_under_strain();
            }
        }
    }

    fn check_place(&self, events: &[Event], straight: &[Outcome], place: usize, (before, after): (u32, u32)) {
        let mut old = Subtasks::new(self, before);
        old.strain = [Strain::None, Strain::Spilling, Strain::SlowCheckpoints][place % 3];
        let mut input_watermark = EventTime::MIN;
        for (event, expected) in events[..place].iter().zip(straight) {
            if let Event::Watermark(watermark) = event {
                input_watermark = *watermark;
            }
            let found = old.feed(event);
            old.put_under_strain();
            found.compare(expected, before == 1, &format!("uncut at parallelism {before}, after {}", name(event)));
        }
        let mut new = old.carry_over(after, input_watermark);
        new.strain = [Strain::SlowCheckpoints, Strain::None, Strain::Spilling][place % 3];
        for (event, expected) in events.iter().zip(straight).skip(place) {
            let found = new.feed(event);
            new.put_under_strain();
            let here = format!("cut before event {place}, parallelism {before} -> {after}, after {}", name(event));
            found.compare(expected, before == 1 && after == 1, &here);
        }
    }
}

/// What came out after one event.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// Rows and bad records of all subtasks, with their outputs, sorted.
    rows: Vec<String>,
    /// The least watermark.
    watermark: EventTime,
    /// For a single subtask: watermarks that are news and what stood between them, sorted.
    order: Vec<Vec<String>>,
}

impl Outcome {
    fn compare(&self, expected: &Outcome, with_order: bool, place: &str) {
        assert_eq!(self.rows, expected.rows, "rows, {place}");
        assert_eq!(self.watermark, expected.watermark, "watermark, {place}");
        if with_order {
            assert_eq!(self.order, expected.order, "order, {place}");
        }
    }
}

/// The output of a subtask as those behind it see it.
#[derive(Clone, Copy)]
struct Channel {
    watermark: EventTime,
    is_idle: bool,
}

/// What is done to subtasks besides.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Strain {
    None,
    Spilling,
    SlowCheckpoints,
    Both,
}

/// A checkpoint that is being written slowly: the tables, and what one taken at the same barrier gave at once.
struct Held {
    tables: Vec<FrozenTable>,
    /// By table, sorted.
    rows: Vec<Vec<String>>,
    /// Events until it is written.
    left: usize,
}

/// Events that happen while a slow checkpoint is written; as many pass before the next one.
const SLOW_EVENTS: usize = 2;

/// The subtasks of one operator.
struct Subtasks<'a> {
    strain: Strain,
    /// By subtask, table and number: the rows that were given under it.
    numbered: BTreeMap<(usize, String, u64), Vec<String>>,
    held: Vec<Held>,
    strained_events: usize,
    cuts: &'a Cuts<'a>,
    runners: Vec<Runner>,
    channels: Vec<Channel>,
    live_splits: BTreeSet<SplitIndex>,
    watermark: EventTime,
}

impl<'a> Subtasks<'a> {
    fn new(cuts: &'a Cuts<'a>, parallelism: u32) -> Self {
        let runner = |subtask: u32| {
            let clock = Arc::new(FakeClock::default());
            let count = cuts.context.key_group_count;
            let context = OperatorContext {
                subtask: SubtaskIndex(subtask),
                parallelism,
                key_groups: KeyGroupRange::of_subtask(subtask, parallelism, count),
                clock: clock.clone(),
                ..cuts.context.clone()
            };
            Runner::new((cuts.make)(&context), &context, clock)
        };
        Subtasks {
            strain: Strain::None,
            numbered: BTreeMap::new(),
            held: Vec::new(),
            strained_events: 0,
            cuts,
            runners: (0..parallelism).map(runner).collect(),
            channels: vec![Channel { watermark: EventTime::MIN, is_idle: false }; parallelism as usize],
            live_splits: BTreeSet::new(),
            watermark: EventTime::MIN,
        }
    }

    fn feed(&mut self, event: &Event) -> Outcome {
        match event {
            Event::Rows(input, batch) => self.deal(*input, batch),
            Event::Split(SplitEvent::Added(split)) => {
                self.live_splits.insert(*split);
                self.owner(*split).apply(event);
            }
            Event::Split(SplitEvent::Finished(split)) => {
                self.live_splits.remove(split);
                self.owner(*split).apply(event);
            }
            _ => self.runners.iter_mut().for_each(|runner| runner.apply(event)),
        }
        self.collect()
    }

    fn put_under_strain(&mut self) {
        self.held.iter_mut().for_each(Held::write_some);
        let (done, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.left == 0);
        self.held = held;
        done.iter().for_each(Held::check);
        self.strained_events += 1;
        let is_time = self.strained_events % (2 * SLOW_EVENTS) == 1;
        let is_between = self.strained_events % (2 * SLOW_EVENTS) == 3;
        for (subtask, runner) in self.runners.iter_mut().enumerate() {
            // Both never happen after the same event, so that checkpoints find state in memory and on disk.
            if matches!(self.strain, Strain::SlowCheckpoints | Strain::Both) && is_time {
                // Now and then the one that is read at once is the second.
                let is_first_held = self.strained_events % (4 * SLOW_EVENTS) == 1;
                let mut tables = runner.operator().freeze().expect("freeze succeeds");
                let mut at_once = tables.clone();
                if is_first_held {
                    at_once = runner.operator().freeze().expect("freeze succeeds");
                }
                let rows = at_once.iter().map(printed).collect();
                check_numbers(&mut self.numbered, subtask, &at_once);
                if !is_first_held {
                    tables = runner.operator().freeze().expect("freeze succeeds");
                }
                self.held.push(Held { tables, rows, left: SLOW_EVENTS });
            }
            if self.strain == Strain::Spilling || self.strain == Strain::Both && is_between {
                runner.operator().spill().expect("spill succeeds");
            }
        }
    }

    fn owner(&mut self, split: SplitIndex) -> &mut Runner {
        let subtask = split.0 as usize % self.runners.len();
        &mut self.runners[subtask]
    }

    fn deal(&mut self, input: usize, batch: &Batch) {
        let Deal::ByKey(keys) = &self.cuts.deal else {
            let split = batch.split.expect("rows dealt by split have one");
            self.live_splits.insert(split);
            return self.owner(split).apply(&Event::Rows(input, batch.clone()));
        };
        let columns: Vec<ArrayRef> = keys[input].iter().map(|column| batch.records.column(*column).clone()).collect();
        let mut hashes = Vec::new();
        hash_columns(&columns, &mut hashes).expect("the columns are keys");
        hashes.resize(batch.num_rows(), 0);
        let (parallelism, count) = (self.runners.len() as u32, self.cuts.context.key_group_count);
        for (subtask, runner) in self.runners.iter_mut().enumerate() {
            let is_own =
                |row: &u32| KeyGroup::of(hashes[*row as usize], count).subtask(parallelism, count) == subtask as u32;
            let rows: Vec<u32> = (0..batch.num_rows() as u32).filter(is_own).collect();
            if !rows.is_empty() {
                let records = take_record_batch(&batch.records, &UInt32Array::from(rows)).expect("the rows are there");
                runner.apply(&Event::Rows(input, batch.with_records(records)));
            }
        }
    }

    /// Takes what came out of all subtasks.
    fn collect(&mut self) -> Outcome {
        let (mut rows, mut order) = (Vec::new(), vec![Vec::new()]);
        let before = self.watermark;
        for (runner, channel) in self.runners.iter_mut().zip(&mut self.channels) {
            for element in runner.recorder.take() {
                match element {
                    Recorded::Batch(tag, batch) => lines(tag, &batch.records, &mut rows, &mut order),
                    Recorded::Bad(bad) => rows.extend(bad.iter().map(|bad| format!("{bad:?}"))),
                    Recorded::Watermark(watermark) => {
                        channel.watermark = channel.watermark.max(watermark);
                        if watermark > before {
                            order.push(vec![format!("wm {}", watermark.0)]);
                        }
                    }
                    Recorded::Idle(is_idle) => channel.is_idle = is_idle,
                    Recorded::Split(_) | Recorded::More => {}
                }
            }
        }
        let has_splits = |subtask: usize| {
            let parallelism = self.runners.len();
            self.live_splits.iter().any(|split| split.0 as usize % parallelism == subtask)
        };
        let counts = |(subtask, channel): &(usize, &Channel)| {
            // A subtask whose splits are all read has ended; the last watermark counts, whoever was idle.
            let has_ended = matches!(self.cuts.deal, Deal::BySplit) && !has_splits(*subtask);
            channel.watermark == EventTime::MAX || !(channel.is_idle || has_ended)
        };
        let least = self.channels.iter().enumerate().filter(counts).map(|(_, channel)| channel.watermark).min();
        self.watermark = self.watermark.max(least.unwrap_or(EventTime::MIN));
        rows.sort();
        order.iter_mut().for_each(|piece| piece.sort());
        Outcome { rows, watermark: self.watermark, order }
    }

    /// Takes a checkpoint and begins anew from it.
    fn carry_over(mut self, parallelism: u32, input_watermark: EventTime) -> Subtasks<'a> {
        let count = self.cuts.context.key_group_count;
        let old_parallelism = self.runners.len() as u32;
        let mut tables: BTreeMap<String, Vec<StateTable>> = BTreeMap::new();
        for (subtask, runner) in self.runners.iter_mut().enumerate() {
            let owned = KeyGroupRange::of_subtask(subtask as u32, old_parallelism, count);
            let given = runner.snapshot();
            let names: BTreeSet<&str> = given.iter().map(|table| table.name.as_str()).collect();
            assert_eq!(names.len(), given.len(), "two tables of one name");
            for table in given {
                check_table(&table, owned);
                tables.entry(table.name.clone()).or_default().push(table);
            }
        }
        let said = self.collect();
        assert!(
            said.rows.iter().all(|row| row.starts_with("main") || row.starts_with("raw")),
            "a barrier makes {said:?}"
        );
        let mut new = Subtasks::new(self.cuts, parallelism);
        for (subtask, runner) in new.runners.iter_mut().enumerate() {
            let owned = KeyGroupRange::of_subtask(subtask as u32, parallelism, count);
            let own = tables.values().map(|pieces| own_rows(pieces, owned)).collect();
            for part in in_parts(own) {
                runner.restore(part, input_watermark).expect("restore succeeds");
                if self.strain == Strain::Spilling {
                    runner.operator().spill().expect("spill succeeds");
                }
            }
        }
        let floor = self.channels.iter().map(|channel| channel.watermark).min().unwrap_or(EventTime::MIN);
        new.channels.iter_mut().for_each(|channel| channel.watermark = floor);
        (new.live_splits, new.watermark) = (self.live_splits, self.watermark);
        for split in new.live_splits.clone() {
            new.owner(split).split(SplitEvent::Added(split));
        }
        if let Deal::BySplit = self.cuts.deal {
            new.runners.iter_mut().for_each(|runner| runner.split(SplitEvent::Waited { waited_us: 0 }));
        }
        let woken = new.collect();
        assert!(woken.rows.is_empty(), "nothing but watermarks follows a restore: {woken:?}");
        assert_eq!(woken.watermark, said.watermark, "a restore moves no watermark");
        new
    }
}

impl Held {
    /// Reads the first half of each table.
    fn write_some(&mut self) {
        self.left -= 1;
        for table in &self.tables {
            for piece in &table.pieces[..table.pieces.len() / 2] {
                piece.batches().expect("frozen state can be read");
            }
        }
    }

    fn check(&self) {
        let rows: Vec<_> = self.tables.iter().map(printed).collect();
        assert_eq!(rows, self.rows, "a checkpoint that is being written changes");
    }
}

/// The same number means the same rows.
fn check_numbers(known: &mut BTreeMap<(usize, String, u64), Vec<String>>, subtask: usize, tables: &[FrozenTable]) {
    for table in tables {
        for (number, piece) in table.pieces.iter().filter_map(|piece| Some((piece.number()?, piece))) {
            let batches = piece.batches().expect("frozen state can be read");
            let rows: Vec<String> = batches.iter().flat_map(print_rows).collect();
            let before = known.entry((subtask, table.name.clone(), number)).or_insert_with(|| rows.clone());
            assert_eq!(*before, rows, "number {number} of table '{}' means other rows now", table.name);
        }
    }
}

/// The rows of a frozen table, sorted.
fn printed(table: &FrozenTable) -> Vec<String> {
    let read = |table: &FrozenTable| {
        let table = table.clone().resolve().expect("frozen state can be read");
        table.batches.iter().flat_map(print_rows).collect::<Vec<_>>()
    };
    let mut rows = read(table);
    assert_eq!(read(table), rows, "table '{}' is not the same at every call", table.name);
    rows.sort_unstable();
    rows
}

/// An event in short.
fn name(event: &Event) -> String {
    match event {
        Event::Rows(input, batch) => format!("rows of input {input}: {}", print_rows(&batch.records).join(" | ")),
        other => format!("{other:?}"),
    }
}

/// Writes down rows, for comparing as a set and in order.
fn lines(tag: OutputTag, records: &RecordBatch, rows: &mut Vec<String>, order: &mut [Vec<String>]) {
    let printed = print_rows(records).into_iter().map(|row| format!("{} {row}", tag_name(tag)));
    let printed: Vec<String> = printed.collect();
    if let Some(last) = order.last_mut() {
        last.extend_from_slice(&printed);
    }
    rows.extend(printed);
}

/// Holds a table to the contract. Carries c4: a row is recorded with a key group of the subtask that gave it.
fn check_table(table: &StateTable, owned: KeyGroupRange) {
    let name = &table.name;
    let is_plain = |mark: char| mark.is_ascii_lowercase() || mark.is_ascii_digit() || mark == '-';
    assert!(name.chars().all(is_plain), "table '{name}' has marks in its name that a path may not have");
    for batch in &table.batches {
        assert_eq!(batch.schema_ref(), table.batches[0].schema_ref(), "table '{name}' has one schema");
        if table.scope == StateScope::Keyed {
            assert_eq!(batch.schema_ref().field(0).name(), KEY_GROUP_COLUMN, "table '{name}'");
            let groups = batch.column(0).as_primitive::<UInt32Type>();
            let is_owned = |group: &u32| (owned.start..owned.end).contains(group);
            assert!(groups.values().iter().all(is_owned), "table '{name}' has key groups beyond {owned:?}: {groups:?}");
        }
    }
}

/// The calls of `restore`: everything of shared tables and the first rows of keyed ones, then the other rows.
fn in_parts(tables: Vec<StateTable>) -> Vec<Vec<StateTable>> {
    let calls = tables.iter().filter(|table| table.scope == StateScope::Keyed).map(|table| table.batches.len());
    let part = |call: usize| {
        let piece = |table: &StateTable| match table.scope {
            StateScope::Shared => (call == 0).then(|| table.clone()),
            StateScope::Keyed if call == 0 || call < table.batches.len() => {
                let batches = table.batches.iter().skip(call).take(1).cloned().collect();
                Some(StateTable { batches, ..table.clone() })
            }
            StateScope::Keyed => None,
        };
        tables.iter().filter_map(piece).collect()
    };
    (0..calls.max().unwrap_or(0).max(1)).map(part).collect()
}

/// The rows that a new subtask gets of one table.
fn own_rows(pieces: &[StateTable], owned: KeyGroupRange) -> StateTable {
    let batches: Vec<&RecordBatch> = pieces.iter().flat_map(|piece| &piece.batches).collect();
    let Some(first) = batches.first() else { return pieces[0].clone() };
    let mut all = concat_batches(first.schema_ref(), batches.iter().copied()).expect("the schemas are the same");
    if pieces[0].scope == StateScope::Keyed {
        let groups = all.column(0).as_primitive::<UInt32Type>().values();
        let mut rows: Vec<u32> = (0..all.num_rows() as u32).collect();
        rows.retain(|row| (owned.start..owned.end).contains(&groups[*row as usize]));
        rows.sort_by_key(|row| groups[*row as usize]);
        all = take_record_batch(&all, &UInt32Array::from(rows)).expect("the rows are there");
    }
    let starts = (0..all.num_rows()).step_by(BATCH_ROWS);
    let batches = starts.map(|start| all.slice(start, BATCH_ROWS.min(all.num_rows() - start))).collect();
    StateTable { batches, ..pieces[0].clone() }
}
