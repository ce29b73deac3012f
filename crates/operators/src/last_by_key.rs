//! The newest row of each key, as upserts.
