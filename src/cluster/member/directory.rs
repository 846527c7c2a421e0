//! The subscriptions to requests for the stations of this node, and the sessions of all nodes.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use crate::{
    cluster::{
        directory::Change,
        epoch::{Epoch, NodeId},
        member::{Member, RETRY_INTERVAL, SEND_TIMEOUT, Target},
        metrics,
        transport::{Destination, SendError, Topic},
        wire::{self, Announced, Broadcast, Control, Introduction},
    },
    unix_time,
};

/// The clock of another node may differ by this much without a warning, in milliseconds.
const MAX_SKEW: u64 = 10_000;

impl Member {
    /// Subscribes to the calls to a station and announces its session.
    pub(crate) fn opened(&self, key: &Arc<str>, session: u64, epoch: Epoch) {
        let mut state = self.state();
        state.moves.forget(key);
        state.directory.opened(key, session, epoch, Instant::now());
        drop(state);
        self.directory_changed.notify_one();
    }

    /// Ends the subscription of a station if it has no other session here. May be called twice.
    pub(crate) fn closed(&self, key: &Arc<str>, session: u64) {
        if self.state().directory.closed(key, session) {
            self.directory_changed.notify_one();
        }
    }

    /// Changes subscriptions and announces sessions.
    pub(super) async fn run_directory(&self) {
        let mut retry_at = None;
        loop {
            let due = self.state().directory.due().into_iter().chain(retry_at).min();
            self.wait_until(due, &self.directory_changed).await;
            if !self.transport.is_connected() {
                continue;
            }
            let now = Instant::now();
            // Taken before the subscriptions are updated, so that each announced session is subscribed.
            let sessions = self.state().directory.take_opens(now);
            let updated = self.update_subscriptions().await;
            retry_at = updated.is_err().then(|| now + RETRY_INTERVAL);
            for sessions in self.chunks(sessions) {
                let opens = self.state().directory.next_open();
                self.broadcast(&Broadcast::Open { from: self.id, opens, sessions }).await;
            }
        }
    }

    /// Subscribes to the stations that have a session here, and ends the subscriptions of the others.
    async fn update_subscriptions(&self) -> Result<(), SendError> {
        let dirty = self.state().directory.take_dirty();
        let mut updated = Ok(());
        for key in dirty {
            loop {
                let Some(change) = self.state().directory.next_change(&key) else { break };
                let topic = Topic::Station(&key);
                let changing = match change {
                    Change::Subscribe => self.transport.subscribe(topic),
                    Change::Unsubscribe => self.transport.unsubscribe(topic),
                };
                let changed = match updated {
                    Ok(()) => timeout(SEND_TIMEOUT, changing).await.unwrap_or(Err(SendError::Disconnected)),
                    // The broker is away: the others would fail as well.
                    Err(error) => Err(error),
                };
                if let Err(error) = changed {
                    tracing::debug!(%error, key = &*key, "cannot change a subscription");
                    self.state().directory.not_changed(key.clone());
                    updated = Err(error);
                    break;
                }
                self.state().directory.changed(&key, change);
            }
        }
        updated
    }

    /// Divides announcements into messages that are not too large.
    fn chunks(&self, sessions: Vec<Announced>) -> Vec<Vec<Announced>> {
        let max = self.transport.max_message_size() / 2;
        let (mut chunks, mut left) = (Vec::<Vec<Announced>>::new(), 0);
        for session in sessions {
            // A key takes up to six bytes per byte if all of them are escaped.
            let size = 6 * session.key.len() + 64;
            match chunks.last_mut() {
                Some(chunk) if left >= size => chunk.push(session),
                _ => {
                    chunks.push(vec![session]);
                    left = max;
                }
            }
            left = left.saturating_sub(size);
        }
        chunks
    }

    /// Sends all sessions to a node that lacks an announcement.
    pub(super) fn announce_all(self: &Arc<Self>, to: NodeId) {
        let Some(home) = self.home() else { return };
        let member = self.clone();
        let announce = async move {
            // Before the sessions are read, so that they include the announcements up to it.
            let opens = member.state().directory.sent_opens();
            let chunks = member.chunks(home.announcements());
            let (from, parts) = (member.id, chunks.len() as u64);
            let parts_to_send = (0..).zip(chunks).map(|(part, sessions)| Control::Open { from, part, sessions });
            for message in parts_to_send.chain([Control::Complete { from, parts, opens }]) {
                if member.send(Destination::Node(to, None), None, wire::encode(&message)).await.is_err() {
                    return;
                }
            }
        };
        self.spawn(announce);
    }

    /// Asks the other nodes for signs of life, which show if announcements are missing.
    pub(super) fn ask_for_introductions(&self) {
        self.state().beat_due = Instant::now();
        self.post(Target::All(None), None, wire::encode(&Broadcast::Introduce { from: self.id }));
    }

    pub(super) fn introduction(&self) -> Introduction {
        let at = unix_time::millis(self.transport.now());
        let clock = self.clock().current();
        let opens = self.state().directory.sent_opens();
        Introduction { from: self.id, name: (&*self.name).into(), at, clock, opens }
    }

    /// Handles a sign of life.
    pub(super) fn on_here(&self, Introduction { from, name, at, clock, opens }: &Introduction) {
        let now = self.transport.now();
        self.clock().observe(*clock, now);
        let skew = at.cast_signed().saturating_sub(unix_time::millis(now).cast_signed());
        metrics::clock_skew(skew as f64 / 1000.0);
        let mut state = self.state();
        let is_new = state.members.heard(*from, name, skew, *opens, Instant::now().into_std());
        if is_new {
            state.watching.renew();
        }
        // A node without sessions lacks nothing: the clock orders those to come.
        let asks = state.members.is_missing(*from) && !state.directory.is_empty();
        drop(state);
        if asks {
            self.control(*from, &Control::Announce { from: self.id });
        }
        if is_new {
            tracing::info!(node = &**name, "a node joined the cluster");
            if skew.unsigned_abs() > MAX_SKEW {
                tracing::warn!(node = &**name, skew, "the clock of a node differs from this one's, in milliseconds");
            }
            self.outbox_changed.notify_one();
        }
    }

    /// Handles the announcement of sessions that have opened at another node.
    pub(super) fn on_opened(&self, from: NodeId, opens: u64, sessions: Vec<Announced>) {
        let mut state = self.state();
        let asks = state.members.opened(from, opens) && !state.directory.is_empty();
        drop(state);
        if asks {
            self.control(from, &Control::Announce { from: self.id });
        }
        self.record_moves(from, &sessions);
        self.claim(from, sessions);
    }

    /// Handles a part of the list of all sessions of another node.
    pub(super) fn on_part(&self, from: NodeId, part: u64, sessions: Vec<Announced>) {
        self.claim(from, sessions);
        self.state().members.part(from, part);
    }

    /// Handles the sessions of another node that take precedence over those of this one.
    pub(super) fn on_claim(&self, from: NodeId, sessions: Vec<Announced>) {
        self.record_moves(from, &sessions);
        self.compare(from, sessions);
    }

    fn record_moves(&self, from: NodeId, sessions: &[Announced]) {
        let now = Instant::now().into_std();
        let mut state = self.state();
        for Announced { key, epoch } in sessions {
            state.moves.record(&Arc::from(&**key), from, *epoch, now);
        }
    }

    /// Compares sessions with those of this node, and tells the other node of those that take precedence.
    fn claim(&self, from: NodeId, sessions: Vec<Announced>) {
        let claims = self.compare(from, sessions);
        if !claims.is_empty() {
            self.control(from, &Control::Claim { from: self.id, sessions: claims });
        }
    }

    /// Compares sessions of another node with those of this node, and closes those that must give way. Returns the
    /// sessions here that take precedence.
    fn compare(&self, from: NodeId, sessions: Vec<Announced>) -> Vec<Announced> {
        let (home, time) = (self.home(), self.transport.now());
        let mut claims = Vec::new();
        for Announced { key, epoch } in sessions {
            self.clock().observe(epoch, time);
            if let Some(claim) = home.as_ref().and_then(|home| home.announced(&key, epoch)) {
                self.state().moves.forget(&key);
                tracing::debug!(key = &*key, node = %from, "a session of another node must give way");
                claims.push(Announced { key: key.clone(), epoch: claim });
            }
            self.openings.notify(&key);
        }
        claims
    }
}
