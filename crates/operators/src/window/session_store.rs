//! The bounds of all open sessions: per key a list of sessions that do not touch, and when which one closes (pure).
//!
//! Closing times are kept in buckets of time. A session stands in the bucket of the end it had when it was put there;
//! when the bucket comes due and the session has grown meanwhile, it moves on. So a hot key costs one move per bucket
//! instead of one timer per row.
//!
//! **Source**: merging as in Flink's `TimeWindow.mergeWindows`; the buckets are a lazy calendar queue.

use std::collections::BTreeMap;

use super::output::Window;
use super::runs::Run;

/// No session.
pub(crate) const NONE: u32 = u32::MAX;

/// What became of a session's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    /// Not emitted since it last changed its bounds.
    Open,
    /// Emitted with its bounds as they are.
    Fired,
    /// Part of another session, `next`, until the end of the batch.
    Absorbed,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    start: i64,
    last: i64,
    /// The bucket it waits in; entries in other buckets are stale.
    bucket: i64,
    key: u32,
    /// The next older session of the key.
    next: u32,
    /// The next newer session of the key.
    previous: u32,
    state: State,
}

/// No bucket has this number: sessions end before the year 10000.
const NO_BUCKET: i64 = i64::MIN;

/// What changed in the store while the runs of a batch were placed.
#[derive(Default)]
pub(crate) struct Changes {
    /// `(into, from)` in order: `from` is part of `into` now.
    pub(crate) absorbed: Vec<(u32, u32)>,
    /// Sessions that had been emitted, with the bounds they were emitted with.
    pub(crate) disturbed: Vec<(u32, Window)>,
}

/// All sessions of one subtask. **Units**: microseconds.
pub(crate) struct SessionStore {
    gap: i64,
    allowed_lateness: i64,
    /// By key id: its newest session.
    newest: Vec<u32>,
    sessions: Vec<Session>,
    free: Vec<u32>,
    buckets: BTreeMap<i64, Vec<u32>>,
    bucket_width: i64,
    /// Which sessions a checkpoint still has to read, while one does.
    pub(crate) uncopied: Option<Uncopied>,
}

/// Sessions that were there at a barrier and are not copied yet: those below `bound` without a mark.
pub(crate) struct Uncopied {
    bound: u32,
    /// By id, one bit: copied, or not there at the barrier.
    marks: Vec<u64>,
}

impl Uncopied {
    /// Marks it; whether it was without a mark.
    fn mark(&mut self, id: u32) -> bool {
        if id >= self.bound {
            return false;
        }
        let (word, bit) = (&mut self.marks[id as usize / 64], 1 << (id % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl SessionStore {
    pub(crate) fn new(gap: i64, allowed_lateness: i64) -> Self {
        SessionStore {
            gap,
            allowed_lateness,
            newest: Vec::new(),
            sessions: Vec::new(),
            free: Vec::new(),
            buckets: BTreeMap::new(),
            // A hot key moves 16 times per gap; a bucket that is partly due is looked through once per watermark.
            bucket_width: (gap / 16).max(1),
            uncopied: None,
        }
    }

    /// All sessions count as uncopied from here on, those that begin later do not.
    pub(crate) fn begin_copy(&mut self) {
        let bound = self.sessions.len();
        self.uncopied = Some(Uncopied { bound: bound as u32, marks: vec![0; bound.div_ceil(64)] });
    }

    /// The uncopied sessions among these, between batches; they count as copied from here on.
    pub(crate) fn take_uncopied(&mut self, ids: impl Iterator<Item = u32>) -> Vec<u32> {
        let (sessions, Some(uncopied)) = (&self.sessions, &mut self.uncopied) else { return Vec::new() };
        let is_live = |id: &u32| matches!(sessions[*id as usize].state, State::Open | State::Fired);
        ids.filter(|id| uncopied.mark(*id)).filter(is_live).collect()
    }

    /// All session ids are below this.
    pub(crate) fn id_bound(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn window(&self, id: u32) -> Window {
        let session = &self.sessions[id as usize];
        Window { start: session.start, end: session.last + self.gap }
    }

    /// Just after which watermark something happens to a session: it is emitted, or it is closed for good.
    pub(crate) fn next_end(&self, id: u32) -> i64 {
        let end = self.window(id).end;
        if self.is_fired(id) { end.saturating_add(self.allowed_lateness) } else { end }
    }

    pub(crate) fn key(&self, id: u32) -> u32 {
        self.sessions[id as usize].key
    }

    pub(crate) fn has_sessions(&self, key: u32) -> bool {
        self.newest.get(key as usize).is_some_and(|newest| *newest != NONE)
    }

    pub(crate) fn is_fired(&self, id: u32) -> bool {
        self.sessions[id as usize].state == State::Fired
    }

    pub(crate) fn mark_fired(&mut self, id: u32) {
        self.sessions[id as usize].state = State::Fired;
    }

    /// Whether a session with this last row is closed for good.
    pub(crate) fn is_late(&self, last: i64, watermark: i64) -> bool {
        (last + self.gap - 1).saturating_add(self.allowed_lateness) <= watermark
    }

    /// Whether a session takes no more rows at this watermark.
    pub(crate) fn is_past(&self, id: u32, watermark: i64) -> bool {
        self.is_late(self.sessions[id as usize].last, watermark)
    }

    /// Whether the session is held only for late rows.
    pub(crate) fn is_closed(&self, id: u32, watermark: i64) -> bool {
        self.window(id).end - 1 <= watermark
    }

    /// Puts a run into the session it touches, joining all it touches, or into a new one; [`NONE`] when that would be
    /// closed for good already.
    pub(crate) fn place(&mut self, run: Run, watermark: i64, changes: &mut Changes) -> u32 {
        if self.newest.len() <= run.key as usize {
            self.newest.resize(run.key as usize + 1, NONE);
        }
        let (mut newer, mut at) = (NONE, self.newest[run.key as usize]);
        while at != NONE && self.sessions[at as usize].start > run.last + self.gap {
            (newer, at) = (at, self.sessions[at as usize].next);
        }
        if at == NONE || self.sessions[at as usize].last + self.gap < run.start {
            if self.is_late(run.last, watermark) {
                return NONE;
            }
            return self.insert(run, newer, at);
        }
        let Session { start, last, .. } = self.sessions[at as usize];
        let (mut joined_start, joined_last) = (start.min(run.start), last.max(run.last));
        let is_changed = (joined_start, joined_last) != (start, last);
        loop {
            let older = self.sessions[at as usize].next;
            if older == NONE || self.sessions[older as usize].last + self.gap < joined_start {
                break;
            }
            joined_start = joined_start.min(self.sessions[older as usize].start);
            self.absorb(at, older, changes);
        }
        if self.is_fired(at) && is_changed {
            changes.disturbed.push((at, self.window(at)));
            // It waited to be taken out; now it waits for its new end.
            let bucket = self.bucket_of(joined_last);
            (self.sessions[at as usize].state, self.sessions[at as usize].bucket) = (State::Open, bucket);
            self.buckets.entry(bucket).or_default().push(at);
        }
        let session = &mut self.sessions[at as usize];
        (session.start, session.last) = (joined_start, joined_last);
        at
    }

    /// The bucket in which a session with this last row closes.
    fn bucket_of(&self, last: i64) -> i64 {
        (last + self.gap - 1).div_euclid(self.bucket_width)
    }

    fn insert(&mut self, run: Run, newer: u32, older: u32) -> u32 {
        let bucket = self.bucket_of(run.last);
        let session = Session {
            start: run.start,
            last: run.last,
            bucket,
            key: run.key,
            next: older,
            previous: newer,
            state: State::Open,
        };
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(uncopied) = &mut self.uncopied {
                    uncopied.mark(id);
                }
                self.sessions[id as usize] = session;
                id
            }
            None => {
                self.sessions.push(session);
                self.sessions.len() as u32 - 1
            }
        };
        self.link(newer, id, run.key);
        if older != NONE {
            self.sessions[older as usize].previous = id;
        }
        self.buckets.entry(bucket).or_default().push(id);
        id
    }

    fn link(&mut self, newer: u32, older: u32, key: u32) {
        match newer {
            NONE => self.newest[key as usize] = older,
            newer => self.sessions[newer as usize].next = older,
        }
    }

    fn unlink(&mut self, id: u32) {
        let Session { next, previous, key, .. } = self.sessions[id as usize];
        self.link(previous, next, key);
        if next != NONE {
            self.sessions[next as usize].previous = previous;
        }
    }

    fn absorb(&mut self, into: u32, from: u32, changes: &mut Changes) {
        if self.is_fired(from) {
            changes.disturbed.push((from, self.window(from)));
        }
        self.unlink(from);
        let session = &mut self.sessions[from as usize];
        (session.state, session.next) = (State::Absorbed, into);
        changes.absorbed.push((into, from));
    }

    /// Where a session went that may have been absorbed since.
    pub(crate) fn resolve(&self, mut id: u32) -> u32 {
        while id != NONE && self.sessions[id as usize].state == State::Absorbed {
            id = self.sessions[id as usize].next;
        }
        id
    }

    /// Frees the place of a session that was absorbed.
    pub(crate) fn free_absorbed(&mut self, id: u32) {
        self.sessions[id as usize].state = State::Free;
        self.free.push(id);
    }

    /// Takes out a session that is closed for good.
    pub(crate) fn remove(&mut self, id: u32) {
        self.unlink(id);
        self.sessions[id as usize].state = State::Free;
        self.free.push(id);
    }

    /// Finds what the watermark completes: sessions to emit, in order of their ends, and emitted ones to take out.
    /// Those to emit count as emitted from here on.
    pub(crate) fn due(&mut self, watermark: i64) -> Due {
        let mut due = Due::default();
        let mut waiting: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        while let Some(entry) = self.buckets.first_entry() {
            let bucket = *entry.key();
            if bucket > watermark.div_euclid(self.bucket_width) {
                break;
            }
            // A place that was freed and given out again may stand in a bucket twice.
            let mut ids = entry.remove();
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                let session = self.sessions[id as usize];
                if !matches!(session.state, State::Open | State::Fired) || session.bucket != bucket {
                    continue;
                }
                let is_closed = self.is_closed(id, watermark);
                if is_closed && session.state == State::Open {
                    due.fire.push(id);
                    self.mark_fired(id);
                    if self.is_late(session.last, watermark) {
                        // It goes with its result; its place may stand in a later bucket from an earlier life.
                        self.sessions[id as usize].bucket = NO_BUCKET;
                        continue;
                    }
                } else if is_closed && self.is_late(session.last, watermark) {
                    due.remove.push(id);
                    continue;
                }
                let end = session.last + self.gap - 1;
                let next = if is_closed { end.saturating_add(self.allowed_lateness) } else { end };
                let next = next.div_euclid(self.bucket_width);
                self.sessions[id as usize].bucket = next;
                if !is_closed || self.allowed_lateness > 0 {
                    waiting.entry(next).or_default().push(id);
                }
            }
        }
        for (bucket, ids) in waiting {
            self.buckets.entry(bucket).or_default().extend(ids);
        }
        due.fire.sort_unstable_by_key(|id| (self.window(*id).end, *id));
        due
    }

    /// Sessions that a watermark completes unless something touches them.
    pub(crate) fn closing(&self, watermark: i64) -> impl Iterator<Item = u32> {
        let buckets = self.buckets.range(..=watermark.div_euclid(self.bucket_width));
        let entries = buckets.flat_map(|(bucket, ids)| ids.iter().map(move |id| (*bucket, *id)));
        let is_closing = move |(bucket, id): &(i64, u32)| {
            let session = &self.sessions[*id as usize];
            session.state == State::Open && session.bucket == *bucket && self.is_closed(*id, watermark)
        };
        entries.filter(is_closing).map(|(_, id)| id)
    }

    /// All sessions that a watermark may emit or take out.
    pub(crate) fn waiting(&self, watermark: i64) -> impl Iterator<Item = u32> {
        self.buckets.range(..=watermark.div_euclid(self.bucket_width)).flat_map(|(_, ids)| ids.iter().copied())
    }

    /// The sessions of a key.
    pub(crate) fn of_key(&self, key: u32) -> impl Iterator<Item = u32> {
        let newest = self.newest.get(key as usize).copied().unwrap_or(NONE);
        let is_there = |id: &u32| *id != NONE;
        std::iter::successors(Some(newest).filter(is_there), move |id| {
            Some(self.sessions[*id as usize].next).filter(is_there)
        })
    }

    /// How many sessions there are, between batches.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len() - self.free.len()
    }

    /// All sessions, between batches.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let is_live = |id: &u32| matches!(self.sessions[*id as usize].state, State::Open | State::Fired);
        (0..self.sessions.len() as u32).filter(is_live).collect()
    }

    /// First and last row of a session.
    pub(crate) fn bounds(&self, id: u32) -> (i64, i64) {
        let session = &self.sessions[id as usize];
        (session.start, session.last)
    }

    /// Takes back a session of a checkpoint, or a part of one, joining it with what it touches. It waits for its end even
    /// if it was emitted, and from there on for the end of its lateness.
    pub(crate) fn put_back(
        &mut self,
        key: u32,
        (start, last): (i64, i64),
        is_fired: bool,
        changes: &mut Changes,
    ) -> u32 {
        // It was not late when it came. Emitted ones are whole and touch nothing.
        let id = self.place(Run::alone(key, start, last), i64::MIN, changes);
        if is_fired {
            self.mark_fired(id);
        }
        id
    }

    /// Bytes of memory held.
    pub(crate) fn size_bytes(&self) -> usize {
        let waiting: usize = self.buckets.values().map(|ids| ids.capacity()).sum();
        let marks = self.uncopied.as_ref().map_or(0, |uncopied| uncopied.marks.len() * size_of::<u64>());
        marks
            + (waiting + self.newest.capacity() + self.free.capacity()) * size_of::<u32>()
            + self.sessions.capacity() * size_of::<Session>()
    }
}

/// What a watermark completes.
#[derive(Default)]
pub(crate) struct Due {
    pub(crate) fire: Vec<u32>,
    pub(crate) remove: Vec<u32>,
}
