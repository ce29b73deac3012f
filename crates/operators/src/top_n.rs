//! The best rows of each window.
