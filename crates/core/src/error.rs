//! Whose fault, and what now: the two questions every public error answers, and the one printer of error chains.

use std::error::Error;
use std::fmt;

/// Whose fault an error is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorDomain {
    /// The user's input: job graph, record, setting, file.
    User,
    /// Something outside: disk, network, another system.
    External,
    /// A broken invariant of Weir itself.
    Internal,
}

/// What the receiver of an error should do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RetryHint {
    /// The same call may succeed later.
    RetryWithBackoff,
    /// Restart the job from its last checkpoint.
    RestartFromCheckpoint,
    /// Nothing but a change by a person helps.
    GiveUp,
}

impl fmt::Display for ErrorDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorDomain::User => "user",
            ErrorDomain::External => "external",
            ErrorDomain::Internal => "internal",
        })
    }
}

/// Prints an error and its sources on one line, joined by `: `; a source that its parent already printed is left out.
pub fn report(error: &dyn Error) -> String {
    chain(error).join(": ")
}

/// Lists an error and its sources, outermost first; repeats are left out.
pub fn chain(error: &dyn Error) -> Vec<String> {
    let mut links = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !links.iter().any(|link| link.contains(&text)) {
            links.push(text);
        }
        next = error.source();
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read 'a.csv'")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn chain_is_printed_once_outermost_first() {
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(report(&error), "cannot read 'a.csv': disk on fire");
    }
}
