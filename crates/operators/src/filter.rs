//! Keeps the rows for which a predicate is true.
