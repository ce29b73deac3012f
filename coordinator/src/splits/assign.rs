//! Deals the splits of a source out to its subtasks. Pure.
//!
//! Split i goes to subtask i modulo parallelism. Splits come in the source's natural order, which for files cut into
//! blocks is the order of time: dealing in turn lets all subtasks walk through time together, so that their watermarks
//! stay close and little state waits for the slowest. Contiguous shares would set them a whole share apart.

use weir_operator_api::Split;

/// The splits of each of `parallelism` subtasks, each in natural order.
pub fn deal(splits: &[Split], parallelism: u32) -> Vec<Vec<Split>> {
    let mut shares = vec![Vec::new(); parallelism as usize];
    if parallelism > 0 {
        for (index, split) in splits.iter().enumerate() {
            shares[index % parallelism as usize].push(split.clone());
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_core::{SplitIndex, Value};

    use super::*;

    proptest! {
        #[test]
        fn every_split_is_dealt_once_and_in_order(count in 0..50u32, parallelism in 1..9u32) {
            let splits: Vec<Split> =
                (0..count).map(|index| Split { index: SplitIndex(index), description: Value::Null, position: None }).collect();
            let shares = deal(&splits, parallelism);
            prop_assert_eq!(shares.len(), parallelism as usize);
            let mut all: Vec<u32> = Vec::new();
            for share in &shares {
                prop_assert!(share.is_sorted_by_key(|split| split.index));
                prop_assert!(share.len() as u32 <= count.div_ceil(parallelism));
                all.extend(share.iter().map(|split| split.index.0));
            }
            all.sort_unstable();
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
