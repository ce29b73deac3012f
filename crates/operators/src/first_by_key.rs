//! The first row of each key by event time, once.
