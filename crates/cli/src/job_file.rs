//! Job files and the `-D` and `-p` that fill them.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use weir_graph::SubmittedJob;
use weir_graph::document;

use crate::arguments::JobFile;
use crate::output::{Refused, line};

/// Reads a job file.
///
/// **Errors**: a file that cannot be read, a name given twice, and everything that is wrong in the file ([`Refused`]).
pub fn read(options: &JobFile) -> anyhow::Result<SubmittedJob> {
    let mut given = BTreeMap::new();
    for (name, value) in &options.definitions {
        if given.insert(name.clone(), value.clone()).is_some() {
            bail!("-D {name} is given twice");
        }
    }
    if let Some(parallelism) = options.parallelism
        && given.insert("parallelism.default".to_owned(), parallelism.to_string()).is_some()
    {
        bail!("-p and -D parallelism.default say the same thing; give one of them");
    }
    let name = options.file.display().to_string();
    let text = std::fs::read_to_string(&options.file).with_context(|| format!("read the job file '{name}'"))?;
    let document = document::read(&text, &given, &name).map_err(|problems| Refused { problems })?;
    Ok(document.job)
}

/// `weir validate`.
pub fn validate(options: &JobFile) -> anyhow::Result<()> {
    let job = read(options)?;
    line(&format!(
        "'{}' reads as a job: {} operators. Kinds, columns and expressions are checked when it is submitted.",
        job.name,
        job.operators.len()
    ));
    Ok(())
}
