//! What the tests of keyed operators share to cut runs: random scripts, and a harness over plain schemas.

use arrow_schema::SchemaRef;
use proptest::prelude::*;
use weir_core::{Batch, EventTime};
use weir_operator_api::{Operator, OperatorContext, Result};
use weir_state::StateStores;
use weir_testkit::{Cuts, Deal, Runner, context, events, read_rows};

/// So few that a row recorded one group beside its own soon meets the wrong subtask.
pub(crate) const KEY_GROUP_COUNT: u32 = 5;

/// An operator over these schemas, to be cut.
pub(crate) struct Keyed<'a> {
    pub(crate) inputs: Vec<SchemaRef>,
    pub(crate) output: SchemaRef,
    /// The key columns of each input.
    pub(crate) keys: Vec<Vec<usize>>,
    pub(crate) make: &'a dyn Fn(&OperatorContext) -> Result<Box<dyn Operator>>,
}

impl Keyed<'_> {
    fn with_cuts(&self, batch_rows: usize, run: impl FnOnce(&Cuts<'_>)) {
        let (mut context, _) = context(self.inputs.clone(), self.output.clone());
        context.batch_rows = batch_rows;
        context.key_group_count = KEY_GROUP_COUNT;
        let make = |context: &OperatorContext| (self.make)(context).expect("the operator was planned");
        run(&Cuts { context, deal: Deal::ByKey(self.keys.clone()), make: &make });
    }

    /// Cuts before every event, from one, two and three subtasks to one, two and three.
    pub(crate) fn check_everywhere(&self, script: &str) {
        for batch_rows in [1, 100] {
            self.with_cuts(batch_rows, |cuts| {
                cuts.check_everywhere(&events(script, &self.inputs), &[1, 2, 3], &[1, 2, 3]);
            });
        }
    }

    /// Cuts a random run at one place.
    pub(crate) fn check_at(&self, run: &Run) {
        self.with_cuts(run.batch_rows, |cuts| {
            let events = events(&run.script, &self.inputs);
            cuts.check_at(&events, run.place.index(events.len() + 1), run.parallelism);
        });
    }
}

/// A random row: key, value, time in microseconds.
pub(crate) type Row = (Option<u8>, Option<i64>, i64);

/// A random run and where it is cut.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    script: String,
    place: prop::sample::Index,
    parallelism: (u32, u32),
    batch_rows: usize,
}

/// Batches of rows of the inputs, each row written by `print`, and growing watermarks, the last one `max`.
pub(crate) fn runs(input_count: usize, print: fn(usize, Row) -> String) -> impl Strategy<Value = Run> {
    let row = (prop::option::weighted(0.9, 0u8..6), prop::option::weighted(0.9, -4i64..5), 0i64..100);
    let step = (0..input_count + 1, prop::collection::vec(row, 1..8), 0i64..25);
    let place = (any::<prop::sample::Index>(), (1u32..4, 1u32..4), 1usize..5);
    (prop::collection::vec(step, 1..16), place).prop_map(move |(steps, (place, parallelism, batch_rows))| {
        let (mut script, mut watermark) = (String::new(), -10);
        for (input, rows, advance) in steps {
            if input < input_count {
                let rows: Vec<String> = rows.into_iter().map(|row| print(input, row)).collect();
                script.push_str(&format!("rows@{input} {}\n", rows.join(" | ")));
            } else {
                watermark += advance;
                script.push_str(&format!("wm {watermark}us\n"));
            }
        }
        script.push_str("wm max\nend");
        Run { script, place, parallelism, batch_rows }
    })
}

/// A value as it is written in a script.
pub(crate) fn word<T: std::fmt::Display>(prefix: &str, value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{prefix}{value}"))
}

/// Feeds keys of ever new names, put on disk again and again, `first` microseconds into a round and `behind` to its
/// watermark: beside them `again` comes in every round, `often` in seven of eight, `seldom` in the eighth. What is
/// forgotten must leave the disk.
pub(crate) fn feed_keys_to_forget(
    runner: &mut Runner,
    stores: &StateStores,
    input: &SchemaRef,
    (first, behind): (i64, i64),
) {
    let mut sizes = Vec::new();
    for round in 0..100i64 {
        let row = |row: i64| format!("key-{} {row} {}us", round * 100 + row, round * 300 + row);
        let mut text: Vec<String> = (0..100).map(row).collect();
        text.push(format!("again {round} {}us", round * 300 + first));
        text.push(format!("{} 1 {}us", ["often", "seldom"][usize::from(round % 8 == 0)], round * 300 + first));
        runner.batch(0, Batch::new(read_rows(input, &text.join("\n")), 0));
        runner.watermark(EventTime(round * 300 + behind));
        runner.operator().spill().expect("the store is there");
        sizes.push(stores.size_bytes());
    }
    let most = |sizes: &[u64]| sizes.iter().max().copied().unwrap_or(0);
    assert!(most(&sizes[50..]) <= most(&sizes[..50]) * 5 / 4, "{sizes:?}");
}
