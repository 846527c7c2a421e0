//! The way of events from connections to readers.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::ReusableBoxFuture;

use crate::{
    event::kind::{Event, EventKind, Origin},
    mask::Mask,
};

/// A reader of events, from its creation on.
///
/// It is a [`Stream`] of [`Event`]s. [`next`](Self::next) reads without any trait; it takes precedence over the method of
/// the same name in `StreamExt` and does the same.
///
/// A reader holds the latest [`CAPACITY`](Self::CAPACITY) events with their messages. One that reads too slowly gets
/// [`EventKind::Lagged`].
///
/// ```
/// use ocpp_rpc::{RpcServer, event::{EventKind, Events}};
///
/// async fn log(server: RpcServer) {
///     let mut events: Events = server.events();
///     while let Some(event) = events.next().await {
///         match event.kind {
///             EventKind::Lagged(lost) => println!("{lost} events were lost"),
///             kind => println!("{:?}: {}", event.identity, kind.name()),
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Events {
    /// The next event, and the receiver that it came from. A broadcast has no poll.
    receiving: ReusableBoxFuture<'static, Received>,
    bus: Arc<EventBus>,
}

type Received = (Result<Event, RecvError>, broadcast::Receiver<Event>);

async fn receive(mut receiver: broadcast::Receiver<Event>) -> Received {
    let received = receiver.recv().await;
    (received, receiver)
}

impl Events {
    /// The number of events that a reader holds.
    pub const CAPACITY: usize = 4096;

    /// Waits for the next event; `None` if there will be no more, because the server or client is gone.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let (received, receiver) = ready!(self.receiving.poll(cx));
        self.receiving.set(receive(receiver));
        Poll::Ready(match received {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(events)) => {
                Some(Event::new(Origin::default(), EventKind::Lagged(events), Mask::none()))
            }
            Err(RecvError::Closed) => None,
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.bus.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The channel from many connections to the readers of their events.
#[derive(Debug, Default)]
pub(crate) struct EventBus {
    readers: AtomicUsize,
    sender: Mutex<Sender>,
}

#[derive(Debug, Default)]
enum Sender {
    #[default]
    Unused,
    /// Created for the first reader.
    Used(broadcast::Sender<Event>),
    Ended,
}

impl EventBus {
    pub(crate) fn subscribe(self: &Arc<Self>) -> Events {
        let mut sender = self.sender();
        if let Sender::Unused = *sender {
            *sender = Sender::Used(broadcast::Sender::new(Events::CAPACITY));
        }
        let receiver = match &*sender {
            Sender::Used(sender) => sender.subscribe(),
            Sender::Unused | Sender::Ended => broadcast::channel(1).1,
        };
        self.readers.fetch_add(1, Ordering::Relaxed);
        Events { receiving: ReusableBoxFuture::new(receive(receiver)), bus: self.clone() }
    }

    /// Returns true if there is a reader.
    pub(crate) fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Sends an event to the readers. Without a reader it is not created.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if !self.is_read() {
            return;
        }
        let event = event();
        if let Sender::Used(sender) = &*self.sender() {
            // The last reader may have been dropped in this moment.
            let _ = sender.send(event);
        }
    }

    /// Ends the streams of all readers.
    pub(crate) fn end(&self) {
        let ended = std::mem::replace(&mut *self.sender(), Sender::Ended);
        // Readers wake up here, without the lock.
        drop(ended);
    }

    fn sender(&self) -> MutexGuard<'_, Sender> {
        // No code that runs under the lock can panic half-way.
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pong() -> Event {
        event(EventKind::Pong(Duration::ZERO))
    }

    fn event(kind: EventKind) -> Event {
        Event::new(Origin::default(), kind, Mask::new())
    }

    #[test]
    fn event_without_a_reader_is_not_created() {
        let bus = Arc::new(EventBus::default());
        bus.emit(|| unreachable!());
        drop(bus.subscribe());
        bus.emit(|| unreachable!());
    }

    #[tokio::test]
    async fn slow_reader_learns_how_many_events_it_lost() {
        let bus = Arc::new(EventBus::default());
        let mut events = bus.subscribe();
        for _ in 0..Events::CAPACITY + 3 {
            bus.emit(pong);
        }
        assert!(matches!(events.next().await, Some(Event { kind: EventKind::Lagged(3), .. })));
        assert!(matches!(events.next().await, Some(Event { kind: EventKind::Pong(_), .. })));
    }

    #[tokio::test]
    async fn events_are_a_stream_that_ends_and_loses_none_to_a_dropped_future() {
        use futures_util::{FutureExt, StreamExt};

        let bus = Arc::new(EventBus::default());
        let mut events = bus.subscribe();
        assert!(events.next().now_or_never().is_none());
        bus.emit(pong);
        bus.emit(|| event(EventKind::Connecting));
        assert!(matches!(StreamExt::next(&mut events).await, Some(Event { kind: EventKind::Pong(_), .. })));
        bus.end();
        assert!(matches!(events.next().await, Some(Event { kind: EventKind::Connecting, .. })));
        assert!(events.next().await.is_none() && StreamExt::next(&mut events).await.is_none());
    }
}
