//! One row per element of an array.
