//! Tests of the document reader: what a document means, and everything that can be wrong with one.

use expect_test::{Expect, expect};

use super::*;

fn given(values: &[(&str, &str)]) -> BTreeMap<String, String> {
    values.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn job(text: &str, values: &[(&str, &str)]) -> SubmittedJob {
    read(text, &given(values), "job.yaml").expect("a right document").job
}

/// Reads a wrong document and shows its problems.
fn check(text: &str, values: &[(&str, &str)], expected: Expect) {
    let problems = read(text, &given(values), "job.yaml").expect_err("a wrong document");
    expected.assert_eq(&problems.iter().map(|problem| format!("{problem}\n")).collect::<String>());
}

const RIGHT: &str = r#"
name: reports ${which}
parameters: {which: all, input: null, rows: 100}
config: {parallelism.default: 2, execution.batch.target-rows: "${rows}"}
operators:
  - {uid: in, kind: file_source, path: "${input}", rate: "${rate}", note: "$${input} in ${input}", parallelism: 1}
  - {uid: f, kind: filter, input: in, predicate: "speed > ${rows}"}
  - {uid: u, kind: union, inputs: [f, in.dead_letter]}
  - {uid: out, kind: print, inputs: u, columns: [a, {b: "${which}"}], none: ~, share: 0.5, big: 18446744073709551615}
"#;

#[test]
fn a_document_becomes_a_job() {
    let job = job(RIGHT, &[("input", "a.json"), ("rate", "10"), ("parallelism.default", "4")]);
    assert_eq!(job.name, "reports all");
    assert_eq!(job.config["parallelism.default"], Value::from("4"), "-D replaces the document's");
    assert_eq!(job.config["execution.batch.target-rows"], Value::Integer(100));
    let [source, filter, union, out] = &job.operators[..] else { panic!("four operators") };
    assert_eq!((source.uid.as_str(), source.kind.as_str(), source.parallelism), ("in", "file_source", Some(1)));
    assert_eq!(source.inputs, Vec::<String>::new());
    assert_eq!(source.settings["path"], Value::from("a.json"));
    assert_eq!(source.settings["rate"], Value::Integer(10), "exactly ${{name}} keeps the type");
    assert_eq!(source.settings["note"], Value::from("${input} in a.json"));
    assert_eq!(source.settings.len(), 3, "uid, kind, parallelism are no settings");
    assert_eq!(filter.inputs, ["in"]);
    assert_eq!(filter.settings["predicate"], Value::from("speed > 100"));
    assert_eq!(union.inputs, ["f", "in.dead_letter"]);
    assert_eq!(out.inputs, ["u"]);
    assert_eq!(out.settings["columns"], Value::from(vec!["a".into(), Value::from([("b", "all".into())])]));
    assert_eq!(out.settings["none"], Value::Null);
    assert_eq!(out.settings["share"], Value::Float(0.5));
    assert_eq!(out.settings["big"], Value::from("18446744073709551615"), "beyond i64 numbers are text");
}

#[test]
fn json_is_the_same_language() {
    let json = r#"{"name": "j", "operators": [{"uid": "in", "kind": "fleet", "trucks": 3, "seed": "${seed}"}]}"#;
    let yaml = "name: j\noperators:\n  - uid: in\n    kind: fleet\n    trucks: 3\n    seed: ${seed}\n";
    assert_eq!(job(json, &[("seed", "7")]), job(yaml, &[("seed", "7")]));
}

#[test]
fn command_line_values_keep_their_text_unless_they_are_plainly_numbers() {
    for (text, value) in [
        ("10", Value::Integer(10)),
        ("-3", Value::Integer(-3)),
        ("0.5", Value::Float(0.5)),
        ("true", Value::Bool(true)),
        ("1.10", "1.10".into()),
        ("0x1f", "0x1f".into()),
        ("007", "007".into()),
        ("", "".into()),
        ("null", "null".into()),
        ("# no comment", "# no comment".into()),
        ("[a", "[a".into()),
        ("a: b", "a: b".into()),
    ] {
        let read = job("{name: j, operators: [{uid: a, kind: b, x: '${x}'}]}", &[("x", text)]);
        assert_eq!(read.operators[0].settings["x"], value, "{text}");
    }
}

#[test]
fn all_problems_come_out_together() {
    check(
        r#"
naem: x
parameters: {input: null, mode: fast, parallelism.default: 3}
config: {parallelism: {default: 2}}
operators:
  - {uid: in, kind: file_source, path: "${inptu}/x", mode: "${mode}", mode: slow}
  - {kind: filter, parallelism: 0}
  - {uid: f, input: in, inputs: [in], text: "${open", other: "a ${b c}"}
  - just text
"#,
        &[("mdoe", "slow"), ("paralelism.default", "3")],
        expect![[r#"
            operators[0].mode: is given twice; remove one
            naem: unknown field; known here: name, parameters, config, operators; did you mean 'name'?
            parameters.input: has no default: give it with -D input=value
            parameters.parallelism.default: is a configuration key; set it in config, or rename the parameter
            operators[0].path: '${inptu}' has no value: give it with -D inptu=value; did you mean 'input'?
            operators[2].other: 'a ${b c}' has a '${' without 'name}' behind it; write '$${' for the two signs
            operators[2].text: '${open' has a '${' without 'name}' behind it; write '$${' for the two signs
            -D mdoe: is neither a parameter of this job nor a configuration key; did you mean 'mode'?
            -D paralelism.default: is neither a parameter of this job nor a configuration key; did you mean 'parallelism.default'?
            name: is missing: expected text
            config.parallelism: expected one value, found a map; write keys with dots, in one piece
            operators[1].uid: is missing: expected text
            operators[1].parallelism: expected a whole number from 1 to 1024, found a whole number: 0
            operator 'f', kind: is missing: expected text
            operator 'f', input: give either input or inputs
            operators[3]: expected a map with uid and kind, found text
        "#]],
    );
}

#[test]
fn text_that_is_no_yaml_is_placed_by_line_and_column() {
    check(
        "name: x\noperators: [a, b\n",
        &[],
        expect![[r#"
        job.yaml:3:1: cannot be read as YAML: did not find expected ',' or ']', while parsing a flow sequence at line 2 column 12
    "#]],
    );
    check(
        "name: x\n\tbad: y\n",
        &[],
        expect![[r#"
        job.yaml:2:1: cannot be read as YAML: found a tab character that violates indentation, while scanning a plain scalar at line 1 column 7
    "#]],
    );
    check(
        "name: !secret x\n",
        &[],
        expect![[r#"
        job.yaml:1:7: cannot be read as YAML: name: YAML tags (!name) have no meaning here
    "#]],
    );
    check(
        "",
        &[],
        expect![[r#"
        job.yaml: is empty; docs/job-graph.md has an example
    "#]],
    );
    check(
        "- a\n- b\n",
        &[],
        expect![[r#"
        job.yaml: expected a map with name, parameters, config, operators, found a list
    "#]],
    );
    check(
        "name: a\n---\nname: b\n",
        &[],
        expect![[r#"
        job.yaml: cannot be read as YAML: deserializing from YAML containing more than one document is not supported
    "#]],
    );
}

#[test]
fn an_alias_bomb_is_defused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{items}]\n");
    }
    let problems = read(&bomb, &given(&[]), "job.yaml").expect_err("too large");
    let reason = &problems.last().expect("one").reason;
    assert!(reason.contains("grows beyond") || reason.contains("repetition limit"), "{reason}");
}

#[test]
fn deep_and_long_documents_are_refused() {
    let nested = |levels: usize| {
        let value = format!("{}1{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        format!("{{name: j, operators: [{{uid: a, kind: b, x: {value}}}]}}")
    };
    use crate::limits::{GRAPH_BYTES_MAX, SETTINGS_DEPTH_MAX};
    assert_eq!(job(&nested(SETTINGS_DEPTH_MAX), &[]).operators[0].settings["x"].depth(), SETTINGS_DEPTH_MAX);
    let problems = read(&nested(SETTINGS_DEPTH_MAX + 1), &given(&[]), "job.yaml").expect_err("too deep");
    assert!(problems[0].to_string().contains("operators[0].x[0]"), "{}", problems[0]);
    let problems = read(&nested(10_000), &given(&[]), "job.yaml").expect_err("far too deep");
    assert_eq!(problems.len(), 1);
    let long = format!("name: {}", "x".repeat(GRAPH_BYTES_MAX));
    assert!(read(&long, &given(&[]), "job.yaml").expect_err("too long")[0].reason.contains("bytes"));
}

#[test]
fn parameters_cannot_blow_the_document_up() {
    let uses = "${x}".repeat(3_000);
    let text = format!("{{name: j, operators: [{{uid: a, kind: b, x: '{uses}'}}]}}");
    let problems = read(&text, &given(&[("x", &"y".repeat(2_000))]), "job.yaml").expect_err("too large");
    assert!(problems[0].reason.contains("grow beyond"), "{}", problems[0]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]{}:,&*!|>'\"%@`a-c$ \n\t-]{0,60}") {
        let _ = read(&text, &given(&[("a", "1")]), "job.yaml");
    }
}
