//! A run of rows on disk that never changes, in order of the hashes of their keys: pages in the state store, and in memory
//! where each page begins and a filter of the keys. `disk_rows` writes, asks, and merges them.

use std::collections::VecDeque;
use std::ops::Range;

use weir_operator_api::Result;
use weir_state::store::Entries;
use weir_state::{StateSpace, StateStores};

use crate::key_filter::{KeyFilter, Place};
use crate::key_page::{Entry, Page, PageWriter};
use crate::row_run::lost;

/// Size at which a page is closed: what one look-up reads. **Units**: bytes.
const PAGE_BYTES: usize = if cfg!(test) { 100 } else { 4096 };
/// Pages that are read or written at once.
const PAGES_AT_ONCE: usize = if cfg!(test) { 2 } else { 64 };

/// Rows in order of the hashes of their keys; no key twice. Its pages are deleted with it.
#[derive(Debug)]
pub(crate) struct KeyRun {
    space: StateSpace,
    /// The hash of the first row of each page.
    firsts: Vec<u64>,
    filter: KeyFilter,
    row_count: usize,
    /// When all rows are over.
    end: i64,
}

/// Writes a run, row by row.
pub(crate) struct RunBuilder {
    run: KeyRun,
    page: PageWriter,
    last: u64,
    /// Pages that are to be written.
    full: Entries,
}

impl RunBuilder {
    /// Begins a run of at most so many rows, which are all over at `end`.
    ///
    /// **Errors**: the store cannot be opened.
    pub(crate) fn new(stores: &StateStores, rows_max: usize, end: i64) -> Result<Self> {
        let filter = KeyFilter::for_keys(rows_max);
        let run = KeyRun { space: stores.space()?, firsts: Vec::new(), filter, row_count: 0, end };
        Ok(RunBuilder { run, page: PageWriter::default(), last: 0, full: Entries::new() })
    }

    /// Adds a row, whose hash is none below that of the row before.
    ///
    /// **Errors**: the store cannot write.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry<'_>) -> Result<()> {
        // Rows with one hash lie on one page, so that a look-up reads one.
        if self.page.size() >= PAGE_BYTES && entry.hash != self.last {
            self.close_page();
            if self.full.len() >= PAGES_AT_ONCE {
                self.write()?;
            }
        }
        self.last = entry.hash;
        self.run.row_count += 1;
        self.run.filter.insert(entry.hash);
        self.page.push(entry);
        Ok(())
    }

    fn close_page(&mut self) {
        if let Some(first) = self.page.first() {
            self.full.push((page_key(self.run.firsts.len()), self.page.finish()));
            self.run.firsts.push(first);
        }
    }

    fn write(&mut self) -> Result<()> {
        Ok(self.run.space.put(std::mem::take(&mut self.full))?)
    }

    /// The run, if it has rows.
    ///
    /// **Errors**: the store cannot write; nothing stays there then.
    pub(crate) fn finish(mut self) -> Result<Option<KeyRun>> {
        self.close_page();
        if self.run.row_count == 0 {
            return Ok(None);
        }
        self.write()?;
        self.run.firsts.shrink_to_fit();
        self.run.filter.shrink(self.run.row_count);
        Ok(Some(self.run))
    }
}

fn page_key(page: usize) -> Vec<u8> {
    (page as u32).to_be_bytes().to_vec()
}

impl KeyRun {
    pub(crate) fn row_count(&self) -> usize {
        self.row_count
    }

    pub(crate) fn page_count(&self) -> usize {
        self.firsts.len()
    }

    /// When all rows are over.
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// Bytes of memory held.
    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<KeyRun>() + self.filter.size_bytes() + self.firsts.capacity() * size_of::<u64>()
    }

    /// Whether a key may be here.
    #[inline]
    pub(crate) fn may_hold(&self, place: Place) -> bool {
        self.filter.may_hold(place)
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
        let mut on_page: Vec<(usize, u64, usize)> = Vec::new();
        for (hash, number) in wanted {
            let page = self.firsts.partition_point(|first| *first <= hash);
            if page > 0 {
                on_page.push((page - 1, hash, number));
            }
        }
        let mut by_page = on_page.chunk_by(|a, b| a.0 == b.0).peekable();
        while by_page.peek().is_some() {
            let wanted: Vec<&[(usize, u64, usize)]> = by_page.by_ref().take(PAGES_AT_ONCE).collect();
            let keys: Vec<[u8; 4]> = wanted.iter().map(|of_page| (of_page[0].0 as u32).to_be_bytes()).collect();
            for (of_page, page) in wanted.into_iter().zip(self.space.get(&keys)?) {
                let page = page.ok_or_else(lost)?;
                let page = Page::read(page.as_slice())?;
                for (_, hash, number) in of_page {
                    if let Some(rest) = page.find(*hash, key(*number)) {
                        hit(*number, rest);
                    }
                }
            }
        }
        Ok(())
    }

    /// Some of its pages.
    ///
    /// **Errors**: the store cannot read.
    fn read(&self, pages: Range<usize>) -> Result<Vec<Page<Vec<u8>>>> {
        let keys: Vec<Vec<u8>> = pages.map(page_key).collect();
        self.space.get(&keys)?.into_iter().map(|page| Page::read(page.ok_or_else(lost)?)).collect()
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
