//! Computes new columns.
