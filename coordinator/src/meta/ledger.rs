//! The truth of one job as its master sees it: what is durable, and what waits to be. Changes are written one batch after
//! another, so that a later state never lies under an earlier one; a change counts when its write has returned.

use std::future::Future;
use std::sync::Arc;

use super::{JobMeta, MetaStore};

/// Changes of one job on their way to the disk; `N` is what the master wants to be told with the outcome.
#[derive(Debug)]
pub(crate) struct Ledger<N> {
    store: Arc<dyn MetaStore>,
    durable: JobMeta,
    written: Option<(JobMeta, Vec<N>)>,
    next: JobMeta,
    waiting: Vec<N>,
    has_news: bool,
}

impl<N> Ledger<N> {
    /// The ledger of a job that is kept as `durable`.
    pub(crate) fn new(store: Arc<dyn MetaStore>, durable: JobMeta) -> Self {
        let next = durable.clone();
        Ledger { store, durable, written: None, next, waiting: Vec::new(), has_news: false }
    }

    /// What is known to be durable.
    pub(crate) fn durable(&self) -> &JobMeta {
        &self.durable
    }

    /// What will be durable when all changes have been written.
    pub(crate) fn next(&self) -> &JobMeta {
        &self.next
    }

    /// Changes the job; `note` comes back with the outcome of the write. The caller starts [`Ledger::write`].
    pub(crate) fn change(&mut self, note: Option<N>, change: impl FnOnce(&mut JobMeta)) {
        change(&mut self.next);
        self.waiting.extend(note);
        self.has_news = true;
    }

    /// Changes the job without haste: it is written with the next change.
    pub(crate) fn change_later(&mut self, change: impl FnOnce(&mut JobMeta)) {
        change(&mut self.next);
    }

    /// Whether everything that was changed is durable.
    pub(crate) fn is_settled(&self) -> bool {
        self.written.is_none() && !self.has_news
    }

    /// The next write, when there is one and none is under way. Its outcome goes to [`Ledger::wrote`].
    pub(crate) fn write(&mut self) -> Option<impl Future<Output = Result<(), String>> + Send + use<N>> {
        if self.written.is_some() || !self.has_news {
            return None;
        }
        self.has_news = false;
        let job = self.next.clone();
        self.written = Some((job.clone(), std::mem::take(&mut self.waiting)));
        let store = Arc::clone(&self.store);
        Some(async move { store.put(&job).await.map_err(|error| weir_core::error::report(&error)) })
    }

    /// A write has returned; the notes of its changes. After a failure the durable state is the old or the new one: the
    /// changes stay, and are to be written again.
    pub(crate) fn wrote(&mut self, is_durable: bool) -> Vec<N> {
        let Some((job, notes)) = self.written.take() else { return Vec::new() };
        match is_durable {
            true => self.durable = job,
            false => self.has_news = true,
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weir_checkpoint::Incarnation;
    use weir_core::{CheckpointId, JobId};

    use super::*;
    use crate::meta::files::MetaFiles;

    #[tokio::test]
    async fn changes_are_written_in_order_and_again_after_a_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = MetaFiles::open(dir.path()).expect("open");
        let job = JobMeta::new(JobId(1), Bytes::new(), Incarnation(1), 0);
        let mut ledger: Ledger<u8> = Ledger::new(Arc::new(store.clone()), job);
        assert!(ledger.is_settled() && ledger.write().is_none());
        ledger.change(Some(1), |job| job.published = CheckpointId(1));
        let first = ledger.write().expect("there is news");
        ledger.change(Some(2), |job| job.attempt = 7);
        assert!(ledger.write().is_none(), "one write at a time");
        drop(first);
        assert_eq!(ledger.wrote(false), [1]);
        assert_eq!(ledger.durable().published, CheckpointId(0));
        let again = ledger.write().expect("what failed, and what came since");
        again.await.expect("written");
        assert_eq!(ledger.wrote(true), [2]);
        assert!(ledger.is_settled());
        let kept = store.load().await.expect("load");
        assert_eq!((kept[0].published, kept[0].attempt), (CheckpointId(1), 7));
    }
}
