//! Alignment of barriers over the channels of a task. Pure; the operator task asks it about every barrier.
//!
//! A channel whose barrier has come is blocked until all channels have sent theirs: what lies behind the barrier does not
//! belong to the checkpoint. A channel that has ended has sent every barrier there will ever be. A newer barrier means
//! that the older checkpoint was given up somewhere, so it takes its place; a barrier of the past says nothing.
//! An alignment that takes too long (`hurry.rs` says when) is cut short: the barrier overtakes what lies in front of it on
//! the channels that have not sent theirs; barriers that come later are of the past.

use weir_core::CheckpointId;

/// What a barrier, an end or an abort leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing changes; the stream goes on.
    Nothing,
    /// The channel is blocked, others still owe their barrier. `is_first` for the first barrier of a checkpoint: then
    /// channels that an older checkpoint had blocked are open again.
    Blocked {
        /// Whether the alignment has just begun.
        is_first: bool,
    },
    /// All barriers are there: the cut is now; after it every channel is open again.
    Complete(CheckpointId),
    /// The checkpoint is given up: every channel is open again.
    Released,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Channel {
    has_ended: bool,
    has_arrived: bool,
}

/// The barriers of one task.
#[derive(Clone, Debug)]
pub struct Aligner {
    channels: Vec<Channel>,
    current: Option<CheckpointId>,
    /// The greatest checkpoint that was cut or given up.
    past: CheckpointId,
}

impl Aligner {
    /// No barrier has come.
    pub fn new(channel_count: usize) -> Self {
        let channel = Channel { has_ended: false, has_arrived: false };
        Aligner { channels: vec![channel; channel_count], current: None, past: CheckpointId(0) }
    }

    /// The checkpoint that is being aligned.
    pub fn current(&self) -> Option<CheckpointId> {
        self.current
    }

    /// Whether a channel gives nothing now.
    pub fn is_blocked(&self, channel: usize) -> bool {
        self.current.is_some() && self.channels[channel].has_arrived
    }

    /// A barrier came on a channel.
    pub fn on_barrier(&mut self, channel: usize, checkpoint: CheckpointId) -> Verdict {
        if checkpoint <= self.past || self.current.is_some_and(|current| checkpoint < current) {
            return Verdict::Nothing;
        }
        let is_first = self.current != Some(checkpoint);
        if is_first {
            if let Some(older) = self.current {
                self.past = older;
            }
            self.begin(Some(checkpoint));
        }
        self.channels[channel].has_arrived = true;
        if self.is_complete() { self.complete(checkpoint) } else { Verdict::Blocked { is_first } }
    }

    /// A channel has ended.
    pub fn on_end(&mut self, channel: usize) -> Verdict {
        self.channels[channel].has_ended = true;
        match self.current {
            Some(checkpoint) if self.is_complete() => self.complete(checkpoint),
            _ => Verdict::Nothing,
        }
    }

    /// A checkpoint was given up; it and older ones are not cut any more.
    pub fn on_abort(&mut self, checkpoint: CheckpointId) -> Verdict {
        self.past = self.past.max(checkpoint);
        if self.current.is_some_and(|current| current <= checkpoint) {
            self.begin(None);
            return Verdict::Released;
        }
        Verdict::Nothing
    }

    /// The time of an alignment is over. Gives for each channel whether its barrier is behind it; those that have none
    /// are overtaken, and every channel is open again. `None` when the checkpoint is of the past.
    pub fn on_overtake(&mut self, checkpoint: CheckpointId) -> Option<Vec<bool>> {
        if checkpoint <= self.past || self.current.is_some_and(|current| checkpoint < current) {
            return None;
        }
        let is_current = self.current == Some(checkpoint);
        let passed = self.channels.iter().map(|channel| channel.has_ended || is_current && channel.has_arrived);
        let passed = passed.collect();
        self.complete(checkpoint);
        Some(passed)
    }

    fn begin(&mut self, checkpoint: Option<CheckpointId>) {
        self.current = checkpoint;
        self.channels.iter_mut().for_each(|channel| channel.has_arrived = false);
    }

    fn is_complete(&self) -> bool {
        self.channels.iter().all(|channel| channel.has_arrived || channel.has_ended)
    }

    fn complete(&mut self, checkpoint: CheckpointId) -> Verdict {
        self.past = checkpoint;
        self.begin(None);
        Verdict::Complete(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Barrier(usize, u64),
        End(usize),
        Abort(u64),
        Overtake(u64),
    }

    fn play(aligner: &mut Aligner, event: Event) -> Verdict {
        match event {
            Event::Barrier(channel, id) => aligner.on_barrier(channel, CheckpointId(id)),
            Event::End(channel) => aligner.on_end(channel),
            Event::Abort(id) => aligner.on_abort(CheckpointId(id)),
            Event::Overtake(id) => match aligner.on_overtake(CheckpointId(id)) {
                Some(_) => Verdict::Complete(CheckpointId(id)),
                None => Verdict::Nothing,
            },
        }
    }

    #[test]
    fn cut_is_when_the_last_barrier_comes() {
        let mut aligner = Aligner::new(3);
        assert_eq!(play(&mut aligner, Event::Barrier(1, 1)), Verdict::Blocked { is_first: true });
        assert!(aligner.is_blocked(1) && !aligner.is_blocked(0));
        assert_eq!(play(&mut aligner, Event::Barrier(0, 1)), Verdict::Blocked { is_first: false });
        assert_eq!(play(&mut aligner, Event::Barrier(2, 1)), Verdict::Complete(CheckpointId(1)));
        assert!((0..3).all(|channel| !aligner.is_blocked(channel)));
        assert_eq!(play(&mut aligner, Event::Barrier(0, 1)), Verdict::Nothing, "a barrier of the past");
    }

    #[test]
    fn ended_channel_owes_no_barrier() {
        let mut aligner = Aligner::new(2);
        play(&mut aligner, Event::Barrier(0, 1));
        assert_eq!(play(&mut aligner, Event::End(1)), Verdict::Complete(CheckpointId(1)));
        assert_eq!(play(&mut aligner, Event::Barrier(0, 2)), Verdict::Complete(CheckpointId(2)));
    }

    #[test]
    fn newer_barrier_takes_the_place_of_the_older() {
        let mut aligner = Aligner::new(2);
        play(&mut aligner, Event::Barrier(0, 1));
        assert_eq!(play(&mut aligner, Event::Barrier(1, 2)), Verdict::Blocked { is_first: true });
        assert!(!aligner.is_blocked(0) && aligner.is_blocked(1));
        assert_eq!(play(&mut aligner, Event::Barrier(0, 2)), Verdict::Complete(CheckpointId(2)));
    }

    #[test]
    fn given_up_checkpoint_blocks_nothing_and_is_never_cut() {
        let mut aligner = Aligner::new(2);
        play(&mut aligner, Event::Barrier(0, 1));
        assert_eq!(play(&mut aligner, Event::Abort(1)), Verdict::Released);
        assert!(!aligner.is_blocked(0));
        assert_eq!(play(&mut aligner, Event::Barrier(1, 1)), Verdict::Nothing);
        assert_eq!(play(&mut aligner, Event::Abort(2)), Verdict::Nothing);
        assert_eq!(play(&mut aligner, Event::Barrier(0, 2)), Verdict::Nothing, "given up before it began");
    }

    #[test]
    fn overtaking_cuts_at_once_and_says_who_is_overtaken() {
        let mut aligner = Aligner::new(3);
        play(&mut aligner, Event::Barrier(0, 1));
        play(&mut aligner, Event::End(2));
        play(&mut aligner, Event::Barrier(0, 2));
        assert_eq!(aligner.on_overtake(CheckpointId(1)), None, "a newer one has taken its place");
        assert_eq!(aligner.on_overtake(CheckpointId(2)), Some(vec![true, false, true]));
        assert!((0..3).all(|channel| !aligner.is_blocked(channel)));
        assert_eq!(play(&mut aligner, Event::Barrier(1, 2)), Verdict::Nothing, "its barrier comes behind the cut");
        assert_eq!(aligner.on_overtake(CheckpointId(2)), None);
        // Announced behind others: nobody has sent it yet.
        assert_eq!(aligner.on_overtake(CheckpointId(3)), Some(vec![false, false, true]));
    }

    proptest! {
        /// Carries c1 of the failure list: whatever the order of barriers, ends and aborts, a checkpoint is cut exactly
        /// when every channel has sent its barrier or ended, or when it overtakes, at most once, in order, and never after
        /// it was given up; and an overtaking cut names exactly the channels that have sent their barrier or ended.
        #[test]
        fn c1_cuts_are_complete_and_in_order(events in prop::collection::vec(
            prop_oneof![
                12 => (0usize..3, 1u64..6).prop_map(|(channel, id)| Event::Barrier(channel, id)),
                1 => (0usize..3).prop_map(Event::End),
                1 => (1u64..6).prop_map(Event::Abort),
                2 => (1u64..6).prop_map(Event::Overtake),
            ], 0..60)) {
            let mut aligner = Aligner::new(3);
            let (mut ended, mut sent, mut last_cut) = ([false; 3], [0u64; 3], 0);
            for event in events {
                // Within a channel barriers come in order and nothing follows an end.
                match event {
                    Event::Barrier(channel, id) if ended[channel] || id <= sent[channel]
                        || aligner.is_blocked(channel) && aligner.current() != Some(CheckpointId(id)) => continue,
                    Event::Barrier(channel, id) => sent[channel] = id,
                    Event::End(channel) if ended[channel] || aligner.is_blocked(channel) => continue,
                    Event::End(channel) => ended[channel] = true,
                    Event::Abort(_) | Event::Overtake(_) => {}
                }
                if let Event::Overtake(id) = event {
                    let passed = aligner.clone().on_overtake(CheckpointId(id));
                    let expected: Vec<bool> = (0..3).map(|channel| ended[channel] || sent[channel] == id).collect();
                    prop_assert!(passed.is_none_or(|passed| passed == expected));
                }
                let aborted = if let Event::Abort(id) = event { id } else { 0 };
                if let Verdict::Complete(CheckpointId(id)) = play(&mut aligner, event) {
                    prop_assert!(id > last_cut && id > aborted);
                    let is_whole = (0..3).all(|channel| ended[channel] || sent[channel] == id);
                    prop_assert!(is_whole || matches!(event, Event::Overtake(_)));
                    last_cut = id;
                }
                // Nobody is blocked for nothing: someone still owes the barrier.
                let blocked = (0..3).filter(|channel| aligner.is_blocked(*channel)).count();
                prop_assert!(blocked == 0 || (0..3).any(|channel| !aligner.is_blocked(channel) && !ended[channel]));
            }
        }
    }
}
