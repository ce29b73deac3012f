//! Source `fleet`: a deterministic fleet of trucks that knows its own truth.
