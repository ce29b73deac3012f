//! Chaining: operators joined by forward links become one vertex, run by direct calls in one task (pure).

use std::collections::BTreeMap;

use weir_core::{EdgeId, VertexId};

use super::physical::PhysicalGraph;
use super::{Edge, JobPlan, Partitioning, Route, Target, Vertex};
use crate::config::JobOptions;

/// Groups the operators of a physical graph into vertices.
///
/// An operator joins its input's chain when that input is its only one and comes by a forward link. Consumers come
/// after producers in the physical graph, so vertices come out in topological order too.
pub(super) fn chain(name: &str, options: JobOptions, graph: PhysicalGraph) -> JobPlan {
    let roots = roots(&graph);
    let mut vertices: Vec<Vertex> = Vec::new();
    let mut vertex_of_root: BTreeMap<usize, usize> = BTreeMap::new();
    // For each physical operator: its vertex and its index in the chain.
    let mut places = Vec::with_capacity(graph.operators.len());
    for (index, operator) in graph.operators.into_iter().enumerate() {
        let vertex = *vertex_of_root.entry(roots[index]).or_insert_with(|| {
            let id = VertexId(vertices.len() as u32);
            vertices.push(Vertex { id, name: String::new(), parallelism: operator.parallelism, operators: Vec::new() });
            id.index()
        });
        places.push((vertex, vertices[vertex].operators.len()));
        vertices[vertex].operators.push(operator.planned);
    }
    let mut edges = Vec::new();
    for link in graph.links {
        let (source, source_index) = places[link.from];
        let (target, target_index) = places[link.to];
        let route = if source == target {
            Target::Operator { index: target_index, input: link.input }
        } else {
            let id = EdgeId(edges.len() as u32);
            edges.push(Edge {
                id,
                source: VertexId(source as u32),
                target: VertexId(target as u32),
                input: link.input,
                partitioning: link.partitioning,
                schema: link.schema,
            });
            Target::Edge(id)
        };
        vertices[source].operators[source_index].routes.push(Route { output: link.output, target: route });
    }
    for vertex in &mut vertices {
        vertex.name = vertex.operators.iter().map(|operator| operator.uid.as_str()).collect::<Vec<_>>().join(" -> ");
    }
    JobPlan { name: name.to_owned(), options, vertices, edges }
}

/// The head of the chain each operator belongs to.
fn roots(graph: &PhysicalGraph) -> Vec<usize> {
    let mut roots: Vec<usize> = (0..graph.operators.len()).collect();
    for index in 0..roots.len() {
        let mut inputs = graph.links.iter().filter(|link| link.to == index);
        if let (Some(link), None) = (inputs.next(), inputs.next())
            && link.partitioning == Partitioning::Forward
        {
            roots[index] = roots[link.from];
        }
    }
    roots
}
