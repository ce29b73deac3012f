//! The source `file_source`: JSON lines and CSV from files, plain or compressed.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `path` | file, directory, or pattern with `*` in its last part; or a list of these | required |
//! | `schema` | columns as `name TYPE` (optionally `NOT NULL`) | required |
//! | `format` | `json` or `csv` | by the first path's name |
//! | `compression` | `auto` (by name), `none`, `gzip`, `zstd` | `auto` |
//! | `header`, `delimiter`, `null`, `quoted_newlines` | CSV: header line, separator, null text, line ends in quotes | true, `,`, empty, true |
//! | `rate`, `pace` | records per second of the whole source; playing by event time | unlimited |
//! | `split_bytes` | size at which plain JSON, and CSV without quoted line ends, are cut | 64 MiB, less for more subtasks |
//! | `time_ordered` | files follow each other in event time | false |
//! | `max_line_bytes` | longest record; longer ones are bad records | 1 MiB |

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use weir_core::{OperatorUid, Settings, Value};
use weir_operator_api::connector::SourceProperties;
use weir_operator_api::{OperatorError, ReaderContext, Result, SourceFactory, SourceReader, Split};

use crate::files::enumerate::enumerate;
use crate::files::reader::Reader;
use crate::files::settings::SourceSettings;

/// Makes file sources.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSource;

#[async_trait]
impl SourceFactory for FileSource {
    fn kind(&self) -> &'static str {
        "file_source"
    }

    fn describe(&self, settings: &Settings<'_>) -> Option<SourceProperties> {
        let read = SourceSettings::read(settings)?;
        Some(SourceProperties {
            schema: Arc::clone(&read.schema),
            is_bounded: true,
            // A wrong value in a column that nobody reads makes a bad record all the same.
            can_project: false,
            parallelism_max: None,
        })
    }

    async fn enumerate(
        &self,
        uid: &OperatorUid,
        settings: &BTreeMap<String, Value>,
        parallelism: u32,
    ) -> Result<Vec<Split>> {
        let settings = SourceSettings::of_checked(uid, settings)?;
        let listing = tokio::task::spawn_blocking(move || enumerate(&settings, parallelism));
        listing.await.map_err(|error| OperatorError::internal("listing files stopped").because(error))?
    }

    async fn reader(&self, context: ReaderContext) -> Result<Box<dyn SourceReader>> {
        let settings = SourceSettings::of_checked(&context.uid, &context.settings)?;
        Ok(Box::new(Reader::new(settings, context)?))
    }
}
