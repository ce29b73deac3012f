//! How fast small values are found by key in the state store on disk, with the memory that it has in a worker of 128 MiB:
//! look-ups per second of keys that are there and of others, a batch at a time, as the sessions of a key are looked for. Run
//! with `cargo run --release -p weir-state --example store_speed -- DIRECTORY`, which is emptied.
#![allow(clippy::print_stdout, reason = "this is a tool that prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::time::Instant;

use weir_core::key_hash::mix;
use weir_state::StateStores;

const KEYS: u64 = 5_000_000;
const BATCH: u64 = 8192;
const LOOKUPS: u64 = 1_000_000;
const STORE_BYTES: usize = 16 << 20;

/// A key group and a number, about as wide as the keys of the index of sessions.
fn key(number: u64) -> Vec<u8> {
    let hash = mix(number);
    [&[1][..], &((hash >> 57) as u32).to_be_bytes(), &[1], &hash.to_be_bytes()].concat()
}

fn main() {
    let directory = std::env::args().nth(1).expect("usage: store_speed DIRECTORY");
    let stores = StateStores::on_disk(directory.into(), STORE_BYTES);
    let space = stores.space().expect("the store opens");
    let started = Instant::now();
    for start in (0..KEYS).step_by(1 << 18) {
        let mut keys: Vec<Vec<u8>> = (start..KEYS.min(start + (1 << 18))).map(key).collect();
        keys.sort_unstable();
        for keys in keys.chunks(BATCH as usize) {
            space.put(keys.iter().map(|key| (key.clone(), vec![7; 16])).collect()).expect("it is written");
        }
    }
    println!("put     {:9.0} rows/s", KEYS as f64 / started.elapsed().as_secs_f64());
    for (name, first) in [("there", 0), ("others", KEYS), ("there", 0)] {
        let (started, mut found) = (Instant::now(), 0);
        for start in (0..LOOKUPS).step_by(BATCH as usize) {
            let mut keys: Vec<Vec<u8>> = (start..start + BATCH).map(|row| key(first + mix(row) % KEYS)).collect();
            keys.sort_unstable();
            found += space.get(&keys).expect("it is read").iter().flatten().count();
        }
        println!("{name:7} {:9.0} keys/s, {found} found", LOOKUPS as f64 / started.elapsed().as_secs_f64());
    }
    println!("{} MiB on disk", stores.size_bytes() >> 20);
}
