//! Windows that are cut by a checkpoint and go on, at any place, at any parallelism, in one phase and in two.

use weir_operator_api::{Operator, OperatorContext, Output, Progress, Result, SplitEvent};
use weir_state::{FrozenTable, StateTable};
use weir_testkit::{Cuts, Deal, Event, Recorder, events};

use super::*;

/// Both phases as one operator: what the local phase sends goes to the final phase at once.
struct TwoPhases {
    local: Box<dyn Operator>,
    last: Box<dyn Operator>,
}

impl TwoPhases {
    fn create(descriptor: &WindowAggregate, input: &SchemaRef, context: &OperatorContext) -> Self {
        let phase = |phase: Phase| {
            let (inputs, output) = schemas(descriptor, input.clone(), phase);
            let context = OperatorContext { inputs, output, ..context.clone() };
            super::super::create(descriptor, phase, &context).expect("the descriptor is right")
        };
        TwoPhases { local: phase(Phase::Local), last: phase(Phase::Final) }
    }

    fn run(
        &mut self,
        out: &mut dyn Output,
        call: impl FnOnce(&mut dyn Operator, &mut Recorder) -> Result<Progress>,
    ) -> Result<Progress> {
        let mut sent = Recorder::default();
        assert_eq!(call(self.local.as_mut(), &mut sent)?, Progress::Done, "a local phase sends all at once");
        for element in sent.take() {
            let mut progress = match element {
                Recorded::Batch(OutputTag::Main, batch) => self.last.process(1, batch, out)?,
                Recorded::Batch(OutputTag::Raw, batch) => self.last.process(0, batch, out)?,
                Recorded::Watermark(watermark) => self.last.on_watermark(watermark, out)?,
                other => panic!("a local phase does not send {other:?}"),
            };
            while progress == Progress::More {
                progress = self.last.resume(out)?;
            }
        }
        Ok(Progress::Done)
    }
}

impl Operator for TwoPhases {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.run(out, |local, sent| local.process(0, batch, sent))
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.run(out, |local, sent| local.on_watermark(watermark, sent))
    }

    fn on_split(&mut self, _event: SplitEvent, _out: &mut dyn Output) -> Result<Progress> {
        panic!("behind an exchange nobody hears of splits");
    }

    fn on_barrier(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.run(out, |local, sent| local.on_barrier(sent))
    }

    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        Ok(self.local.freeze()?.into_iter().chain(self.last.freeze()?).collect())
    }

    fn spill(&mut self) -> Result<()> {
        self.local.spill()?;
        self.last.spill()
    }

    /// Each part gets the tables of both, as the state of an operator may come.
    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        self.local.restore(tables.clone(), watermark)?;
        self.last.restore(tables, watermark)
    }
}

fn check(
    (descriptor, input): (&WindowAggregate, &SchemaRef),
    phase: Phase,
    batch_rows: usize,
    run: impl FnOnce(&Cuts<'_>),
) {
    let (inputs, output) = schemas(descriptor, input.clone(), Phase::Whole);
    let (mut context, _) = script::context(inputs, output);
    context.batch_rows = batch_rows;
    context.key_group_count = crate::cut_runs::KEY_GROUP_COUNT;
    let make = |context: &OperatorContext| match phase {
        Phase::Whole => super::super::create(descriptor, phase, context).expect("the descriptor is right"),
        _ => Box::new(TwoPhases::create(descriptor, input, context)) as Box<dyn Operator>,
    };
    let keys = descriptor.key.iter().map(|key| input.index_of(key).expect("the key exists")).collect();
    run(&Cuts { context, deal: Deal::ByKey(vec![keys]), make: &make });
}

/// All aggregates that there are, over every way in which they keep their state.
fn everything(window: WindowSpec, allowed_lateness: i64) -> WindowAggregate {
    let aggregates = [
        "count(*) AS n",
        "count(v) AS counted",
        "sum(v) AS total",
        "sum(f) AS floats",
        "avg(f) AS mean",
        "avg(d) AS decimals",
        "sum(d) AS decimal",
        "min(v) AS least",
        "max(f) AS most",
        "min(s) AS first_text",
        "max(b) AS any_b",
        "first(s) AS opened",
        "last(s) AS closed",
        "last(v) FILTER (WHERE v > 1) AS above",
    ];
    WindowAggregate {
        key: vec!["k".to_owned()],
        window,
        aggregates: aggregates.map(str::to_owned).to_vec(),
        allowed_lateness,
        two_phase: true,
    }
}

const INPUT: &str = "k STRING, v BIGINT, f DOUBLE, d DECIMAL(10, 2), s STRING, b BOOLEAN, t TIMESTAMP*";

const SCRIPT: &str = r#"
    rows a 1 0.1 1.25 x true 1 | b 2 0.2 2.50 y false 3 | - 3 - 0.01 "two words" - 2 | c - - - - - 4
    rows a 2 0.2 1.00 "" - 8 | d 5 1e300 99999999.99 zz true 12 | a - 0.7 - - - 12
    wm 4
    rows a 5 0.3 1.25 w false 5 | b 2 -0.2 - v true 11
    wm 9.999999
    rows a 1 0.4 7.00 u true 3 | e 9 9 9 late false 3 | a 2 0.1 0.10 b false 13
    rows c 1 1 1 c true 10 | b 4 -0.0 1 a true 16
    wm 11
    rows b 3 0.5 1 q true 6 | a 0 0.6 2 r - 21 | e 1 1 1 e true 25
    wm 14.999999
    rows a 7 0.7 2 s - 18 | a 7 0.7 2 s2 - 18 | f 1 1 1 f true 33
    wm 22
    rows f 1 1 1 f true 29
    wm max
    end"#;

const S: i64 = 1_000_000;

fn windows() -> [WindowSpec; 4] {
    [
        WindowSpec::Tumble { size: 10 * S, offset: 0 },
        WindowSpec::Hop { size: 10 * S, slide: 4 * S, offset: S },
        WindowSpec::Cumulate { size: 12 * S, step: 3 * S, offset: 0 },
        WindowSpec::Session { gap: 5 * S },
    ]
}

/// Carries c4 and c6: wherever a run is cut, each window of each key fires once and with all its rows.
#[test]
fn c6_windows_fire_once_wherever_they_are_cut() {
    let input = schema(INPUT);
    for window in windows() {
        for lateness in [0, 6 * S] {
            for phase in [Phase::Whole, Phase::Final] {
                check((&everything(window, lateness), &input), phase, 2, |cuts| {
                    cuts.check_everywhere(&events(SCRIPT, std::slice::from_ref(&input)), &[1, 2, 3], &[1, 2, 3]);
                });
            }
        }
    }
}

#[test]
fn distinct_values_go_on_wherever_they_are_cut() {
    let input = schema(INPUT);
    for window in windows() {
        for key in ["k", "b"] {
            let aggregates = ["count(DISTINCT v) AS vs", "count(DISTINCT s) AS ss", "count(DISTINCT f) AS fs"];
            let descriptor = WindowAggregate {
                key: vec![key.to_owned(), "v".to_owned()],
                aggregates: aggregates.map(str::to_owned).to_vec(),
                ..everything(window, 3 * S)
            };
            check((&descriptor, &input), Phase::Whole, 100, |cuts| {
                cuts.check_everywhere(&events(SCRIPT, std::slice::from_ref(&input)), &[1, 2], &[1, 3]);
            });
        }
    }
}

#[test]
fn windows_without_key_and_without_aggregates_go_on() {
    let input = schema(INPUT);
    for window in windows() {
        for descriptor in [
            WindowAggregate { key: Vec::new(), ..everything(window, 0) },
            WindowAggregate { aggregates: Vec::new(), ..everything(window, 6 * S) },
        ] {
            check((&descriptor, &input), Phase::Whole, 100, |cuts| {
                cuts.check_everywhere(&events(SCRIPT, std::slice::from_ref(&input)), &[1, 2], &[1, 3]);
            });
        }
    }
}

/// A job at one subtask has no local phase, and gets one when it is rescaled.
#[test]
fn local_phase_comes_and_goes_with_the_parallelism() {
    let input = schema(INPUT);
    for window in windows() {
        let descriptor = everything(window, 6 * S);
        let (inputs, output) = schemas(&descriptor, input.clone(), Phase::Whole);
        let (context, _) = script::context(inputs, output);
        let make = |context: &OperatorContext| match context.parallelism {
            1 => super::super::create(&descriptor, Phase::Whole, context).expect("the descriptor is right"),
            _ => Box::new(TwoPhases::create(&descriptor, &input, context)) as Box<dyn Operator>,
        };
        let cuts = Cuts { context, deal: Deal::ByKey(vec![vec![0]]), make: &make };
        cuts.check_everywhere(&events(SCRIPT, std::slice::from_ref(&input)), &[1, 2], &[1, 2]);
    }
}

fn window() -> impl Strategy<Value = WindowSpec> {
    prop_oneof![
        (1i64..30).prop_map(|size| WindowSpec::Tumble { size, offset: 3 }),
        (1i64..30, 1i64..30).prop_map(|(a, b)| WindowSpec::Hop { size: a.max(b), slide: a.min(b), offset: 1 }),
        (1i64..10, 1i64..6).prop_map(|(step, n)| WindowSpec::Cumulate { size: step * n, step, offset: 0 }),
        (1i64..20).prop_map(|gap| WindowSpec::Session { gap }),
    ]
}

fn events_of(steps: &[Step]) -> Vec<Event> {
    let event = |step: &Step| match step {
        Step::Rows(rows) => Event::Rows(0, batch(rows)),
        Step::Watermark(time) => Event::Watermark(EventTime(*time)),
    };
    steps.iter().map(event).chain([Event::End]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Carries c4 and c6.
    #[test]
    fn c6_random_runs_go_on_wherever_they_are_cut(
        window in window(),
        lateness in prop_oneof![Just(0i64), 1i64..40],
        batch_rows in 1usize..6,
        two_phases in any::<bool>(),
        steps in steps(),
        place in any::<prop::sample::Index>(),
        parallelism in (1u32..4, 1u32..4),
    ) {
        let phase = if two_phases { Phase::Final } else { Phase::Whole };
        check((&descriptor(window, lateness), &input()), phase, batch_rows, |cuts| {
            let events = events_of(&steps);
            cuts.check_at(&events, place.index(events.len() + 1), parallelism);
        });
    }
}

/// A run, its state, and the run of another operator that goes on with it.
fn go_on(from: &WindowAggregate, to: &WindowAggregate, (before, after): (&str, &str)) -> Result<String> {
    let mut old = operator_of(from, schema(before), Phase::Whole, 100);
    old.run("rows a 1 1 | a 5 12 | b 2 2\nwm 5");
    let tables = old.snapshot();
    let mut new = operator_of(to, schema(after), Phase::Whole, 100);
    new.restore(tables, EventTime(5 * S))?;
    Ok(new.run("rows a 7 3 | c 1 4\nwm max"))
}

fn tumble(aggregates: &[&str]) -> WindowAggregate {
    let aggregates = aggregates.iter().map(|sql| (*sql).to_owned()).collect();
    WindowAggregate { aggregates, ..everything(WindowSpec::Tumble { size: 10 * S, offset: 0 }, 0) }
}

#[test]
fn added_aggregates_start_empty_and_wider_numbers_go_on() {
    let narrow = "k STRING, v INT, t TIMESTAMP*";
    let wide = "k STRING, v BIGINT, t TIMESTAMP*";
    let more =
        ["min(v) AS least", "count(*) AS n", "last(v) AS latest", "avg(v) AS mean", "count(DISTINCT v) AS values"];
    let found = go_on(&tumble(&["min(v) AS least"]), &tumble(&more), (narrow, wide)).expect("the state fits");
    expect_test::expect![[r#"
        > rows a 7 3 | c 1 4
        > wm max
          main (k window_start window_end window_time* least n latest mean values)
          main a 0 10 9.999999 1 1 7 7.0 1
          main b 0 10 9.999999 2 0 - - 0
          main c 0 10 9.999999 1 1 1 1.0 1
          (more)
          main a 10 20 19.999999 5 0 - - 0
          (more)
          wm max
    "#]]
    .assert_eq(&found);
}

#[test]
fn other_windows_functions_and_keys_are_refused() {
    let input = "k STRING, v BIGINT, t TIMESTAMP*";
    let least = tumble(&["min(v) AS x"]);
    let refused = |to: &WindowAggregate| go_on(&least, to, (input, input)).expect_err("the state does not fit").message;
    assert!(refused(&tumble(&["max(v) AS x"])).contains("it holds the column 'agg.min.x' (Int64)"));
    assert!(refused(&WindowAggregate { key: vec!["v".to_owned()], ..least.clone() }).contains("'key.k'"));
    let other = WindowAggregate { window: WindowSpec::Tumble { size: 5 * S, offset: 0 }, ..least.clone() };
    expect_test::expect![
        "the windows of the checkpoint (tumble size 10000000 us, offset 0 us, allowed lateness 0 us) are not those of the \
         job (tumble size 5000000 us, offset 0 us, allowed lateness 0 us)"
    ]
    .assert_eq(&refused(&other));
    assert!(refused(&WindowAggregate { allowed_lateness: 1, ..least.clone() }).contains("allowed lateness 1 us"));
}

/// A local phase that begins behind the windows must not send them partials for what they have closed.
#[test]
fn local_phase_that_goes_on_sends_rows_where_it_knows_too_little() {
    let window = WindowSpec::Tumble { size: 10, offset: 0 };
    let row = [(Some(1), Some(1), 5)];
    let sent_raw = |tables: Vec<StateTable>, watermark: i64| {
        let mut local = operator(window, 0, Phase::Local, 100);
        local.restore(tables, EventTime(watermark)).expect("the state fits");
        local.batch(0, batch(&row));
        local.recorder.rows(OutputTag::Raw).len() == 1
    };
    let idle = |is_idle: bool| {
        let mut local = operator(window, 0, Phase::Local, 100);
        if is_idle {
            local.idle(true);
        }
        local.snapshot()
    };
    let windows_at = |watermark: i64| {
        let mut last = operator(window, 0, Phase::Whole, 100);
        last.watermark(EventTime(watermark));
        last.snapshot()
    };
    assert!(!sent_raw(idle(false), 8) && sent_raw(idle(false), 9), "the own watermark counts");
    assert!(sent_raw(idle(true), 8), "one subtask was idle, and the windows may be ahead");
    assert!(sent_raw(Vec::new(), 8), "there was no local phase, and the windows may be ahead");
    assert!(sent_raw(windows_at(9), 8) && !sent_raw(windows_at(8), 8), "the windows say how far they are");
    let both = [idle(true), windows_at(8)].concat();
    assert!(!sent_raw(both, 8), "what the windows say is better than the flag");
}
