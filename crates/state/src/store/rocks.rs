//! The store on RocksDB. No write-ahead log: what is in it is in a checkpoint too, or comes again by replay. Large values
//! (runs of windows) lie in blob files, so that compaction does not write them again and again.

use std::path::Path;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DataBlockIndexType, IteratorMode, Options,
    ReadOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::files::Directory;
use super::{Entries, Result, StateFile, StateStore, StateStoreError};

/// Where its files lie, below its own directory.
const FILES: &str = "files";

/// Values from this size on lie in blob files. **Units**: bytes.
const BLOB_BYTES_MIN: u64 = 4 << 10;
/// The only one, named for calls that ask for a name.
const COLUMN: &str = "default";
/// Size of the parts of indexes and filters. **Units**: bytes.
const METADATA_BLOCK_BYTES: usize = 4 << 10;
/// Size at which a blob file is closed. **Units**: bytes.
const BLOB_FILE_BYTES: u64 = 64 << 20;

/// A RocksDB in a directory of its own.
pub struct RocksStore {
    db: DB,
    files: Directory,
    place: String,
    write: WriteOptions,
}

impl RocksStore {
    /// Makes a new store and removes what an earlier process left in `directory`.
    ///
    /// **Units**: `memory` in bytes, for blocks and unwritten entries together.
    /// **Errors**: the directory cannot be written, or another process uses it.
    pub fn open(directory: &Path, memory: usize) -> Result<Self> {
        let place = directory.display().to_string();
        let options = options(memory);
        let destroyed = if directory.exists() { DB::destroy(&options, directory) } else { Ok(()) };
        let opened = destroyed.and_then(|()| DB::open_cf_with_opts(&options, directory, [(COLUMN, options.clone())]));
        let db = opened.map_err(|error| StateStoreError {
            place: place.clone(),
            doing: "open",
            reason: error.into_string(),
        })?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        // Only now is it sure that no other process uses them.
        let files = Directory::open(directory.join(FILES))?;
        Ok(RocksStore { db, files, place, write })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(rocksdb::Error) -> StateStoreError + '_ {
        move |error| StateStoreError { place: self.place.clone(), doing, reason: error.into_string() }
    }
}

fn options(memory: usize) -> Options {
    let write_buffers = (memory / 2).max(8 << 20);
    let cache = Cache::new_lru_cache((memory - memory / 2).max(8 << 20));
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    // Filters and indexes of many keys are larger than the cache. In small parts, a look-up reads only what it needs of them.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(METADATA_BLOCK_BYTES);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_blob_cache(&cache);
    options.set_write_buffer_size((write_buffers / 2).min(64 << 20));
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(write_buffers, true));
    options.set_max_background_jobs(2);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN);
    options.set_blob_file_size(BLOB_FILE_BYTES);
    // Runs are written and read about once; packing them costs more than it saves.
    options.set_blob_compression_type(DBCompressionType::None);
    options.set_enable_blob_gc(true);
    options.set_keep_log_file_num(2);
    options.set_max_open_files(256);
    options
}

impl StateStore for RocksStore {
    fn put(&self, entries: &Entries) -> Result<()> {
        let mut batch = WriteBatch::default();
        entries.iter().for_each(|(key, value)| batch.put(key, value));
        self.db.write_opt(batch, &self.write).map_err(self.failed("write"))
    }

    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let column = self.db.cf_handle(COLUMN).expect("the store was opened with it");
        let found = self.db.batched_multi_get_cf(column, keys, keys.is_sorted());
        found.into_iter().map(|found| Ok(found.map_err(self.failed("read"))?.map(|value| value.to_vec()))).collect()
    }

    fn range(&self, from: &[u8], to: &[u8], count: usize) -> Result<Entries> {
        if from >= to {
            return Ok(Entries::new());
        }
        let mut read = ReadOptions::default();
        read.set_iterate_range(from.to_vec()..to.to_vec());
        let entries = self.db.iterator_opt(IteratorMode::Start, read).take(count);
        let failed = self.failed("read");
        entries.map(|entry| entry.map(|(key, value)| (key.into_vec(), value.into_vec())).map_err(&failed)).collect()
    }

    fn delete(&self, keys: &[Vec<u8>]) -> Result<()> {
        let mut batch = WriteBatch::default();
        keys.iter().for_each(|key| batch.delete(key));
        self.db.write_opt(batch, &self.write).map_err(self.failed("delete"))
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.delete_range(from, to);
        // Whole files go at once; the tombstone covers the rest until the next compaction.
        self.db.delete_file_in_range(from, to).map_err(self.failed("delete"))?;
        self.db.write_opt(batch, &self.write).map_err(self.failed("delete"))
    }

    fn file(&self) -> Result<Box<dyn StateFile>> {
        self.files.file()
    }

    fn size_bytes(&self) -> u64 {
        let property = |name: &str| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        self.files.size_bytes()
            + property("rocksdb.total-sst-files-size")
            + property("rocksdb.total-blob-file-size")
            + property("rocksdb.cur-size-all-mem-tables")
    }
}
