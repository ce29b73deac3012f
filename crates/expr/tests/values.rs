//! Expressions over rows: what they give, as snapshots. Each `check` compiles an expression over the rows of
//! [`fleet`], and prints its type and its values.

use std::fmt::Write;
use std::sync::Arc;

use arrow::util::display::array_value_to_string;
use arrow_array::builder::{Float64Builder, ListBuilder};
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray, types::Int32Type,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use expect_test::{Expect, expect};
use weir_core::batch::event_time_type;
use weir_expr::{Expression, Predicate};

/// 2018-08-01 05:04:03.000417 UTC.
const TIME: i64 = 1_533_099_843_000_417;

fn fleet() -> RecordBatch {
    let mut loads = ListBuilder::new(Float64Builder::new());
    loads.append_value([Some(1.5), Some(2.5)]);
    loads.append_value([]);
    loads.append_null();
    let stop = StructArray::from(vec![
        (
            Arc::new(Field::new("city", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("Bern"), None, Some("Basel")])) as ArrayRef,
        ),
        (Arc::new(Field::new("Door", DataType::Int32, true)), Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef),
    ]);
    let columns: Vec<(&str, bool, ArrayRef)> = vec![
        ("id", false, Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("price", true, Arc::new(Int64Array::from(vec![Some(1000), Some(-7), None]))),
        ("Quantity", true, Arc::new(Int32Array::from(vec![Some(3), Some(0), Some(i32::MAX)]))),
        ("speed", true, Arc::new(Float64Array::from(vec![Some(12.5), Some(0.0), None]))),
        ("truckName", true, Arc::new(StringArray::from(vec![Some("MAN tgx"), Some("Über 7.5t"), None]))),
        ("moving", true, Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("dateTime", false, Arc::new(TimestampMicrosecondArray::from(vec![TIME, 0, -1]).with_timezone("UTC"))),
        ("loads", true, Arc::new(loads.finish())),
        ("stop", true, Arc::new(stop)),
        ("region", true, Arc::new(DictionaryArray::<Int32Type>::from_iter([Some("north"), None, Some("south")]))),
        ("note", true, Arc::new(LargeStringArray::from(vec![Some("a,b"), Some(""), None]))),
    ];
    let fields: Vec<Field> =
        columns.iter().map(|(name, nullable, array)| Field::new(*name, array.data_type().clone(), *nullable)).collect();
    let arrays = columns.into_iter().map(|(_, _, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("columns fit the schema")
}

/// One line: type, values.
fn line(sql: &str, batch: &RecordBatch) -> String {
    let expression = match Expression::compile(sql, &batch.schema()) {
        Ok(expression) => expression,
        Err(error) => return format!("{sql}  =>  ERROR {error}"),
    };
    let rows = expression.evaluate_rows(batch);
    assert_eq!(rows.values.data_type(), expression.data_type(), "{sql} gives another type than it says");
    assert_eq!(rows.good.len() + rows.bad.len(), batch.num_rows(), "{sql} loses rows");
    let mut values: Vec<String> = (0..batch.num_rows()).map(|_| "?".to_owned()).collect();
    for (index, row) in rows.good.iter().enumerate() {
        let text = array_value_to_string(&rows.values, index).expect("prints");
        let is_null = rows.values.is_null(index);
        assert!(!is_null || expression.typed().nullable, "{sql} is null but not nullable");
        values[*row as usize] = if is_null { "NULL".to_owned() } else { text };
    }
    for (row, message) in rows.bad {
        values[row as usize] = format!("BAD({message})");
    }
    let null = if expression.typed().nullable { "" } else { " NOT NULL" };
    format!("{sql}  =>  {}{null}: {}", weir_core::data_type::name(expression.data_type()), values.join(" | "))
}

fn check(expressions: &[&str], expected: Expect) {
    let batch = fleet();
    let mut lines = String::new();
    for sql in expressions {
        writeln!(lines, "{}", line(sql, &batch)).expect("strings take all");
    }
    expected.assert_eq(&lines);
}

#[test]
fn columns_are_matched_as_written() {
    check(&["truckName", "\"truckName\"", "Quantity", "dateTime", "id", "region", "note"], expect![[""]]);
}

#[test]
fn arithmetic_follows_the_types() {
    check(
        &[
            "0.908 * price",
            "price * 0.5",
            "0.1",
            "1e3",
            "price + 1",
            "price / 2",
            "price % 3",
            "MOD(price, 3)",
            "mod(price + 1, 3) * 2",
            "speed / 2",
            "speed * 3.6",
            "speed > 0.5",
            "-price",
            "- speed",
            "Quantity + 1",
            "id * id - id",
            "2 + 3 * 4",
            "1 / 3",
            "1.0 / 3",
            "CAST(floor(speed) AS BIGINT)",
            "round(speed * 3.6, 1)",
            "abs(price)",
            "power(2, id)",
            "sqrt(speed)",
            "pi()",
            "greatest(price, id)",
        ],
        expect![[""]],
    );
}

#[test]
fn failing_rows_are_named() {
    check(
        &[
            "100 / Quantity",
            "price % Quantity",
            "Quantity * 2",
            "CAST(truckName AS BIGINT)",
            "TRY_CAST(truckName AS BIGINT)",
            "CAST(id * 3000000000 AS INT)",
            "id * 9223372036854775807",
            "-(id - 9223372036854775807 - 3)",
            "Quantity <> 0 AND 100 / Quantity > 1",
            "Quantity = 0 OR 100 / Quantity > 1",
            "id > 0 AND Quantity <> 0 AND 100 / Quantity > 1",
            "CASE WHEN Quantity = 0 THEN NULL ELSE 100 / Quantity END",
            "100 / NULLIF(Quantity, 0)",
            "COALESCE(NULLIF(Quantity, 0), 100 / Quantity)",
            "from_epoch_millis(id * 4000000000000000)",
        ],
        expect![[""]],
    );
}

#[test]
fn nulls_and_conditions() {
    check(
        &[
            "price IS NULL",
            "price IS NOT NULL AND speed > 1",
            "moving OR price > 0",
            "moving IS TRUE",
            "moving IS NOT TRUE",
            "NOT moving",
            "COALESCE(price, 0)",
            "COALESCE(truckName, 'none')",
            "NULLIF(price, -7)",
            "nvl(speed, 1.5)",
            "price = NULL",
            "price IS DISTINCT FROM 1000",
            "price BETWEEN -10 AND 10",
            "price NOT IN (1, 2, 1000)",
            "id IN (1, 3)",
            "CASE WHEN speed > 10 THEN 'fast' WHEN speed = 0 THEN 'standing' ELSE 'unknown' END",
            "CASE id WHEN 1 THEN 1 WHEN 2 THEN 2.5 END",
            "CAST(NULL AS STRING)",
        ],
        expect![[""]],
    );
}

#[test]
fn texts() {
    check(
        &[
            "truckName LIKE 'MAN%'",
            "truckName ILIKE 'man_tgx'",
            "truckName NOT LIKE '%7.5%'",
            "truckName SIMILAR TO '(MAN|DAF)%'",
            "truckName ~ '^[A-Z]+ '",
            "regexp_like(truckName, '[0-9]')",
            "regexp_replace(truckName, '[^A-Za-z]', '', 'g')",
            "regexp_match(truckName, '([0-9]+)')[1]",
            "upper(truckName)",
            "LOWER(truckName)",
            "length(truckName)",
            "substr(truckName, 1, 3)",
            "SUBSTRING(truckName FROM 2 FOR 3)",
            "POSITION('7' IN truckName)",
            "trim('  a ')",
            "truckName || '!' || CAST(id AS STRING)",
            "concat(truckName, '-', id)",
            "split_part(note, ',', 2)",
            "lpad(CAST(id AS STRING), 4, '0')",
            "replace(note, ',', ';')",
            "starts_with(truckName, 'MAN')",
            "region || '!'",
            "region = 'north'",
            "upper(region)",
            "note = 'a,b'",
            "CAST(truckName AS BYTES)",
            "md5('a')",
            "'it''s'",
        ],
        expect![[""]],
    );
}

#[test]
fn times() {
    check(
        &[
            "epoch_millis(dateTime)",
            "epoch_micros(dateTime)",
            "from_epoch_millis(epoch_millis(dateTime))",
            "from_epoch_millis(1533099843000)",
            "date_format(dateTime, 'yyyy-MM-dd HH:mm')",
            "date_format(dateTime, 'EEE d MMM yyyy h a')",
            "dateTime + INTERVAL '1' MINUTE",
            "dateTime - INTERVAL '1 day 2 hours'",
            "dateTime > TIMESTAMP '2018-08-01 00:00:00'",
            "dateTime >= '1970-01-01T00:00:00Z'",
            "dateTime BETWEEN TIMESTAMP '1970-01-01 00:00:00' AND TIMESTAMP '1971-01-01 00:00:00'",
            "dateTime - TIMESTAMP '1970-01-01 00:00:00' > INTERVAL '5' MINUTE",
            "EXTRACT(HOUR FROM dateTime)",
            "date_part('minute', dateTime)",
            "date_trunc('hour', dateTime)",
            "date_bin(INTERVAL '5 minutes', dateTime)",
            "CAST(dateTime AS DATE)",
            "CAST('2018-08-01 05:04:03' AS TIMESTAMP)",
            "CAST(dateTime AS STRING)",
            "to_timestamp_millis(id * 1000)",
            "dateTime < to_timestamp_millis(id * 1000)",
            "CAST(to_timestamp_millis(id) AS TIMESTAMP(3))",
            "to_timestamp('2018-08-01T05:04:03Z')",
            "to_char(dateTime, '%Y')",
            "to_unixtime(dateTime)",
            "dateTime + INTERVAL '300000' YEAR",
        ],
        expect![[""]],
    );
}

#[test]
fn nested_values() {
    check(
        &[
            "stop.city",
            "stop.Door + 1",
            "stop['city']",
            "get_field(stop, 'city')",
            "loads[1]",
            "loads[-1]",
            "array_length(loads)",
            "cardinality(loads)",
            "array_has(loads, 2.5)",
            "array_sum(loads)",
            "array_to_string(loads, ';')",
            "[id, price]",
            "named_struct('a', id, 'b', note)",
            "named_struct('a', loads).a[2]",
        ],
        expect![[""]],
    );
}

#[test]
fn distances() {
    check(
        &[
            "round(geo_distance_km(52.52, 13.405, 48.1372, 11.5756), 1)",
            "round(geo_distance_km(speed, 0, 0, 0), 3)",
            "geo_distance_km(speed, id, speed, id)",
        ],
        expect![[""]],
    );
}

#[test]
fn a_column_alone_is_shared_and_not_copied() {
    let batch = fleet();
    let expression = Expression::compile("speed", &batch.schema()).expect("compiles");
    let values = expression.evaluate(&batch).expect("evaluates");
    assert!(Arc::ptr_eq(&values, batch.column(3)));
    assert_eq!((expression.field_name(), expression.column_index()), (Some("speed"), Some(3)));
    assert_eq!(Expression::compile("speed + 1", &batch.schema()).expect("compiles").column_index(), None);
}

#[test]
fn columns_read_are_listed_once_in_schema_order() {
    let columns = |sql| Expression::compile(sql, &fleet().schema()).expect("compiles").typed().columns.clone();
    assert_eq!(columns("CASE WHEN speed > 1 THEN price ELSE id + price END"), ["id", "price", "speed"]);
    assert_eq!(columns("stop.city"), ["stop"]);
    assert_eq!(columns("1 + 1"), Vec::<String>::new());
}

#[test]
fn predicate_takes_null_as_false() {
    let batch = fleet();
    let mask = |sql| -> Vec<bool> {
        let predicate = Predicate::compile(sql, &batch.schema()).expect("compiles");
        let mask = predicate.evaluate(&batch).expect("evaluates");
        assert_eq!(arrow_array::Array::null_count(&mask), 0);
        mask.values().iter().collect()
    };
    assert_eq!(mask("moving"), [true, false, false]);
    assert_eq!(mask("speed < 100"), [true, true, false]);
    assert_eq!(mask("NOT (speed > 100)"), [true, true, false]);
    assert_eq!(mask("1 = 1"), [true, true, true]);
}

#[test]
fn predicate_isolates_failing_rows() {
    let batch = fleet();
    let predicate = Predicate::compile("100 / Quantity > 1", &batch.schema()).expect("compiles");
    assert_eq!(predicate.evaluate(&batch).map_err(|e| e.to_string()), Err("row 1: division by zero".to_owned()));
    let (mask, bad) = predicate.evaluate_rows(&batch);
    assert_eq!(mask.values().iter().collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(bad, [(1, "division by zero".to_owned())]);
}

/// Quotients of `a / b`, where some divisors are zero.
fn divisions(divisors: &[i64]) -> (SchemaRef, RecordBatch) {
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Int64, false)]));
    let a: ArrayRef = Arc::new(Int64Array::from_iter_values(0..divisors.len() as i64));
    let b: ArrayRef = Arc::new(Int64Array::from(divisors.to_vec()));
    (schema.clone(), RecordBatch::try_new(schema, vec![a, b]).expect("columns fit the schema"))
}

#[test]
fn every_failing_row_is_found_wherever_it_stands() {
    for bad in [vec![], vec![0], vec![999], vec![0, 1, 2, 500, 998, 999], (0..1000).collect::<Vec<u32>>()] {
        let divisors: Vec<i64> = (0..1000).map(|row| i64::from(!bad.contains(&row))).collect();
        let (schema, batch) = divisions(&divisors);
        let expression = Expression::compile("a / b", &schema).expect("compiles");
        let rows = expression.evaluate_rows(&batch);
        assert_eq!(rows.bad.iter().map(|(row, _)| *row).collect::<Vec<_>>(), bad);
        let good: Vec<u32> = (0..1000).filter(|row| !bad.contains(row)).collect();
        let expected = Int64Array::from_iter_values(good.iter().map(|row| i64::from(*row)));
        assert_eq!(rows.values.as_ref(), &expected as &dyn arrow_array::Array);
        assert_eq!(rows.good, good);
        let first = expression.evaluate(&batch).map(drop).map_err(|error| error.to_string());
        assert_eq!(first, bad.first().map_or(Ok(()), |row| Err(format!("row {row}: division by zero"))));
    }
}

#[test]
fn a_guard_protects_whatever_rows_share_the_batch() {
    let divisors: Vec<i64> = (0..1000).map(|row| row % 2).collect();
    let (schema, batch) = divisions(&divisors);
    for _ in 0..2 {
        let predicate = Predicate::compile("b <> 0 AND a / b >= 500", &schema).expect("compiles");
        for _ in 0..2 {
            assert_eq!(predicate.evaluate(&batch).map(|mask| mask.true_count()), Ok(250));
        }
    }
}

#[test]
fn another_schema_is_an_error_and_not_a_wrong_value() {
    let (schema, _) = divisions(&[1]);
    let expression = Expression::compile("a + b", &schema).expect("compiles");
    let error = expression.evaluate(&fleet()).map(drop).map_err(|error| error.to_string());
    expect![[r#"Err("the batch does not fit the expression 'a + b': column 1 is Int64, expected Int64")"#]]
        .assert_eq(&format!("{error:?}"));
    assert_eq!(expression.evaluate_rows(&fleet()).bad.len(), 3);
}

#[test]
fn empty_batches_have_empty_results() {
    let (schema, batch) = divisions(&[]);
    let expression = Expression::compile("a / b", &schema).expect("compiles");
    assert_eq!(expression.evaluate(&batch).expect("evaluates").len(), 0);
}
