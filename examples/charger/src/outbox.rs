//! The messages of a station about its transactions, which must not be lost: a file keeps them until the server has
//! accepted them. Copy this module into a station of your own; it needs `ocpp-rpc`, `rand`, `serde`, `serde_json`, `tokio`
//! and `tracing`.
//!
//! Messages are sent in order, one at a time, and only while the station is registered and connected. They keep their
//! message id over attempts and restarts, so that a server recognizes a message that it has already got. A message that
//! the server rejects is sent again after a growing wait, and dropped after the last attempt (OCPP 1.6
//! `TransactionMessageAttempts` and `TransactionMessageRetryInterval`, OCPP 2.x `MessageAttempts` and
//! `MessageAttemptInterval`). A lost connection is no attempt.
//!
//! A line of the file is a JSON object. A message is stored when its line is on the disk. A line that was cut short, as by
//! a power failure, belongs to a message that was never stored, and is removed.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ocpp_rpc::{Error, Mask, RpcClient, client::ClientState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

/// The most messages that wait. Then the oldest update of a transaction makes room (2.0.1 part 2, E04).
const MAX_MESSAGES: usize = 10_000;

/// The lines of a file that is not compacted, beside those that are needed.
const MAX_SPARE_LINES: usize = 1_000;

/// The id of a transaction in OCPP 1.6 if the server has rejected its start.
const NO_TRANSACTION: i64 = -1;

/// A message about a transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The message id, the same in all attempts.
    id: String,
    action: String,
    params: Value,
    /// The placeholder that the `transactionId` of the response replaces in later messages (OCPP 1.6).
    starts: Option<String>,
    /// Set if the message may be dropped when there are too many.
    is_update: bool,
    attempts: u32,
}

impl Message {
    /// Creates a message.
    pub fn new(action: &str, params: Value) -> Self {
        let id = format!("{:032x}", rand::random::<u128>());
        Self { id, action: action.to_owned(), params, starts: None, is_update: false, attempts: 0 }
    }

    /// Marks a StartTransaction of OCPP 1.6. Later messages have `placeholder` as their `transactionId` until the server
    /// has given the transaction its id.
    #[must_use]
    pub fn starts(self, placeholder: impl Into<String>) -> Self {
        Self { starts: Some(placeholder.into()), ..self }
    }

    /// Marks a message that may be dropped when there are too many, such as one with periodic meter values.
    #[must_use]
    pub fn update(self) -> Self {
        Self { is_update: true, ..self }
    }
}

/// The attempts to send a message that the server rejects.
#[derive(Debug, Clone, Copy)]
pub struct Attempts {
    /// The number of attempts, after which the message is dropped.
    pub max: u32,
    /// The wait after the first attempt. After the second one it is twice as long, and so on.
    pub interval: Duration,
}

/// The messages that are not accepted yet, and the state of the station after the latest of them.
#[derive(Debug)]
pub struct Outbox {
    contents: Mutex<Contents>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Contents {
    file: Option<Log>,
    messages: VecDeque<(u64, Message)>,
    next: u64,
    /// The ids that the server gave to transactions, by their placeholders, as long as these may be in use.
    ids: BTreeMap<String, Value>,
    state: Value,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// A message, and the state of the station with it.
    Stored { number: u64, message: Message, state: Value },
    /// The message was accepted or dropped.
    Done { number: u64, id: Option<(String, Value)> },
    /// An attempt has failed.
    Failed { number: u64 },
    /// The contents of a file that was compacted, before its messages.
    Compacted { next: u64, ids: BTreeMap<String, Value>, state: Value },
}

impl Outbox {
    /// Creates an outbox that is lost when the station stops.
    pub fn in_memory() -> Self {
        Self { contents: Mutex::default(), changed: Notify::new() }
    }

    /// Opens the file at `path`, or creates it.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, is damaged before its end, or belongs to a station that runs.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let (file, lines) = Log::open(path.into())?;
        let mut contents = Contents { file: Some(file), ..Contents::default() };
        lines.into_iter().for_each(|line| contents.apply(line));
        Ok(Self { contents: Mutex::new(contents), changed: Notify::new() })
    }

    /// Returns the state that was stored with the latest message; `null` if there is none.
    pub fn state(&self) -> Value {
        self.contents().state.clone()
    }

    /// Returns the number of messages that wait.
    pub fn len(&self) -> usize {
        self.contents().messages.len()
    }

    /// Returns whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the id that the server gave to a transaction.
    pub fn transaction_id(&self, placeholder: &str) -> Option<Value> {
        self.contents().ids.get(placeholder).cloned()
    }

    /// Stores a message, and with it the state of the station. Both are on the disk when this returns.
    ///
    /// The state has the placeholders of the transactions that run. The ids of others are forgotten.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written, or if 10,000 messages wait of which none is an update. Nothing is
    /// stored then.
    pub async fn store(self: &Arc<Self>, message: Message, state: Value) -> io::Result<()> {
        self.write(move |contents| {
            contents.make_room()?;
            let number = contents.next;
            contents.append(Line::Stored { number, message, state })
        })
        .await
    }

    /// Sends the messages, as they come, while the client is open and `registered` has a value. Calls `report` after each
    /// attempt. One task at a time may do this.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written. Otherwise, this never ends.
    pub async fn deliver(
        self: &Arc<Self>,
        client: &RpcClient,
        registered: &watch::Sender<Option<Duration>>,
        attempts: impl Fn() -> Attempts,
        report: impl Fn(&str, &Result<Value, Error>),
    ) -> io::Result<Infallible> {
        loop {
            let Some((number, message)) = self.contents().next_message() else {
                self.changed.notified().await;
                continue;
            };
            ready(client, registered).await;
            let Message { action, params, id, starts, .. } = message;
            let outcome = client.call(&action, &params).id(id).await;
            report(&action, &outcome);
            let error = match outcome {
                Ok(response) => {
                    let given = response["transactionId"].as_i64().unwrap_or(NO_TRANSACTION);
                    let id = starts.map(|placeholder| (placeholder, given.into()));
                    self.write(move |contents| contents.append(Line::Done { number, id })).await?;
                    continue;
                }
                Err(error) => error,
            };
            // The server has failed if it rejects the message or takes too long, and not if the connection was lost.
            let is_rejected = matches!(error, Error::Rejected(_) | Error::Decode(_) | Error::Invalid(_));
            if !is_rejected && !matches!(error, Error::Timeout) {
                tracing::debug!(action, %error, "the message is sent again");
                // The connection may be lost a moment later than the call.
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            let failed = message.attempts + 1;
            let Attempts { max, interval } = attempts();
            if is_rejected && failed >= max {
                // Logs must not have tokens (2.0.1 part 2, C04.FR.04).
                let params = Mask::new().apply(&params.to_string()).into_owned();
                tracing::warn!(action, params, %error, failed, "the message is dropped");
                let id = starts.map(|placeholder| (placeholder, NO_TRANSACTION.into()));
                self.write(move |contents| contents.append(Line::Done { number, id })).await?;
                continue;
            }
            self.write(move |contents| contents.append(Line::Failed { number })).await?;
            let wait = interval.saturating_mul(failed.min(max));
            tracing::info!(action, %error, failed, ?wait, "the message is sent again");
            sleep(wait).await;
        }
    }

    /// Changes the contents where the disk may block. The change is made, and `deliver` sees it, even if this future is
    /// dropped after its first poll.
    async fn write(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Contents) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let outbox = self.clone();
        let write = move || {
            let written = change(&mut outbox.contents());
            outbox.changed.notify_one();
            written
        };
        if self.contents().file.is_none() {
            return write();
        }
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until a client is open, and its station registered.
async fn ready(client: &RpcClient, registered: &watch::Sender<Option<Duration>>) {
    let (mut registered, mut states) = (registered.subscribe(), client.states());
    // Both senders live as long as their references.
    while registered.borrow().is_none() || *states.borrow() != ClientState::Open {
        _ = registered.wait_for(Option::is_some).await;
        _ = states.wait_for(|state| *state == ClientState::Open).await;
    }
}

impl Contents {
    /// Returns the oldest message, with the id of its transaction.
    fn next_message(&self) -> Option<(u64, Message)> {
        let (number, mut message) = self.messages.front().cloned()?;
        let placeholder = message.params["transactionId"].as_str();
        if let Some(id) = placeholder.and_then(|placeholder| self.ids.get(placeholder)) {
            message.params["transactionId"] = id.clone();
        }
        Some((number, message))
    }

    /// Drops the oldest update if there are too many messages. The first message may be on its way.
    fn make_room(&mut self) -> io::Result<()> {
        if self.messages.len() < MAX_MESSAGES {
            return Ok(());
        }
        let Some((number, _)) = self.messages.iter().skip(1).find(|(_, message)| message.is_update) else {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many messages wait for the server"));
        };
        let number = *number;
        tracing::warn!("too many messages wait for the server: an update of a transaction is dropped");
        self.append(Line::Done { number, id: None })
    }

    /// Writes a line, and then applies it.
    fn append(&mut self, line: Line) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.append(std::slice::from_ref(&line))?;
        }
        if matches!(line, Line::Done { id: Some(_), .. }) {
            self.forget_ids();
        }
        self.apply(line);
        let is_long = |file: &Log| file.lines > 2 * self.messages.len() + MAX_SPARE_LINES;
        if self.file.as_ref().is_some_and(is_long) {
            let (next, ids, state) = (self.next, self.ids.clone(), self.state.clone());
            let stored = self.messages.iter().cloned();
            let stored = stored.map(|(number, message)| Line::Stored { number, message, state: state.clone() });
            let lines: Vec<Line> =
                std::iter::once(Line::Compacted { next, ids, state: state.clone() }).chain(stored).collect();
            match self.file.as_ref().map(|file| file.compact(&lines)).transpose() {
                Ok(compacted) => self.file = compacted,
                Err(error) => tracing::warn!(%error, "the file of messages stays as long as it is"),
            }
        }
        Ok(())
    }

    /// Forgets the ids of transactions that neither a message nor the state refers to by a placeholder.
    fn forget_ids(&mut self) {
        let (messages, state) = (&self.messages, self.state.to_string());
        self.ids.retain(|placeholder, _| {
            state.contains(placeholder)
                || messages.iter().any(|(_, message)| message.params["transactionId"] == **placeholder)
        });
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Stored { number, message, state } => {
                self.messages.push_back((number, message));
                self.next = self.next.max(number + 1);
                self.state = state;
            }
            Line::Done { number, id } => {
                self.messages.retain(|(other, _)| *other != number);
                self.ids.extend(id);
            }
            Line::Failed { number } => {
                if let Some((_, message)) = self.messages.iter_mut().find(|(other, _)| *other == number) {
                    message.attempts += 1;
                }
            }
            Line::Compacted { next, ids, state } => (self.next, self.ids, self.state) = (next, ids, state),
        }
    }
}

/// An append-only file of lines.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    /// The length of the lines that are on the disk, in bytes.
    length: u64,
    lines: usize,
}

impl Log {
    fn open(path: PathBuf) -> io::Result<(Self, Vec<Line>)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        lock(&file, &path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let (mut lines, mut length) = (Vec::new(), 0);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(read) if line.ends_with(b"\n") => lines.push(read),
                // The last line may have been cut short.
                _ if length + line.len() == text.len() => break,
                Ok(_) => {}
                Err(error) => {
                    let number = lines.len() + 1;
                    let why = format!("{}: line {number} is damaged: {error}", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            }
            length += line.len();
        }
        file.set_len(length as u64)?;
        file.sync_all()?;
        sync_directory(&path)?;
        let log = Self { path, file, length: length as u64, lines: lines.len() };
        Ok((log, lines))
    }

    /// Writes lines, which are on the disk when this returns. If this fails, none of them is there.
    fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&text).and_then(|()| self.file.sync_data()) {
            // A part of a line in the middle of the file would damage it.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += text.len() as u64;
        self.lines += lines.len();
        Ok(())
    }

    /// Replaces the file by one of these lines.
    fn compact(&self, lines: &[Line]) -> io::Result<Self> {
        let path = self.path.clone();
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let file = OpenOptions::new().append(true).create(true).open(&new)?;
        lock(&file, &new)?;
        file.set_len(0)?;
        let mut log = Self { path, file, length: 0, lines: 0 };
        log.append(lines)?;
        fs::rename(&new, &log.path)?;
        // The old file has no name any more, so the new one is in use whatever comes.
        if let Err(error) = sync_directory(&log.path) {
            tracing::warn!(%error, "after a power failure, the file of messages may be an older one");
        }
        Ok(log)
    }
}

/// Locks a file, so that no other station writes to it.
fn lock(file: &File, path: &Path) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::Error(error) => error,
        fs::TryLockError::WouldBlock => {
            io::Error::new(io::ErrorKind::ResourceBusy, format!("{}: another station uses it", path.display()))
        }
    })
}

/// Makes the name of a new file last.
fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        task::{Context, Waker},
    };

    use serde_json::json;

    use super::*;

    /// Returns a path for the file of a test, without a file.
    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("outbox-{name}-{}.jsonl", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    fn meter(value: u64) -> Message {
        Message::new("MeterValues", json!({"value": value}))
    }

    fn values(outbox: &Outbox) -> Vec<u64> {
        let contents = outbox.contents();
        contents.messages.iter().filter_map(|(_, message)| message.params["value"].as_u64()).collect()
    }

    #[tokio::test]
    async fn line_that_was_cut_short_is_removed() {
        let path = path("torn");
        let outbox = Arc::new(Outbox::open(&path).expect("a new file"));
        for value in 0..3 {
            outbox.store(meter(value), json!(value)).await.expect("stored");
        }
        drop(outbox);
        let whole = fs::read(&path).expect("a file");
        let last_line = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("three lines") + 1;
        for end in last_line..whole.len() {
            fs::write(&path, &whole[..end]).expect("written");
            let outbox = Arc::new(Outbox::open(&path).expect("two messages"));
            assert_eq!((values(&outbox), outbox.state()), (vec![0, 1], json!(1)), "{end}");
            outbox.store(meter(9), json!(9)).await.expect("stored");
            drop(outbox);
            assert_eq!(values(&Outbox::open(&path).expect("three messages")), [0, 1, 9]);
        }
        // After a power failure, the end of a file may be zeros.
        fs::write(&path, [&whole, &[0; 100][..]].concat()).expect("written");
        assert_eq!(values(&Outbox::open(&path).expect("three messages")), [0, 1, 2]);
        // A damaged line in the middle is no accident of a write.
        fs::write(&path, [b"{\"stored\"\n", &*whole].concat()).expect("written");
        let error = Outbox::open(&path).expect_err("damaged");
        assert!(error.to_string().contains("line 1 is damaged"), "{error}");
        fs::remove_file(path).expect("a file");
    }

    #[tokio::test]
    async fn file_has_one_owner() {
        let path = path("owner");
        let outbox = Outbox::open(&path).expect("a new file");
        let error = Outbox::open(&path).expect_err("in use");
        assert!(error.to_string().ends_with("another station uses it"), "{error}");
        drop(outbox);
        Outbox::open(&path).expect("free");
        fs::remove_file(path).expect("a file");
    }

    #[tokio::test]
    async fn file_is_compacted_and_loses_nothing() {
        let path = path("compacted");
        let outbox = Arc::new(Outbox::open(&path).expect("a new file"));
        let other = Arc::new(Outbox::open(path.with_extension("new")).expect("a new file"));
        other.store(meter(1), Value::Null).await.expect("stored");
        let id = |placeholder: &str, id: i64| Some((placeholder.to_owned(), json!(id)));
        let waiting = Message::new("StopTransaction", json!({"transactionId": "tx-new", "value": 0}));
        outbox.store(waiting, json!({"transaction": "tx-state"})).await.expect("stored");
        for (number, placeholder) in [(900_000, "tx-old"), (900_001, "tx-new"), (900_002, "tx-state")] {
            let line = Line::Done { number, id: id(placeholder, 7) };
            outbox.write(move |contents| contents.append(line)).await.expect("written");
        }
        for value in 1..600 {
            outbox.store(meter(value), outbox.state()).await.expect("stored");
            let number = outbox.contents().messages[1].0;
            outbox.write(move |contents| contents.append(Line::Done { number, id: None })).await.expect("written");
        }
        let lines = fs::read_to_string(&path).expect("a file").lines().count();
        assert!(lines < MAX_SPARE_LINES, "{lines} lines");
        outbox.store(meter(700), outbox.state()).await.expect("stored");
        assert!(Outbox::open(&path).is_err(), "the new file is locked as well");
        drop(outbox);
        let outbox = Outbox::open(&path).expect("a file");
        assert_eq!((values(&outbox), outbox.state()), (vec![0, 700], json!({"transaction": "tx-state"})));
        let ids = ["tx-new", "tx-state", "tx-old"].map(|placeholder| outbox.transaction_id(placeholder).is_some());
        assert_eq!(ids, [true, true, false]);
        let (_, next) = outbox.contents().next_message().expect("a message");
        assert_eq!(next.params["transactionId"], 7);
        drop(other);
        assert_eq!(values(&Outbox::open(path.with_extension("new")).expect("the file of another station")), [1]);
        fs::remove_file(path.with_extension("new")).expect("a file");
        fs::remove_file(path).expect("a file");
    }

    #[tokio::test]
    async fn message_whose_store_is_dropped_is_delivered() {
        let path = path("dropped");
        let outbox = Arc::new(Outbox::open(&path).expect("a new file"));
        let mut storing = Box::pin(outbox.store(meter(1), Value::Null));
        let _ = storing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(storing);
        let woken = tokio::time::timeout(Duration::from_secs(10), outbox.changed.notified());
        woken.await.expect("`deliver` sees the message");
        assert_eq!(values(&outbox), [1]);
        fs::remove_file(path).expect("a file");
    }

    #[tokio::test]
    async fn ids_of_ended_transactions_are_forgotten() {
        let outbox = Arc::new(Outbox::in_memory());
        for number in 0..100 {
            let placeholder = format!("tx-{number}");
            let start = Message::new("StartTransaction", json!({})).starts(&*placeholder);
            outbox.store(start, json!({"transaction": placeholder})).await.expect("stored");
            let accepted = Line::Done { number: 2 * number, id: Some((placeholder.clone(), json!(number))) };
            outbox.write(|contents| contents.append(accepted)).await.expect("written");
            assert_eq!(outbox.transaction_id(&placeholder), Some(json!(number)));
            let stop = Message::new("StopTransaction", json!({"transactionId": placeholder}));
            outbox.store(stop, Value::Null).await.expect("stored");
            let (number, stop) = outbox.contents().next_message().expect("a stop");
            assert_eq!(stop.params["transactionId"], number / 2);
            let accepted = Line::Done { number, id: None };
            outbox.write(move |contents| contents.append(accepted)).await.expect("written");
        }
        assert_eq!(outbox.contents().ids.len(), 1);
    }

    #[tokio::test]
    async fn updates_make_room_for_other_messages() {
        let outbox = Arc::new(Outbox::in_memory());
        for value in 0..MAX_MESSAGES as u64 {
            let message = if value == 5 || value == 0 { meter(value).update() } else { meter(value) };
            outbox.store(message, Value::Null).await.expect("stored");
        }
        // The first message may be on its way.
        outbox.store(meter(1_000_000), Value::Null).await.expect("stored");
        assert!(outbox.len() == MAX_MESSAGES && !values(&outbox).contains(&5) && values(&outbox).contains(&0));
        assert!(outbox.store(meter(0), Value::Null).await.is_err());
    }
}
