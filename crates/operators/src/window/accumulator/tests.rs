//! Every function against its definition, and every way into an accumulator against the direct one.

use super::*;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StringViewArray};
use proptest::prelude::*;

/// A row: group, value, whether the filter passes it, time.
type Row = (u32, Option<i64>, Option<bool>, i64);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0u32..5, prop::option::weighted(0.8, -50i64..50), prop::option::weighted(0.9, any::<bool>()), 0i64..30);
    prop::collection::vec(row, 0..80)
}

fn call(function: AggregateFunction, argument: Option<DataType>) -> Call {
    Call { name: "a".to_owned(), function, argument }
}

const TYPES: usize = 7;

fn column(kind: usize, rows: &[Row]) -> ArrayRef {
    let values = || rows.iter().map(|row| row.1);
    match kind {
        0 => Arc::new(values().collect::<Int64Array>()),
        1 => Arc::new(values().map(|value| value.map(|n| n as i32)).collect::<Int32Array>()),
        2 => Arc::new(values().map(|value| value.map(|n| n as f64 / 4.0)).collect::<Float64Array>()),
        3 => Arc::new(
            values()
                .map(|value| value.map(i128::from))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(10, 2)
                .expect("fits"),
        ),
        4 => Arc::new(values().map(|value| value.map(|n| format!("text {n}"))).collect::<StringArray>()),
        5 => Arc::new(values().map(|value| value.map(|n| format!("a longer text {n}"))).collect::<StringViewArray>()),
        _ => Arc::new(values().map(|value| value.map(|n| n > 0)).collect::<BooleanArray>()),
    }
}

fn update(accumulator: &mut dyn Accumulator, kind: Option<usize>, rows: &[Row]) {
    let ids: Vec<u32> = rows.iter().map(|row| row.0).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.3).collect();
    let filter: BooleanArray = rows.iter().map(|row| row.2).collect();
    let input = Input::new(kind.map(|kind| column(kind, rows)), Some(&filter));
    accumulator.update(&ids, &input, &times).expect("small numbers do not overflow");
}

/// The definition, over the values of one group that count, in order of arrival.
fn expected(function: AggregateFunction, kind: usize, rows: &[Row]) -> ArrayRef {
    use AggregateFunction::*;
    let counted: Vec<Row> = rows.iter().filter(|row| row.1.is_some() && row.2 == Some(true)).copied().collect();
    // Text is ordered as text.
    let rank = |row: &Row| match kind {
        4 | 5 => (0, row.1.map(|n| n.to_string())),
        6 => (i64::from(row.1 > Some(0)), None),
        _ => (row.1.unwrap_or_default(), None),
    };
    let one = |row: Option<&Row>| column(kind, &[row.copied().unwrap_or((0, None, None, 0))]);
    match function {
        Count => Arc::new(Int64Array::from(vec![counted.len() as i64])),
        CountDistinct => {
            let mut ranks: Vec<_> = counted.iter().map(rank).collect();
            ranks.sort();
            ranks.dedup();
            Arc::new(Int64Array::from(vec![ranks.len() as i64]))
        }
        Min => one(counted.iter().min_by_key(|row| rank(row))),
        Max => one(counted.iter().max_by_key(|row| rank(row))),
        First => one(counted.iter().min_by_key(|row| row.3)),
        Last => one(counted.iter().max_by_key(|row| row.3)),
        Sum | Avg => {
            let total: i64 = counted.iter().filter_map(|row| row.1).sum();
            let total = (!counted.is_empty()).then_some(total);
            let scale = match kind {
                2 => 4.0,
                3 => 100.0,
                _ => 1.0,
            };
            match (function, kind) {
                (Avg, _) => {
                    Arc::new(Float64Array::from(vec![total.map(|total| total as f64 / counted.len() as f64 / scale)]))
                }
                (_, 2) => Arc::new(Float64Array::from(vec![total.map(|total| total as f64 / 4.0)])),
                (_, 3) => Arc::new(
                    Decimal128Array::from(vec![total.map(i128::from)]).with_precision_and_scale(38, 2).expect("fits"),
                ),
                _ => Arc::new(Int64Array::from(vec![total])),
            }
        }
    }
}

fn applies(function: AggregateFunction, kind: usize) -> bool {
    !matches!(function, AggregateFunction::Sum | AggregateFunction::Avg) || kind < 4
}

fn function() -> impl Strategy<Value = AggregateFunction> {
    use AggregateFunction::*;
    prop::sample::select(vec![Count, CountDistinct, Sum, Avg, Min, Max, First, Last])
}

/// Compares all groups; averages of decimals may differ in the last bit.
fn check(found: &ArrayRef, function: AggregateFunction, kind: usize, groups: &[Vec<Row>]) -> Result<(), TestCaseError> {
    for (group, rows) in groups.iter().enumerate() {
        let (found, expected) = (found.slice(group, 1), expected(function, kind, rows));
        if function == AggregateFunction::Avg && expected.is_valid(0) {
            let [a, b] = [&found, &expected].map(|column| column.as_primitive::<Float64Type>().value(0));
            prop_assert!((a - b).abs() < 1e-12, "{} {}", a, b);
        } else {
            prop_assert_eq!(&found, &expected, "{} of group {}", function, group);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_way_in_gives_the_definition(
        function in function(),
        kind in 0..TYPES,
        parts in prop::collection::vec(rows(), 1..4),
    ) {
        prop_assume!(applies(function, kind));
        let call = call(function, Some(column(kind, &[]).data_type().clone()));
        let all: Vec<u32> = (0..5).collect();
        let groups: Vec<Vec<Row>> =
            all.iter().map(|id| parts.concat().into_iter().filter(|row| row.0 == *id).collect()).collect();
        let empty = || {
            let mut made = call.accumulator().expect("the function takes the type");
            made.resize(5);
            made
        };

        let mut direct = empty();
        parts.iter().for_each(|part| update(direct.as_mut(), Some(kind), part));
        check(&direct.evaluate(&all).expect("evaluate"), function, kind, &groups)?;
        prop_assert!(direct.size_bytes() > 0);

        let mut merged = empty();
        for part in &parts {
            let mut slice = empty();
            update(slice.as_mut(), Some(kind), part);
            merged.merge(&all, slice.as_ref(), &all).expect("merge");
        }
        check(&merged.evaluate(&all).expect("evaluate"), function, kind, &groups)?;

        if function != AggregateFunction::CountDistinct {
            let mut from_partials = empty();
            for part in &parts {
                let mut slice = empty();
                update(slice.as_mut(), Some(kind), part);
                let partial = slice.partial(&all).expect("partial");
                let fields = function.partial_fields("a", call.argument.as_ref()).expect("has a partial form");
                let types: Vec<_> = partial.iter().map(|column| column.data_type().clone()).collect();
                prop_assert_eq!(types, fields.iter().map(|field| field.data_type().clone()).collect::<Vec<_>>());
                from_partials.merge_partial(&all, &partial).expect("merge partial");
            }
            check(&from_partials.evaluate(&all).expect("evaluate"), function, kind, &groups)?;
        }

        // Everything into group 0, one group at a time; the others are empty afterwards and take rows again.
        let mut absorbed = empty();
        let mut sorted = parts.concat();
        sorted.sort_by_key(|row| row.3);
        let ties_of_time = sorted.windows(2).any(|pair| pair[0].3 == pair[1].3);
        update(absorbed.as_mut(), Some(kind), &parts.concat());
        for id in 1..5 {
            absorbed.absorb(0, id).expect("absorb");
        }
        if !ties_of_time {
            let mut together = vec![Vec::new(); 5];
            together[0] = parts.concat();
            check(&absorbed.evaluate(&all).expect("evaluate"), function, kind, &together)?;
        }
        absorbed.reset(0);
        parts.iter().for_each(|part| update(absorbed.as_mut(), Some(kind), part));
        check(&absorbed.evaluate(&all).expect("evaluate"), function, kind, &groups)?;
        absorbed.clear();
        absorbed.resize(5);
        check(&absorbed.evaluate(&all).expect("evaluate"), function, kind, &vec![Vec::new(); 5])?;
    }
}

#[test]
fn count_without_argument_counts_rows_that_pass() {
    let mut count = call(AggregateFunction::Count, None).accumulator().expect("count takes nothing");
    count.resize(2);
    update(count.as_mut(), None, &[(0, None, Some(true), 0), (1, None, Some(false), 0), (0, Some(1), None, 0)]);
    assert_eq!(count.evaluate(&[0, 1]).expect("evaluate").as_primitive::<Int64Type>().values(), &[1, 0]);
}

fn overflow(column: ArrayRef) -> OperatorError {
    let mut sum = call(AggregateFunction::Sum, Some(column.data_type().clone())).accumulator().expect("a number");
    sum.resize(1);
    let ids = vec![0; column.len()];
    sum.update(&ids, &Input::new(Some(column), None), &[]).expect_err("the sum is too large")
}

#[test]
fn sum_that_does_not_fit_ends_the_job() {
    let error = overflow(Arc::new(Int64Array::from(vec![i64::MAX, 1])));
    assert_eq!((error.code, error.to_string()), ("sum-overflow", "the sum 'a' of one group does not fit Int64".into()));
    let large = 10i128.pow(38) - 1;
    let decimals = Decimal128Array::from(vec![large, large]).with_precision_and_scale(38, 0).expect("fits");
    assert_eq!(overflow(Arc::new(decimals)).code, "sum-overflow");
    assert_eq!(overflow(Arc::new(arrow_array::UInt64Array::from(vec![u64::MAX]))).code, "sum-overflow");
}

fn float(function: AggregateFunction, values: Vec<f64>) -> f64 {
    let mut accumulator = call(function, Some(DataType::Float64)).accumulator().expect("floats are numbers");
    accumulator.resize(1);
    let ids = vec![0; values.len()];
    let input = Input::new(Some(Arc::new(Float64Array::from(values))), None);
    accumulator.update(&ids, &input, &[]).expect("floats do not overflow");
    accumulator.evaluate(&[0]).expect("evaluate").as_primitive::<Float64Type>().value(0)
}

#[test]
fn float_sums_keep_what_rounding_loses() {
    assert_eq!(float(AggregateFunction::Sum, vec![1.0, 1e100, 1.0, -1e100]), 2.0);
    assert_eq!(float(AggregateFunction::Sum, vec![1.0, f64::INFINITY]), f64::INFINITY);
    assert!(float(AggregateFunction::Avg, vec![f64::INFINITY, f64::NEG_INFINITY]).is_nan());
}

#[test]
fn nan_is_the_greatest_float() {
    assert!(float(AggregateFunction::Max, vec![1.0, -f64::NAN, f64::INFINITY]).is_nan());
    assert_eq!(float(AggregateFunction::Min, vec![-f64::NAN, 2.0]), 2.0);
}

#[test]
fn last_keeps_lists() {
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1)]), Some(vec![Some(2), None])]);
    let lists: ArrayRef = Arc::new(lists);
    let mut last = call(AggregateFunction::Last, Some(lists.data_type().clone())).accumulator().expect("any type");
    last.resize(2);
    last.update(&[0, 0], &Input::new(Some(Arc::clone(&lists)), None), &[5, 4]).expect("update");
    let found = last.evaluate(&[0, 1]).expect("evaluate");
    assert_eq!(&found.slice(0, 1), &lists.slice(0, 1));
    assert!(found.is_null(1));
}

#[test]
fn distinct_sets_give_their_memory_back() {
    let mut distinct =
        call(AggregateFunction::CountDistinct, Some(DataType::Int64)).accumulator().expect("integers have equality");
    distinct.resize(10);
    let mut sizes = Vec::new();
    for round in 0..50 {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(round * 1000..(round + 1) * 1000));
        let ids: Vec<u32> = (0..1000).map(|row| row % 10).collect();
        distinct.update(&ids, &Input::new(Some(column), None), &[]).expect("update");
        let counts = distinct.evaluate(&[0, 9]).expect("evaluate");
        assert_eq!(counts.as_primitive::<Int64Type>().values(), &[100, 100]);
        (0..10).for_each(|id| distinct.reset(id));
        sizes.push(distinct.size_bytes());
    }
    assert_eq!(sizes[5], sizes[49]);
}
