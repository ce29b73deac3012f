//! Joins two inputs within windows.
