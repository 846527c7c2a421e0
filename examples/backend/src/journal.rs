//! The journal: the messages of all stations, in the table `messages`.

use std::{sync::LazyLock, time::Duration};

use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use ocpp_rpc::{
    Mask, RpcServer,
    event::{Event, EventKind, Events},
};
use serde::{Deserialize, Serialize};
use sqlx::AnyPool;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, unconstrained},
    time::{MissedTickBehavior, interval, sleep},
};
use utoipa::ToSchema;

use crate::date;

/// The number of messages that are stored in one transaction of the database.
const BATCH: usize = 256;

/// A message of a station.
#[derive(Serialize, Deserialize, ToSchema)]
pub(crate) struct Message {
    /// The number in the journal. Missing from messages that are not in the journal yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<i64>,
    at: String,
    station: String,
    /// `in` from the station, `out` to the station.
    direction: String,
    /// The message as it was on the wire, but for the values of tokens and passwords, which are `***`.
    text: String,
}

/// OCPP forbids tokens in logs (2.0.1 part 2 C04.FR.04), and an operator may set the password of a station.
static MASK: LazyLock<Mask> = LazyLock::new(Mask::new);

impl Message {
    pub(crate) fn of(event: &Event) -> Option<Self> {
        let (direction, text) = match &event.kind {
            EventKind::Received(text) => ("in", text),
            EventKind::Sent(text) => ("out", text),
            _ => return None,
        };
        // PostgreSQL stores no null characters.
        let storable = |text: &str| text.replace('\0', "\u{fffd}");
        let station = storable(event.identity.as_deref().unwrap_or_default());
        let text = storable(&MASK.apply(text));
        Some(Self { id: None, at: date::of(event.at), station, direction: direction.to_owned(), text })
    }
}

/// The handle on the task that writes the journal.
#[derive(Clone)]
pub(crate) struct Journal(mpsc::Sender<oneshot::Sender<()>>);

impl Journal {
    /// Starts the task. It ends when the server has closed and all messages are stored. Messages are deleted after
    /// this number of days.
    pub(crate) fn start(server: &RpcServer, database: AnyPool, days: u32) -> (Self, JoinHandle<()>) {
        let (sender, flushes) = mpsc::channel(16);
        (Self(sender), tokio::spawn(run(server.events(), database, days, flushes)))
    }

    /// Waits until the messages so far are stored.
    pub(crate) async fn flush(&self) {
        let (sender, stored) = oneshot::channel();
        // Both fail if the server has closed. Then all messages are stored.
        if self.0.send(sender).await.is_ok() {
            let _ = stored.await;
        }
    }
}

async fn run(mut events: Events, database: AnyPool, days: u32, mut flushes: mpsc::Receiver<oneshot::Sender<()>>) {
    let mut batch = Vec::new();
    let mut cleaning = interval(Duration::from_secs(3600));
    cleaning.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut flush = None;
        tokio::select! {
            event = events.next() => match event {
                Some(event) => add(&mut batch, &event),
                None => return,
            },
            Some(sender) = flushes.recv() => flush = Some(sender),
            _ = cleaning.tick() => clean(&database, days).await,
        }
        // A flush takes all events that the reader can hold. Without a flush, one batch is enough.
        let mut left = if flush.is_some() { Events::CAPACITY } else { BATCH };
        while left > 0
            && let Some(Some(event)) = unconstrained(events.next()).now_or_never()
        {
            add(&mut batch, &event);
            left -= 1;
        }
        for messages in batch.chunks(BATCH) {
            while let Err(error) = store(&database, messages).await {
                tracing::error!(%error, "cannot store messages, trying again");
                sleep(Duration::from_secs(1)).await;
            }
        }
        batch.clear();
        if let Some(sender) = flush {
            let _ = sender.send(());
        }
    }
}

fn add(batch: &mut Vec<Message>, event: &Event) {
    if let EventKind::Lagged(events) = event.kind {
        tracing::error!(events, "the database is too slow: the journal lost events");
    }
    batch.extend(Message::of(event));
}

async fn store(database: &AnyPool, messages: &[Message]) -> sqlx::Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut transaction = database.begin().await?;
    for Message { at, station, direction, text, .. } in messages {
        let insert = sqlx::query("INSERT INTO messages (at, station, direction, text) VALUES ($1, $2, $3, $4)");
        insert.bind(at).bind(station).bind(direction).bind(text).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Deletes old messages.
async fn clean(database: &AnyPool, days: u32) {
    let age = SignedDuration::from_hours(24 * i64::from(days));
    let oldest = date::of(Timestamp::now().saturating_sub(age).unwrap_or(Timestamp::MIN).into());
    let deleted = sqlx::query("DELETE FROM messages WHERE at < $1").bind(oldest).execute(database).await;
    if let Err(error) = deleted {
        tracing::error!(%error, "cannot delete old messages");
    }
}
