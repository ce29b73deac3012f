//! The keys of checkpoints and of their store. Part of `config.rs`; it reads and bounds, and does not know what a
//! checkpoint is made of.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_core::Settings;

use super::{Key, spelled};

const INTERVAL: &str = "execution.checkpointing.interval";
const TIMEOUT: &str = "execution.checkpointing.timeout";
const MIN_PAUSE: &str = "execution.checkpointing.min-pause";
const TOLERABLE: &str = "execution.checkpointing.tolerable-failed-checkpoints";
const DIR: &str = "execution.checkpointing.dir";
const SAVEPOINT_DIR: &str = "execution.checkpointing.savepoint-dir";
const NUM_RETAINED: &str = "execution.checkpointing.num-retained";
const RETENTION: &str = "execution.checkpointing.externalized-checkpoint-retention";
const ALIGNED_TIMEOUT: &str = "execution.checkpointing.aligned-checkpoint-timeout";
const LOCAL_COPIES: &str = "execution.checkpointing.local-backup.enabled";
const S3_ENDPOINT: &str = "s3.endpoint";
const S3_REGION: &str = "s3.region";
const S3_PATH_STYLE: &str = "s3.path-style-access";
const S3_ALLOW_HTTP: &str = "s3.allow-http";

/// Where no number stands: any number of failures is tolerated.
const UNLIMITED: &str = "unlimited";
/// Most completed checkpoints that are kept.
const RETAINED_MAX: i64 = 1000;

/// Keys of checkpoints.
pub(super) const KEYS: &[Key] = &[
    Key { name: INTERVAL, default: "10 s", doc: "Time between two checkpoints; 0 takes none by itself." },
    Key { name: TIMEOUT, default: "10 min", doc: "Longest time a checkpoint may take before it fails." },
    Key { name: MIN_PAUSE, default: "0 s", doc: "Shortest time from the end of a checkpoint to the next one." },
    Key {
        name: TOLERABLE,
        default: UNLIMITED,
        doc: "Checkpoints that may fail one after another before the job fails; by default none ever fails the job.",
    },
    Key {
        name: DIR,
        default: "",
        doc: "Where checkpoints are kept: a directory all workers share, or s3://bucket/prefix. Default: the \
              coordinator's data directory, which serves only workers on its own machine.",
    },
    Key { name: SAVEPOINT_DIR, default: "", doc: "Where savepoints are made when none is named." },
    Key { name: NUM_RETAINED, default: "1", doc: "Completed checkpoints that are kept (1 to 1000)." },
    Key {
        name: RETENTION,
        default: "RETAIN_ON_CANCELLATION",
        doc: "What is kept of a job that was cancelled or failed. A finished job keeps no checkpoint.",
    },
    Key {
        name: ALIGNED_TIMEOUT,
        default: "100 ms",
        doc: "Longest wait of a barrier before it overtakes what is in flight, which is then stored; 0 waits for ever.",
    },
    Key {
        name: LOCAL_COPIES,
        default: "true",
        doc: "Workers keep copies of what they upload to S3, and tasks that come back to them read those.",
    },
    Key { name: S3_ENDPOINT, default: "", doc: "Address of an S3 server that is not Amazon's." },
    Key { name: S3_REGION, default: "", doc: "Region of the bucket; AWS_REGION or us-east-1 when empty." },
    Key { name: S3_PATH_STYLE, default: "false", doc: "Put the bucket into the path, as most other servers want it." },
    Key { name: S3_ALLOW_HTTP, default: "false", doc: "Allow an endpoint on another machine without TLS." },
];

/// What is kept of the checkpoints of a job that did not finish; names are Flink's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointRetention {
    /// Kept after a failure and after a cancel.
    RetainOnCancellation,
    /// Kept after a failure, deleted after a cancel.
    DeleteOnCancellation,
    /// Never kept.
    NoExternalizedCheckpoints,
}

impl CheckpointRetention {
    const ALL: [(&'static str, CheckpointRetention); 3] = [
        ("RETAIN_ON_CANCELLATION", CheckpointRetention::RetainOnCancellation),
        ("DELETE_ON_CANCELLATION", CheckpointRetention::DeleteOnCancellation),
        ("NO_EXTERNALIZED_CHECKPOINTS", CheckpointRetention::NoExternalizedCheckpoints),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }
}

/// How a job takes checkpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointOptions {
    /// `.interval`; `None` takes no checkpoints by itself.
    pub interval: Option<Duration>,
    /// `.timeout`.
    pub timeout: Duration,
    /// `.min-pause`.
    pub min_pause: Duration,
    /// `.tolerable-failed-checkpoints`; `None` for any number.
    pub tolerable_failures: Option<u32>,
    /// `.dir`; `None` for the coordinator's own directory.
    pub dir: Option<String>,
    /// `.savepoint-dir`.
    pub savepoint_dir: Option<String>,
    /// `.num-retained`.
    pub retained_count: usize,
    /// `.externalized-checkpoint-retention`.
    pub retention: CheckpointRetention,
    /// `.aligned-checkpoint-timeout`; zero waits for ever.
    pub aligned_timeout: Duration,
    /// `.local-backup.enabled`.
    pub keeps_local_copies: bool,
    /// Keys of the S3 store that are set, as they are spelled.
    pub store: BTreeMap<String, String>,
}

impl CheckpointOptions {
    /// Reads the keys; problems stay with `settings`, and defaults stand in.
    pub(super) fn read(settings: &Settings<'_>) -> Self {
        let text = |name: &str| settings.text(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let interval = settings.duration(INTERVAL).unwrap_or(Duration::from_secs(10));
        let timeout = settings.duration(TIMEOUT).unwrap_or(Duration::from_secs(600));
        if timeout.is_zero() {
            settings.problem(TIMEOUT, "must be longer than zero");
        }
        let names = CheckpointRetention::ALL.map(|(name, _)| name);
        let retention = settings.choice(RETENTION, &names);
        let retention = CheckpointRetention::ALL.into_iter().find(|(name, _)| Some(*name) == retention);
        let mut store = BTreeMap::new();
        for name in [S3_ENDPOINT, S3_REGION] {
            store.extend(text(name).map(|value| (name.to_owned(), value)));
        }
        for name in [S3_PATH_STYLE, S3_ALLOW_HTTP] {
            store.extend(settings.boolean(name).filter(|truth| *truth).map(|_| (name.to_owned(), "true".to_owned())));
        }
        CheckpointOptions {
            interval: Some(interval).filter(|interval| !interval.is_zero()),
            timeout: timeout.max(Duration::from_millis(1)),
            min_pause: settings.duration(MIN_PAUSE).unwrap_or_default(),
            tolerable_failures: count(settings, TOLERABLE).flatten(),
            dir: text(DIR),
            savepoint_dir: text(SAVEPOINT_DIR),
            retained_count: settings.integer(NUM_RETAINED, 1..=RETAINED_MAX).unwrap_or(1) as usize,
            retention: retention.map_or(CheckpointRetention::RetainOnCancellation, |(_, value)| value),
            aligned_timeout: settings.duration(ALIGNED_TIMEOUT).unwrap_or(Duration::from_millis(100)),
            keeps_local_copies: settings.boolean(LOCAL_COPIES).unwrap_or(true),
            store,
        }
    }

    /// Spells the keys.
    pub(super) fn to_config(&self) -> Vec<(&'static str, String)> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let stored = |name: &str, absent: &str| self.store.get(name).cloned().unwrap_or_else(|| absent.to_owned());
        vec![
            (INTERVAL, spelled(self.interval.unwrap_or_default())),
            (TIMEOUT, spelled(self.timeout)),
            (MIN_PAUSE, spelled(self.min_pause)),
            (TOLERABLE, spelled_count(self.tolerable_failures)),
            (DIR, text(&self.dir)),
            (SAVEPOINT_DIR, text(&self.savepoint_dir)),
            (NUM_RETAINED, self.retained_count.to_string()),
            (RETENTION, self.retention.name().to_owned()),
            (ALIGNED_TIMEOUT, spelled(self.aligned_timeout)),
            (LOCAL_COPIES, self.keeps_local_copies.to_string()),
            (S3_ENDPOINT, stored(S3_ENDPOINT, "")),
            (S3_REGION, stored(S3_REGION, "")),
            (S3_PATH_STYLE, stored(S3_PATH_STYLE, "false")),
            (S3_ALLOW_HTTP, stored(S3_ALLOW_HTTP, "false")),
        ]
    }
}

/// A number, or [`UNLIMITED`] (`Some(None)`); `None` when it is not given or wrong.
pub(super) fn count(settings: &Settings<'_>, name: &str) -> Option<Option<u32>> {
    let is_unlimited =
        settings.get(name).and_then(|value| value.as_text()).is_some_and(|text| text.eq_ignore_ascii_case(UNLIMITED));
    if is_unlimited {
        return Some(None);
    }
    settings.integer(name, 0..=i64::from(i32::MAX)).map(|number| Some(number as u32))
}

/// Spells what [`count`] reads.
pub(super) fn spelled_count(count: Option<u32>) -> String {
    count.map_or_else(|| UNLIMITED.to_owned(), |count| count.to_string())
}
