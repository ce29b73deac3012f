//! How much memory a worker takes, and for what: one number, by default a share of the machine's, is divided here.
//! The wiring reads it, `agent` applies it.

use std::path::Path;

/// Without a setting, a worker takes this share of the machine's memory.
const SHARE_OF_MACHINE: u64 = 2;
/// What a worker takes where the machine does not say how much it has, and the least it works with. **Units**: bytes.
const FALLBACK_BYTES: u64 = 1 << 30;
/// Least memory of a worker. **Units**: bytes.
pub const LEAST_BYTES: u64 = 128 << 20;

/// A worker's memory, divided. **Units**: bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Division {
    /// State in tables. Beyond it, state goes to disk and sources slow down.
    pub tables: usize,
    /// What the store on disk holds in memory: blocks and unwritten entries.
    pub store: usize,
    /// State objects that are filled for a checkpoint, or being uploaded.
    pub objects: usize,
}

/// Divides: three fifths for tables, an eighth for the store, an eighth for the objects of checkpoints. The rest is for rows
/// on their way (credits bound them) and results that are being emitted.
pub fn divide(bytes: u64) -> Division {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    Division { tables: bytes / 5 * 3, store: bytes / 8, objects: bytes / 8 }
}

/// What a worker takes when nobody says: half of what the machine, or its container, has.
pub fn default_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let machine = read("/proc/meminfo").and_then(|text| of_meminfo(&text));
    let container = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    let memory = machine.into_iter().chain(container).min();
    memory.map_or(FALLBACK_BYTES, |bytes: u64| bytes / SHARE_OF_MACHINE).max(LEAST_BYTES)
}

/// The total in the text of Linux's `/proc/meminfo`.
fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_machine_is_read() {
        assert_eq!(of_meminfo("MemTotal:       24629660 kB\nMemFree: 1 kB\n"), Some(24_629_660 * 1024));
        assert_eq!(of_meminfo("nothing\n"), None);
        assert!(default_bytes() >= LEAST_BYTES);
    }

    #[test]
    fn parts_leave_room_for_the_rest() {
        let Division { tables, store, objects } = divide(1 << 30);
        assert!(tables > store + objects && tables + store + objects < 7 << 27);
    }
}
