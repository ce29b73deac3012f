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
    check(
        &["truckName", "\"truckName\"", "Quantity", "dateTime", "id", "region", "note"],
        expect![[r#"
        truckName  =>  STRING: MAN tgx | Über 7.5t | NULL
        "truckName"  =>  STRING: MAN tgx | Über 7.5t | NULL
        Quantity  =>  INT: 3 | 0 | 2147483647
        dateTime  =>  TIMESTAMP(6) NOT NULL: 2018-08-01T05:04:03.000417Z | 1970-01-01T00:00:00Z | 1969-12-31T23:59:59.999999Z
        id  =>  BIGINT NOT NULL: 1 | 2 | 3
        region  =>  STRING: north | NULL | south
        note  =>  STRING: a,b |  | NULL
    "#]],
    );
}

#[test]
fn arithmetic_follows_the_types() {
    check(
        &[
            "0.908 * price",
            "price * 0.5",
            "0.1",
            "1e3",
            "price + 1e3",
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
        expect![[r#"
            0.908 * price  =>  DECIMAL(24,3): 908.000 | -6.356 | NULL
            price * 0.5  =>  DECIMAL(22,1): 500.0 | -3.5 | NULL
            0.1  =>  DECIMAL(1,1) NOT NULL: 0.1 | 0.1 | 0.1
            1e3  =>  DECIMAL(4,0) NOT NULL: 1000 | 1000 | 1000
            price + 1e3  =>  DECIMAL(21,0): 2000 | 993 | NULL
            price + 1  =>  BIGINT: 1001 | -6 | NULL
            price / 2  =>  BIGINT: 500 | -3 | NULL
            price % 3  =>  BIGINT: 1 | -1 | NULL
            MOD(price, 3)  =>  BIGINT: 1 | -1 | NULL
            mod(price + 1, 3) * 2  =>  BIGINT: 4 | 0 | NULL
            speed / 2  =>  DOUBLE: 6.25 | 0.0 | NULL
            speed * 3.6  =>  DOUBLE: 45.0 | 0.0 | NULL
            speed > 0.5  =>  BOOLEAN: true | false | NULL
            -price  =>  BIGINT: -1000 | 7 | NULL
            - speed  =>  DOUBLE: -12.5 | -0.0 | NULL
            Quantity + 1  =>  BIGINT: 4 | 1 | 2147483648
            id * id - id  =>  BIGINT NOT NULL: 0 | 2 | 6
            2 + 3 * 4  =>  BIGINT NOT NULL: 14 | 14 | 14
            1 / 3  =>  BIGINT NOT NULL: 0 | 0 | 0
            1.0 / 3  =>  DECIMAL(6,5) NOT NULL: 0.33333 | 0.33333 | 0.33333
            CAST(floor(speed) AS BIGINT)  =>  BIGINT: 12 | 0 | NULL
            round(speed * 3.6, 1)  =>  DOUBLE: 45.0 | 0.0 | NULL
            abs(price)  =>  BIGINT: 1000 | 7 | NULL
            power(2, id)  =>  DOUBLE: 2.0 | 4.0 | 8.0
            sqrt(speed)  =>  DOUBLE: 3.5355339059327378 | 0.0 | NULL
            pi()  =>  DOUBLE NOT NULL: 3.141592653589793 | 3.141592653589793 | 3.141592653589793
            greatest(price, id)  =>  BIGINT: 1000 | 2 | 3
        "#]],
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
        expect![[r#"
            100 / Quantity  =>  BIGINT: 33 | BAD(division by zero) | 0
            price % Quantity  =>  BIGINT: 1 | BAD(division by zero) | NULL
            Quantity * 2  =>  BIGINT: 6 | 0 | 4294967294
            CAST(truckName AS BIGINT)  =>  BIGINT: BAD(Cannot cast string 'MAN tgx' to value of Int64 type) | BAD(Cannot cast string 'Über 7.5t' to value of Int64 type) | NULL
            TRY_CAST(truckName AS BIGINT)  =>  BIGINT: NULL | NULL | NULL
            CAST(id * 3000000000 AS INT)  =>  INT NOT NULL: BAD(Can't cast value 3000000000 to type Int32) | BAD(Can't cast value 6000000000 to type Int32) | BAD(Can't cast value 9000000000 to type Int32)
            id * 9223372036854775807  =>  BIGINT NOT NULL: 9223372036854775807 | BAD(Overflow happened on: 2 * 9223372036854775807) | BAD(Overflow happened on: 3 * 9223372036854775807)
            -(id - 9223372036854775807 - 3)  =>  BIGINT NOT NULL: BAD(Overflow happened on: -9223372036854775806 - 3) | BAD(Overflow happened on: 0 - -9223372036854775808) | 9223372036854775807
            Quantity <> 0 AND 100 / Quantity > 1  =>  BOOLEAN: true | false | false
            Quantity = 0 OR 100 / Quantity > 1  =>  BOOLEAN: true | true | false
            id > 0 AND Quantity <> 0 AND 100 / Quantity > 1  =>  BOOLEAN: true | false | false
            CASE WHEN Quantity = 0 THEN NULL ELSE 100 / Quantity END  =>  BIGINT: 33 | NULL | 0
            100 / NULLIF(Quantity, 0)  =>  BIGINT: 33 | NULL | 0
            COALESCE(NULLIF(Quantity, 0), 100 / Quantity)  =>  BIGINT: 3 | BAD(division by zero) | 2147483647
            from_epoch_millis(id * 4000000000000000)  =>  TIMESTAMP(6): +128724-12-15T07:06:40Z | +255479-11-28T14:13:20Z | BAD(12000000000000000 milliseconds are no timestamp)
        "#]],
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
        expect![[r#"
            price IS NULL  =>  BOOLEAN NOT NULL: false | false | true
            price IS NOT NULL AND speed > 1  =>  BOOLEAN: true | false | false
            moving OR price > 0  =>  BOOLEAN: true | false | NULL
            moving IS TRUE  =>  BOOLEAN: true | false | false
            moving IS NOT TRUE  =>  BOOLEAN: false | true | true
            NOT moving  =>  BOOLEAN: false | true | NULL
            COALESCE(price, 0)  =>  BIGINT NOT NULL: 1000 | -7 | 0
            COALESCE(truckName, 'none')  =>  STRING NOT NULL: MAN tgx | Über 7.5t | none
            NULLIF(price, -7)  =>  BIGINT: 1000 | NULL | NULL
            nvl(speed, 1.5)  =>  DOUBLE NOT NULL: 12.5 | 0.0 | 1.5
            price = NULL  =>  BOOLEAN: NULL | NULL | NULL
            price IS DISTINCT FROM 1000  =>  BOOLEAN: false | true | true
            price BETWEEN -10 AND 10  =>  BOOLEAN: false | true | NULL
            price NOT IN (1, 2, 1000)  =>  BOOLEAN: false | true | NULL
            id IN (1, 3)  =>  BOOLEAN NOT NULL: true | false | true
            CASE WHEN speed > 10 THEN 'fast' WHEN speed = 0 THEN 'standing' ELSE 'unknown' END  =>  STRING NOT NULL: fast | standing | unknown
            CASE id WHEN 1 THEN 1 WHEN 2 THEN 2.5 END  =>  DECIMAL(21,1): 1.0 | 2.5 | NULL
            CAST(NULL AS STRING)  =>  STRING: NULL | NULL | NULL
        "#]],
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
            "SUBSTRING(truckName FOR 2)",
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
        expect![[r#"
            truckName LIKE 'MAN%'  =>  BOOLEAN: true | false | NULL
            truckName ILIKE 'man_tgx'  =>  BOOLEAN: true | false | NULL
            truckName NOT LIKE '%7.5%'  =>  BOOLEAN: true | false | NULL
            truckName SIMILAR TO '(MAN|DAF)%'  =>  ERROR SIMILAR TO cannot be used here: DataFusion reads its pattern as a plain regular expression; write x ~ 'regex', or LIKE
            truckName ~ '^[A-Z]+ '  =>  BOOLEAN: true | false | NULL
            regexp_like(truckName, '[0-9]')  =>  BOOLEAN: false | true | NULL
            regexp_replace(truckName, '[^A-Za-z]', '', 'g')  =>  STRING: MANtgx | bert | NULL
            regexp_match(truckName, '([0-9]+)')[1]  =>  STRING: NULL | 7 | NULL
            upper(truckName)  =>  STRING: MAN TGX | ÜBER 7.5T | NULL
            LOWER(truckName)  =>  STRING: man tgx | über 7.5t | NULL
            length(truckName)  =>  INT: 7 | 9 | NULL
            substr(truckName, 1, 3)  =>  STRING: MAN | Übe | NULL
            SUBSTRING(truckName FROM 2 FOR 3)  =>  STRING: AN  | ber | NULL
            SUBSTRING(truckName FOR 2)  =>  STRING: MA | Üb | NULL
            POSITION('7' IN truckName)  =>  INT: 0 | 6 | NULL
            trim('  a ')  =>  STRING NOT NULL: a | a | a
            truckName || '!' || CAST(id AS STRING)  =>  STRING: MAN tgx!1 | Über 7.5t!2 | NULL
            concat(truckName, '-', id)  =>  STRING: MAN tgx-1 | Über 7.5t-2 | -3
            split_part(note, ',', 2)  =>  STRING: b |  | NULL
            lpad(CAST(id AS STRING), 4, '0')  =>  STRING: 0001 | 0002 | 0003
            replace(note, ',', ';')  =>  STRING: a;b |  | NULL
            starts_with(truckName, 'MAN')  =>  BOOLEAN: true | false | NULL
            region || '!'  =>  STRING: north! | NULL | south!
            region = 'north'  =>  BOOLEAN: true | NULL | false
            upper(region)  =>  STRING: NORTH | NULL | SOUTH
            note = 'a,b'  =>  BOOLEAN: true | false | NULL
            CAST(truckName AS BYTES)  =>  BYTES: 4d414e20746778 | c39c62657220372e3574 | NULL
            md5('a')  =>  ERROR no function 'md5'; did you mean 'map'?
            'it''s'  =>  STRING NOT NULL: it's | it's | it's
        "#]],
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
        expect![[r#"
            epoch_millis(dateTime)  =>  BIGINT: 1533099843000 | 0 | -1
            epoch_micros(dateTime)  =>  BIGINT: 1533099843000417 | 0 | -1
            from_epoch_millis(epoch_millis(dateTime))  =>  TIMESTAMP(6): 2018-08-01T05:04:03Z | 1970-01-01T00:00:00Z | 1969-12-31T23:59:59.999Z
            from_epoch_millis(1533099843000)  =>  TIMESTAMP(6) NOT NULL: 2018-08-01T05:04:03Z | 2018-08-01T05:04:03Z | 2018-08-01T05:04:03Z
            date_format(dateTime, 'yyyy-MM-dd HH:mm')  =>  STRING NOT NULL: 2018-08-01 05:04 | 1970-01-01 00:00 | 1969-12-31 23:59
            date_format(dateTime, 'EEE d MMM yyyy h a')  =>  STRING NOT NULL: Wed 1 Aug 2018 5 AM | Thu 1 Jan 1970 12 AM | Wed 31 Dec 1969 11 PM
            dateTime + INTERVAL '1' MINUTE  =>  TIMESTAMP(6) NOT NULL: 2018-08-01T05:05:03.000417Z | 1970-01-01T00:01:00Z | 1970-01-01T00:00:59.999999Z
            dateTime - INTERVAL '1 day 2 hours'  =>  TIMESTAMP(6) NOT NULL: 2018-07-31T03:04:03.000417Z | 1969-12-30T22:00:00Z | 1969-12-30T21:59:59.999999Z
            dateTime > TIMESTAMP '2018-08-01 00:00:00'  =>  BOOLEAN NOT NULL: true | false | false
            dateTime >= '1970-01-01T00:00:00Z'  =>  BOOLEAN NOT NULL: true | true | false
            dateTime BETWEEN TIMESTAMP '1970-01-01 00:00:00' AND TIMESTAMP '1971-01-01 00:00:00'  =>  BOOLEAN NOT NULL: false | true | false
            dateTime - TIMESTAMP '1970-01-01 00:00:00' > INTERVAL '5' MINUTE  =>  BOOLEAN NOT NULL: true | false | false
            EXTRACT(HOUR FROM dateTime)  =>  INT NOT NULL: 5 | 0 | 23
            date_part('minute', dateTime)  =>  INT NOT NULL: 4 | 0 | 59
            date_trunc('hour', dateTime)  =>  TIMESTAMP(6) NOT NULL: 2018-08-01T05:00:00Z | 1970-01-01T00:00:00Z | 1969-12-31T23:00:00Z
            date_bin(INTERVAL '5 minutes', dateTime)  =>  Timestamp(ns, "UTC"): 2018-08-01T05:00:00Z | 1970-01-01T00:00:00Z | 1969-12-31T23:55:00Z
            CAST(dateTime AS DATE)  =>  DATE NOT NULL: 2018-08-01 | 1970-01-01 | 1969-12-31
            CAST('2018-08-01 05:04:03' AS TIMESTAMP)  =>  TIMESTAMP(6) NOT NULL: 2018-08-01T05:04:03Z | 2018-08-01T05:04:03Z | 2018-08-01T05:04:03Z
            CAST(dateTime AS STRING)  =>  STRING NOT NULL: 2018-08-01T05:04:03.000417Z | 1970-01-01T00:00:00Z | 1969-12-31T23:59:59.999999Z
            to_timestamp_millis(id * 1000)  =>  Timestamp(ms): 1970-01-01T00:00:01 | 1970-01-01T00:00:02 | 1970-01-01T00:00:03
            dateTime < to_timestamp_millis(id * 1000)  =>  BOOLEAN: false | true | true
            CAST(to_timestamp_millis(id) AS TIMESTAMP(3))  =>  TIMESTAMP(6): 1970-01-01T00:00:00.001Z | 1970-01-01T00:00:00.002Z | 1970-01-01T00:00:00.003Z
            to_timestamp('2018-08-01T05:04:03Z')  =>  Timestamp(ns) NOT NULL: 2018-08-01T05:04:03 | 2018-08-01T05:04:03 | 2018-08-01T05:04:03
            to_char(dateTime, '%Y')  =>  STRING: 2018 | 1970 | 1969
            to_unixtime(dateTime)  =>  BIGINT: 1533099843 | 0 | 0
            dateTime + INTERVAL '300000' YEAR  =>  TIMESTAMP(6) NOT NULL: BAD(Timestamp out of range) | BAD(Timestamp out of range) | BAD(Timestamp out of range)
        "#]],
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
        expect![[r#"
            stop.city  =>  STRING: Bern | NULL | Basel
            stop.Door + 1  =>  BIGINT: 2 | 3 | 4
            stop['city']  =>  STRING: Bern | NULL | Basel
            get_field(stop, 'city')  =>  STRING: Bern | NULL | Basel
            loads[1]  =>  DOUBLE: 1.5 | NULL | NULL
            loads[-1]  =>  DOUBLE: 2.5 | NULL | NULL
            array_length(loads)  =>  BIGINT: 2 | 0 | NULL
            cardinality(loads)  =>  BIGINT: 2 | 0 | NULL
            array_has(loads, 2.5)  =>  ERROR Failed to coerce arguments to satisfy a call to 'array_has' function: coercion from List(Float64), Decimal128(2, 1) to the signature ArraySignature(array, element) failed
            array_sum(loads)  =>  DOUBLE: 4.0 | NULL | NULL
            array_to_string(loads, ';')  =>  STRING: 1.5;2.5 |  | NULL
            [id, price]  =>  ARRAY<BIGINT>: [1, 1000] | [2, -7] | [3, ]
            named_struct('a', id, 'b', note)  =>  ROW<a BIGINT, b STRING>: {a: 1, b: a,b} | {a: 2, b: } | {a: 3, b: }
            named_struct('a', loads).a[2]  =>  DOUBLE: 2.5 | NULL | NULL
        "#]],
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
        expect![[r#"
            round(geo_distance_km(52.52, 13.405, 48.1372, 11.5756), 1)  =>  DOUBLE NOT NULL: 504.3 | 504.3 | 504.3
            round(geo_distance_km(speed, 0, 0, 0), 3)  =>  DOUBLE: 1389.939 | 0.0 | NULL
            geo_distance_km(speed, id, speed, id)  =>  DOUBLE: 0.0 | 0.0 | NULL
        "#]],
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
    let all = fleet();
    let texts = all.schema().index_of("region").expect("the fleet has regions");
    let other = all.project(&[texts]).expect("one column");
    let error = expression.evaluate(&other).map(drop).map_err(|error| error.to_string());
    expect![[
        r#"Err("the batch does not fit the expression 'a + b': column 0 is Dictionary(Int32, Utf8), expected Int64")"#
    ]]
    .assert_eq(&format!("{error:?}"));
    assert_eq!(expression.evaluate_rows(&other).bad.len(), 3);
}

#[test]
fn empty_batches_have_empty_results() {
    let (schema, batch) = divisions(&[]);
    let expression = Expression::compile("a / b", &schema).expect("compiles");
    assert_eq!(expression.evaluate(&batch).expect("evaluates").len(), 0);
}
