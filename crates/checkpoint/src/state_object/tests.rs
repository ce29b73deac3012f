//! The format of state objects byte by byte, and what every kind of damage is called.

use super::*;

fn header(table: &str, rows: u64, first_key_group: u32, last_key_group: u32) -> SectionHeader {
    SectionHeader { table: table.to_owned(), rows, first_key_group, last_key_group }
}

fn object() -> (Bytes, Vec<SectionRef>) {
    let mut writer = StateObjectWriter::new();
    assert!(writer.is_empty());
    assert_eq!(writer.append(header("window", 2, 3, 7), b"hello").expect("it is good"), 0);
    assert_eq!(writer.append(header("timers", 0, 0, 0), b"").expect("it is good"), 1);
    writer.finish("a/b")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The disk format. When this fails, old state can no longer be read: make a new version instead.
#[test]
fn golden_bytes() {
    let (bytes, sections) = object();
    let expected = [
        "5745495244415441", // WEIRDATA
        "0200000000000000", // version 2
        &hex(&sections[0].checksum.to_le_bytes()),
        "0200000006000000",                 // version 2, name of 6 bytes
        "02000000000000000500000000000000", // 2 rows, 5 bytes
        "0300000007000000",                 // key groups 3 to 7
        "77696e646f7768656c6c6f",           // windowhello
        &hex(&sections[1].checksum.to_le_bytes()),
        "0200000006000000",
        "00000000000000000000000000000000",
        "0000000000000000",
        "74696d657273", // timers
    ];
    assert_eq!(hex(&bytes), expected.concat());
    assert_eq!(format!("{:032x}", sections[0].checksum), GOLDEN_CHECKSUM);
    assert_eq!((sections[0].offset, sections[0].length), (16, 59));
    assert_eq!((sections[1].offset, sections[1].length), (75, 54));
    assert_eq!(sections[0].object, object_ref("a/b", &bytes));
    assert_eq!((sections[0].rows, sections[0].first_key_group, sections[0].last_key_group), (2, 3, 7));
}

/// xxh3-128 of the first section of the golden object.
const GOLDEN_CHECKSUM: &str = "47abe40aeed60a34dcf26f1fa6aa1410";

/// What version 1 wrote is read for ever.
#[test]
fn golden_bytes_of_version_1_are_read() {
    let text = [
        "57454952444154410100000000000000",
        "1dd8a02b0bd30061a4da622c3d73fe72",
        "01000000060000000200000000000000050000000000000003000000",
        "0700000077696e646f7768656c6c6f",
    ];
    let text = text.concat();
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect();
    let sections = read_object(&bytes.into(), "a/b").expect("it is whole");
    assert_eq!(sections, [(header("window", 2, 3, 7), Bytes::from_static(b"hello"))]);
}

#[test]
fn object_that_goes_on_elsewhere_is_the_same_and_aligned() {
    let write = |room: Option<usize>| {
        let mut writer = StateObjectWriter::new();
        writer.append(header("window", 2, 3, 7), b"hello").expect("it is good");
        if let Some(room) = room {
            writer.continue_in([&b"what was there"[..], &vec![7; room]].concat());
        }
        writer.append(header("timers", 0, 0, 0), b"").expect("it is good");
        assert_eq!(writer.len_bytes(), object().0.len());
        writer.finish("a/b")
    };
    for room in [0, 3, ALIGNMENT * 2] {
        let (bytes, sections) = write(Some(room));
        assert_eq!((&bytes, &sections), (&object().0, &object().1));
        let is_aligned = bytes.as_ptr().align_offset(ALIGNMENT) == 0;
        assert!(is_aligned || room < ALIGNMENT, "{room}");
    }
    assert_eq!(write(None), object());
}

#[test]
fn sections_come_back_one_by_one_and_all_together() {
    let (bytes, sections) = object();
    let section = |reference: &SectionRef| {
        let (start, end) = (reference.offset as usize, (reference.offset + reference.length) as usize);
        open_section(reference, bytes.slice(start..end), "a/b").expect("it is whole")
    };
    assert_eq!(section(&sections[0]), (header("window", 2, 3, 7), Bytes::from_static(b"hello")));
    assert_eq!(section(&sections[1]), (header("timers", 0, 0, 0), Bytes::new()));
    let all = read_object(&bytes, "a/b").expect("it is whole");
    assert_eq!(all, sections.iter().map(section).collect::<Vec<_>>());
    let empty = StateObjectWriter::new().finish("a").0;
    assert_eq!(read_object(&empty, "a").expect("it is whole"), []);
}

/// Carries b7 and b9 of the failure list: what is cut anywhere is found and named.
#[test]
fn b7_object_cut_at_every_byte_is_found() {
    let (bytes, sections) = object();
    for end in 0..bytes.len() {
        let cut = bytes.slice(..end);
        // Between sections a cut object is a whole one of fewer sections; its reference knows better.
        let is_between = [16, 75].contains(&end);
        match read_object(&cut, "a/b") {
            Ok(found) => assert!(is_between && found.len() < 2, "{end}"),
            Err(error) => assert_eq!((error.code(), is_between), ("checkpoint-torn", false), "{end}"),
        }
    }
    let reference = &sections[0];
    for end in 16..75 {
        let error = open_section(reference, bytes.slice(16..end), "a/b").expect_err("it is cut");
        assert_eq!(error.code(), "checkpoint-torn", "{end}");
        assert!(error.to_string().contains("'a/b'"), "{error}");
    }
}

/// Carries b7 and b9 of the failure list: every flipped bit is found before the payload is used.
#[test]
fn b7_every_flipped_bit_is_found() {
    let (bytes, sections) = object();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let flipped = Bytes::from(flipped);
        let error = read_object(&flipped, "a/b").expect_err("a bit is wrong");
        assert!(error.to_string().contains("'a/b'"), "{error}");
        for reference in &sections {
            let (start, end) = (reference.offset as usize, (reference.offset + reference.length) as usize);
            let outcome = open_section(reference, flipped.slice(start..end), "a/b");
            match outcome {
                Ok(_) => assert!(!(start..end).contains(&(bit / 8)), "bit {bit}"),
                Err(error) => assert_eq!(error.code(), "checkpoint-checksum", "bit {bit}"),
            }
        }
    }
}

#[test]
fn another_whole_section_is_not_the_one_meant() {
    let (bytes, sections) = object();
    let second = bytes.slice(75..);
    let wrong = SectionRef { length: sections[1].length, ..sections[0].clone() };
    assert_eq!(open_section(&wrong, second.clone(), "a").expect_err("other checksum").code(), "checkpoint-checksum");
    let wrong = SectionRef { rows: 1, ..sections[1].clone() };
    assert_eq!(open_section(&wrong, second, "a").expect_err("other rows").code(), "checkpoint-malformed");
}

#[test]
fn later_versions_are_named() {
    let (bytes, _) = object();
    let mut later = bytes.to_vec();
    later[8] = 3;
    assert_eq!(read_object(&later.into(), "a").expect_err("it is newer").code(), "checkpoint-newer-format");

    let mut writer = StateObjectWriter::new();
    writer.append(header("t", 1, 0, 0), b"x").expect("it is good");
    writer.bytes[32] = 3;
    let checksum = xxh3_128(&writer.bytes[32..]);
    writer.bytes[16..32].copy_from_slice(&checksum.to_le_bytes());
    let (bytes, mut sections) = writer.finish("a");
    sections[0].checksum = checksum;
    let error = open_section(&sections[0], bytes.slice(16..), "a").expect_err("it is newer");
    assert_eq!(error.code(), "checkpoint-newer-format");
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let mut writer = StateObjectWriter::new();
    assert!(writer.append(header(&"n".repeat(256), 0, 0, 0), b"").is_err());
    assert!(writer.append(header("t", 0, 2, 1), b"").is_err());
    assert!(writer.is_empty() && writer.len_bytes() == 16);
}
