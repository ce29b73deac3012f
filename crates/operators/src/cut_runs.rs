//! What the tests of keyed operators share to cut runs: random scripts, and a harness over plain schemas.

use arrow_schema::SchemaRef;
use proptest::prelude::*;
use weir_operator_api::{Operator, OperatorContext, Result};
use weir_testkit::{Cuts, Deal, context, events};

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
