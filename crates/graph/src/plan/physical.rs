//! Physical.
pub(super) fn expand(graph: crate::resolve::StreamGraph) -> crate::resolve::StreamGraph {
    graph
}
