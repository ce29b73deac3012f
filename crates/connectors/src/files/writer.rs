//! Writes the output of one subtask of `file_sink`: rows into hidden parts, and at each cut what is to be published and
//! what is to be remembered. The task drives it; files are touched on threads that may block.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use tokio::task::JoinHandle;
use weir_core::batch::CHANGE_COLUMN;
use weir_core::{Batch, KeyGroup};
use weir_operator_api::{
    BadRecord, Committable, Cut, OperatorError, PreparedOutput, Result, SinkContext, SinkWriter, StateTable,
};

use crate::files::bucket::Access;
use crate::files::commit::{Commit, Join};
use crate::files::home::{Ended, Home};
use crate::files::join::Parts;
use crate::files::memory::{FilePart, MERGED_BYTES_MAX, Memory, parts_to_merge};
use crate::files::names::{Hidden, Names, PartId};
use crate::files::part::{Chunk, Part, PartPaths};
use crate::files::sink_settings::{SinkSettings, visible_schema};
use crate::files::upsert::LastRows;
use crate::format::Encode;

/// Bytes of text that are handed to the file at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Rows per batch when the last row per key is written.
const UPSERT_BATCH_ROWS: usize = 8_192;

/// Bytes after which a hidden part of a single file in a bucket is ended: it is read whole when it is published.
const BUCKET_PART_BYTES: u64 = 64 * 1024 * 1024;

/// What a blocking step gives back.
type Step = (Option<Part>, Result<()>);

/// Writes the parts of one subtask.
pub struct Writer {
    settings: SinkSettings,
    context: SinkContext,
    names: Names,
    home: Home,
    schema: SchemaRef,
    visible: Vec<usize>,
    encoder: Option<Box<dyn Encode>>,
    last_rows: Option<LastRows>,
    /// Encoded text that is not yet handed to the part.
    buffer: Vec<u8>,
    part: Option<Part>,
    /// The one blocking step under way; it holds the part.
    step: Option<JoinHandle<Step>>,
    open: Option<OpenPart>,
    next_number: u32,
    /// Hidden files that exist, or may, and that no cut covers.
    unprepared: Vec<PathBuf>,
    /// Parts that were ended since the last cut.
    ended: Vec<(PartPaths, Ended)>,
    /// What is remembered at the next cut.
    memory: Memory,
}

/// The part that is being written.
#[derive(Clone, Copy)]
struct OpenPart {
    number: u32,
    bytes: u64,
    has_rows: bool,
    since: Duration,
}

impl Writer {
    /// Opens a writer: takes back what it remembers, removes what dead attempts left behind and begins a part, so that a
    /// path that cannot be written ends the job before it has worked for hours.
    ///
    /// **Errors**: `sink-io`; `sink-part-lost` when a part that a checkpoint counts on is gone; `sink-state`.
    pub async fn open(settings: SinkSettings, access: &Access, context: SinkContext) -> Result<Writer> {
        let mut writer = Writer::new(settings, access, context)?;
        writer.restore_rows()?;
        let (names, memory, home) = (writer.names.clone(), writer.memory.clone(), writer.home.clone());
        let token = writer.context.token;
        let sweeps = writer.context.subtask.0 == 0;
        blocking(move || {
            home.prepare(names.directory())?;
            if sweeps {
                let kept: BTreeSet<&str> = memory.parts.iter().map(|part| part.name.as_str()).collect();
                let is_left = |name: &str, hidden| match hidden {
                    Hidden::Part(part) => part.token < token && !memory.covered.covers(part) && !kept.contains(name),
                    Hidden::Whole => false,
                };
                home.sweep(names.directory(), names.mark(), is_left)?;
            }
            home.require(names.directory(), if memory.is_finished { &[] } else { &memory.parts })
        })
        .await?;
        if !writer.memory.is_finished {
            writer.open_part().await?;
        }
        Ok(writer)
    }

    fn new(settings: SinkSettings, access: &Access, context: SinkContext) -> Result<Self> {
        let schema = visible_schema(&context.input);
        let fields = context.input.fields().iter().enumerate();
        let visible = fields.filter(|(_, field)| field.name() != CHANGE_COLUMN).map(|(index, _)| index).collect();
        let last_rows = match &settings.upsert_key {
            Some(key) => Some(LastRows::new(Arc::clone(&schema), key)?),
            None => None,
        };
        let names = Names::new(context.job, &context.uid, settings.place()?, settings.extension());
        let mut memory = Memory::of_restored(names.mark(), &context.restored)?;
        if context.subtask.0 > 0 {
            // The first subtask remembers what was before, for all.
            memory.covered = Default::default();
        }
        Ok(Writer {
            home: Home::of(names.directory(), access)?,
            names,
            encoder: settings.encoder(&schema),
            settings,
            context,
            schema,
            visible,
            last_rows,
            buffer: Vec::new(),
            part: None,
            step: None,
            open: None,
            next_number: 0,
            unprepared: Vec::new(),
            ended: Vec::new(),
            memory,
        })
    }

    /// Takes back the last row per key.
    fn restore_rows(&mut self) -> Result<()> {
        let tables = self.context.restored.iter().flat_map(|state| &state.tables);
        match &mut self.last_rows {
            Some(last_rows) => {
                let (range, count) = (self.context.key_groups, self.context.key_group_count);
                let is_own = |hash| range.contains(KeyGroup::of(hash, count));
                let is_alone = self.context.parallelism == 1;
                tables.into_iter().try_for_each(|table| last_rows.restore(table, |hash| is_alone || is_own(hash)))
            }
            None => match tables.into_iter().next() {
                Some(_) => Err(OperatorError::user(
                    "sink-state",
                    "the checkpoint holds the last row per key, and the sink has no upsert_key any more",
                )),
                None => Ok(()),
            },
        }
    }

    /// Starts a blocking step when the one before is done.
    async fn start_step(&mut self, step: impl FnOnce(Option<Part>) -> Step + Send + 'static) -> Result<()> {
        self.settle().await?;
        let part = self.part.take();
        self.step = Some(tokio::task::spawn_blocking(move || step(part)));
        Ok(())
    }

    /// Waits for the blocking step under way.
    async fn settle(&mut self) -> Result<()> {
        let Some(step) = &mut self.step else { return Ok(()) };
        let joined = step.await;
        self.step = None;
        let (part, result) = joined.map_err(|error| OperatorError::internal("a file writer stopped").because(error))?;
        self.part = part;
        result
    }

    /// The paths of a new part, which is this writer's to remove until a cut covers it.
    fn next_paths(&mut self) -> (u32, PartPaths) {
        let number = self.next_number;
        let part = PartId { token: self.context.token, subtask: self.context.subtask, number };
        let paths = self.names.paths(part);
        self.unprepared.push(paths.in_progress.clone());
        self.next_number += 1;
        (number, paths)
    }

    async fn open_part(&mut self) -> Result<()> {
        let (number, paths) = self.next_paths();
        let since = self.context.clock.monotonic();
        self.open = Some(OpenPart { number, bytes: 0, has_rows: false, since });
        let (home, kind) = (self.home.clone(), self.settings.kind(&self.schema));
        self.start_step(move |_| match Part::create(&home, paths, kind) {
            Ok(part) => (Some(part), Ok(())),
            Err(error) => (None, Err(error)),
        })
        .await?;
        // The parts of a single file will stand one after the other.
        let is_first = self.memory.parts.is_empty() && self.ended.is_empty();
        if let Some(encoder) = self.encoder.as_mut().filter(|_| is_first || !self.settings.is_single_file) {
            encoder.header(&mut self.buffer);
        }
        self.settle().await
    }

    async fn add(&mut self, rows: RecordBatch) -> Result<()> {
        let (now, most) = (self.context.clock.monotonic(), self.settings.roll_interval);
        let is_old = |open: &OpenPart| open.has_rows && most.is_some_and(|most| now.saturating_sub(open.since) >= most);
        if self.open.as_ref().is_some_and(is_old) {
            self.end_part().await?;
        }
        if self.open.is_none() {
            self.open_part().await?;
        }
        if let Some(open) = self.open.as_mut().filter(|open| !open.has_rows) {
            open.has_rows = true;
            open.since = now;
        }
        match &mut self.encoder {
            Some(encoder) => {
                encoder.rows(&rows, &mut self.buffer)?;
                if self.buffer.len() >= CHUNK_BYTES {
                    self.hand_over().await?;
                }
            }
            None => {
                self.count_bytes(Batch::new(rows.clone(), 0).size_bytes());
                self.write_chunk(Chunk::Rows(rows)).await?;
            }
        }
        let bytes = self.open.map_or(0, |open| open.bytes) + self.buffer.len() as u64;
        if self.bytes_max().is_some_and(|most| bytes >= most) { self.end_part().await } else { Ok(()) }
    }

    /// Size at which a part is ended.
    fn bytes_max(&self) -> Option<u64> {
        match &self.home {
            Home::Bucket(_) if self.settings.is_single_file => Some(BUCKET_PART_BYTES),
            _ => self.settings.roll_bytes,
        }
    }

    fn count_bytes(&mut self, bytes: usize) {
        if let Some(open) = &mut self.open {
            open.bytes += bytes as u64;
        }
    }

    /// Hands the buffered text to the part.
    async fn hand_over(&mut self) -> Result<()> {
        let fresh = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        let text = std::mem::replace(&mut self.buffer, fresh);
        self.count_bytes(text.len());
        self.write_chunk(Chunk::Text(text)).await
    }

    async fn write_chunk(&mut self, chunk: Chunk) -> Result<()> {
        self.start_step(move |part| match part {
            Some(mut part) => {
                let result = part.write(chunk);
                (Some(part), result)
            }
            None => (None, Err(OperatorError::internal("no part is open to be written"))),
        })
        .await
    }

    /// Ends the part that is being written: it is durable then, and hidden.
    async fn end_part(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.hand_over().await?;
        }
        self.settle().await?;
        self.open = None;
        let Some(part) = self.part.take() else { return Ok(()) };
        let ended = blocking(move || part.finish()).await?;
        self.ended.push(ended);
        Ok(())
    }

    /// Ends the part at a cut: one without rows goes on after a checkpoint, and is given up at the end unless it is all
    /// there is of a single file.
    async fn end_part_at(&mut self, cut: Cut) -> Result<()> {
        let Some(open) = self.open else { return Ok(()) };
        let is_whole_file = self.settings.is_single_file && self.memory.parts.is_empty() && self.ended.is_empty();
        if open.has_rows || (cut == Cut::End && is_whole_file) {
            return self.end_part().await;
        }
        if cut == Cut::End { self.give_up_part().await } else { Ok(()) }
    }

    /// Gives the part up that is being written, which has no rows.
    async fn give_up_part(&mut self) -> Result<()> {
        self.settle().await?;
        self.part = None;
        self.buffer.clear();
        let Some(open) = self.open.take() else { return Ok(()) };
        let (path, home) = (self.path_of(open), self.home.clone());
        blocking(move || home.remove(&path)).await
    }

    fn path_of(&self, open: OpenPart) -> PathBuf {
        let OpenPart { number, .. } = open;
        self.names.paths(PartId { token: self.context.token, subtask: self.context.subtask, number }).in_progress
    }

    /// Writes the last row of each key.
    async fn write_last_rows(&mut self) -> Result<()> {
        let Some(last_rows) = self.last_rows.take() else { return Ok(()) };
        for rows in last_rows.in_order(UPSERT_BATCH_ROWS)? {
            self.add(rows).await?;
        }
        Ok(())
    }

    /// Puts small parts of a single file together when there are many. The old ones stay until the file is published:
    /// a job may still be restored from a checkpoint that counts on them.
    async fn merge_parts(&mut self) -> Result<()> {
        let bytes_max = if matches!(self.home, Home::Disk) { MERGED_BYTES_MAX } else { BUCKET_PART_BYTES };
        while let Some(range) = parts_to_merge(&self.memory.parts, bytes_max) {
            // A cut covers all parts up to one that is open: none may be newer.
            self.give_up_part().await?;
            let (_, paths) = self.next_paths();
            let level = self.memory.parts[range.start].level + 1;
            let (whole, is_parquet) = (paths.in_progress.clone(), self.settings.is_parquet());
            let (home, directory) = (self.home.clone(), self.names.directory().to_path_buf());
            let old = Parts { home, directory, parts: self.memory.parts[range.clone()].to_vec(), is_parquet };
            let Ended { bytes, hash, .. } = blocking(move || old.join(&whole)).await?;
            self.memory.parts.splice(range, [FilePart { name: hidden_name(&paths)?, bytes, hash, level }]);
        }
        Ok(())
    }

    /// Rows come although the input had ended: a user had stopped the job, with a savepoint, and it goes on from there. The
    /// single file will be shown again, whole.
    async fn go_on(&mut self) -> Result<()> {
        if !self.settings.is_single_file {
            let message = format!(
                "'{}' was finished before the checkpoint, and rows come that may update what is shown there",
                self.settings.path
            );
            return Err(OperatorError::user("sink-state", message));
        }
        self.memory.is_finished = false;
        if self.last_rows.is_some() {
            // What was shown is written anew.
            self.memory.parts.clear();
        }
        let (home, directory, parts) =
            (self.home.clone(), self.names.directory().to_path_buf(), self.memory.parts.clone());
        blocking(move || home.require(&directory, &parts)).await
    }

    /// What is to be published at a cut.
    fn commits(&mut self, cut: Cut) -> Result<Vec<Commit>> {
        let ended = std::mem::take(&mut self.ended);
        let directory = self.names.directory().to_path_buf();
        let mark = self.names.mark().to_owned();
        if self.settings.is_single_file {
            let fresh = ended.len();
            for (paths, Ended { bytes, hash, .. }) in &ended {
                let name = hidden_name(paths)?;
                self.memory.parts.push(FilePart { name, bytes: *bytes, hash: *hash, level: 0 });
            }
            let parts = self.memory.parts.clone();
            let (_, file) = self.settings.place()?;
            let is_parquet = self.settings.is_parquet();
            let join = file.map(|file| Commit::Join(Join { directory, parts, fresh, file, mark, is_parquet }));
            return Ok(join.into_iter().filter(|_| cut == Cut::End).collect());
        }
        let commit = |(paths, ended): (PartPaths, Ended)| match ended.upload {
            Some(upload) => Commit::Complete { target: paths.target, upload },
            None => Commit::Show(paths),
        };
        let mut commits: Vec<Commit> = ended.into_iter().map(commit).collect();
        if cut == Cut::End && self.context.subtask.0 == 0 {
            commits.push(Commit::Close { directory, mark, token: self.context.token });
        }
        Ok(commits)
    }

    /// What is to be remembered at a cut.
    fn remember(&mut self) -> Memory {
        // A part that is still open, without rows, is not of this cut.
        let limit = self.open.map_or(self.next_number, |open| open.number);
        self.memory.covered.cover(self.context.token, self.context.subtask, limit);
        self.memory.clone()
    }
}

fn hidden_name(paths: &PartPaths) -> Result<String> {
    let name = paths.in_progress.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| OperatorError::internal("the name of a part is not UTF-8"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| OperatorError::internal("a file writer stopped").because(error))?
}

#[async_trait]
impl SinkWriter for Writer {
    async fn write(&mut self, batch: Batch) -> Result<Vec<BadRecord>> {
        if self.memory.is_finished {
            self.go_on().await?;
        }
        let rows = batch.records.project(&self.visible)?;
        // Without the metadata of the stream: the schema of the files is the visible one.
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec())?;
        match &mut self.last_rows {
            Some(last_rows) => last_rows.apply(&rows, batch.changes())?,
            None => self.add(rows).await?,
        }
        Ok(Vec::new())
    }

    async fn prepare(&mut self, cut: Cut) -> Result<PreparedOutput> {
        if self.memory.is_finished {
            // Everything was given before; a restored job publishes it from its checkpoint.
            return Ok(PreparedOutput { values: vec![self.memory.to_value()], ..PreparedOutput::default() });
        }
        let mut tables: Vec<StateTable> = Vec::new();
        if let Some(last_rows) = &self.last_rows {
            // Also at the end: it may be one that a user ordered, behind a savepoint, and the job goes on from there.
            tables.extend(last_rows.snapshot(UPSERT_BATCH_ROWS)?);
        }
        if cut == Cut::End {
            self.write_last_rows().await?;
        }
        self.end_part_at(cut).await?;
        let has_news = !self.ended.is_empty();
        let commits = self.commits(cut)?;
        if cut != Cut::End {
            self.merge_parts().await?;
        }
        if has_news {
            // A part whose name is lost is lost.
            let (home, directory) = (self.home.clone(), self.names.directory().to_path_buf());
            blocking(move || home.sync(&directory)).await?;
        }
        // A directory can always take more parts.
        self.memory.is_finished =
            cut == Cut::End && (self.settings.is_single_file || self.settings.upsert_key.is_some());
        let memory = self.remember();
        self.unprepared = self.open.map(|open| self.path_of(open)).into_iter().collect();
        let committables = commits.iter().map(|commit| {
            let description = commit.to_value()?;
            Ok(Committable { sink: self.context.uid.clone(), subtask: self.context.subtask, description })
        });
        Ok(PreparedOutput {
            committables: committables.collect::<Result<_>>()?,
            values: vec![memory.to_value()],
            tables,
        })
    }

    async fn abort(&mut self) {
        // A step under way may still create its file: it must end first. Its error says nothing new.
        if self.settle().await.is_err() {
            tracing::debug!(sink = %self.context.uid, "the last write of an aborted sink failed");
        }
        self.part = None;
        let (paths, home) = (std::mem::take(&mut self.unprepared), self.home.clone());
        let removing = tokio::task::spawn_blocking(move || {
            for path in paths {
                if let Err(error) = home.remove(&path) {
                    tracing::warn!(path = %path.display(), %error, "an unfinished file stays behind");
                }
            }
        });
        if let Err(error) = removing.await {
            tracing::warn!(sink = %self.context.uid, %error, "unfinished files may stay behind");
        }
    }
}
