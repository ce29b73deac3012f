//! Drives an operator by a short script and writes down what it did: the form of operator tests, made for snapshots.
//!
//! One command per line; blank lines and lines that begin with `#` are skipped. Times are seconds as in [`crate::rows`].
//! ```text
//! rows a 10 1 | b 12 2     rows of input 0 as one batch; `rows@1` for input 1, `rows#3` for rows of split 3
//! wm 20                    the watermark reaches 20 s; `wm max` is the last one
//! idle                     all inputs are idle
//! active                   an input is active again
//! split add 0              a split is added; also `split finish 0`, `split wait 5` (seconds without rows)
//! clock 5                  the clock moves by 5 s
//! end                      no input follows
//! ```
//! The transcript repeats each command after `> ` and lists what came out of it, indented.

use std::sync::Arc;
use std::time::Duration;

use arrow_schema::SchemaRef;
use weir_core::key_group::KEY_GROUP_COUNT_DEFAULT;
use weir_core::{Batch, Clock, EventTime, KeyGroupRange, OperatorUid, SplitIndex, SubtaskIndex};
use weir_operator_api::{Operator, OperatorContext, Progress, Result, SplitEvent};
use weir_state::{StateStores, StateTable};

use crate::clock::FakeClock;
use crate::recorder::Recorder;
use crate::rows::{micros, read_rows};

/// Most calls of `resume` in a row before the runner says the operator hangs.
const RESUMES_MAX: usize = 100_000;

/// The context of the only subtask of an operator named `op`, with its clock.
pub fn context(inputs: Vec<SchemaRef>, output: SchemaRef) -> (OperatorContext, Arc<FakeClock>) {
    let clock = Arc::new(FakeClock::default());
    let context = OperatorContext {
        uid: OperatorUid::from("op"),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        key_group_count: KEY_GROUP_COUNT_DEFAULT,
        key_groups: KeyGroupRange::of_subtask(0, 1, KEY_GROUP_COUNT_DEFAULT),
        inputs,
        output,
        batch_rows: 8192,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        stores: StateStores::in_memory(),
    };
    (context, clock)
}

/// One thing that happens to an operator.
#[derive(Clone, Debug)]
pub enum Event {
    /// Rows of one input.
    Rows(usize, Batch),
    /// The watermark of all inputs.
    Watermark(EventTime),
    /// All inputs are idle, or one is active again.
    Idle(bool),
    /// News about a split.
    Split(SplitEvent),
    /// The clock moves.
    Clock(Duration),
    /// No input follows.
    End,
}

/// Reads a script as events.
pub fn events(script: &str, inputs: &[SchemaRef]) -> Vec<Event> {
    lines(script).map(|line| event(line, inputs)).collect()
}

fn lines(script: &str) -> impl Iterator<Item = &str> {
    script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn event(line: &str, inputs: &[SchemaRef]) -> Event {
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match (verb, rest.trim()) {
        ("wm", time) => Event::Watermark(EventTime(micros(time))),
        ("idle", _) => Event::Idle(true),
        ("active", _) => Event::Idle(false),
        ("end", _) => Event::End,
        ("clock", time) => Event::Clock(Duration::from_micros(micros(time) as u64)),
        ("split", event) => Event::Split(split_event(event)),
        (verb, rows) if verb.starts_with("rows") => rows_event(&verb["rows".len()..], rows, inputs),
        _ => panic!("unknown command '{line}'"),
    }
}

fn rows_event(place: &str, rows: &str, inputs: &[SchemaRef]) -> Event {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("'rows{place}': expected rows, rows@1 or rows#1"));
    let (input, split) = match (place.strip_prefix('@'), place.strip_prefix('#')) {
        (Some(input), _) => (number(input) as usize, None),
        (_, Some(split)) => (0, Some(SplitIndex(number(split)))),
        _ => (0, None),
    };
    Event::Rows(input, Batch { records: read_rows(&inputs[input], rows), split, origin_us: 0 })
}

/// An operator with its inputs, its clock and a recorder.
pub struct Runner {
    operator: Box<dyn Operator>,
    inputs: Vec<SchemaRef>,
    clock: Arc<FakeClock>,
    /// What the operator did.
    pub recorder: Recorder,
}

impl Runner {
    /// Wraps an operator that was made with `context`; its main rows must have the context's output schema.
    pub fn new(operator: Box<dyn Operator>, context: &OperatorContext, clock: Arc<FakeClock>) -> Self {
        let recorder = Recorder::expecting(Arc::clone(&context.output));
        Runner { operator, inputs: context.inputs.clone(), clock, recorder }
    }

    /// Runs a script and gives its transcript.
    pub fn run(&mut self, script: &str) -> String {
        let mut transcript = String::new();
        for line in lines(script) {
            self.apply(&event(line, &self.inputs));
            transcript.push_str(&format!("> {line}\n{}", self.recorder.transcript()));
        }
        transcript
    }

    /// Gives the operator rows of one input.
    pub fn batch(&mut self, input: usize, batch: Batch) {
        let progress = self.operator.process(input, batch, &mut self.recorder).expect("process succeeds");
        self.finish(progress);
    }

    /// Gives the operator a watermark.
    pub fn watermark(&mut self, watermark: EventTime) {
        let progress = self.operator.on_watermark(watermark, &mut self.recorder).expect("on_watermark succeeds");
        self.finish(progress);
    }

    /// Tells the operator about a split.
    pub fn split(&mut self, event: SplitEvent) {
        let progress = self.operator.on_split(event, &mut self.recorder).expect("on_split succeeds");
        self.finish(progress);
    }

    /// Tells the operator that its inputs are idle, or active again.
    pub fn idle(&mut self, is_idle: bool) {
        self.operator.on_idle(is_idle, &mut self.recorder).expect("on_idle succeeds");
    }

    /// Tells the operator that no input follows.
    pub fn end(&mut self) {
        let progress = self.operator.on_end(&mut self.recorder).expect("on_end succeeds");
        self.finish(progress);
    }

    /// Has the operator emit what it holds back for efficiency, as a barrier does, and takes its state.
    pub fn snapshot(&mut self) -> Vec<StateTable> {
        let progress = self.operator.on_barrier(&mut self.recorder).expect("on_barrier succeeds");
        self.finish(progress);
        let frozen = self.operator.freeze().expect("freeze succeeds");
        frozen.into_iter().map(|table| table.resolve().expect("frozen state can be read")).collect()
    }

    /// Gives the operator the state of a checkpoint.
    pub fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        self.operator.restore(tables, watermark)
    }

    /// The operator, for what no command does.
    pub fn operator(&mut self) -> &mut dyn Operator {
        self.operator.as_mut()
    }

    fn finish(&mut self, mut progress: Progress) {
        for _ in 0..RESUMES_MAX {
            if progress == Progress::Done {
                return;
            }
            self.recorder.more();
            progress = self.operator.resume(&mut self.recorder).expect("resume succeeds");
        }
        panic!("the operator wants to be resumed for ever");
    }

    /// Lets one thing happen.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Rows(input, batch) => {
                self.batch(*input, Batch { origin_us: self.clock.wall_unix_us(), ..batch.clone() });
            }
            Event::Watermark(time) => self.watermark(*time),
            Event::Idle(is_idle) => self.idle(*is_idle),
            Event::Split(event) => self.split(*event),
            Event::Clock(by) => self.clock.advance(*by),
            Event::End => self.end(),
        }
    }
}

fn split_event(text: &str) -> SplitEvent {
    let split = |text: &str| SplitIndex(text.parse().unwrap_or_else(|_| panic!("'{text}' is no split")));
    match text.split_once(' ') {
        Some(("add", index)) => SplitEvent::Added(split(index)),
        Some(("finish", index)) => SplitEvent::Finished(split(index)),
        Some(("wait", time)) => SplitEvent::Waited { waited_us: micros(time) },
        _ => panic!("unknown split event '{text}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::schema;
    use weir_operator_api::Output;

    /// Passes rows on one at a time, by way of `resume`.
    #[derive(Default)]
    struct OneByOne(Option<Batch>);

    impl Operator for OneByOne {
        fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
            self.0 = Some(batch);
            self.resume(out)
        }

        fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
            let Some(batch) = self.0.take() else { return Ok(Progress::Done) };
            out.emit(batch.with_records(batch.records.slice(0, 1)));
            if batch.num_rows() == 1 {
                return Ok(Progress::Done);
            }
            self.0 = Some(batch.with_records(batch.records.slice(1, batch.num_rows() - 1)));
            Ok(Progress::More)
        }
    }

    #[test]
    fn script_becomes_transcript() {
        let schema = schema("k STRING, t TIMESTAMP*");
        let (context, clock) = context(vec![schema.clone()], schema);
        let mut runner = Runner::new(Box::new(OneByOne::default()), &context, clock);
        let found = runner.run("rows a 1 | b 2\n\n# nothing\nsplit wait 5\nwm 3.5\nidle\nwm max\nend");
        let expected = "\
> rows a 1 | b 2
  main (k t*)
  main a 1
  (more)
  main b 2
> split wait 5
  Waited { waited_us: 5000000 }
> wm 3.5
  wm 3.5
> idle
  idle
> wm max
  wm max
> end
";
        assert_eq!(found, expected);
    }
}
