//! Names the event-time column and makes watermarks.
