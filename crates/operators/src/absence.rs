//! Keys from which nothing was heard for a while.
