//! The workers that are attached, who is alive, and who holds which slots. Worker sessions, job masters and services
//! share it by a cheap handle; nothing in it waits. The decisions stand in `recovery/detector.rs` and
//! `schedule/slots.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use weir_core::{Clock, JobId, WorkerId};
use weir_proto::v1::{ClusterDetails, Register, WorkerDetails};

use crate::recovery::detector::Detector;
use crate::schedule::slots::{Grant, SlotLedger};
use crate::worker_link::WorkerLink;

/// Handle to the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    lease: Duration,
    grace: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<WorkerId, Member>,
    ledger: SlotLedger,
    awaiting: BTreeMap<JobId, oneshot::Sender<Vec<WorkerLink>>>,
    looked_at: Option<Duration>,
}

#[derive(Debug)]
struct Member {
    link: WorkerLink,
    register: Register,
    detector: Detector,
}

impl Cluster {
    /// A cluster without workers.
    pub(crate) fn new(clock: Arc<dyn Clock>, lease: Duration, grace: Duration) -> Self {
        Cluster { inner: Arc::new(Inner { clock, lease, grace, state: Mutex::default() }) }
    }

    /// A worker registered. If it is known, its earlier connection is over: orders and reports may have been lost with
    /// it, so what ran on it is given up.
    pub(crate) fn attach(&self, link: WorkerLink, register: Register) {
        let now = self.inner.clock.monotonic();
        let mut state = self.inner.state.lock();
        let worker = link.worker().clone();
        state.remove(&worker, "it attached again");
        let slots = register.slots;
        let detector = Detector::new(self.inner.lease, self.inner.grace, now);
        tracing::info!(%worker, slots, data_address = register.data_address, "worker registered");
        state.members.insert(worker.clone(), Member { link, register, detector });
        let grants = state.ledger.add_worker(worker, slots);
        state.hand_out(grants);
    }

    /// A sign of life by this attachment.
    pub(crate) fn heard(&self, link: &WorkerLink) {
        let now = self.inner.clock.monotonic();
        if let Some(member) = self.inner.state.lock().member(link) {
            member.detector.heard(now);
        }
    }

    /// The connection of this attachment broke.
    pub(crate) fn disconnected(&self, link: &WorkerLink) {
        let now = self.inner.clock.monotonic();
        if let Some(member) = self.inner.state.lock().member(link) {
            member.detector.disconnected(now);
        }
    }

    /// Nobody listens at the address of this attachment, whose connection broke.
    pub(crate) fn nobody_listens(&self, link: &WorkerLink) {
        if let Some(member) = self.inner.state.lock().member(link) {
            member.detector.nobody_listens();
        }
        self.bury_the_dead();
    }

    /// Gives up every worker that is dead by now, or that was given up elsewhere. To be called often: a gap of half a
    /// lease means that this process stood still, which is not held against the workers.
    pub(crate) fn bury_the_dead(&self) {
        let now = self.inner.clock.monotonic();
        let mut state = self.inner.state.lock();
        let gap = now.saturating_sub(state.looked_at.replace(now).unwrap_or(now));
        if gap > self.inner.lease / 2 {
            tracing::warn!(gap_ms = gap.as_millis(), "the coordinator stood still");
            state.members.values_mut().for_each(|member| member.detector.watcher_paused(gap));
        }
        let dead = state.members.iter().filter_map(|(worker, member)| {
            let death = member.detector.death(now).map(|death| death.to_string());
            let given_up = || member.link.lost().is_cancelled().then(|| "it does not take orders".to_owned());
            death.or_else(given_up).map(|why| (worker.clone(), why))
        });
        for (worker, why) in dead.collect::<Vec<_>>() {
            state.remove(&worker, &why);
        }
    }

    /// Asks for `needed` slots, all together; they come when it is the job's turn. The receiver gets a link per slot.
    pub(crate) fn request_slots(&self, job: JobId, needed: u32) -> oneshot::Receiver<Vec<WorkerLink>> {
        let (tx, rx) = oneshot::channel();
        let mut state = self.inner.state.lock();
        state.awaiting.insert(job, tx);
        let grants = state.ledger.request(job, needed);
        state.hand_out(grants);
        rx
    }

    /// Gives back what the job holds and withdraws its request.
    pub(crate) fn release_slots(&self, job: JobId) {
        let mut state = self.inner.state.lock();
        state.awaiting.remove(&job);
        let grants = state.ledger.release(job);
        state.hand_out(grants);
    }

    /// Slots that no job holds.
    pub(crate) fn free_slots(&self) -> u32 {
        self.inner.state.lock().ledger.free()
    }

    /// The attachment of `preferred` if it lives, else any other.
    pub(crate) fn some_worker(&self, preferred: Option<&WorkerId>) -> Option<WorkerLink> {
        let state = self.inner.state.lock();
        let preferred = preferred.and_then(|worker| state.members.get(worker));
        let is_well = |member: &&Member| !member.link.lost().is_cancelled() && member.detector.is_connected();
        let any = || state.members.values().find(is_well);
        preferred.filter(is_well).or_else(any).map(|member| member.link.clone())
    }

    /// The cluster, for those who look.
    pub(crate) fn details(&self) -> ClusterDetails {
        let now = self.inner.clock.monotonic();
        let state = self.inner.state.lock();
        let worker = |(worker, member): (&WorkerId, &Member)| WorkerDetails {
            worker: worker.0.clone(),
            data_address: member.register.data_address.clone(),
            http_address: member.register.http_address.clone(),
            slots_total: member.register.slots,
            slots_available: state.ledger.free_of(worker),
            heartbeat_age_ms: member.detector.silence(now).as_millis() as u64,
            process_id: member.register.process_id,
        };
        ClusterDetails {
            version: weir_proto::VERSION.to_owned(),
            workers: state.members.iter().map(worker).collect(),
            slots_total: state.ledger.total(),
            slots_available: state.ledger.free(),
        }
    }
}

impl State {
    fn member(&mut self, link: &WorkerLink) -> Option<&mut Member> {
        self.members.get_mut(link.worker()).filter(|member| member.link.is(link))
    }

    fn remove(&mut self, worker: &WorkerId, why: &str) {
        let Some(member) = self.members.remove(worker) else { return };
        tracing::warn!(%worker, why, "worker lost");
        member.link.give_up(why);
        let grants = self.ledger.remove_worker(worker);
        self.hand_out(grants);
    }

    /// Hands slots to the jobs that wait for them. A worker of a grant may die before its job hears of it: the job then
    /// sees the link's end at once.
    fn hand_out(&mut self, grants: Vec<Grant>) {
        let mut unwanted = Vec::new();
        for grant in grants {
            let links = grant.slots.iter().filter_map(|worker| self.members.get(worker));
            let links = links.map(|member| member.link.clone()).collect();
            let sent = self.awaiting.remove(&grant.job).map(|tx| tx.send(links));
            if !matches!(sent, Some(Ok(()))) {
                unwanted.push(grant.job);
            }
        }
        for job in unwanted {
            let grants = self.ledger.release(job);
            self.hand_out(grants);
        }
    }
}
