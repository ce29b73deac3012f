//! Sends rows of equal keys to the same subtask.
