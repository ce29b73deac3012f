//! Tests of the operator in `window_join.rs`: scripts, and a simple model where there is one.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::{JoinType, WindowJoin};
use weir_graph::{WindowSpec, join_schema};
use weir_testkit::{Runner, context, read_rows, schema, seconds};

use crate::cut_runs::{Keyed, Row as RandomRow, runs, word};

const LEFT: &str = "k STRING, a BIGINT, t TIMESTAMP*";
const RIGHT: &str = "b BIGINT, rk STRING, rt TIMESTAMP*";
const TUMBLE: WindowSpec = WindowSpec::Tumble { size: 10_000_000, offset: 0 };

fn runner(window: WindowSpec, join_type: JoinType, (left, right): (&str, &str), batch_rows: usize) -> Runner {
    let inputs = vec![schema(left), schema(right)];
    let output = join_schema::output_schema(&inputs[0], &inputs[1], &window, join_type).expect("the inputs fit");
    let (mut context, clock) = context(inputs, output);
    context.batch_rows = batch_rows;
    let join = WindowJoin { left_key: vec!["k".to_owned()], right_key: vec!["rk".to_owned()], window, join_type };
    Runner::new(super::create(&join, &context).expect("the keys exist"), &context, clock)
}

fn check(window: WindowSpec, join_type: JoinType, script: &str, expected: Expect) {
    expected.assert_eq(&runner(window, join_type, (LEFT, RIGHT), 100).run(script));
}

const SCRIPT: &str = "
    rows x 1 1 | y 2 2 | x 3 11 | - 4 3
    rows@1 7 x 5 | 8 x 6 | 9 z 1 | 6 x 12 | 5 - 1
    wm 9
    wm 9.999999
    rows@1 1 x 9 | 2 x 10
    rows x 4 9.999999
    wm max
    end";

#[test]
fn pairs_of_a_window_leave_when_it_closes_and_nulls_equal_nothing() {
    check(
        TUMBLE,
        JoinType::Inner,
        SCRIPT,
        expect![[r#"
        > rows x 1 1 | y 2 2 | x 3 11 | - 4 3
        > rows@1 7 x 5 | 8 x 6 | 9 z 1 | 6 x 12 | 5 - 1
        > wm 9
          wm 9
        > wm 9.999999
          main (k a t b rk rt window_start window_end window_time*)
          main x 1 1 7 x 5 0 10 9.999999
          main x 1 1 8 x 6 0 10 9.999999
          wm 9.999999
        > rows@1 1 x 9 | 2 x 10
          late (b rk rt*)
          late 1 x 9
        > rows x 4 9.999999
          late x 4 9.999999
        > wm max
          main x 3 11 6 x 12 10 20 19.999999
          main x 3 11 2 x 10 10 20 19.999999
          wm max
        > end
    "#]],
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "the scripts are long")]
fn outer_joins_keep_rows_without_a_partner() {
    check(
        TUMBLE,
        JoinType::Left,
        SCRIPT,
        expect![[r#"
        > rows x 1 1 | y 2 2 | x 3 11 | - 4 3
        > rows@1 7 x 5 | 8 x 6 | 9 z 1 | 6 x 12 | 5 - 1
        > wm 9
          wm 9
        > wm 9.999999
          main (k a t b rk rt window_start window_end window_time*)
          main x 1 1 7 x 5 0 10 9.999999
          main x 1 1 8 x 6 0 10 9.999999
          main y 2 2 - - - 0 10 9.999999
          main - 4 3 - - - 0 10 9.999999
          wm 9.999999
        > rows@1 1 x 9 | 2 x 10
          late (b rk rt*)
          late 1 x 9
        > rows x 4 9.999999
          late x 4 9.999999
        > wm max
          main x 3 11 6 x 12 10 20 19.999999
          main x 3 11 2 x 10 10 20 19.999999
          wm max
        > end
    "#]],
    );
    check(
        TUMBLE,
        JoinType::Right,
        SCRIPT,
        expect![[r#"
        > rows x 1 1 | y 2 2 | x 3 11 | - 4 3
        > rows@1 7 x 5 | 8 x 6 | 9 z 1 | 6 x 12 | 5 - 1
        > wm 9
          wm 9
        > wm 9.999999
          main (k a t b rk rt window_start window_end window_time*)
          main x 1 1 7 x 5 0 10 9.999999
          main x 1 1 8 x 6 0 10 9.999999
          main - - - 9 z 1 0 10 9.999999
          main - - - 5 - 1 0 10 9.999999
          wm 9.999999
        > rows@1 1 x 9 | 2 x 10
          late (b rk rt*)
          late 1 x 9
        > rows x 4 9.999999
          late x 4 9.999999
        > wm max
          main x 3 11 6 x 12 10 20 19.999999
          main x 3 11 2 x 10 10 20 19.999999
          wm max
        > end
    "#]],
    );
    check(
        TUMBLE,
        JoinType::Full,
        SCRIPT,
        expect![[r#"
        > rows x 1 1 | y 2 2 | x 3 11 | - 4 3
        > rows@1 7 x 5 | 8 x 6 | 9 z 1 | 6 x 12 | 5 - 1
        > wm 9
          wm 9
        > wm 9.999999
          main (k a t b rk rt window_start window_end window_time*)
          main x 1 1 7 x 5 0 10 9.999999
          main x 1 1 8 x 6 0 10 9.999999
          main y 2 2 - - - 0 10 9.999999
          main - 4 3 - - - 0 10 9.999999
          main - - - 9 z 1 0 10 9.999999
          main - - - 5 - 1 0 10 9.999999
          wm 9.999999
        > rows@1 1 x 9 | 2 x 10
          late (b rk rt*)
          late 1 x 9
        > rows x 4 9.999999
          late x 4 9.999999
        > wm max
          main x 3 11 6 x 12 10 20 19.999999
          main x 3 11 2 x 10 10 20 19.999999
          wm max
        > end
    "#]],
    );
}

#[test]
fn row_is_joined_in_every_hopping_window_it_belongs_to() {
    let hop = WindowSpec::Hop { size: 10_000_000, slide: 5_000_000, offset: 0 };
    let script = "rows x 1 6\nrows@1 7 x 4 | 8 x 12\nwm 9.999999\nrows x 2 7 | x 3 4\nwm 20\nwm max";
    check(
        hop,
        JoinType::Inner,
        script,
        expect![[r#"
        > rows x 1 6
        > rows@1 7 x 4 | 8 x 12
        > wm 9.999999
          main (k a t b rk rt window_start window_end window_time*)
          main x 1 6 7 x 4 0 10 9.999999
          wm 9.999999
        > rows x 2 7 | x 3 4
          late (k a t*)
          late x 3 4
        > wm 20
          main x 1 6 8 x 12 5 15 14.999999
          main x 2 7 8 x 12 5 15 14.999999
          wm 20
        > wm max
          wm max
    "#]],
    );
}

#[test]
fn row_is_joined_in_every_cumulative_window_it_belongs_to() {
    let cumulate = WindowSpec::Cumulate { size: 10_000_000, step: 5_000_000, offset: 0 };
    check(
        cumulate,
        JoinType::Inner,
        "rows x 1 1 | x 2 6\nrows@1 7 x 4\nwm 5\nwm 10",
        expect![[r#"
        > rows x 1 1 | x 2 6
        > rows@1 7 x 4
        > wm 5
          main (k a t b rk rt window_start window_end window_time*)
          main x 1 1 7 x 4 0 5 4.999999
          wm 5
        > wm 10
          main x 1 1 7 x 4 0 10 9.999999
          main x 2 6 7 x 4 0 10 9.999999
          wm 10
    "#]],
    );
}

const WINDOW: &str = "window_start TIMESTAMP NOT NULL, window_end TIMESTAMP NOT NULL, window_time TIMESTAMP* NOT NULL";

#[test]
fn results_of_windows_join_on_their_bounds() {
    let (left, right) = (format!("k STRING, a BIGINT, {WINDOW}"), format!("{WINDOW}, rk STRING, b BIGINT"));
    let mut runner = runner(WindowSpec::Same, JoinType::Full, (&left, &right), 100);
    let script = "
        rows x 1 0 10 9.999999 | x 2 0 20 19.999999 | y 3 0 10 9.999999
        rows@1 0 10 9.999999 x 7 | 10 20 19.999999 x 8
        wm 9.999999
        rows@1 0 10 9.999999 x 9
        wm max";
    expect![[r#"
        > rows x 1 0 10 9.999999 | x 2 0 20 19.999999 | y 3 0 10 9.999999
        > rows@1 0 10 9.999999 x 7 | 10 20 19.999999 x 8
        > wm 9.999999
          main (k a window_start window_end window_time* rk b)
          main x 1 0 10 9.999999 x 7
          main y 3 0 10 9.999999 - -
          wm 9.999999
        > rows@1 0 10 9.999999 x 9
          late (window_start window_end window_time* rk b)
          late 0 10 9.999999 x 9
        > wm max
          main x 2 0 20 19.999999 - -
          main - - 10 20 19.999999 x 8
          wm max
    "#]]
    .assert_eq(&runner.run(script));
}

#[test]
fn big_windows_leave_in_pieces() {
    let mut runner = runner(TUMBLE, JoinType::Full, (LEFT, RIGHT), 2);
    expect![[r#"
        > rows x 1 1 | x 2 2 | y 3 3
        > rows@1 7 x 5 | 8 x 6 | 9 x 1 | 6 z 2
        > wm 10
          main (k a t b rk rt window_start window_end window_time*)
          main x 1 1 7 x 5 0 10 9.999999
          main x 1 1 8 x 6 0 10 9.999999
          (more)
          main x 1 1 9 x 1 0 10 9.999999
          main x 2 2 7 x 5 0 10 9.999999
          (more)
          main x 2 2 8 x 6 0 10 9.999999
          main x 2 2 9 x 1 0 10 9.999999
          (more)
          main y 3 3 - - - 0 10 9.999999
          main - - - 6 z 2 0 10 9.999999
          (more)
          wm 10
    "#]]
    .assert_eq(&runner.run("rows x 1 1 | x 2 2 | y 3 3\nrows@1 7 x 5 | 8 x 6 | 9 x 1 | 6 z 2\nwm 10"));
}

type Row = (i64, u8, Option<u8>);

/// The definition: every pair of every window, looked at one by one.
fn definition(windows: &[(i64, i64)], join_type: JoinType, left: &[Row], right: &[Row]) -> Vec<String> {
    let text = |key: Option<u8>| key.map_or("-".to_owned(), |key| format!("k{key}"));
    let mut results = Vec::new();
    for (start, end) in windows {
        let inside =
            |rows: &[Row]| -> Vec<Row> { rows.iter().filter(|row| (*start..*end).contains(&row.0)).copied().collect() };
        let (left, right) = (inside(left), inside(right));
        let window = format!("{} {} {}", seconds(*start), seconds(*end), seconds(end - 1));
        let print_left = |row: &Row| format!("{} {} {}", text(row.2), row.1, seconds(row.0));
        let print_right = |row: &Row| format!("{} {} {}", row.1, text(row.2), seconds(row.0));
        let equal = |a: &Row, b: &Row| a.2.is_some() && a.2 == b.2;
        for a in &left {
            let partners: Vec<_> = right.iter().filter(|b| equal(a, b)).collect();
            results.extend(partners.iter().map(|b| format!("{} {} {window}", print_left(a), print_right(b))));
            if partners.is_empty() && matches!(join_type, JoinType::Left | JoinType::Full) {
                results.push(format!("{} - - - {window}", print_left(a)));
            }
        }
        if matches!(join_type, JoinType::Right | JoinType::Full) {
            let alone = right.iter().filter(|b| !left.iter().any(|a| equal(a, b)));
            results.extend(alone.map(|b| format!("- - - {} {window}", print_right(b))));
        }
    }
    results.sort();
    results
}

fn side() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((0i64..40, 0u8..10, prop::option::weighted(0.9, 0u8..4)), 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn join_gives_the_pairs_of_the_definition(
        left in side(),
        right in side(),
        join_type in prop::sample::select(vec![JoinType::Inner, JoinType::Left, JoinType::Right, JoinType::Full]),
        window in prop::sample::select(vec![
            WindowSpec::Tumble { size: 10, offset: 3 },
            WindowSpec::Hop { size: 12, slide: 4, offset: 1 },
            WindowSpec::Hop { size: 10, slide: 4, offset: 0 },
            WindowSpec::Cumulate { size: 12, step: 4, offset: 0 },
        ]),
        pieces in 1usize..9,
        advance in any::<bool>(),
    ) {
        let mut windows: Vec<(i64, i64)> = (-20..60).flat_map(|time| window.windows_of_slice(window.slice_start(time))).collect();
        windows.sort();
        windows.dedup();
        let (mut sorted_left, mut sorted_right) = (left.clone(), right.clone());
        sorted_left.sort();
        sorted_right.sort();
        let mut runner = runner(window, join_type, (LEFT, RIGHT), pieces);
        // All rows first, or in steps with the watermark close behind.
        let steps: Vec<(i64, i64)> = if advance { (0..4).map(|n| (n * 10, n * 10 + 10)).collect() } else { vec![(0, 40)] };
        for (from, to) in steps {
            let text = |key: Option<u8>| key.map_or("-".to_owned(), |key| format!("k{key}"));
            let part = |rows: &[Row]| -> Vec<Row> { rows.iter().filter(|row| (from..to).contains(&row.0)).copied().collect() };
            let left: Vec<String> = part(&left).iter().map(|row| format!("{} {} {}us", text(row.2), row.1, row.0)).collect();
            let right: Vec<String> = part(&right).iter().map(|row| format!("{} {} {}us", row.1, text(row.2), row.0)).collect();
            for (input, rows, spelled) in [(0, left, LEFT), (1, right, RIGHT)] {
                for batch in rows.chunks(pieces) {
                    runner.batch(input, Batch::new(read_rows(&schema(spelled), &batch.join("\n")), 0));
                }
            }
            runner.watermark(EventTime(to - 1));
        }
        runner.watermark(EventTime::MAX);
        let mut found = runner.recorder.rows(OutputTag::Main);
        found.sort();
        prop_assert!(runner.recorder.rows(OutputTag::Late).is_empty());
        prop_assert_eq!(found, definition(&windows, join_type, &left, &right));
    }
}

fn with_keyed(window: WindowSpec, join_type: JoinType, check: impl FnOnce(&Keyed<'_>)) {
    let inputs = match window {
        WindowSpec::Same => {
            vec![schema(&format!("k STRING, a BIGINT, {WINDOW}")), schema(&format!("b BIGINT, rk STRING, {WINDOW}"))]
        }
        _ => vec![schema(LEFT), schema(RIGHT)],
    };
    let join = WindowJoin { left_key: vec!["k".to_owned()], right_key: vec!["rk".to_owned()], window, join_type };
    check(&Keyed {
        output: join_schema::output_schema(&inputs[0], &inputs[1], &window, join_type).expect("the inputs fit"),
        inputs,
        keys: vec![vec![0], vec![1]],
        make: &|context| super::create(&join, context),
    });
}

const TYPES: [JoinType; 4] = [JoinType::Inner, JoinType::Left, JoinType::Right, JoinType::Full];

#[test]
fn c6_windows_are_joined_once_wherever_they_are_cut() {
    let hop = WindowSpec::Hop { size: 10_000_000, slide: 4_000_000, offset: 0 };
    let cumulate = WindowSpec::Cumulate { size: 10_000_000, step: 5_000_000, offset: 0 };
    for window in [TUMBLE, hop, cumulate] {
        for join_type in TYPES {
            with_keyed(window, join_type, |keyed| keyed.check_everywhere(SCRIPT));
        }
    }
}

proptest! {
    #[test]
    fn c6_random_runs_go_on_wherever_they_are_cut(
        run in runs(2, print),
        (a, b) in (1i64..20, 1i64..20),
        kind in 0..3,
        join_type in 0..TYPES.len(),
    ) {
        let window = match kind {
            0 => WindowSpec::Tumble { size: a, offset: 1 },
            1 => WindowSpec::Hop { size: a.max(b), slide: a.min(b), offset: 0 },
            _ => WindowSpec::Cumulate { size: a * b, step: a, offset: 0 },
        };
        with_keyed(window, TYPES[join_type], |keyed| keyed.check_at(&run));
    }

    #[test]
    fn c6_joined_results_of_windows_go_on(run in runs(2, print_with_bounds), join_type in 0..TYPES.len()) {
        with_keyed(WindowSpec::Same, TYPES[join_type], |keyed| keyed.check_at(&run));
    }
}

fn print(input: usize, (key, value, time): RandomRow) -> String {
    let (key, value) = (word("k", key), word("", value));
    if input == 0 { format!("{key} {value} {time}us") } else { format!("{value} {key} {time}us") }
}

fn print_with_bounds(input: usize, (key, value, time): RandomRow) -> String {
    let (key, value, start) = (word("k", key), word("", value), time / 10 * 10);
    let (first, second) = if input == 0 { (key, value) } else { (value, key) };
    format!("{first} {second} {start}us {}us {}us", start + 10, start + 9)
}
