//! Rows of all inputs, one stream.
