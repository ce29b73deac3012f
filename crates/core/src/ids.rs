//! Typed identifiers. Everyone uses them; a bare integer or string never names a thing in Weir.

use std::fmt;
use std::str::FromStr;

/// Identifies one submitted job for ever; shown as 32 hexadecimal digits, as in Flink.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u128);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a job id: expected 32 hexadecimal digits")]
pub struct JobIdError(pub String);

impl FromStr for JobId {
    type Err = JobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(id) if digits => Ok(JobId(id)),
            _ => Err(JobIdError(text.to_owned())),
        }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub String);

        impl $name {
            /// Reads the id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(text.to_owned())
            }
        }
    };
}

text_id! {
    /// The user's stable name of an operator, unique in its job; state is found by it after a change of the graph.
    OperatorUid
}

text_id! {
    /// Identifies one worker process from its start to its end.
    WorkerId
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u32);

        impl $name {
            /// Converts for indexing.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_id! {
    /// A vertex of the job graph (a chain of operators), counted from 0 in topological order.
    VertexId
}
number_id! {
    /// Parallel instance i of n of a vertex, from 0.
    SubtaskIndex
}
number_id! {
    /// An edge of the job graph, counted from 0.
    EdgeId
}
number_id! {
    /// One run of a job's tasks; the first is 1 and every restart adds one.
    AttemptNumber
}
number_id! {
    /// A part of a source, counted from 0 over the whole source (not per subtask).
    SplitIndex
}

/// One checkpoint of a job, from 1; grows with every trigger, also over restarts of the job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CheckpointId(pub u64);

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Proves to a receiver that a message is not from the past: the coordinator's term and the job's attempt.
///
/// A receiver remembers the greatest token it has seen for a job and refuses anything smaller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FencingToken {
    /// Term of the coordinator that leads; grows with every change of leader.
    pub term: u64,
    /// Attempt of the job this message belongs to.
    pub attempt: AttemptNumber,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_id_survives_its_text() {
        let id = JobId(0xdb);
        assert_eq!(id.to_string(), "000000000000000000000000000000db");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "db", "+00000000000000000000000000000db", "zz0000000000000000000000000000db"] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn newer_leader_beats_newer_attempt() {
        let old = FencingToken { term: 1, attempt: AttemptNumber(9) };
        let new = FencingToken { term: 2, attempt: AttemptNumber(1) };
        assert!(old < new);
    }
}
