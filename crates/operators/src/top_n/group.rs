//! The best rows of one list (pure). Rows are bytes that compare like them: what they are ordered by, then the whole row,
//! which settles ties the same way whatever order rows came in.

/// What a list keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// How many rows.
    pub(super) limit: usize,
    /// Whether rows that tie with the last kept one are kept too.
    pub(super) ties: bool,
}

/// One row in order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Entry {
    /// Order bytes, then row bytes. Both are prefix-free, so comparing the whole compares order first.
    bytes: Box<[u8]>,
    order_length: usize,
}

impl Entry {
    fn order(&self) -> &[u8] {
        &self.bytes[..self.order_length]
    }

    /// The whole row.
    pub(super) fn row(&self) -> &[u8] {
        &self.bytes[self.order_length..]
    }
}

/// The best rows seen so far, and some that are not yet known to be beaten.
///
/// Memory stays within about twice what is kept (plus [`SLACK`]): lists are pruned as they grow.
#[derive(Debug, Default)]
pub(super) struct Group {
    entries: Vec<Entry>,
    /// The limit-th best row when the list was pruned last: worse rows need not be looked at.
    threshold: Option<Entry>,
    /// Entries better than the threshold. At the limit the threshold can move.
    better_count: usize,
    kept_bytes: usize,
}

/// Rows that a list may hold beyond twice its limit before it is pruned.
const SLACK: usize = 64;

impl Group {
    /// Whether a row ordered like this may be among the best.
    pub(super) fn may_take(&self, order: &[u8]) -> bool {
        self.threshold.as_ref().is_none_or(|threshold| order <= threshold.order())
    }

    /// Offers a row.
    pub(super) fn offer(&mut self, order: &[u8], row: &[u8], rule: Rule) {
        if let Some(threshold) = &self.threshold {
            let is_better =
                if rule.ties { order < threshold.order() } else { (order, row) < (threshold.order(), threshold.row()) };
            let is_tie = rule.ties && order == threshold.order();
            if !is_better && !is_tie {
                return;
            }
            self.better_count += usize::from(is_better);
        }
        self.entries.push(Entry { bytes: [order, row].concat().into(), order_length: order.len() });
        self.kept_bytes += order.len() + row.len();
        // Ties with the threshold are no reason to prune: they may all be kept.
        let better_count = if self.threshold.is_some() { self.better_count } else { self.entries.len() };
        if better_count >= 2 * rule.limit + SLACK {
            self.prune(rule);
        }
    }

    /// Forgets rows that are beaten; whether the threshold moved.
    pub(super) fn prune(&mut self, rule: Rule) -> bool {
        let is_tight = self.threshold.is_some() && self.better_count < rule.limit;
        if is_tight || self.entries.len() < rule.limit {
            return false;
        }
        let (_, last, _) = self.entries.select_nth_unstable(rule.limit - 1);
        let last = last.clone();
        if rule.ties {
            self.entries.retain(|entry| entry.order() <= last.order());
            self.better_count = self.entries.iter().filter(|entry| entry.order() < last.order()).count();
        } else {
            self.entries.truncate(rule.limit);
            self.better_count = rule.limit - 1;
        }
        self.kept_bytes = self.entries.iter().map(|entry| entry.bytes.len()).sum();
        self.threshold = Some(last);
        true
    }

    /// What the limit-th best row is ordered by, as of the last pruning.
    pub(super) fn threshold_order(&self) -> Option<&[u8]> {
        self.threshold.as_ref().map(Entry::order)
    }

    /// All rows that are held, in no order.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(Entry::row)
    }

    /// The best rows in order, with their ranks from 1.
    pub(super) fn finish(mut self, rule: Rule) -> Vec<(Entry, i64)> {
        self.entries.sort_unstable();
        let mut ranked: Vec<(Entry, i64)> = Vec::with_capacity(self.entries.len().min(rule.limit));
        for (place, entry) in self.entries.into_iter().enumerate() {
            let rank = match ranked.last() {
                Some((before, rank)) if rule.ties && before.order() == entry.order() => *rank,
                _ => place as i64 + 1,
            };
            if rank > rule.limit as i64 {
                break;
            }
            ranked.push((entry, rank));
        }
        ranked
    }

    /// Bytes held, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        self.kept_bytes + self.entries.capacity() * size_of::<Entry>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The definition: sort everything, rank everything, keep what ranks within the limit.
        #[test]
        fn best_rows_are_those_of_the_definition(
            rows in prop::collection::vec((0u8..6, 0u8..4), 0..400),
            limit in 1usize..8,
            ties in any::<bool>(),
            prune_every in 1usize..50,
        ) {
            let rule = Rule { limit, ties };
            let mut group = Group::default();
            for (count, (order, row)) in rows.iter().enumerate() {
                if group.may_take(&[*order]) {
                    group.offer(&[*order], &[*row], rule);
                }
                if count % prune_every == 0 {
                    group.prune(rule);
                }
            }
            let found: Vec<_> = group.finish(rule).into_iter().map(|(entry, rank)| (entry.bytes.to_vec(), rank)).collect();
            let mut sorted = rows.clone();
            sorted.sort();
            let rank = |place: usize| match ties {
                true => sorted.iter().position(|(order, _)| *order == sorted[place].0).expect("it is there") + 1,
                false => place + 1,
            };
            let expected: Vec<_> = (0..sorted.len())
                .filter(|place| rank(*place) <= limit)
                .map(|place| (vec![sorted[place].0, sorted[place].1], rank(place) as i64))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn memory_stays_within_a_few_times_the_limit() {
        for ties in [false, true] {
            let rule = Rule { limit: 10, ties };
            let mut group = Group::default();
            // Ever better rows: the worst case for a threshold.
            for number in (0..100_000u32).rev() {
                group.offer(&number.to_be_bytes(), &[0], rule);
                assert!(group.entries.len() <= 2 * rule.limit + SLACK + 1);
            }
        }
    }
}
