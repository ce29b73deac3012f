//! Builds the columns of a run of blocks. Called by the reader, once per batch; pure apart from its scratch memory.
//!
//! The random words of all rows are drawn first, then one tight loop per wanted column turns them into values; text is
//! copied from the pool straight into the string buffers.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::SchemaRef;

use super::rules::{
    self, BLOCK_EVENTS, EventTimes, FIRST_CATEGORY, FIRST_ID, HOT_EVERY, PRICES, TEXTS, bounded, recent,
};
use super::tables::{Column, Table, schema_of};

/// A run of blocks: `first`, `first + stride`, ...
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    pub(super) first: u64,
    pub(super) stride: u64,
    pub(super) count: usize,
}

impl Blocks {
    fn numbers(self) -> impl Iterator<Item = u64> {
        (0..self.count as u64).map(move |i| self.first + i * self.stride)
    }
}

/// Generates wanted columns of one table.
pub(super) struct Generator {
    table: Table,
    columns: Vec<Column>,
    schema: SchemaRef,
    times: EventTimes,
    /// Random words 0, 1, 2 of the rows of the current batch; those that no wanted column reads stay empty.
    words: [Vec<u64>; 3],
}

/// Two random words of one row.
type WordPair = (u64, u64);

impl Generator {
    pub(super) fn new(table: Table, columns: Vec<Column>, rate: u64) -> Self {
        let schema = schema_of(&columns);
        Generator { table, columns, schema, times: EventTimes::new(rate), words: Default::default() }
    }

    /// The rows of the table in these blocks, in order.
    pub(super) fn rows(&mut self, blocks: Blocks) -> RecordBatch {
        self.draw(blocks);
        let columns = self.columns.iter().map(|column| self.column(*column, blocks)).collect();
        RecordBatch::try_new(self.schema.clone(), columns).expect("columns are built to the schema, all of one length")
    }

    fn draw(&mut self, blocks: Blocks) {
        let (offset, per_block) = (self.table.block_offset(), self.table.rows_per_block() as u64);
        for (k, words) in self.words.iter_mut().enumerate() {
            words.clear();
            if self.columns.iter().any(|column| reads(self.table, *column).contains(&k)) {
                words.reserve(blocks.count * per_block as usize);
                for block in blocks.numbers() {
                    let first = block * BLOCK_EVENTS + offset;
                    words.extend((first..first + per_block).map(|n| rules::word(n, k as u64)));
                }
            }
        }
    }

    fn column(&self, column: Column, blocks: Blocks) -> ArrayRef {
        match (self.table, column) {
            (_, Column::DateTime) => timestamps(self.date_times(blocks)),
            (Table::Person, _) => self.person(column, blocks),
            (Table::Auction, _) => self.auction(column, blocks),
            (Table::Bid, _) => self.bid(column, blocks),
        }
    }

    fn person(&self, column: Column, blocks: Blocks) -> ArrayRef {
        let [r0, r1, _] = &self.words;
        let named = |names: &[String]| strings(r0, 20, |r, out| out.append_value(&names[bounded(r, 99) as usize]));
        match column {
            Column::Id => integers(blocks.numbers().map(|epoch| FIRST_ID + epoch)),
            Column::Name => named(&TEXTS.names),
            Column::EmailAddress => named(&TEXTS.email_addresses),
            Column::CreditCard => texts(r0, 19, |r| (r, 19)),
            Column::City => strings(r1, 10, |r, out| out.append_value(rules::CITIES[bounded(r, 10) as usize])),
            Column::State => strings(r1, 2, |r, out| out.append_value(rules::STATES[bounded(r << 16, 6) as usize])),
            _ => {
                let both: Vec<WordPair> = r0.iter().copied().zip(r1.iter().copied()).collect();
                texts(&both, 132, |(r0, r1)| (r1, 100 + (r0 & 31)))
            }
        }
    }

    fn auction(&self, column: Column, blocks: Blocks) -> ArrayRef {
        let [r0, r1, r2] = &self.words;
        let prices = &*PRICES;
        match column {
            Column::Id => integers(blocks.numbers().flat_map(|epoch| (0..3).map(move |i| FIRST_ID + epoch * 3 + i))),
            Column::ItemName => texts(r2, 17, |r| (r, 2 + (r & 15))),
            Column::Description => texts(r2, 83, |r| (r >> 20, 20 + (r & 63))),
            Column::InitialBid => integers(r0.iter().map(|r| prices.of(*r))),
            Column::Reserve => integers(r0.iter().zip(r2).map(|(a, b)| prices.of(*a) + prices.of(*b))),
            Column::Expires => {
                let length_ms = self.times.auction_length_ms();
                let mut times = self.date_times(blocks);
                for (time, r) in times.iter_mut().zip(r2) {
                    *time += (1 + bounded(*r, length_ms)) as i64 * 1_000;
                }
                timestamps(times)
            }
            Column::Seller => self.persons(r1, blocks, 0),
            Column::Category => integers(r0.iter().map(|r| FIRST_CATEGORY + bounded(*r, 5))),
            _ => texts(r1, 403, |r| (r, 340 + (r >> 58))),
        }
    }

    fn bid(&self, column: Column, blocks: Blocks) -> ArrayRef {
        let [r0, r1, _] = &self.words;
        let prices = &*PRICES;
        match column {
            Column::Auction => self.bid_auctions(blocks),
            Column::Bidder => self.persons(r1, blocks, 1),
            Column::Price => integers(r0.iter().map(|r| prices.of(*r >> 1))),
            Column::Channel => self.channels(&rules::HOT_CHANNELS, "channel-"),
            Column::Url => self.channels(&rules::HOT_URLS, rules::COLD_URL_PREFIX),
            _ => texts(r1, 81, |r| (r >> 8, 54 + ((r >> 4) & 27))),
        }
    }

    fn date_times(&self, blocks: Blocks) -> Vec<i64> {
        let (offset, per_block) = (self.table.block_offset(), self.table.rows_per_block());
        let mut times = Vec::with_capacity(blocks.count * per_block);
        for block in blocks.numbers() {
            self.times.extend(block * BLOCK_EVENTS + offset, per_block, &mut times);
        }
        times
    }

    /// Sellers and bidders: three of four are the hot person of their hundred (plus `hot`), the others a recent one.
    fn persons(&self, words: &[u64], blocks: Blocks, hot: u64) -> ArrayRef {
        let per_block = self.table.rows_per_block();
        let mut ids = Vec::with_capacity(words.len());
        for (epoch, words) in blocks.numbers().zip(words.chunks_exact(per_block)) {
            let hot = (FIRST_ID + epoch / HOT_EVERY * HOT_EVERY + hot) as i64;
            ids.extend(words.iter().map(|r| if r & 3 != 0 { hot } else { (FIRST_ID + recent(epoch, *r)) as i64 }));
        }
        Arc::new(Int64Array::from(ids))
    }

    /// Every other bid is for the hot auction, the others for one of the last hundred or of ten to come.
    fn bid_auctions(&self, blocks: Blocks) -> ArrayRef {
        let words = &self.words[0];
        let mut ids = Vec::with_capacity(words.len());
        for (epoch, words) in blocks.numbers().zip(words.chunks_exact(self.table.rows_per_block())) {
            let last = epoch * 3 + 2;
            let hot = FIRST_ID + last / HOT_EVERY * HOT_EVERY;
            let least = last.saturating_sub(100);
            let (first, span) = (FIRST_ID + least, last - least + 11);
            ids.extend(words.iter().map(|r| if r & 1 != 0 { hot } else { first + bounded(*r, span) } as i64));
        }
        Arc::new(Int64Array::from(ids))
    }

    fn channels(&self, hot: &[&str; 4], cold_prefix: &str) -> ArrayRef {
        let [r0, r1, _] = &self.words;
        let numbers = &TEXTS.numbers;
        let mut out = StringBuilder::with_capacity(r0.len(), r0.len() * (cold_prefix.len() + 4));
        for (r0, r1) in r0.iter().zip(r1) {
            if r0 & 0x8000_0000 != 0 {
                out.append_value(hot[(r1 >> 2) as usize & 3]);
            } else {
                out.write_str(cold_prefix).expect("writing to memory cannot fail");
                out.append_value(&numbers[bounded(r1 << 24, rules::COLD_CHANNELS as u64) as usize]);
            }
        }
        Arc::new(out.finish())
    }
}

/// Which random words a column is made of.
fn reads(table: Table, column: Column) -> &'static [usize] {
    match (table, column) {
        (_, Column::DateTime | Column::Id) => &[],
        (Table::Person, Column::Extra) => &[0, 1],
        (Table::Person, Column::City | Column::State) => &[1],
        (Table::Auction, Column::ItemName | Column::Description | Column::Expires) => &[2],
        (Table::Auction, Column::Reserve) => &[0, 2],
        (Table::Bid, Column::Channel | Column::Url) => &[0, 1],
        (_, Column::Seller | Column::Bidder | Column::Extra) => &[1],
        _ => &[0],
    }
}

fn integers(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values.map(|value| value as i64)))
}

fn timestamps(times: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
}

#[inline]
fn strings<R: Copy>(rows: &[R], bytes_each: usize, mut append: impl FnMut(R, &mut StringBuilder)) -> ArrayRef {
    let mut out = StringBuilder::with_capacity(rows.len(), rows.len() * bytes_each);
    for row in rows {
        append(*row, &mut out);
    }
    Arc::new(out.finish())
}

/// Pooled text: `cut` gives the word that says where it begins, and its length.
#[inline]
fn texts<R: Copy>(rows: &[R], bytes_max: usize, cut: impl Fn(R) -> (u64, u64)) -> ArrayRef {
    let pool = TEXTS.pool.as_str();
    strings(rows, bytes_max, |row, out| {
        let (word, length) = cut(row);
        let start = rules::text_offset(word);
        out.append_value(&pool[start..start + length as usize]);
    })
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
