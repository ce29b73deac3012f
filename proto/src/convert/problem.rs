//! `weir.v1.Problem` <-> [`Problem`]; every text is possible, so nothing can be wrong.

use weir_core::Problem;

use crate::v1;

/// Reads a problem.
pub fn problem_from_proto(problem: v1::Problem) -> Problem {
    Problem {
        operator: problem.operator,
        field: problem.field,
        reason: problem.reason,
        nearest: Some(problem.nearest).filter(|nearest| !nearest.is_empty()),
    }
}

/// Writes a problem.
pub fn problem_to_proto(problem: &Problem) -> v1::Problem {
    v1::Problem {
        operator: problem.operator.clone(),
        field: problem.field.clone(),
        reason: problem.reason.clone(),
        nearest: problem.nearest.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_survive_the_wire() {
        for nearest in [None, Some("window.size".to_owned())] {
            let problem =
                Problem { operator: "w".into(), field: "window.sise".into(), reason: "unknown".into(), nearest };
            assert_eq!(problem_from_proto(problem_to_proto(&problem)), problem);
        }
    }
}
