//! One node of the cluster: its subscriptions and its messages.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, PublishErrorKind, StatusCode, Subject};
use bytes::Bytes;
use ocpp_rpc::cluster::{Destination, Node, Received, SendError, Topic};
use tokio::{sync::broadcast, task::coop::unconstrained, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    link::{Link, Signal},
    subject::{Meaning, Subjects, TooLong},
    subscriptions::{Ready, Subscriptions, take_arrived},
};

/// The queue group of a station's calls.
const QUEUE_GROUP: &str = "s";

/// The time that the last messages of a node may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A node that has joined.
pub(crate) struct Membership {
    link: Arc<Link>,
    reader: Arc<Reader>,
    subscriptions: Arc<Subscriptions>,
    tenant: Option<Arc<str>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Passes messages on to the node.
struct Reader {
    node: Node,
    subjects: Subjects,
}

impl Membership {
    /// Joins. Must be called within a tokio runtime.
    pub(crate) fn new(
        client: Client,
        signals: Option<broadcast::Receiver<Signal>>,
        subjects: Subjects,
        tenant: Option<Arc<str>>,
        node: Node,
    ) -> Self {
        let own = own_subjects(&subjects, &node, tenant.as_deref());
        let link = Arc::new(Link::new(client));
        let (subscriptions, ready) = Subscriptions::new();
        let subscriptions = Arc::new(subscriptions);
        let reader = Arc::new(Reader { node, subjects });
        // Completes at once, unless the client's queue is full.
        let mut joining = Box::pin(unconstrained(subscribe_all(link.clone(), subscriptions.clone(), own)));
        let is_joined = joining.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready();
        if is_joined {
            link.start();
        }
        let watching = {
            let (link, reader) = (link.clone(), reader.clone());
            async move {
                if !is_joined {
                    joining.await;
                }
                link.watch(&reader.node, &reader.subjects, signals).await;
            }
        };
        let reading = read(ready, reader.clone());
        let tasks = [AbortOnDropHandle::new(tokio::spawn(watching)), AbortOnDropHandle::new(tokio::spawn(reading))];
        Self { link, reader, subscriptions, tenant, _tasks: tasks }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    pub(crate) async fn subscribe(&self, topic: Topic<'_>) -> Result<(), SendError> {
        let Ok(subject) = self.subject_of(topic) else {
            tracing::warn!(
                ?topic,
                "a key is too long for a subject of NATS: the station cannot be called from other nodes"
            );
            return Ok(());
        };
        if self.subscriptions.contains(&subject) {
            return Ok(());
        }
        let client = self.link.client();
        let subscribed = self.link.run(async {
            match topic {
                Topic::Station(_) => client.queue_subscribe(subject.clone(), QUEUE_GROUP.to_owned()).await,
                _ => client.subscribe(subject.clone()).await,
            }
        });
        let subscriber = subscribed.await?.map_err(|_| self.closed())?;
        self.subscriptions.insert(subject, subscriber);
        Ok(())
    }

    pub(crate) async fn unsubscribe(&self, topic: Topic<'_>) -> Result<(), SendError> {
        let Ok(subject) = self.subject_of(topic) else { return Ok(()) };
        let Some(mut subscriber) = self.subscriptions.remove(&subject) else { return Ok(()) };
        // The client drops the requests that NATS sends until it has handled this. Their callers notice that no node is
        // subscribed. `Subscriber::drain` would not help: the client ends it when it is next woken, which can be before
        // NATS has handled it, and restores it after a reconnect without reading it.
        // If the connection is away, the client does not restore a subscription that is dropped.
        let _ = self.link.run(subscriber.unsubscribe()).await;
        take_arrived(subscriber, |message| self.reader.receive(message)).await;
        Ok(())
    }

    pub(crate) async fn send(
        &self,
        to: Destination<'_>,
        request: Option<u64>,
        message: Bytes,
    ) -> Result<(), SendError> {
        let subjects = &self.reader.subjects;
        let about = match to {
            Destination::Station(key) | Destination::StationAt { key, .. } => Some(key),
            Destination::Node { key, .. } | Destination::Response { key, .. } | Destination::All(key) => key,
            Destination::Event { key, .. } => key,
            _ => None,
        };
        if self.tenant.is_some() && about.is_none() {
            // Not permitted, and not needed for calls.
            return Ok(());
        }
        let subject = match to {
            Destination::Station(key) => subjects.station(key),
            Destination::StationAt { node, key } => subjects.station_at(node, key),
            Destination::Node { node, key } => subjects.node(node, key),
            Destination::Response { node, request, key } => subjects.reply(node, request, key),
            Destination::All(key) => subjects.all(key),
            Destination::Event { key, kind } => subjects.event(key, kind),
            _ => return Ok(()),
        };
        let subject = subject.map_err(|TooLong| SendError::TooLarge)?;
        let client = self.link.client();
        let published = match request {
            None => self.link.run(client.publish(subject, message)).await?,
            Some(number) => {
                let reply = subjects.reply(self.reader.node.id(), number, about);
                let reply = reply.map_err(|TooLong| SendError::TooLarge)?;
                self.link.run(client.publish_with_reply(subject, reply, message)).await?
            }
        };
        published.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => SendError::TooLarge,
            _ => self.closed(),
        })
    }

    /// Ends all subscriptions when all messages were sent.
    pub(crate) async fn leave(&self) {
        self.subscriptions.clear();
        let _ = timeout(LEAVE_TIMEOUT, self.link.run(self.link.client().flush())).await;
        self.link.stop();
    }

    fn subject_of(&self, topic: Topic<'_>) -> Result<Subject, TooLong> {
        let subjects = &self.reader.subjects;
        let subject = match (topic, &self.tenant) {
            (Topic::Station(key), _) => subjects.station(key),
            (Topic::Events(None), Some(tenant)) => subjects.events_below(tenant),
            (Topic::Events(key), _) => subjects.events(key),
            // No subject of this release.
            _ => Err(TooLong),
        };
        subject.map(Subject::from)
    }

    fn closed(&self) -> SendError {
        self.link.closed();
        SendError::Disconnected
    }
}

/// Returns the subjects that every node subscribes to.
fn own_subjects(subjects: &Subjects, node: &Node, tenant: Option<&str>) -> Vec<String> {
    let Some(tenant) = tenant else { return subjects.own(node.id()).into() };
    subjects.own_below(node.id(), tenant).map(Vec::from).unwrap_or_else(|TooLong| {
        tracing::error!(tenant, "the name of a tenant is too long for a subject of NATS");
        Vec::new()
    })
}

async fn subscribe_all(link: Arc<Link>, subscriptions: Arc<Subscriptions>, subjects: Vec<String>) {
    for subject in subjects.into_iter().map(Subject::from) {
        match link.client().subscribe(subject.clone()).await {
            Ok(subscriber) => subscriptions.insert(subject, subscriber),
            Err(_) => link.closed(),
        }
    }
}

async fn read(ready: Ready, reader: Arc<Reader>) {
    ready.read(|message| reader.receive(message)).await;
}

impl Reader {
    fn receive(&self, message: Message) {
        let Message { subject, reply, payload, status, .. } = message;
        let node = &self.node;
        match self.subjects.read(node.id(), &subject) {
            Some(Meaning::Request { key }) => match reply.and_then(|reply| self.subjects.read_reply(&reply)) {
                Some((from, request)) => node.received(Received::Request { node: from, request, key: &key }, payload),
                None => tracing::warn!(%subject, "a request does not name a node that it is from"),
            },
            Some(Meaning::Reply { number }) if status == Some(StatusCode::NO_RESPONDERS) => node.not_delivered(number),
            Some(Meaning::Reply { number }) => node.received(Received::Response(number), payload),
            Some(Meaning::Control { key }) => node.received(Received::Control(key.as_deref()), payload),
            Some(Meaning::Broadcast { key }) => node.received(Received::Broadcast(key.as_deref()), payload),
            Some(Meaning::Event) => node.received(Received::Event, payload),
            None => tracing::warn!(%subject, "a message has an unknown subject"),
        }
    }
}
