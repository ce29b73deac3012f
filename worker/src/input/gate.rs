//! The input gate of one task: one queue that all its channels fill, in the order of arrival; order within a channel is
//! kept. Filled by `exchange` (local senders, the receiver), emptied by the operator task. Each channel holds at most
//! its credit and one element more, so the queue is bounded by channels * (credit + one batch); a sender whose barrier
//! overtakes adds what it had ready, once, and then waits until all of that is consumed.
//!
//! A barrier is announced to the task when it comes, behind whatever it stands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow_schema::SchemaRef;
use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_core::{CheckpointId, EventTime, StreamElement, SubtaskIndex};
use weir_proto::v1::Frame;

use super::hurry::Hurry;
use super::in_flight::{Carried, ChannelAtCut, InFlight, Recording, RestoredChannel};
use crate::error::{DEPLOY_INVALID, TaskError};
use crate::exchange::credit::Credits;
use crate::exchange::frame;

/// Takes back room that a channel's elements no longer occupy.
pub trait ReturnCredit: Send + Sync + std::fmt::Debug {
    /// `bytes` of the channel were consumed.
    fn give_back(&self, bytes: usize);
}

impl ReturnCredit for Credits {
    fn give_back(&self, bytes: usize) {
        self.give(bytes);
    }
}

/// What a channel is to the task that reads it.
#[derive(Clone, Debug)]
pub struct ChannelInput {
    /// Which input of the head operator.
    pub input: usize,
    /// Schema of its rows.
    pub schema: SchemaRef,
    /// Name of its edge, the same in every plan that has it.
    pub edge: Arc<str>,
    /// Who sends.
    pub sender: SubtaskIndex,
}

/// One element out of the gate.
#[derive(Debug)]
pub struct Received {
    /// Which channel, in the order in which they were opened.
    pub channel: usize,
    /// What came.
    pub element: StreamElement,
}

#[derive(Debug)]
struct Item {
    channel: usize,
    /// Read where it is used, on the task's thread: the network's threads only carry bytes.
    payload: Carried,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// What comes is also written down, for a checkpoint whose barrier has overtaken it.
    recording: Option<Recording>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Whom barriers are announced to; nobody when the job takes no checkpoints.
    hurry: Option<Arc<Hurry>>,
    failure: Mutex<Option<TaskError>>,
    readable: Notify,
}

/// The receiving end, owned by the task.
#[derive(Debug, Default)]
pub struct Gate {
    shared: Arc<Shared>,
    /// Taken from the shared queue in one go, so that the lock is held once per many elements.
    taken: VecDeque<Item>,
    channels: Vec<(ChannelInput, Arc<dyn ReturnCredit>)>,
    /// What came on blocked channels, by channel; its room is not given back, so their senders stop.
    held: Vec<Held>,
    is_any_blocked: bool,
    /// Credit of all channels.
    room_bytes: usize,
    /// How far the watermark of each channel had come, when a restore says it.
    watermarks: Option<Vec<EventTime>>,
}

#[derive(Debug, Default)]
struct Held {
    is_blocked: bool,
    items: VecDeque<Item>,
}

/// The sending end of one channel.
#[derive(Clone, Debug)]
pub struct GateSender {
    shared: Arc<Shared>,
    channel: usize,
    credits: Arc<Credits>,
}

impl Gate {
    /// A gate that announces its barriers.
    pub fn new(hurry: Arc<Hurry>) -> Self {
        Gate { shared: Arc::new(Shared { hurry: Some(hurry), ..Shared::default() }), ..Gate::default() }
    }

    /// Opens a channel from a task of this worker.
    pub fn open_local(&mut self, input: ChannelInput, credit_bytes: usize) -> GateSender {
        let credits = Arc::new(Credits::new(credit_bytes));
        let channel = self.open(input, Arc::clone(&credits) as Arc<dyn ReturnCredit>, credit_bytes);
        GateSender { shared: Arc::clone(&self.shared), channel, credits }
    }

    /// Opens a channel from another worker; its receiver keeps the account of `credit_bytes`.
    pub fn open_remote(
        &mut self,
        input: ChannelInput,
        returns: Arc<dyn ReturnCredit>,
        credit_bytes: usize,
    ) -> RemoteGateSender {
        let channel = self.open(input, returns, credit_bytes);
        RemoteGateSender { shared: Arc::clone(&self.shared), channel }
    }

    fn open(&mut self, input: ChannelInput, returns: Arc<dyn ReturnCredit>, credit_bytes: usize) -> usize {
        self.channels.push((input, returns));
        self.room_bytes = self.room_bytes.saturating_add(credit_bytes);
        self.held.push(Held::default());
        self.channels.len() - 1
    }

    /// How many channels there are.
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// The schemas of all channels, by edge.
    pub fn schemas(&self) -> BTreeMap<String, SchemaRef> {
        self.channels.iter().map(|(input, _)| (input.edge.to_string(), SchemaRef::clone(&input.schema))).collect()
    }

    /// Which input of the head operator a channel feeds.
    pub fn input_of(&self, channel: usize) -> usize {
        self.channels[channel].0.input
    }

    /// The next element, if one is there; its room goes back to its sender.
    ///
    /// **Errors**: a channel broke, or its data cannot be read.
    pub fn try_next(&mut self) -> Result<Option<Received>, TaskError> {
        let Some(Item { channel, payload, bytes }) = self.pop() else {
            return match &*self.shared.failure.lock() {
                Some(error) => Err(error.clone()),
                None => Ok(None),
            };
        };
        let (input, returns) = &self.channels[channel];
        let element = payload.read(&input.schema)?;
        returns.give_back(bytes);
        Ok(Some(Received { channel, element }))
    }

    fn pop(&mut self) -> Option<Item> {
        loop {
            if self.taken.is_empty() {
                std::mem::swap(&mut self.taken, &mut self.shared.queue.lock().items);
            }
            let item = self.taken.pop_front()?;
            if !(self.is_any_blocked && self.held[item.channel].is_blocked) {
                return Some(item);
            }
            self.held[item.channel].items.push_back(item);
        }
    }

    /// From now on a channel gives nothing.
    pub fn block(&mut self, channel: usize) {
        self.held[channel].is_blocked = true;
        self.is_any_blocked = true;
    }

    /// All channels give again, first what was held.
    pub fn unblock_all(&mut self) {
        self.is_any_blocked = false;
        for held in &mut self.held {
            held.is_blocked = false;
            for item in held.items.drain(..).rev() {
                self.taken.push_front(item);
            }
        }
    }

    /// The barrier of a checkpoint overtakes what lies here, on the channels where it has not `passed`: this is written
    /// down, and what comes until the barrier does. `watermarks` are those of the channels at this moment. The task goes
    /// on with all of it.
    pub fn overtake(&mut self, checkpoint: CheckpointId, passed: &[bool], watermarks: &[EventTime]) -> InFlight {
        self.unblock_all();
        let mut queue = self.shared.queue.lock();
        let is_open = passed.iter().map(|has_passed| !has_passed).collect();
        let (mut recording, recorded) = Recording::new(checkpoint, is_open, self.room_bytes);
        for Item { channel, payload, bytes } in self.taken.iter().chain(&queue.items) {
            recording.see(*channel, payload, *bytes);
        }
        queue.recording = Some(recording).filter(|recording| !recording.is_over());
        let at_cut = self.channels.iter().zip(watermarks).map(|((input, _), watermark)| ChannelAtCut {
            edge: Arc::clone(&input.edge),
            sender: input.sender,
            schema: SchemaRef::clone(&input.schema),
            watermark: *watermark,
        });
        InFlight { channels: at_cut.collect(), recorded }
    }

    /// A checkpoint was given up, and all before it: nothing more is written down for them.
    pub fn give_up(&mut self, checkpoint: CheckpointId) {
        let mut queue = self.shared.queue.lock();
        if queue.recording.as_ref().is_some_and(|recording| recording.checkpoint() <= checkpoint) {
            queue.recording = None;
        }
    }

    /// Begins with what a checkpoint had in flight, in front of everything that comes.
    ///
    /// **Errors**: a channel that is not here: another plan's checkpoint.
    pub fn take_back(&mut self, restored: Vec<RestoredChannel>) -> Result<(), TaskError> {
        if restored.is_empty() {
            return Ok(());
        }
        let mut watermarks = vec![EventTime::MIN; self.channels.len()];
        for RestoredChannel { edge, sender, watermark, elements } in restored {
            let is_it = |input: &ChannelInput| *input.edge == *edge && input.sender == sender;
            let channel = self.channels.iter().position(|(input, _)| is_it(input)).ok_or_else(|| {
                let message = format!("the checkpoint has rows in flight from subtask {sender} of edge '{edge}', and the task has no such channel");
                TaskError::internal(DEPLOY_INVALID, message)
            })?;
            watermarks[channel] = watermark;
            // Nobody lent room to them.
            let item = |element| Item { channel, payload: Carried::Element(element), bytes: 0 };
            self.taken.extend(elements.into_iter().map(item));
        }
        self.watermarks = Some(watermarks);
        Ok(())
    }

    /// How far the watermark of each channel had come, when a restore has said it.
    pub fn restored_watermarks(&mut self) -> Option<Vec<EventTime>> {
        self.watermarks.take()
    }

    /// The next element; waits while there is none. **Cancel safety**: loses nothing.
    pub async fn next(&mut self) -> Result<Received, TaskError> {
        loop {
            if let Some(received) = self.try_next()? {
                return Ok(received);
            }
            self.shared.readable.notified().await;
        }
    }
}

impl Shared {
    fn push(&self, item: Item) {
        let barrier = item.payload.barrier();
        let was_empty = {
            let mut queue = self.queue.lock();
            if let Some(recording) = &mut queue.recording {
                recording.see(item.channel, &item.payload, item.bytes);
                if recording.is_over() {
                    queue.recording = None;
                }
            }
            queue.items.push_back(item);
            queue.items.len() == 1
        };
        if let (Some(hurry), Some(barrier)) = (&self.hurry, barrier) {
            hurry.came(barrier);
        }
        if was_empty {
            self.readable.notify_one();
        }
    }
}

impl GateSender {
    /// The account of the channel; the sender looks at it before it pushes.
    pub fn credits(&self) -> &Arc<Credits> {
        &self.credits
    }

    /// Puts an element that costs `bytes` into the gate.
    pub fn push(&self, element: StreamElement, bytes: usize) {
        self.shared.push(Item { channel: self.channel, payload: Carried::Element(element), bytes });
    }
}

/// The sending end of a channel whose frames come from another worker.
#[derive(Clone, Debug)]
pub struct RemoteGateSender {
    shared: Arc<Shared>,
    channel: usize,
}

impl RemoteGateSender {
    /// Puts a frame into the gate.
    pub fn push(&self, frame: Frame) {
        let bytes = frame::cost(&frame);
        self.shared.push(Item { channel: self.channel, payload: Carried::Encoded(Box::new(frame)), bytes });
    }

    /// The channel broke: the task fails after what has arrived.
    pub fn fail(&self, error: TaskError) {
        self.shared.failure.lock().get_or_insert(error);
        self.shared.readable.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::Schema;
    use futures::FutureExt;
    use proptest::prelude::*;
    use weir_core::EventTime;

    use super::*;
    use crate::exchange::credit::ELEMENT_BYTES;

    fn input() -> ChannelInput {
        ChannelInput { input: 0, schema: Arc::new(Schema::empty()), edge: "e".into(), sender: SubtaskIndex(0) }
    }

    /// Carries c3 of the failure list: with one byte of credit everything flows, in order per channel.
    #[tokio::test]
    async fn c3_smallest_buffers_do_not_deadlock() {
        let mut gate = Gate::default();
        let senders: Vec<GateSender> = (0..5).map(|_| gate.open_local(input(), 1)).collect();
        let tasks: Vec<_> = senders
            .into_iter()
            .map(|sender| {
                tokio::spawn(async move {
                    for n in 0..100 {
                        sender.credits().wait_for_room().await.expect("never breaks");
                        sender.credits().take(ELEMENT_BYTES);
                        sender.push(StreamElement::Watermark(EventTime(n)), ELEMENT_BYTES);
                    }
                })
            })
            .collect();
        let mut next = [0; 5];
        for _ in 0..500 {
            let received = gate.next().await.expect("never breaks");
            match received.element {
                StreamElement::Watermark(EventTime(n)) => assert_eq!(n, next[received.channel]),
                other => panic!("{other:?}"),
            }
            next[received.channel] += 1;
        }
        for task in tasks {
            task.await.expect("sender ends");
        }
    }

    #[test]
    fn blocked_channel_holds_its_elements_and_its_credit() {
        let mut gate = Gate::default();
        let senders: Vec<GateSender> = (0..2).map(|_| gate.open_local(input(), 1 << 20)).collect();
        let push = |channel: usize, n: i64| {
            senders[channel].credits().take(ELEMENT_BYTES);
            senders[channel].push(StreamElement::Watermark(EventTime(n)), ELEMENT_BYTES);
        };
        let next = |gate: &mut Gate| match gate.try_next().expect("never breaks") {
            Some(Received { channel, element: StreamElement::Watermark(EventTime(n)) }) => Some((channel, n)),
            _ => None,
        };
        gate.block(0);
        [(0, 1), (1, 2), (0, 3), (1, 4)].into_iter().for_each(|(channel, n)| push(channel, n));
        assert_eq!((next(&mut gate), next(&mut gate), next(&mut gate)), (Some((1, 2)), Some((1, 4)), None));
        gate.unblock_all();
        push(0, 5);
        assert_eq!((next(&mut gate), next(&mut gate), next(&mut gate)), (Some((0, 1)), Some((0, 3)), Some((0, 5))));
    }

    fn barrier(checkpoint: u64) -> StreamElement {
        let passage = weir_core::Passage::MayOvertake;
        StreamElement::Barrier(weir_core::Barrier { checkpoint: CheckpointId(checkpoint), passage })
    }

    /// Carries b2 of the failure list: a checkpoint that is given up drops what it has written down.
    #[test]
    fn b2_checkpoint_that_is_given_up_writes_nothing_down() {
        let mut gate = Gate::default();
        let sender = gate.open_local(input(), 1 << 20);
        let older = gate.overtake(CheckpointId(1), &[false], &[EventTime::MIN]);
        gate.give_up(CheckpointId(1));
        sender.push(StreamElement::Watermark(EventTime(1)), 1);
        assert!(gate.shared.queue.lock().recording.is_none());
        assert!(older.complete().now_or_never().expect("it is over").is_err());
        let newer = gate.overtake(CheckpointId(2), &[false], &[EventTime::MIN]);
        gate.give_up(CheckpointId(1));
        sender.push(barrier(1), 1);
        sender.push(barrier(2), 1);
        let recorded = newer.complete().now_or_never().expect("its barrier has come").expect("all of it is kept");
        assert_eq!(recorded[0].1.len(), 1);
    }

    proptest! {
        /// Carries c1 of the failure list, against the plainest model: of each channel that was not passed, what the task
        /// has not taken yet up to the barrier, wherever the barriers are.
        #[test]
        fn c1_what_is_in_front_of_the_barrier_is_written_down(
            pushes in prop::collection::vec(0usize..4, 0..80),
            taken in 0usize..40,
            cut in 0usize..80,
            barriers in prop::collection::vec(0usize..80, 4),
            passed in prop::collection::vec(any::<bool>(), 4),
        ) {
            // A barrier that the task has taken in order is the aligner's: here none has been.
            let earliest = if taken > 0 { cut } else { 0 };
            let barriers: Vec<usize> = barriers.into_iter().map(|at| at.max(earliest)).collect();
            let mut gate = Gate::default();
            let senders: Vec<GateSender> = (0..4).map(|_| gate.open_local(input(), 1 << 20)).collect();
            let mut expected = vec![Vec::new(); 4];
            let (mut is_behind, mut in_flight) = (passed.clone(), None);
            for n in 0..=80 {
                if n == cut {
                    for _ in 0..taken {
                        if let Some(Received { channel, element: StreamElement::Watermark(time) }) =
                            gate.try_next().expect("never breaks")
                        {
                            expected[channel].retain(|of| *of != time);
                        }
                    }
                    in_flight = Some(gate.overtake(CheckpointId(7), &passed, &[EventTime::MIN; 4]));
                }
                for channel in (0..4).filter(|channel| barriers[*channel] == n && !passed[*channel]) {
                    senders[channel].push(barrier(7), 1);
                    is_behind[channel] = true;
                }
                if let Some(channel) = pushes.get(n) {
                    senders[*channel].push(StreamElement::Watermark(EventTime(n as i64)), 1);
                    if !is_behind[*channel] {
                        expected[*channel].push(EventTime(n as i64));
                    }
                }
            }
            let recorded = in_flight.expect("it is cut").complete().now_or_never().expect("all have come").expect("kept");
            for (channel, (_, elements)) in recorded.into_iter().enumerate() {
                let times: Vec<EventTime> = elements
                    .into_iter()
                    .filter_map(|element| match element {
                        Carried::Element(StreamElement::Watermark(time)) => Some(time),
                        _ => None,
                    })
                    .collect();
                let expected = if passed[channel] { Vec::new() } else { std::mem::take(&mut expected[channel]) };
                prop_assert_eq!(times, expected);
            }
        }

        #[test]
        fn order_within_a_channel_is_kept(pushes in prop::collection::vec(0usize..4, 0..200)) {
            let mut gate = Gate::default();
            let senders: Vec<GateSender> = (0..4).map(|_| gate.open_local(input(), 1 << 20)).collect();
            let mut sent = vec![Vec::new(); 4];
            for (n, channel) in pushes.iter().enumerate() {
                senders[*channel].push(StreamElement::Watermark(EventTime(n as i64)), 1);
                sent[*channel].push(n as i64);
            }
            let mut got = vec![Vec::new(); 4];
            while let Some(received) = gate.try_next().expect("never breaks") {
                if let StreamElement::Watermark(EventTime(n)) = received.element { got[received.channel].push(n) }
            }
            prop_assert_eq!(got, sent);
        }
    }
}
