//! Retention against a model: a store as a plain map, a job that checkpoints, restarts, is restored elsewhere, crashes in
//! the middle of its deletions; and after every step what must still be there.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weir_core::AttemptNumber;
use weir_core::random::SplitMix64;

use super::*;

const JOB: JobId = JobId(0xa);
const HOUR_MS: i64 = 3_600_000;

fn token(attempt: u32) -> FencingToken {
    FencingToken { term: 1, attempt: AttemptNumber(attempt) }
}

fn checkpoint(owner: Owner, id: u64, objects: &[String]) -> CompletedCheckpoint {
    CompletedCheckpoint {
        checkpoint: CheckpointId(id),
        kind: CheckpointKind::Checkpoint,
        manifest: layout::checkpoint_manifest(owner.job, owner.incarnation, CheckpointId(id)),
        objects: objects.iter().cloned().collect(),
    }
}

/// What happens to a job and its store.
#[derive(Clone, Debug)]
enum Step {
    /// The running attempt uploads this many objects for a checkpoint.
    Upload(u8),
    /// The checkpoint under way completes. Where a bit is set, it needs an upload, or an object of the newest checkpoint;
    /// uploads that it does not need may be needed by the next.
    Complete(u64),
    /// The checkpoint under way is aborted. Its uploads stay: a later one may use them.
    Abort,
    /// A new attempt begins, from the newest checkpoint; uploads that no checkpoint needs are left behind.
    Restart,
    /// A user restores the job from its newest checkpoint: a new incarnation that shares the old one's objects.
    Restore,
    /// All but this many are dropped and deleted; only as many objects as the second says before the coordinator dies.
    Trim(usize, usize),
    /// Time passes, in minutes.
    Wait(u8),
    /// Orphans are swept.
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4).prop_map(Step::Upload),
        4 => any::<u64>().prop_map(Step::Complete),
        1 => Just(Step::Abort),
        1 => Just(Step::Restart),
        1 => Just(Step::Restore),
        3 => (0usize..4, prop_oneof![Just(usize::MAX), 0usize..6]).prop_map(|(retain, until)| Step::Trim(retain, until)),
        2 => any::<u8>().prop_map(Step::Wait),
        3 => Just(Step::Sweep),
    ]
}

struct Model {
    owner: Owner,
    attempt: u32,
    next: u64,
    now_ms: i64,
    /// Path and time of writing.
    store: BTreeMap<String, i64>,
    completed: Vec<CompletedCheckpoint>,
    /// The checkpoint that the incarnation began with; its objects belong to others.
    origin: Vec<CompletedCheckpoint>,
    /// Uploads of the running attempt, any of which a checkpoint under way may come to need.
    uploads: Vec<String>,
    /// What other incarnations have made.
    foreign: BTreeSet<String>,
    random: SplitMix64,
}

impl Model {
    fn new() -> Self {
        let owner = Owner { job: JOB, incarnation: Incarnation(1) };
        let others = Owner { job: JobId(0xb), incarnation: Incarnation(1) };
        let mut random = SplitMix64::new(1);
        let foreign: BTreeSet<String> = [
            layout::state_object(others.job, others.incarnation, token(1), &mut random),
            layout::checkpoint_manifest(others.job, others.incarnation, CheckpointId(1)),
            format!("{}notes.txt", layout::incarnation_prefix(owner.job, owner.incarnation)),
            "savepoint-00000a-000000000001/manifest".to_owned(),
        ]
        .into();
        let store = foreign.iter().map(|path| (path.clone(), 0)).collect();
        let (completed, origin, uploads) = (Vec::new(), Vec::new(), Vec::new());
        Model { owner, attempt: 1, next: 1, now_ms: HOUR_MS, store, completed, origin, uploads, foreign, random }
    }

    fn retained(&self) -> Vec<CompletedCheckpoint> {
        self.completed.iter().chain(&self.origin).cloned().collect()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Upload(count) => {
                for _ in 0..count {
                    let Owner { job, incarnation } = self.owner;
                    let path = layout::state_object(job, incarnation, token(self.attempt), &mut self.random);
                    self.store.insert(path.clone(), self.now_ms);
                    self.uploads.push(path);
                }
            }
            Step::Complete(bits) => {
                let newest = self.completed.last().or(self.origin.last()).cloned();
                let before = newest.into_iter().flat_map(|newest| newest.objects).enumerate();
                let shared = before.filter(|(bit, _)| bits >> (bit % 64) & 1 == 1).map(|(_, path)| path);
                let uploads = std::mem::take(&mut self.uploads).into_iter().enumerate();
                let (taken, left): (Vec<_>, Vec<_>) = uploads.partition(|(bit, _)| bits >> (bit % 64 / 2) & 1 == 1);
                self.uploads = left.into_iter().map(|(_, path)| path).collect();
                let objects: Vec<String> = shared.chain(taken.into_iter().map(|(_, path)| path)).collect();
                let done = checkpoint(self.owner, self.next, &objects);
                self.store.insert(done.manifest.clone(), self.now_ms);
                self.completed.push(done);
                self.next += 1;
            }
            Step::Abort => self.next += 1,
            Step::Restart => {
                self.attempt += 1;
                self.uploads.clear();
            }
            Step::Restore => {
                let Some(from) = self.completed.last().cloned() else { return };
                self.foreign.extend(self.store.keys().cloned());
                self.owner.incarnation = Incarnation(self.owner.incarnation.0 + 1);
                self.origin = vec![from];
                self.completed.clear();
                self.uploads.clear();
            }
            Step::Trim(retain, until) => {
                let drop = to_drop(&self.completed, retain, &BTreeSet::new());
                let is_dropped = |checkpoint: &CompletedCheckpoint| drop.contains(&checkpoint.checkpoint);
                let (dropped, kept) = std::mem::take(&mut self.completed).into_iter().partition(is_dropped);
                self.completed = kept;
                self.delete(deletable(self.owner, &self.retained(), &dropped).into_iter().take(until));
            }
            Step::Wait(minutes) => self.now_ms += i64::from(minutes) * 60_000,
            Step::Sweep => self.sweep(Some(token(self.attempt))),
        }
    }

    fn sweep(&mut self, running: Option<FencingToken>) {
        let object = |(path, modified): (&String, &i64)| ListedObject {
            path: path.clone(),
            length: 1,
            modified_unix_ms: *modified,
        };
        let listed: Vec<ListedObject> = self.store.iter().map(object).collect();
        let sweep = Sweep { now_unix_ms: self.now_ms, age_min: Duration::from_secs(3600), running };
        let orphans = orphans(self.owner, &listed, &self.retained(), &sweep);
        assert!(orphans.iter().all(|path| self.now_ms - self.store[path] >= HOUR_MS), "a young object goes");
        self.delete(orphans);
    }

    fn delete(&mut self, paths: impl IntoIterator<Item = String>) {
        for path in paths {
            self.store.remove(&path);
        }
    }

    /// What must be there: every retained checkpoint, whole; uploads of the running attempt; what is not ours.
    fn check(&self) {
        for path in self.retained().iter().flat_map(|kept| kept.objects.iter().chain([&kept.manifest])) {
            assert!(self.store.contains_key(path), "a retained checkpoint has lost {path}");
        }
        for path in self.uploads.iter().chain(&self.foreign) {
            assert!(self.store.contains_key(path), "{path} is not to be deleted");
        }
    }
}

proptest! {
    /// Carries b1 (counts lost in a restart: there are none), b2 (an aborted checkpoint's objects used by a later one),
    /// b4 (objects shared with the checkpoint a job was restored from) and b5 of the failure list.
    #[test]
    fn b1_b2_b4_b5_what_is_needed_is_never_deleted(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
            model.check();
        }
        // The job ends. After a while exactly what is retained, and what is not ours, is left.
        model.now_ms += 2 * HOUR_MS;
        model.uploads.clear();
        model.sweep(None);
        model.check();
        let needed: BTreeSet<String> = model.retained().iter().flat_map(|kept| kept.objects.iter().chain([&kept.manifest]).cloned().collect::<Vec<_>>()).collect();
        for path in model.store.keys() {
            prop_assert!(needed.contains(path) || model.foreign.contains(path), "{} is left over", path);
        }
    }

    #[test]
    fn the_newest_stay_and_savepoints_do_not_count(ids in prop::collection::btree_set(1u64..100, 0..12), retain in 0usize..5, pin in 1u64..100) {
        let owner = Owner { job: JOB, incarnation: Incarnation(1) };
        let mut completed: Vec<_> = ids.iter().rev().map(|id| checkpoint(owner, *id, &[])).collect();
        let savepoint = CompletedCheckpoint { kind: CheckpointKind::Savepoint, ..checkpoint(owner, 1000, &[]) };
        completed.insert(completed.len() / 2, savepoint);
        let dropped = to_drop(&completed, retain, &[CheckpointId(pin)].into());
        let mut model: Vec<u64> = ids.iter().copied().collect();
        model.truncate(ids.len().saturating_sub(retain.max(1)));
        model.retain(|id| *id != pin);
        prop_assert_eq!(dropped.iter().map(|id| id.0).collect::<Vec<_>>(), model);
    }
}

/// Carries b1 of the failure list: a restore that reads a checkpoint while newer ones complete keeps what it reads.
#[test]
fn b1_pinned_checkpoint_keeps_its_objects() {
    let owner = Owner { job: JOB, incarnation: Incarnation(1) };
    let mut random = SplitMix64::new(3);
    let objects: Vec<String> =
        (0..3).map(|_| layout::state_object(JOB, owner.incarnation, token(1), &mut random)).collect();
    let completed: Vec<_> = (1..=3).map(|id| checkpoint(owner, id, &objects[id as usize - 1..][..1])).collect();
    assert_eq!(to_drop(&completed, 1, &[CheckpointId(1)].into()), [CheckpointId(2)]);
    let gone = deletable(owner, &[completed[0].clone(), completed[2].clone()], &completed[1..2]);
    assert_eq!(gone, [completed[1].manifest.clone(), objects[1].clone()]);
}

/// Carries b3 of the failure list: leftovers of a lost worker's attempt go only when they are old and nobody's, and the
/// running attempt's never, also when the sweep runs by a clock that is far ahead.
#[test]
fn b3_running_attempt_and_young_objects_are_spared() {
    let owner = Owner { job: JOB, incarnation: Incarnation(1) };
    let mut random = SplitMix64::new(4);
    let mut object = |attempt| layout::state_object(JOB, owner.incarnation, token(attempt), &mut random);
    let (lost, kept, running) = (object(1), object(1), object(2));
    let pending = layout::checkpoint_manifest(JOB, owner.incarnation, CheckpointId(9));
    let listed: Vec<ListedObject> = [&lost, &kept, &running, &pending]
        .map(|path| ListedObject { path: path.clone(), length: 1, modified_unix_ms: 0 })
        .into();
    let retained = [checkpoint(owner, 5, &[kept])];
    let at = |now_unix_ms, running| Sweep { now_unix_ms, age_min: Duration::from_secs(3600), running };
    assert_eq!(orphans(owner, &listed, &retained, &at(HOUR_MS - 1, Some(token(2)))), Vec::<String>::new());
    assert_eq!(orphans(owner, &listed, &retained, &at(i64::MAX, Some(token(2)))), std::slice::from_ref(&lost));
    assert_eq!(orphans(owner, &listed, &retained, &at(HOUR_MS, None)), [pending, lost, running]);
}

/// Carries b4 of the failure list: what another incarnation made, and what a savepoint holds, is never given.
#[test]
fn b4_savepoints_and_foreign_objects_are_never_given() {
    let owner = Owner { job: JOB, incarnation: Incarnation(2) };
    let before = Owner { job: JOB, incarnation: Incarnation(1) };
    let shared = layout::state_object(JOB, before.incarnation, token(1), &mut SplitMix64::new(5));
    let savepoint = CompletedCheckpoint {
        kind: CheckpointKind::Savepoint,
        manifest: layout::MANIFEST.to_owned(),
        ..checkpoint(owner, 2, &["data/x".to_owned()])
    };
    let dropped = [
        checkpoint(before, 1, std::slice::from_ref(&shared)),
        checkpoint(owner, 3, &[shared, "data/x".into()]),
        savepoint,
    ];
    assert_eq!(deletable(owner, &[], &dropped), [dropped[1].manifest.clone()]);
}
