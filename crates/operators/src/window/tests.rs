//! Tests of the window engines against the definition of windows.
