//! What many runs have shown, as a table.

use std::collections::BTreeMap;
use std::fmt;

use super::{Fault, Run};

/// Runs with what came of them.
#[derive(Debug, Default)]
pub struct Summary {
    /// Numbers of the runs, and whether each left what it must.
    runs: BTreeMap<u64, bool>,
    /// By fault and by job: runs, and failed ones.
    faults: BTreeMap<Fault, (u64, u64)>,
    jobs: BTreeMap<String, (u64, u64)>,
    rescaled: u64,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, run: &Run, is_good: bool) {
        self.runs.insert(run.number, is_good);
        let count = |(runs, failed): &mut (u64, u64)| {
            *runs += 1;
            *failed += u64::from(!is_good);
        };
        count(self.faults.entry(run.fault).or_default());
        count(self.jobs.entry(run.job.to_string()).or_default());
        self.rescaled += u64::from(run.rescale_to.is_some());
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.runs.values().filter(|is_good| !**is_good).count();
        let (first, last) = (self.runs.keys().next().unwrap_or(&0), self.runs.keys().last().unwrap_or(&0));
        writeln!(f, "{:<44} {:>6} {:>6}", "", "runs", "failed")?;
        for (fault, (runs, failed)) in &self.faults {
            writeln!(f, "{:<44} {runs:>6} {failed:>6}", fault.to_string())?;
        }
        writeln!(f)?;
        for (job, (runs, failed)) in &self.jobs {
            writeln!(f, "{job:<44} {runs:>6} {failed:>6}")?;
        }
        writeln!(f)?;
        writeln!(f, "{:<44} {:>6} {failed:>6}", format!("all, seeds {first} to {last}"), self.runs.len())?;
        writeln!(f, "{:<44} {:>6}", "restored at another parallelism", self.rescaled)?;
        if failed == 0 && !self.runs.is_empty() {
            // The rule of three: N runs without a failure.
            let bound = 100.0 * 3.0 / self.runs.len() as f64;
            writeln!(f, "with 95 % confidence fewer than 3/N = {bound:.1} % of such runs lose or double a row")?;
        }
        Ok(())
    }
}
