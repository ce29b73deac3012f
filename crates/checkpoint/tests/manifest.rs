//! The manifest's format: golden bytes, everything comes back, and every kind of damage is found and named.

use std::collections::BTreeMap;

use expect_test::expect_file;
use proptest::prelude::*;
use weir_checkpoint::manifest::FORMAT_VERSION;
use weir_checkpoint::{
    ChannelState, CheckpointKind, Incarnation, Manifest, ObjectRef, OperatorState, SectionRef, SplitState,
    SubtaskState, TableScope, TableState, layout,
};
use weir_core::random::SplitMix64;
use weir_core::{AttemptNumber, CheckpointId, EventTime, FencingToken, JobId, SplitIndex, SubtaskIndex, Value};

const JOB: JobId = JobId(0x1234);
const INCARNATION: Incarnation = Incarnation(0xabcd);
const TOKEN: FencingToken = FencingToken { term: 3, attempt: AttemptNumber(2) };

/// The tables of one subtask of the window.
fn tables(first: u32, last: u32, random: &mut SplitMix64) -> Vec<TableState> {
    // As version 1 of state objects had them; a manifest does not look into its objects.
    let (of_object, of_window) = match first {
        0 => (0x1f9a_56fa_d350_f773_6af5_430f_97f7_75f2, 0x064a_1ba5_551b_3b73_b089_baf3_34d1_ca97),
        _ => (0xdee2_8eaa_6e75_1cbc_8235_d12c_e1a4_62a7, 0x0ac2_d630_eb01_ef6d_c402_3fbd_56ac_8059),
    };
    let path = layout::state_object(JOB, INCARNATION, TOKEN, random);
    let object = ObjectRef { path, length: 131, checksum: of_object };
    let window = SectionRef {
        object: object.clone(),
        offset: 16,
        length: 58,
        checksum: of_window,
        rows: 3,
        first_key_group: first,
        last_key_group: last,
    };
    let checksum = 0xcd76_1113_58a1_0222_271e_7c4a_4789_2ce7;
    let (offset, length, rows) = (74, 57, 1);
    let ends = SectionRef { object, offset, length, checksum, rows, first_key_group: 0, last_key_group: 0 };
    vec![
        TableState { name: "window".into(), version: 1, scope: TableScope::Keyed, sections: vec![window] },
        TableState { name: "ends".into(), version: 2, scope: TableScope::Shared, sections: vec![ends] },
    ]
}

/// A source and a window, two subtasks each, with everything a manifest may hold.
fn manifest() -> Manifest {
    let mut random = SplitMix64::new(1);
    let subtask = |index| SubtaskState::new(SubtaskIndex(index));
    let split = |index, position, is_finished| SplitState {
        index: SplitIndex(index),
        description: Value::from([("path", Value::from("a.csv"))]),
        position,
        is_finished,
    };
    let source = OperatorState {
        uid: "positions".into(),
        kind: "source".to_owned(),
        parallelism: 2,
        subtasks: vec![
            SubtaskState {
                watermark_out: EventTime(1_704_067_200_000_000),
                counters: BTreeMap::from([("bad_records".to_owned(), u64::MAX)]),
                splits: vec![split(0, Some(Value::Integer(i64::MIN)), false), split(2, None, false)],
                ..subtask(0)
            },
            SubtaskState { has_ended: true, splits: vec![split(1, Some(Value::Null), true)], ..subtask(1) },
        ],
    };
    let window = OperatorState {
        uid: "count".into(),
        kind: "window".to_owned(),
        parallelism: 2,
        subtasks: vec![
            SubtaskState { tables: tables(0, 63, &mut random), ..subtask(0) },
            SubtaskState {
                tables: tables(64, 127, &mut random),
                sink_states: vec![Value::Float(0.1), Value::from("ü \" \n"), Value::List(vec![Value::Bool(true)])],
                committables: vec![Value::from([("$float", Value::Float(f64::NEG_INFINITY)), ("$", Value::Null)])],
                watermark_in: EventTime::MAX,
                ..subtask(1)
            },
        ],
    };
    Manifest {
        job: JOB,
        job_name: "positions per minute".to_owned(),
        incarnation: INCARNATION,
        checkpoint: CheckpointId(17),
        kind: CheckpointKind::Checkpoint,
        attempt: TOKEN,
        created_unix_ms: 1_704_067_201_234,
        key_group_count: 128,
        graph: bytes::Bytes::from_static(b"\x00graph\xff"),
        operators: vec![source, window],
    }
}

/// The same with what channels had in flight, which came with version 2.
fn with_channels() -> Manifest {
    let mut manifest = manifest();
    let state = &mut manifest.operators[1].subtasks[0];
    let channel = |sender, section| ChannelState {
        edge: "positions Whole Main -> count Whole 0: Hash [0]".to_owned(),
        sender: SubtaskIndex(sender),
        watermark: EventTime(1_704_067_200_000_000),
        section,
    };
    let section = state.tables[1].sections[0].clone();
    state.channels = vec![channel(0, Some(section)), channel(1, None)];
    manifest
}

/// The disk format. When this fails, old checkpoints can no longer be read: make a new version instead.
#[test]
fn golden_bytes() {
    let manifest_2 = with_channels();
    let bytes = manifest_2.encode().expect("it keeps the rules");
    let text = String::from_utf8(bytes.to_vec()).expect("a manifest is text");
    expect_file!["golden/manifest-v2"].assert_eq(&text);
    assert_eq!(Manifest::decode(&bytes, "golden").expect("it is whole"), manifest_2);
    let golden = include_bytes!("golden/manifest-v1");
    assert_eq!(Manifest::decode(golden, "golden").expect("version 1 stays readable"), manifest());
}

/// Carries b7 of the failure list: a half-written manifest is never taken for one.
#[test]
fn b7_manifest_cut_at_every_byte_is_found() {
    let bytes = manifest().encode().expect("it keeps the rules");
    for end in 0..bytes.len() {
        let error = Manifest::decode(&bytes[..end], "x/chk-17/manifest").expect_err("it is cut");
        assert_eq!(error.code(), "checkpoint-torn", "{end}");
        assert!(error.to_string().contains("'x/chk-17/manifest'"), "{error}");
    }
    let longer = [&bytes[..], b" "].concat();
    assert_eq!(Manifest::decode(&longer, "x").expect_err("it is longer").code(), "checkpoint-torn");
}

/// Carries b7 of the failure list: every bit counts, those of the first line too.
#[test]
fn b7_every_flipped_bit_of_a_manifest_is_found() {
    let mut bytes = manifest().encode().expect("it keeps the rules").to_vec();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = Manifest::decode(&bytes, "x/chk-17/manifest").expect_err("a bit is wrong");
        assert!(error.is_damage(), "bit {bit}: {error}");
        assert!(error.to_string().contains("'x/chk-17/manifest'"), "{error}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Manifest::decode(&bytes, "x").is_ok());
}

#[test]
fn objects_and_bytes_are_summed_up() {
    let manifest = manifest();
    assert_eq!(manifest.objects().len(), 2);
    assert!(manifest.objects().iter().all(|(path, object)| *path == object.path));
    assert_eq!(manifest.state_bytes(), 2 * (48 + 6 + 4 + 48 + 4 + 5));
    let keyed = &manifest.operators[1].subtasks[1].tables[0].sections[0];
    assert!(keyed.intersects(0, 65) && keyed.intersects(127, 128) && !keyed.intersects(0, 64));
}

/// Each of these would lose state, or read what is not the job's, if it were believed.
#[test]
fn manifests_that_break_a_rule_are_neither_written_nor_read() {
    type Change = fn(&mut Manifest);
    let changes: &[(&str, Change)] = &[
        ("subtask 0 of 'positions", |m| {
            *m = with_channels();
            m.operators[1].subtasks[0].channels[1].sender = SubtaskIndex(0);
        }),
        ("does not fit", |m| {
            *m = with_channels();
            let channel = &mut m.operators[1].subtasks[0].channels[0];
            channel.section.as_mut().expect("it has one").offset = u64::MAX;
        }),
        ("key groups", |m| m.key_group_count = 0),
        ("comes twice", |m| m.operators[1].uid = "positions".into()),
        ("subtasks in order", |m| m.operators[0].subtasks.truncate(1)),
        ("subtasks in order", |m| m.operators[0].subtasks.swap(0, 1)),
        ("split 0 twice", |m| m.operators[0].subtasks[0].splits[1].index = SplitIndex(0)),
        ("table 'ends' twice", |m| m.operators[1].subtasks[0].tables[0].name = "ends".into()),
        ("has key group", |m| m.key_group_count = 100),
        ("does not fit", |m| section(m).offset += 100),
        ("does not fit", |m| section(m).offset = u64::MAX),
        ("does not fit", |m| section(m).first_key_group = 64),
        ("'.' or '..'", |m| section(m).object.path = "../../etc/passwd".into()),
        ("not a state object", |m| section(m).object.path = "data/x".into()),
        ("not a state object", |m| m.kind = CheckpointKind::Savepoint),
        ("two lengths or checksums", |m| section(m).object.length += 1),
        ("nested deeper", |m| {
            let deep = (0..70).fold(Value::Null, |inner, _| Value::List(vec![inner]));
            m.operators[1].subtasks[0].committables.push(deep);
        }),
    ];
    for (reason, change) in changes {
        let mut changed = manifest();
        change(&mut changed);
        let error = changed.encode().expect_err(reason);
        assert_eq!(error.code(), "checkpoint-malformed");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
}

fn section(manifest: &mut Manifest) -> &mut weir_checkpoint::SectionRef {
    &mut manifest.operators[1].subtasks[0].tables[0].sections[0]
}

#[test]
fn savepoints_name_their_objects_relative_to_themselves() {
    let mut savepoint = manifest();
    savepoint.kind = CheckpointKind::Savepoint;
    let mut random = SplitMix64::new(2);
    for subtask in &mut savepoint.operators[1].subtasks {
        let path = layout::savepoint_object(&mut random);
        for section in subtask.tables.iter_mut().flat_map(|table| &mut table.sections) {
            section.object.path.clone_from(&path);
        }
    }
    assert_eq!(savepoint.path(), "manifest");
    let bytes = savepoint.encode().expect("it keeps the rules");
    assert_eq!(Manifest::decode(&bytes, "s").expect("it is whole"), savepoint);
    assert_eq!(FORMAT_VERSION, 2);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        any::<u64>().prop_map(|bits| Value::Float(f64::from_bits(bits))),
        any::<f64>().prop_map(Value::Float),
        any::<i32>().prop_map(|whole| Value::Float(f64::from(whole))),
        ".*".prop_map(Value::Text),
    ];
    let key = prop_oneof![".*", "\\$*float", "\\${0,3}"];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
            prop::collection::btree_map(key.clone(), inner, 0..5).prop_map(Value::Map),
        ]
    })
}

/// Equal to the last bit, also where a number is not equal to itself.
fn bits(value: &Value) -> String {
    match value {
        Value::Float(number) => format!("{:x}", number.to_bits()),
        Value::List(items) => format!("{:?}", items.iter().map(bits).collect::<Vec<_>>()),
        Value::Map(fields) => format!("{:?}", fields.iter().map(|(k, v)| (k, bits(v))).collect::<Vec<_>>()),
        other => format!("{other:?}"),
    }
}

proptest! {
    /// A position or a committable that comes back changed by one bit is data lost or doubled.
    #[test]
    fn values_come_back_to_the_last_bit(states in prop::collection::vec(value(), 0..4), position in prop::option::of(value())) {
        let mut manifest = manifest();
        manifest.operators[0].subtasks[0].splits[0].position.clone_from(&position);
        manifest.operators[1].subtasks[1].committables.clone_from(&states);
        let bytes = manifest.encode().expect("it keeps the rules");
        let read = Manifest::decode(&bytes, "x").expect("it is whole");
        let positions = |m: &Manifest| m.operators[0].subtasks[0].splits[0].position.as_ref().map(bits);
        prop_assert_eq!(positions(&read), position.as_ref().map(bits));
        let committables: Vec<String> = read.operators[1].subtasks[1].committables.iter().map(bits).collect();
        prop_assert_eq!(committables, states.iter().map(bits).collect::<Vec<_>>());
    }

    /// Arbitrary bytes, also behind a good first line, give an error and never a panic.
    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Manifest::decode(&bytes, "x").is_err());
        let _ = weir_checkpoint::state_object::read_object(&bytes.into(), "x");
    }
}
