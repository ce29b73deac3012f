//! What the coordinator needs of the conversions in `weir-proto`, in the shapes it uses.

use weir_core::Problem;
use weir_graph::{JobPlan, SubmittedJob};
use weir_operator_api::Split;
use weir_proto::{convert, v1};

/// Reads a submitted job.
pub(crate) fn submitted_job(graph: v1::JobGraph) -> Result<SubmittedJob, Vec<Problem>> {
    convert::job_from_proto(graph).map_err(|error| vec![error.into()])
}

/// Writes a plan for the workers.
pub(crate) fn plan(plan: &JobPlan) -> v1::JobPlan {
    convert::plan_to_proto(plan)
}

/// Writes a problem for the client.
pub(crate) fn problem(problem: &Problem) -> v1::Problem {
    convert::problem_to_proto(problem)
}

/// Writes a split for the worker that reads it.
pub(crate) fn split(split: &Split) -> v1::Split {
    v1::Split {
        index: split.index.0,
        description: Some(convert::value_to_proto(&split.description)),
        position: split.position.as_ref().map(convert::value_to_proto),
    }
}
