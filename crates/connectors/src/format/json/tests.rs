//! The decoder against a second opinion (serde_json), against itself in other orders, and against broken bytes.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

use super::{Decoder, Encoder};
use crate::format::{BadText, Decode, Encode, Place};

fn schema(columns: &[(&str, &str)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, type_name)| {
        let nullable = !type_name.ends_with("NOT NULL");
        let type_name = type_name.trim_end_matches("NOT NULL");
        Field::new(*name, weir_core::data_type::parse(type_name).expect("a type"), nullable)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Decodes everything, `rows_max` rows at a time.
fn decode(schema: &SchemaRef, text: &[u8], rows_max: usize) -> (Vec<RecordBatch>, Vec<BadText>) {
    let mut decoder = Decoder::new(Arc::clone(schema), 10_000).expect("types fit");
    let (mut place, mut bad, mut batches) = (Place::default(), Vec::new(), Vec::new());
    while place.at < text.len() {
        decoder.decode(text, &mut place, rows_max, &mut bad).expect("decodes");
        if decoder.rows() > 0 {
            batches.push(decoder.take().expect("a batch"));
        }
    }
    (batches, bad)
}

fn encode(batches: &[RecordBatch]) -> String {
    let mut out = Vec::new();
    for batch in batches {
        Encoder::new(batch.schema_ref()).rows(batch, &mut out).expect("encodes");
    }
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn check(columns: &[(&str, &str)], text: &str, expected: Expect) {
    let (batches, bad) = decode(&schema(columns), text.as_bytes(), 2);
    let bad = bad.iter().map(|bad| format!("bad line {}: {}\n", bad.place.lines + 1, bad.message));
    expected.assert_eq(&(encode(&batches) + &bad.collect::<String>()));
}

#[test]
fn fields_in_any_order_with_gaps_and_strangers() {
    check(
        &[("id", "STRING"), ("n", "BIGINT"), ("x", "DOUBLE")],
        concat!(
            "{\"id\":\"a\",\"n\":1,\"x\":1.5}\n",
            "{\"n\":-2,\"other\":{\"deep\":[1,{\"x\":null}],\"e\":{}},\"id\":\"b\"}\n",
            "  { \"x\" : 3e2 , \"id\" : \"c \\u00e9\\ud83d\\ude00\\n\" }  \r\n",
            "\n   \n{}\n",
            "{\"id\":\"first\",\"id\":\"last\",\"\\u006e\":7,\"x\":null}\n",
            "{\"x\":9007199254740993,\"n\":9223372036854775807}",
        ),
        expect![[r#"
            {"id":"a","n":1,"x":1.5}
            {"id":"b","n":-2,"x":null}
            {"id":"c é😀\n","n":null,"x":300.0}
            {"id":null,"n":null,"x":null}
            {"id":"last","n":7,"x":null}
            {"id":null,"n":9223372036854775807,"x":9007199254740992.0}
        "#]],
    );
}

#[test]
fn bad_lines_stand_alone() {
    check(
        &[("id", "STRING"), ("n", "BIGINT"), ("s", "SMALLINT"), ("k", "INT NOT NULL")],
        concat!(
            "{\"id\":\"good\",\"k\":1}\n",
            "nonsense\n[1]\n{\"id\":1,\"k\":1}\n{\"id\":\"a\",\"n\":1.0,\"k\":1}\n{\"n\":9223372036854775808,\"k\":1}\n",
            "{\"s\":32768,\"k\":1}\n{\"id\":\"x\",\"k\":1} tail\n{\"id\":\"open\n{\"id\":\"\\q\",\"k\":1}\n",
            "{\"id\":\"a\"}\n{\"k\":null}\n{\"k\":1,}\n{\"k\":01}\n{\"z\":[1,],\"k\":1}\n{\"z\":tru,\"k\":1}\n",
            "{\"id\":\"\\ud800\",\"k\":1}\n{\"id\":\"tab\there\",\"k\":1}\n{\"k\":1\n",
            "{\"id\":\"good too\",\"k\":2}\n",
        ),
        expect![[r#"
            {"id":"good","n":null,"s":null,"k":1}
            {"id":"good too","n":null,"s":null,"k":2}
            bad line 2: byte 1: expected an object
            bad line 3: byte 1: expected an object
            bad line 4: column 'id' (STRING), byte 7: expected a text
            bad line 5: column 'n' (BIGINT), byte 15: expected a whole number, found one with a fraction or exponent
            bad line 6: column 'n' (BIGINT), byte 6: the number is too large for its type
            bad line 7: column 's' (SMALLINT), byte 6: the number is too large for its type
            bad line 8: byte 18: unexpected text after the object
            bad line 9: column 'id' (STRING), byte 12: the text is not closed by a quote
            bad line 10: column 'id' (STRING), byte 8: an escape that JSON does not know
            bad line 11: column 'k' (INT), byte 11: the field is missing and the column is NOT NULL
            bad line 12: column 'k' (INT), byte 6: null in a column that is NOT NULL
            bad line 13: byte 8: expected a field name in quotes
            bad line 14: column 'k' (INT), byte 6: a number with leading zeros
            bad line 15: byte 9: expected a value
            bad line 16: byte 6: expected a value
            bad line 17: column 'id' (STRING), byte 8: an escape \u that is half of a pair
            bad line 18: column 'id' (STRING), byte 11: a control character inside a text
            bad line 19: byte 7: expected a comma or the end of the object
        "#]],
    );
}

#[test]
fn every_type_is_read() {
    check(
        &[
            ("b", "BOOLEAN"),
            ("f", "FLOAT"),
            ("d", "DECIMAL(10,3)"),
            ("day", "DATE"),
            ("t", "TIMESTAMP(3)"),
            ("a", "ARRAY<BIGINT>"),
            ("r", "ROW<x DOUBLE, y ARRAY<ROW<z STRING>>>"),
        ],
        concat!(
            "{\"b\":true,\"f\":0.1,\"d\":12.5,\"day\":\"2018-08-01\",\"t\":1533099600123,\"a\":[1,null,3],",
            "\"r\":{\"y\":[{\"z\":\"a\"},null,{}],\"x\":1,\"x\":2}}\n",
            "{\"b\":false,\"f\":\"NaN\",\"d\":\"-0.001\",\"t\":\"2018-08-01T05:00:00Z\",\"a\":[],\"r\":null}\n",
            "{\"b\":1}\n{\"f\":1e39}\n{\"d\":0.0001}\n{\"day\":\"2018-13-01\"}\n{\"t\":253402300800000}\n",
            "{\"a\":[1,2,\"x\"],\"b\":true}\n{\"r\":{\"x\":1,\"y\":[{\"z\":\"kept?\"},{\"z\":1}]}}\n{\"r\":{}}\n",
        ),
        expect![[r#"
            {"b":true,"f":0.1,"d":12.500,"day":"2018-08-01","t":"2018-08-01T05:00:00.123Z","a":[1,null,3],"r":{"x":2.0,"y":[{"z":"a"},null,{"z":null}]}}
            {"b":false,"f":"NaN","d":-0.001,"day":null,"t":"2018-08-01T05:00:00Z","a":[],"r":null}
            {"b":null,"f":null,"d":null,"day":null,"t":null,"a":null,"r":{"x":null,"y":null}}
            bad line 3: column 'b' (BOOLEAN), byte 6: expected true or false
            bad line 4: column 'f' (FLOAT), byte 6: the number is too large for its type
            bad line 5: column 'd' (DECIMAL(10,3)), byte 6: the number has more fraction digits than the DECIMAL's scale
            bad line 6: column 'day' (DATE), byte 8: expected a date like "2018-08-01"
            bad line 7: column 't' (TIMESTAMP(6)), byte 6: the timestamp is no valid time of the years 1 to 9999
            bad line 8: column 'a' (ARRAY<BIGINT>), byte 11: expected a whole number
            bad line 9: column 'r' (ROW<x DOUBLE, y ARRAY<ROW<z STRING>>>), byte 37: expected a text
        "#]],
    );
}

#[test]
fn long_lines_and_foreign_bytes_are_bad() {
    let columns = schema(&[("id", "STRING")]);
    let mut text = format!("{{\"id\":\"{}\"}}\n{{\"id\":\"\u{e9}\"}}\n{{\"id\":\"", "x".repeat(10_000)).into_bytes();
    text.extend_from_slice(b"\xff\"}\n{\"id\":\"ok\"}\n");
    let (batches, bad) = decode(&columns, &text, 10);
    assert_eq!(encode(&batches), "{\"id\":\"é\"}\n{\"id\":\"ok\"}\n");
    let bad: Vec<_> = bad.iter().map(|bad| (bad.code, bad.message.as_str())).collect();
    assert_eq!(
        bad,
        [
            ("bad-record-too-long", "the line has 10009 bytes, more than 10000 (max_line_bytes)"),
            ("bad-record-json", "byte 8: not UTF-8"),
        ]
    );
}

const WIDE: [(&str, &str); 6] =
    [("i", "BIGINT"), ("x", "DOUBLE"), ("s", "STRING"), ("b", "BOOLEAN"), ("a", "ARRAY<INT>"), ("r", "ROW<k STRING>")];

fn values() -> impl Strategy<Value = Map<String, Value>> {
    let float = any::<f64>().prop_filter("finite", |number| number.is_finite());
    let fields = (
        proptest::option::of(any::<i64>()),
        proptest::option::of(float),
        proptest::option::of("\\PC{0,12}|[\\x00-\\x7f]{0,9}"),
        proptest::option::of(any::<bool>()),
        proptest::option::of(proptest::collection::vec(proptest::option::of(any::<i32>()), 0..4)),
        proptest::option::of(proptest::option::of("[a-z\"]{0,3}")),
    );
    (fields, any::<u64>(), any::<u8>()).prop_map(|((i, x, s, b, a, r), order, absent)| {
        let mut entries = vec![
            ("i", json!(i)),
            ("x", x.and_then(Number::from_f64).map_or(Value::Null, Value::Number)),
            ("s", json!(s)),
            ("b", json!(b)),
            ("a", json!(a)),
            ("r", r.map_or(Value::Null, |k| json!({ "k": k }))),
            ("stranger", json!({"deep": [s, {"x": a}], "n": i})),
        ];
        let shift = order as usize % entries.len();
        entries.rotate_left(shift);
        entries.retain(|(name, value)| !(value.is_null() && absent % 2 == 0) || *name == "stranger");
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    })
}

/// What the decoder should make of a row: declared columns in order, absent ones null.
fn expected(row: &Map<String, Value>) -> Value {
    let fields = WIDE.iter().map(|(name, _)| ((*name).to_owned(), row.get(*name).cloned().unwrap_or(Value::Null)));
    Value::Object(fields.collect())
}

/// Whether the tree holds a number that serde_json refuses or the skipper lets pass (`1e999`), or nests too deep.
fn serde_accepts(line: &[u8]) -> bool {
    matches!(serde_json::from_slice::<Value>(line), Ok(Value::Object(_)))
}

proptest! {
    #[test]
    fn rows_survive_the_round_trip(rows in proptest::collection::vec(values(), 1..12), rows_max in 1usize..5) {
        let text: String = rows.iter().map(|row| format!("{}\n", Value::Object(row.clone()))).collect();
        let (batches, bad) = decode(&schema(&WIDE), text.as_bytes(), rows_max);
        prop_assert_eq!(bad, vec![]);
        prop_assert!(batches.iter().all(|batch| batch.num_rows() <= rows_max));
        let encoded = encode(&batches);
        for (line, row) in encoded.lines().zip(&rows) {
            // Both sides go through serde_json's own float reading once more, so that only the decoder can differ.
            let decoded: Value = serde_json::from_str(line).expect("JSON");
            let row: Value = serde_json::from_str(&expected(row).to_string()).expect("JSON");
            prop_assert_eq!(decoded, row);
        }
        prop_assert_eq!(encoded.lines().count(), rows.len());
    }

    #[test]
    fn mutated_lines_are_judged_as_serde_json_judges(
        row in values(), at in any::<prop::sample::Index>(), byte in any::<u8>(), other in "[{}\\[\\]\",:0-9eE.tn\\\\ -]{0,3}"
    ) {
        // No declared columns: only the grammar counts.
        let mut line = Value::Object(row).to_string().into_bytes();
        let index = at.index(line.len());
        line[index] = byte;
        line.splice(index..index, other.bytes());
        line.retain(|byte| *byte != b'\n');
        let (batches, bad) = decode(&schema(&[]), &line, 10);
        let accepted = batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let is_blank = line.iter().all(|byte| b" \t\r".contains(byte));
        prop_assert_eq!(accepted + bad.len(), usize::from(!is_blank));
        let huge_number = line.windows(3).any(|w| w[0].is_ascii_digit() && w[1].eq_ignore_ascii_case(&b'e'))
            || line.split(|b| !b.is_ascii_digit()).any(|digits| digits.len() > 300);
        if !huge_number {
            prop_assert_eq!(accepted == 1, serde_accepts(&line), "{}", String::from_utf8_lossy(&line));
        }
    }

    #[test]
    fn mutated_lines_never_spoil_their_neighbours(
        row in values(), at in any::<prop::sample::Index>(), bytes in proptest::collection::vec(any::<u8>(), 0..4)
    ) {
        let good = "{\"i\":1,\"a\":[7],\"r\":{\"k\":\"z\"},\"s\":\"same\"}";
        let mut line = Value::Object(row).to_string().into_bytes();
        let index = at.index(line.len());
        line.splice(index..index + 1, bytes.into_iter().filter(|byte| *byte != b'\n'));
        let text = [good.as_bytes(), b"\n", &line, b"\n", good.as_bytes()].concat();
        let (batches, bad) = decode(&schema(&WIDE), &text, 10);
        let encoded = encode(&batches);
        let lines: Vec<&str> = encoded.lines().collect();
        let is_blank = line.iter().all(|byte| b" \t\r".contains(byte));
        prop_assert_eq!(lines.len() + bad.len(), 3 - usize::from(is_blank));
        prop_assert!(lines[0].contains("\"same\"") && lines[0] == lines[lines.len() - 1]);
    }
}
