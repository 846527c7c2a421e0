//! The subscriptions to requests for the stations of this node, and the sessions of all nodes.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use crate::{
    cluster::{
        directory::{Change, Part},
        epoch::{Epoch, NodeId},
        member::{Member, RETRY_INTERVAL, SEND_TIMEOUT},
        metrics,
        outbox::Target,
        transport::{Destination, SendError, Topic},
        wire::{self, Announced, Announcement, Broadcast, Control, Introduction},
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
            // Begun before the subscriptions are updated, so that each announced session is subscribed.
            let until = self.state().directory.begin_announcement(now);
            let updated = self.update_subscriptions().await;
            retry_at = updated.is_err().then(|| now + RETRY_INTERVAL);
            if let Some(until) = until
                && let Err(error) = self.announce(until).await
            {
                tracing::debug!(%error, "sessions were not announced");
                self.state().directory.not_sent(now + RETRY_INTERVAL);
            }
        }
    }

    /// Announces the sessions up to this number.
    async fn announce(&self, until: u64) -> Result<(), SendError> {
        loop {
            let part = {
                let state = self.state();
                state.directory.part(state.directory.announced(), until, self.part_bytes())
            };
            if part.sessions.is_empty() {
                return Ok(());
            }
            let until = part.until;
            let message = wire::encode(&Broadcast::Open(self.announcement(part)));
            self.send(Destination::All(None), None, message).await?;
            self.state().directory.sent(until);
        }
    }

    /// Returns the size of the sessions in one message, in bytes.
    fn part_bytes(&self) -> usize {
        self.transport.max_message_size() / 2
    }

    fn announcement(&self, Part { after, until, sessions }: Part) -> Announcement {
        Announcement { from: self.id, after, until, sessions }
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

    /// Sends sessions to a node that lacks an announcement.
    pub(super) fn on_announce(&self, to: NodeId, after: u64) {
        let part = {
            let state = self.state();
            state.directory.part(after, state.directory.announced(), self.part_bytes())
        };
        self.control(to, &Control::Open(self.announcement(part)));
    }

    /// Asks other nodes for the sessions that are missing.
    pub(super) fn ask_for_announcements(&self) {
        let asked = {
            let mut state = self.state();
            // A node without sessions lacks nothing: those to come will be announced to the others.
            if state.directory.is_empty() { Vec::new() } else { state.members.ask(Instant::now().into_std()) }
        };
        for (node, after) in asked {
            self.control(node, &Control::Announce { from: self.id, after });
        }
    }

    /// Asks the other nodes for signs of life, which show if announcements are missing.
    pub(super) fn ask_for_introductions(&self) {
        self.state().beat_due = Instant::now();
        self.post(Target::All(None), None, wire::encode(&Broadcast::Introduce { from: self.id }));
    }

    pub(super) fn introduction(&self) -> Introduction {
        let at = unix_time::millis(self.transport.now());
        let announced = self.state().directory.announced();
        // Read last, so that it includes the epochs of all sessions that were announced.
        let clock = self.clock().current();
        Introduction { from: self.id, name: (&*self.name).into(), at, clock, announced }
    }

    /// Handles a sign of life.
    pub(super) fn on_here(&self, Introduction { from, name, at, clock, announced }: &Introduction) {
        let now = self.transport.now();
        self.clock().observe(*clock, now);
        let skew = at.cast_signed().saturating_sub(unix_time::millis(now).cast_signed());
        metrics::clock_skew(skew as f64 / 1000.0);
        let mut state = self.state();
        let is_new = state.members.heard(*from, name, skew, *announced, Instant::now().into_std());
        if is_new {
            state.watching.renew();
        }
        if state.directory.is_empty() {
            state.members.needs_none(*from);
        }
        drop(state);
        self.ask_for_announcements();
        if is_new {
            tracing::info!(node = &**name, "a node joined the cluster");
            if skew.unsigned_abs() > MAX_SKEW {
                tracing::warn!(node = &**name, skew, "the clock of a node differs from this one's, in milliseconds");
            }
            self.outbox_changed.notify_one();
        }
    }

    /// Handles the announcement of sessions of another node.
    pub(super) fn on_opened(&self, Announcement { from, after, until, sessions }: Announcement) {
        self.record_moves(from, &sessions);
        self.compare(from, sessions);
        let is_missing = self.state().members.arrived(from, after, until);
        if is_missing {
            self.ask_for_announcements();
        }
    }

    /// Handles the sessions of another node that this one has asked for.
    pub(super) fn on_part(&self, Announcement { from, after, until, sessions }: Announcement) {
        self.compare(from, sessions);
        self.state().members.part(from, after, until);
        self.ask_for_announcements();
    }

    fn record_moves(&self, from: NodeId, sessions: &[Announced]) {
        let now = Instant::now().into_std();
        let mut state = self.state();
        for Announced { key, epoch, .. } in sessions {
            state.moves.record(&Arc::from(&**key), from, *epoch, now);
        }
    }

    /// Compares sessions of another node with those of this node. Closes those here that must give way, and announces those
    /// that take precedence once more.
    fn compare(&self, from: NodeId, sessions: Vec<Announced>) {
        let (home, time) = (self.home(), self.transport.now());
        let mut is_claimed = false;
        for Announced { key, epoch, over } in sessions {
            self.clock().observe(epoch, time);
            if let Some(own) = home.as_ref().and_then(|home| home.announced(&key, epoch)) {
                let mut state = self.state();
                state.moves.forget(&key);
                // If nodes have different settings for duplicates, both sessions stay. Neither is announced for ever.
                if over != Some(own) {
                    tracing::debug!(key = &*key, node = %from, "a session of another node must give way");
                    is_claimed |= state.directory.claim(&key, own, epoch, Instant::now());
                }
            }
            self.openings.notify(&key);
        }
        if is_claimed {
            self.directory_changed.notify_one();
        }
    }
}
