//! What every sink must keep: whatever fails when, each row is in the output once, nothing is visible before it is
//! published, and nothing hidden is left at the end. [`Play`] is the coordinator and the source of one sink: it cuts,
//! crashes, restores, replays and publishes as a script says.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use proptest::prelude::*;
use weir_core::{AttemptNumber, Batch, CheckpointId, FencingToken, JobId, KeyGroup, KeyGroupRange, SubtaskIndex};
use weir_operator_api::{
    Committable, Cut, Leftovers, PreparedOutput, Result, SinkContext, SinkFactory, SinkReport, SinkState, SinkWriter,
};
use weir_testkit::FakeClock;

use crate::source_contract::Fields;

/// Key groups of all scripts.
const KEY_GROUPS: u32 = 128;

/// One step of a script.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A subtask gets rows.
    Write { subtask: usize, rows: usize },
    /// A checkpoint, which may fail when all have prepared it.
    Checkpoint { completes: bool },
    /// Time passes.
    Wait,
    /// The oldest completed cut that is not published is; with `twice`, first only some of its output.
    Publish { twice: bool },
    /// A cut that was published before is published again.
    Republish { which: usize },
    /// The attempt dies, after some subtasks have prepared a cut that is never completed.
    Crash { prepared: usize, at_end: bool, how: Death, parallelism: usize },
    /// A subtask of an attempt that was given up works on.
    Zombie { which: usize, prepares: bool },
}

/// How an attempt dies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Death {
    /// Its process is killed.
    Killed,
    /// It is cancelled; what it prepared is discarded.
    Cancelled,
    /// It is given up, and works on for a while.
    GivenUp,
}

/// Scripts of up to `steps` steps.
pub(crate) fn script(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let death = prop_oneof![Just(Death::Killed), Just(Death::Cancelled), Just(Death::GivenUp)];
    let step = prop_oneof![
        8 => (0usize..3, 1usize..9).prop_map(|(subtask, rows)| Step::Write { subtask, rows }),
        4 => any::<bool>().prop_map(|completes| Step::Checkpoint { completes }),
        1 => Just(Step::Wait),
        3 => any::<bool>().prop_map(|twice| Step::Publish { twice }),
        1 => any::<usize>().prop_map(|which| Step::Republish { which }),
        2 => (0usize..3, any::<bool>(), death, 1usize..4).prop_map(|(prepared, at_end, how, parallelism)| {
            Step::Crash { prepared, at_end, how, parallelism }
        }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, prepares)| Step::Zombie { which, prepares }),
    ];
    proptest::collection::vec(step, 0..steps)
}

/// The columns of all scripts: a key that comes again and the number of the row.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false), Field::new("n", DataType::Int64, false)]))
}

/// The key of a row.
pub(crate) fn key_of(row: i64) -> i64 {
    row % 5
}

/// The subtask that rows with the key of this one go to.
fn owner(row: i64, parallelism: usize) -> usize {
    let mut hashes = Vec::new();
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![key_of(row)]));
    weir_core::key_hash::hash_columns(&[keys], &mut hashes).expect("numbers are keys");
    KeyGroup::of(hashes[0], KEY_GROUPS).subtask(parallelism as u32, KEY_GROUPS) as usize
}

pub(crate) fn batch(rows: &[i64]) -> Batch {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| key_of(*row))));
    let columns = vec![keys, Arc::new(Int64Array::from(rows.to_vec()))];
    Batch::new(RecordBatch::try_new(schema(), columns).expect("fits"), 0)
}

/// Where the only subtask of a sink that begins stands, in this attempt.
pub(crate) fn context(settings: &Fields, attempt: u32) -> SinkContext {
    SinkContext {
        job: JobId(0xdb),
        job_name: "job".to_owned(),
        uid: "out".into(),
        settings: settings.clone(),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        key_group_count: KEY_GROUPS,
        key_groups: KeyGroupRange::of_subtask(0, 1, KEY_GROUPS),
        input: schema(),
        token: FencingToken { term: 1, attempt: AttemptNumber(attempt) },
        restored: Vec::new(),
        clock: Arc::new(FakeClock::default()),
    }
}

/// Output of a completed cut, and how many rows are covered with it.
type Completed = (Vec<Committable>, usize);

/// A sink under a script.
pub(crate) struct Play<'a> {
    factory: &'a dyn SinkFactory,
    settings: Fields,
    /// Most subtasks of the sink.
    parallelism_max: usize,
    /// Whether rows go to subtasks by their key.
    is_keyed: bool,
    clock: FakeClock,
    attempt: u32,
    checkpoint: u64,
    writers: Vec<Box<dyn SinkWriter>>,
    zombies: Vec<Box<dyn SinkWriter>>,
    /// Rows since the last completed cut: a restored source gives them again.
    uncovered: Vec<i64>,
    /// Rows of completed cuts.
    pub(crate) covered: Vec<i64>,
    states: Vec<SinkState>,
    /// Prepared by this attempt, and not in a completed cut.
    unconfirmed: Vec<Committable>,
    completed: VecDeque<Completed>,
    published: Vec<Vec<Committable>>,
    /// How many covered rows are published.
    pub(crate) published_rows: usize,
}

impl<'a> Play<'a> {
    /// A sink with all its subtasks open.
    pub(crate) async fn open(factory: &'a dyn SinkFactory, settings: Fields, parallelism: usize) -> Play<'a> {
        let reader = weir_core::Settings::new("out", &settings);
        let said = factory.describe(&reader, &schema()).expect("the settings are right");
        assert_eq!(reader.finish(), []);
        let mut play = Play {
            factory,
            settings,
            parallelism_max: said.parallelism_max.map_or(usize::MAX, |max| max as usize),
            is_keyed: said.partition_by.is_some(),
            clock: FakeClock::default(),
            attempt: 0,
            checkpoint: 0,
            writers: Vec::new(),
            zombies: Vec::new(),
            uncovered: Vec::new(),
            covered: Vec::new(),
            states: Vec::new(),
            unconfirmed: Vec::new(),
            completed: VecDeque::new(),
            published: Vec::new(),
            published_rows: 0,
        };
        play.start(parallelism).await;
        play
    }

    /// Starts the next attempt from the last completed cut; the source gives again what came after it.
    async fn start(&mut self, parallelism: usize) {
        self.attempt += 1;
        let parallelism = parallelism.min(self.parallelism_max);
        for subtask in 0..parallelism {
            let context = SinkContext {
                subtask: SubtaskIndex(subtask as u32),
                parallelism: parallelism as u32,
                key_groups: KeyGroupRange::of_subtask(subtask as u32, parallelism as u32, KEY_GROUPS),
                restored: self.states.clone(),
                clock: Arc::new(self.clock.clone()),
                ..context(&self.settings, self.attempt)
            };
            self.writers.push(self.factory.writer(context).await.expect("opens"));
        }
        let again = std::mem::take(&mut self.uncovered);
        for rows in again.chunks(3) {
            let subtask = rows[0] as usize % parallelism;
            self.write(subtask, rows.to_vec()).await;
        }
    }

    async fn write(&mut self, subtask: usize, rows: Vec<i64>) {
        let mut dealt: Vec<Vec<i64>> = vec![Vec::new(); self.writers.len()];
        for row in &rows {
            let place = if self.is_keyed { owner(*row, dealt.len()) } else { subtask % dealt.len() };
            dealt[place].push(*row);
        }
        for (writer, rows) in self.writers.iter_mut().zip(dealt).filter(|(_, rows)| !rows.is_empty()) {
            assert_eq!(writer.write(batch(&rows)).await.expect("writes"), []);
        }
        self.uncovered.extend(rows);
    }

    async fn prepare(&mut self, subtasks: usize, cut: Cut) -> Vec<SinkState> {
        let mut states = Vec::new();
        for (subtask, writer) in self.writers.iter_mut().enumerate().take(subtasks) {
            let PreparedOutput { committables, values, tables } = writer.prepare(cut).await.expect("prepares");
            self.unconfirmed.extend(committables);
            states.push(SinkState { subtask: SubtaskIndex(subtask as u32), values, tables });
        }
        states
    }

    fn next_checkpoint(&mut self) -> Cut {
        self.checkpoint += 1;
        Cut::Checkpoint(CheckpointId(self.checkpoint))
    }

    fn complete(&mut self, states: Vec<SinkState>) {
        self.states = states;
        self.covered.append(&mut self.uncovered);
        self.completed.push_back((std::mem::take(&mut self.unconfirmed), self.covered.len()));
    }

    async fn publish(&mut self, twice: bool) {
        let Some((output, rows)) = self.completed.pop_front() else { return };
        let mut committer = self.factory.committer(&self.settings).await.expect("opens");
        if twice {
            // A publisher that dies half-way.
            let some = output[..output.len() / 2].to_vec();
            committer.publish(some).await.expect("publishes some");
        }
        committer.publish(output.clone()).await.expect("publishes");
        self.published.push(output);
        self.published_rows = rows;
    }

    async fn crash(&mut self, prepared: usize, at_end: bool, how: Death) {
        let cut = if at_end { Cut::End } else { self.next_checkpoint() };
        self.prepare(prepared, cut).await;
        let lost = std::mem::take(&mut self.unconfirmed);
        match how {
            Death::Killed => self.writers.clear(),
            Death::Cancelled => {
                for mut writer in self.writers.drain(..) {
                    writer.abort().await;
                }
                let mut committer = self.factory.committer(&self.settings).await.expect("opens");
                committer.discard(lost).await.expect("discards");
            }
            Death::GivenUp => self.zombies.append(&mut self.writers),
        }
    }

    async fn zombie(&mut self, which: usize, prepares: bool) {
        let count = self.zombies.len();
        if count == 0 {
            return;
        }
        // Nobody listens to it: whether it succeeds does not matter.
        let zombie = &mut self.zombies[which % count];
        let wrote = zombie.write(batch(&[-1, -2, -3])).await.is_ok();
        if wrote && prepares {
            zombie.prepare(Cut::Checkpoint(CheckpointId(self.checkpoint + 1))).await.ok();
        }
    }

    /// Plays a script; `look` sees the sink after each step.
    pub(crate) async fn run(&mut self, script: &[Step], look: impl Fn(&Play<'_>)) {
        let mut next_row = 0;
        for step in script {
            match step.clone() {
                Step::Write { subtask, rows } => {
                    let rows: Vec<i64> = (next_row..).take(rows).collect();
                    next_row += rows.len() as i64;
                    self.write(subtask, rows).await;
                }
                Step::Checkpoint { completes } => {
                    let cut = self.next_checkpoint();
                    let states = self.prepare(usize::MAX, cut).await;
                    if completes {
                        self.complete(states);
                    }
                }
                Step::Wait => self.clock.advance(std::time::Duration::from_secs(60)),
                Step::Publish { twice } => self.publish(twice).await,
                Step::Republish { which } if !self.published.is_empty() => {
                    let output = self.published[which % self.published.len()].clone();
                    let mut committer = self.factory.committer(&self.settings).await.expect("opens");
                    committer.publish(output).await.expect("publishes again");
                }
                Step::Republish { .. } => {}
                Step::Crash { prepared, at_end, how, parallelism } => {
                    self.crash(prepared, at_end, how).await;
                    self.start(parallelism).await;
                }
                Step::Zombie { which, prepares } => self.zombie(which, prepares).await,
            }
            look(self);
        }
    }

    /// Prepares the end and gives what is to be published.
    pub(crate) async fn prepare_end(&mut self) -> Vec<Committable> {
        let states = self.prepare(usize::MAX, Cut::End).await;
        self.complete(states);
        self.completed.drain(..).flat_map(|(output, _)| output).collect()
    }

    /// The job ends here, without reaching its end: publishes what is completed, discards what is not, and sweeps;
    /// `keeps` says whether its last checkpoint stays.
    pub(crate) async fn cancel(&mut self, how: Death, keeps: bool) {
        self.crash(1, false, how).await;
        while !self.completed.is_empty() {
            self.publish(false).await;
        }
        let mut committer = self.factory.committer(&self.settings).await.expect("opens");
        let kept = if keeps { self.states.clone() } else { Vec::new() };
        let leftovers = Leftovers { job: JobId(0xdb), sink: "out".into(), kept };
        committer.sweep(leftovers).await.expect("sweeps");
    }

    /// Ends the input behind a savepoint, which is the last completed cut: publishes, and keeps what it counts on.
    /// `is_final` says whether the savepoint holds what the sink gave at its end; it may, when that comes first.
    pub(crate) async fn end_kept(&mut self, is_final: bool) {
        let states = self.prepare(usize::MAX, Cut::End).await;
        if is_final {
            self.states = states;
        }
        let before = self.completed.drain(..).flat_map(|(output, _)| output);
        let output: Vec<Committable> = before.chain(std::mem::take(&mut self.unconfirmed)).collect();
        for _ in 0..2 {
            let mut committer = self.factory.committer(&self.settings).await.expect("opens");
            committer.keep();
            committer.publish(output.clone()).await.expect("publishes");
        }
        self.writers.clear();
    }

    /// Begins again from the last completed cut.
    pub(crate) async fn resume(&mut self) {
        self.start(1).await;
    }

    /// Publishes output.
    pub(crate) async fn publish_all(&self, output: &[Committable]) -> Result<()> {
        self.factory.committer(&self.settings).await?.publish(output.to_vec()).await
    }

    /// Ends the input, publishes everything and gives the totals of all subtasks. With `again`, the job then dies before
    /// it knows of its end, and comes to it once more.
    pub(crate) async fn end(&mut self, again: bool) -> SinkReport {
        let states = self.prepare(usize::MAX, Cut::End).await;
        self.complete(states);
        if again {
            let parallelism = self.writers.len();
            self.writers.clear();
            self.start(parallelism).await;
            let states = self.prepare(usize::MAX, Cut::End).await;
            self.complete(states);
        }
        while !self.completed.is_empty() {
            self.publish(true).await;
        }
        let mut committer = self.factory.committer(&self.settings).await.expect("opens");
        for output in &self.published {
            committer.publish(output.clone()).await.expect("publishes again");
        }
        let mut totals = SinkReport::new();
        for (name, total) in self.writers.iter().flat_map(|writer| writer.report()) {
            let sum: &mut u64 = totals.entry(name).or_default();
            *sum = sum.wrapping_add(total);
        }
        totals
    }
}

/// Runs on a runtime of its own.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn counting_sinks_count_each_row_once(script in script(25), parallelism in 1usize..4, again: bool) {
        run(async {
            let mut hash = Play::open(&crate::hash::HashSink, Fields::new(), parallelism).await;
            hash.run(&script, |_| {}).await;
            let found = hash.end(again).await;
            let mut straight = Play::open(&crate::hash::HashSink, Fields::new(), 1).await;
            straight.write(0, hash.covered.clone()).await;
            assert_eq!(found, straight.end(false).await);

            let mut blackhole = Play::open(&crate::blackhole::BlackholeSink, Fields::new(), parallelism).await;
            blackhole.run(&script, |_| {}).await;
            let found = blackhole.end(again).await;
            let rows = blackhole.covered.len() as u64;
            assert_eq!(found["rows"], rows);
            assert_eq!(found.iter().filter(|(name, _)| *name != "rows").map(|(_, count)| count).sum::<u64>(), rows);
        });
    }
}
