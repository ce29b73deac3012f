//! A run of rows on disk that never changes, in order of the hashes of their keys: pages in a file of the state store, and
//! in memory where each page begins and a filter of the keys. `disk_rows` writes, asks, and merges them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use weir_operator_api::Result;
use weir_state::StateStores;
use weir_state::store::StateFile;

use crate::key_filter::{KeyFilter, Place};
use crate::key_page::{Entry, Page, PageWriter};

/// Size at which a page is closed: what one look-up reads. **Units**: bytes.
const PAGE_BYTES: usize = if cfg!(test) { 100 } else { 2048 };
/// Pages that are read at once.
const PAGES_AT_ONCE: usize = if cfg!(test) { 2 } else { 64 };
/// What is written at once. **Units**: bytes.
const WRITE_BYTES: usize = if cfg!(test) { 300 } else { 256 << 10 };

/// Rows in order of the hashes of their keys; no key twice.
#[derive(Debug)]
pub(crate) struct KeyRun {
    /// Runs that were written together are in one file, which goes with the last of them.
    file: Arc<dyn StateFile>,
    pages: Pages,
}

/// What is known in memory of the pages of a run.
#[derive(Debug)]
pub(crate) struct Pages {
    /// The hash of the first row of each page.
    firsts: Vec<u64>,
    /// Where each page begins in the file, and where the last one ends.
    places: Vec<u64>,
    filter: KeyFilter,
    row_count: usize,
    /// When all rows are over.
    end: i64,
}

/// Writes a file of runs.
pub(crate) struct FileWriter {
    file: Box<dyn StateFile>,
    /// Where the next page begins.
    at: u64,
    /// What is to be written.
    full: Vec<u8>,
}

impl FileWriter {
    /// Begins a file.
    ///
    /// **Errors**: the store cannot write.
    pub(crate) fn new(stores: &StateStores) -> Result<Self> {
        Ok(FileWriter { file: stores.file()?, at: 0, full: Vec::with_capacity(WRITE_BYTES + 2 * PAGE_BYTES) })
    }

    fn push(&mut self, page: &mut PageWriter) -> Result<()> {
        let before = self.full.len();
        page.finish(&mut self.full);
        self.at += (self.full.len() - before) as u64;
        if self.full.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.file.append(&self.full)?;
        self.full.clear();
        Ok(())
    }

    /// The file, for the runs in it.
    ///
    /// **Errors**: the store cannot write.
    pub(crate) fn finish(mut self) -> Result<Arc<dyn StateFile>> {
        self.write()?;
        Ok(Arc::from(self.file))
    }
}

/// Collects a run, row by row.
pub(crate) struct RunBuilder {
    pages: Pages,
    page: PageWriter,
    last: u64,
}

impl RunBuilder {
    /// Begins a run of at most so many rows, which are all over at `end`.
    pub(crate) fn new(rows_max: usize, end: i64) -> Self {
        let filter = KeyFilter::for_keys(rows_max);
        let pages = Pages { firsts: Vec::new(), places: Vec::new(), filter, row_count: 0, end };
        RunBuilder { pages, page: PageWriter::default(), last: 0 }
    }

    /// Adds a row, whose hash is none below that of the row before.
    ///
    /// **Errors**: the store cannot write.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry<'_>, file: &mut FileWriter) -> Result<()> {
        // Rows with one hash lie on one page, so that a look-up reads one.
        if self.page.size() >= PAGE_BYTES && entry.hash != self.last {
            self.close_page(file)?;
        }
        self.last = entry.hash;
        self.pages.row_count += 1;
        self.pages.filter.insert(entry.hash);
        self.page.push(entry);
        Ok(())
    }

    fn close_page(&mut self, file: &mut FileWriter) -> Result<()> {
        self.pages.firsts.extend(self.page.first());
        self.pages.places.push(file.at);
        file.push(&mut self.page)
    }

    /// The run, if it has rows.
    ///
    /// **Errors**: the store cannot write.
    pub(crate) fn finish(mut self, file: &mut FileWriter) -> Result<Option<Pages>> {
        if self.pages.row_count == 0 {
            return Ok(None);
        }
        self.close_page(file)?;
        self.pages.places.push(file.at);
        self.pages.firsts.shrink_to_fit();
        self.pages.places.shrink_to_fit();
        self.pages.filter.shrink(self.pages.row_count);
        Ok(Some(self.pages))
    }
}

impl KeyRun {
    /// A run that was written to this file.
    pub(crate) fn new(file: &Arc<dyn StateFile>, pages: Pages) -> Self {
        KeyRun { file: Arc::clone(file), pages }
    }

    pub(crate) fn row_count(&self) -> usize {
        self.pages.row_count
    }

    pub(crate) fn page_count(&self) -> usize {
        self.pages.firsts.len()
    }

    /// When all rows are over.
    pub(crate) fn end(&self) -> i64 {
        self.pages.end
    }

    /// Bytes of memory held.
    pub(crate) fn size_bytes(&self) -> usize {
        let words = self.pages.firsts.capacity() + self.pages.places.capacity();
        size_of::<KeyRun>() + self.pages.filter.size_bytes() + words * size_of::<u64>()
    }

    /// Whether a key may be here.
    #[inline]
    pub(crate) fn may_hold(&self, place: Place) -> bool {
        self.pages.filter.may_hold(place)
    }

    /// Looks for keys, in order of their hashes: calls `hit` with the number of each that is here and what is behind it.
    ///
    /// **Errors**: the store cannot read.
    pub(crate) fn find<'k>(
        &self,
        wanted: impl Iterator<Item = (u64, usize)>,
        key: impl Fn(usize) -> &'k [u8],
        mut hit: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        let page_of = |hash: u64| self.pages.firsts.partition_point(|first| *first <= hash).checked_sub(1);
        let mut wanted = wanted.map(|(hash, number)| (page_of(hash), hash, number)).peekable();
        let mut bytes = Vec::with_capacity(2 * PAGE_BYTES);
        while let Some((place, ..)) = wanted.peek().copied() {
            if let Some(place) = place {
                self.read_bytes(place..place + 1, &mut bytes)?;
            }
            let page = if place.is_some() { Some(Page::read(bytes.as_slice())?) } else { None };
            while let Some((_, hash, number)) = wanted.next_if(|next| next.0 == place) {
                if let Some(rest) = page.as_ref().and_then(|page| page.find(hash, key(number))) {
                    hit(number, rest);
                }
            }
        }
        Ok(())
    }

    fn read_bytes(&self, pages: Range<usize>, into: &mut Vec<u8>) -> Result<()> {
        let (start, end) = (self.pages.places[pages.start], self.pages.places[pages.end]);
        into.resize((end - start) as usize, 0);
        Ok(self.file.read_at(start, into)?)
    }

    /// Some of its pages.
    ///
    /// **Errors**: the store cannot read.
    fn read(&self, pages: Range<usize>) -> Result<Vec<Page<Vec<u8>>>> {
        let mut bytes = Vec::new();
        self.read_bytes(pages.clone(), &mut bytes)?;
        let places = &self.pages.places[pages.start..=pages.end];
        let page = |place: &[u64]| {
            let [start, end] = [place[0], place[1]].map(|at| (at - places[0]) as usize);
            Page::read(bytes[start..end].to_vec())
        };
        places.windows(2).map(page).collect()
    }

    /// Some of its pages, a few at a time.
    pub(crate) fn pages(&self, pages: Range<usize>) -> impl Iterator<Item = Result<Vec<Page<Vec<u8>>>>> {
        let end = pages.end;
        pages.step_by(PAGES_AT_ONCE).map(move |start| self.read(start..end.min(start + PAGES_AT_ONCE)))
    }
}

/// Walks through a run.
struct Cursor<'r> {
    run: &'r KeyRun,
    /// Pages from here on are not read yet.
    next_page: usize,
    pages: VecDeque<Page<Vec<u8>>>,
    /// The row of the first page.
    row: usize,
}

impl<'r> Cursor<'r> {
    fn new(run: &'r KeyRun) -> Result<Self> {
        let mut cursor = Cursor { run, next_page: 0, pages: VecDeque::new(), row: 0 };
        cursor.fill()?;
        Ok(cursor)
    }

    fn fill(&mut self) -> Result<()> {
        let end = self.run.page_count().min(self.next_page + PAGES_AT_ONCE);
        self.pages.extend(self.run.read(self.next_page..end)?);
        self.next_page = end;
        Ok(())
    }

    /// The row it stands at, if there is one.
    #[inline]
    fn entry(&self) -> Option<Entry<'_>> {
        self.pages.front().map(|page| page.entry(self.row))
    }

    #[inline]
    fn advance(&mut self) -> Result<()> {
        self.row += 1;
        if self.pages.front().is_some_and(|page| self.row < page.len()) {
            return Ok(());
        }
        self.row = 0;
        self.pages.pop_front();
        if self.pages.is_empty() { self.fill() } else { Ok(()) }
    }
}

/// Calls `take` with the rows of some runs, oldest first, in order of their hashes; of a key that is in many, with the row of
/// the newest run.
///
/// **Errors**: the store cannot read; those of `take`.
pub(crate) fn merge<'r>(
    runs: impl Iterator<Item = &'r KeyRun>,
    mut take: impl FnMut(Entry<'_>) -> Result<()>,
) -> Result<()> {
    let mut cursors = runs.map(Cursor::new).collect::<Result<Vec<_>>>()?;
    // Those that stand at the least key, the newest last.
    let mut least: Vec<usize> = Vec::new();
    loop {
        let mut best: Option<Entry<'_>> = None;
        for (at, cursor) in cursors.iter().enumerate() {
            let Some(entry) = cursor.entry() else { continue };
            let order = best.map(|best| (entry.hash, entry.key).cmp(&(best.hash, best.key)));
            if order.is_none_or(|order| order.is_le()) {
                if order.is_none_or(|order| order.is_lt()) {
                    least.clear();
                }
                least.push(at);
                best = Some(entry);
            }
        }
        let Some(entry) = best else { return Ok(()) };
        take(entry)?;
        for at in least.drain(..) {
            cursors[at].advance()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys behind their hashes, of which many meet, and what is behind them.
    type Rows = BTreeMap<(u64, Vec<u8>), Vec<u8>>;

    fn rows() -> impl Strategy<Value = Rows> {
        let key = (0u64..12, prop::collection::vec(0u8..4, 0..4));
        prop::collection::btree_map(key, prop::collection::vec(any::<u8>(), 0..9), 0..80)
    }

    fn write(stores: &StateStores, rows: &Rows) -> Option<KeyRun> {
        let mut file = FileWriter::new(stores).expect("the store is there");
        // The first run of a file is not the one that is looked at.
        let mut before = RunBuilder::new(1, 0);
        before.push(Entry { hash: 1, key: b"other", rest: b"" }, &mut file).expect("there is room");
        before.finish(&mut file).expect("there is room");
        let mut run = RunBuilder::new(rows.len(), 0);
        for ((hash, key), rest) in rows {
            run.push(Entry { hash: *hash, key, rest }, &mut file).expect("there is room");
        }
        let run = run.finish(&mut file).expect("there is room");
        let file = file.finish().expect("there is room");
        run.map(|run| KeyRun::new(&file, run))
    }

    proptest! {
        /// Every key is found with what is behind it, and no other, also where many keys have one hash.
        #[test]
        fn keys_are_found(rows in rows(), others in rows()) {
            let stores = StateStores::in_memory();
            let Some(run) = write(&stores, &rows) else { return Ok(()) };
            prop_assert_eq!(run.row_count(), rows.len());
            prop_assert!(rows.keys().all(|(hash, _)| run.may_hold(Place::of(*hash))));
            let wanted: Vec<&(u64, Vec<u8>)> = rows.keys().chain(others.keys()).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            let mut found = BTreeMap::new();
            let numbered = wanted.iter().enumerate().map(|(number, key)| (key.0, number));
            run.find(numbered, |number| &wanted[number].1, |number, rest| {
                found.insert(wanted[number].clone(), rest.to_vec());
            }).expect("it is there");
            prop_assert_eq!(&found, &rows);
            drop(run);
            prop_assert_eq!(stores.size_bytes(), 0);
        }

        /// Merged runs are the rows of all of them, once each, in order, those of newer runs before those of older ones.
        #[test]
        fn newer_rows_win(runs in prop::collection::vec(rows(), 1..5)) {
            let stores = StateStores::in_memory();
            let written: Vec<KeyRun> = runs.iter().filter_map(|rows| write(&stores, rows)).collect();
            let mut merged = Vec::new();
            merge(written.iter(), |entry| {
                merged.push(((entry.hash, entry.key.to_vec()), entry.rest.to_vec()));
                Ok(())
            }).expect("they are there");
            let expected: Rows = runs.into_iter().flatten().collect();
            prop_assert_eq!(merged, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
