//! The subscriptions of a node, which one task reads.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

use async_nats::{Message, Subject, Subscriber};
use futures_core::Stream;
use tokio::{sync::mpsc, task::coop::unconstrained};

/// The messages that one subscription may pass on before it is another one's turn.
///
/// Messages of different subscriptions overtake each other, as [`Cluster`](ocpp_rpc::cluster::Cluster) permits. A message to
/// all nodes can thus arrive before one that its node has sent to this one earlier. The nodes expect that: announcements
/// say which ones come before them, a cancellation is remembered until its request arrives, a sign of life does not
/// bring back a node that has left, and a response counts as lost at the second probe only.
const BURST: usize = 64;

/// The subscriptions by their subjects.
pub(crate) struct Subscriptions {
    ready: mpsc::UnboundedSender<Arc<Subscription>>,
    all: Mutex<BTreeMap<Subject, Arc<Subscription>>>,
}

/// A subscription, and the waker of its channel.
///
/// Each is in the queue of ready ones at most once per read, so that the queue is bounded by their number.
struct Subscription {
    ready: mpsc::UnboundedSender<Arc<Self>>,
    /// `None` when the subscription has ended.
    subscriber: Mutex<Option<Subscriber>>,
}

/// The subscriptions that may have messages.
pub(crate) struct Ready(mpsc::UnboundedReceiver<Arc<Subscription>>);

impl Subscriptions {
    pub(crate) fn new() -> (Self, Ready) {
        let (ready, receiver) = mpsc::unbounded_channel();
        (Self { ready, all: Mutex::default() }, Ready(receiver))
    }

    pub(crate) fn contains(&self, subject: &Subject) -> bool {
        lock(&self.all).contains_key(subject)
    }

    pub(crate) fn insert(&self, subject: Subject, subscriber: Subscriber) {
        let subscriber = Mutex::new(Some(subscriber));
        let subscription = Arc::new(Subscription { ready: self.ready.clone(), subscriber });
        // The first read registers the waker.
        subscription.wake_by_ref();
        let replaced = lock(&self.all).insert(subject, subscription);
        if let Some(replaced) = replaced {
            replaced.end();
        }
    }

    /// Removes a subscription.
    pub(crate) fn remove(&self, subject: &Subject) -> Option<Subscriber> {
        lock(&self.all).remove(subject)?.end()
    }

    /// Ends all subscriptions.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *lock(&self.all));
        for subscription in all.into_values() {
            subscription.end();
        }
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        // A channel holds the waker, which holds the channel.
        self.clear();
    }
}

impl Subscription {
    fn end(&self) -> Option<Subscriber> {
        lock(&self.subscriber).take()
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        match &mut *lock(&self.subscriber) {
            Some(subscriber) => Pin::new(subscriber).poll_next(cx),
            None => Poll::Ready(None),
        }
    }
}

impl Wake for Subscription {
    fn wake(self: Arc<Self>) {
        let ready = self.ready.clone();
        // Fails when the node has left.
        let _ = ready.send(self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let _ = self.ready.send(self.clone());
    }
}

impl Ready {
    /// Passes all messages to a function, until all subscriptions have ended.
    pub(crate) async fn read(mut self, receive: impl Fn(Message)) {
        while let Some(subscription) = self.0.recv().await {
            let waker = Waker::from(subscription.clone());
            let mut cx = Context::from_waker(&waker);
            let mut passed = 0;
            while let Poll::Ready(Some(message)) = subscription.poll(&mut cx) {
                receive(message);
                passed += 1;
                if passed == BURST {
                    waker.wake();
                    break;
                }
            }
        }
    }
}

/// Takes the messages that have arrived at a subscription that ends.
pub(crate) async fn take_arrived<T>(mut subscriber: impl Stream<Item = T> + Unpin, receive: impl Fn(T)) {
    let take = poll_fn(|cx| {
        while let Poll::Ready(Some(message)) = Pin::new(&mut subscriber).poll_next(cx) {
            receive(message);
        }
        Poll::Ready(())
    });
    // The channel would seem empty as soon as the task has used up its budget.
    unconstrained(take).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock cannot leave the state inconsistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_messages_of_a_subscription_that_ends_are_taken() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for number in 0..1000 {
            sender.send(number).expect("open");
        }
        let taken = Mutex::new(Vec::new());
        take_arrived(futures_util::stream::poll_fn(|cx| receiver.poll_recv(cx)), |number| lock(&taken).push(number))
            .await;
        assert_eq!(*lock(&taken), Vec::from_iter(0..1000));
    }
}
