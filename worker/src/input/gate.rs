//! The input gate of one task: one queue that all its channels fill, in the order of arrival; order within a channel is
//! kept. Filled by `exchange` (local senders, the receiver), emptied by the operator task. Each channel holds at most
//! its credit and one element more, so the queue is bounded by channels * (credit + one batch).

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_core::StreamElement;
use weir_proto::v1::Frame;

use crate::error::TaskError;
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
enum Payload {
    Element(StreamElement),
    /// Read where it is used, on the task's thread: the network's threads only carry bytes.
    Encoded(Box<Frame>),
}

#[derive(Debug)]
struct Item {
    channel: usize,
    payload: Payload,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<VecDeque<Item>>,
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
    /// Opens a channel from a task of this worker.
    pub fn open_local(&mut self, input: ChannelInput, credit_bytes: usize) -> GateSender {
        let credits = Arc::new(Credits::new(credit_bytes));
        let channel = self.open(input, Arc::clone(&credits) as Arc<dyn ReturnCredit>);
        GateSender { shared: Arc::clone(&self.shared), channel, credits }
    }

    /// Opens a channel from another worker; its receiver keeps the account.
    pub fn open_remote(&mut self, input: ChannelInput, returns: Arc<dyn ReturnCredit>) -> RemoteGateSender {
        let channel = self.open(input, returns);
        RemoteGateSender { shared: Arc::clone(&self.shared), channel }
    }

    fn open(&mut self, input: ChannelInput, returns: Arc<dyn ReturnCredit>) -> usize {
        self.channels.push((input, returns));
        self.held.push(Held::default());
        self.channels.len() - 1
    }

    /// How many channels there are.
    pub fn channel_count(&self) -> usize {
        self.channels.len()
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
        let element = match payload {
            Payload::Element(element) => element,
            Payload::Encoded(frame) => frame::decode(*frame, &input.schema)?,
        };
        returns.give_back(bytes);
        Ok(Some(Received { channel, element }))
    }

    fn pop(&mut self) -> Option<Item> {
        loop {
            if self.taken.is_empty() {
                std::mem::swap(&mut self.taken, &mut *self.shared.queue.lock());
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
        let was_empty = {
            let mut queue = self.queue.lock();
            queue.push_back(item);
            queue.len() == 1
        };
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
        self.shared.push(Item { channel: self.channel, payload: Payload::Element(element), bytes });
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
        self.shared.push(Item { channel: self.channel, payload: Payload::Encoded(Box::new(frame)), bytes });
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
    use proptest::prelude::*;
    use weir_core::EventTime;

    use super::*;
    use crate::exchange::credit::ELEMENT_BYTES;

    fn input() -> ChannelInput {
        ChannelInput { input: 0, schema: Arc::new(Schema::empty()) }
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

    proptest! {
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
