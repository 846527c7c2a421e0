//! Lists of the stations of all nodes.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration, vec};

use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, timeout_at},
};

use crate::{
    cluster::{
        epoch::NodeId,
        home::Home,
        listing::ListUpdate,
        member::Member,
        outbox::Target,
        wire::{self, Broadcast, Control, Page, Response},
    },
    info::StationInfo,
    session::Session,
};

/// The stations of a page, at most.
const PAGE: usize = 500;

/// The pages that may wait to be read. Each node sends one at a time.
const MAX_PAGES: usize = 4096;

/// The time that a node has for each page.
const PAGE_TIMEOUT: Duration = Duration::from_millis(800);

/// The time after a node has joined during which it may not know all others.
const JOIN_TIME: Duration = Duration::from_millis(300);

/// The connected stations of all nodes of a cluster, in pages.
///
/// ```no_run
/// # async fn example(server: ocpp_rpc::RpcServer) {
/// let mut stations = server.stations();
/// while let Some(page) = stations.next().await {
///     for station in page {
///         println!("{} is connected to {:?}", station.key, station.node);
///     }
/// }
/// println!("did not answer: {:?}", stations.missing_nodes());
/// # }
/// ```
///
/// A station that moves to another node meanwhile may be listed twice, or not at all.
pub struct Stations {
    own: Own,
    /// The text with which all keys of the list begin.
    prefix: Box<str>,
    node: Option<Arc<str>>,
    remote: Option<RemoteStations>,
    missing: Vec<(NodeId, Arc<str>)>,
}

/// The stations of this node.
enum Own {
    /// Not listed yet. `None` if this node has no server.
    Unlisted(Option<Arc<dyn Home>>),
    Listed(vec::IntoIter<Session>),
}

/// The stations of the other nodes.
struct RemoteStations {
    member: Arc<Member>,
    request: u64,
    receiver: mpsc::Receiver<ListUpdate>,
    /// The nodes that must send a page, with the moment at which they are given up.
    awaited: HashMap<NodeId, (Arc<str>, Instant)>,
    is_begun: bool,
}

impl Stations {
    /// Creates a list of the stations of this node, and of those of the other nodes of a cluster.
    pub(crate) fn new(own: Option<Arc<dyn Home>>, member: Option<&Arc<Member>>) -> Self {
        Self {
            own: Own::Unlisted(own),
            prefix: Box::default(),
            node: member.map(|member| member.name().clone()),
            remote: member.cloned().map(RemoteStations::new),
            missing: Vec::new(),
        }
    }

    /// Limits the list to the stations whose keys begin with this text, such as `acme/` for a tenant. The other nodes send
    /// no others.
    ///
    /// Call it before [`next`](Self::next).
    #[must_use]
    pub fn key_prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Returns the next stations, at most 500, in no particular order. `None` if there are no more.
    ///
    /// # Cancel safety
    ///
    /// No station is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Vec<StationInfo>> {
        if let Own::Listed(_) = self.own {
            // A reader of many pages must not hold the thread.
            yield_now().await;
        }
        if let Some(page) = self.own_page() {
            return Some(page);
        }
        self.remote.as_mut()?.next(&self.prefix, &mut self.missing).await
    }

    fn own_page(&mut self) -> Option<Vec<StationInfo>> {
        if let Own::Unlisted(home) = &self.own {
            let sessions = home.as_ref().map(|home| home.sessions()).unwrap_or_default();
            self.own = Own::Listed(sessions.into_iter());
        }
        let Own::Listed(sessions) = &mut self.own else { return None };
        let prefix = &*self.prefix;
        let listed = sessions.filter(|session| session.is_open() && session.key().starts_with(prefix)).take(PAGE);
        let page: Vec<_> = listed.map(|session| session.station_info(self.node.as_ref())).collect();
        (!page.is_empty()).then_some(page)
    }

    /// Returns the names of the nodes that have not answered so far. Their stations are not in the list, or not all of
    /// them.
    ///
    /// A node has 0.8 s to answer. One that is silent for a minute is no longer counted. While the cluster is away, all
    /// others are missing at once.
    pub fn missing_nodes(&self) -> Vec<Arc<str>> {
        self.missing.iter().map(|(_, name)| name.clone()).collect()
    }
}

impl RemoteStations {
    fn new(member: Arc<Member>) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_PAGES);
        let request = {
            let mut state = member.state();
            let request = state.next_request();
            state.lists.insert(request, sender);
            request
        };
        Self { member, request, receiver, awaited: HashMap::new(), is_begun: false }
    }

    /// Asks all nodes for their first page.
    fn begin(&mut self, prefix: &str) {
        let now = Instant::now();
        let deadline = now + PAGE_TIMEOUT;
        let (from, request) = (self.member.id, self.request);
        let mut probes = Vec::new();
        {
            let mut state = self.member.state();
            let mut nodes: Vec<_> = state.members.all(now.into_std()).collect();
            // So that a test that repeats itself sends the same messages in the same order.
            nodes.sort_unstable();
            for (node, name) in nodes {
                self.awaited.insert(node, (name, deadline));
                // Tells at once if the node is gone.
                let number = state.next_request();
                if state.owners.watch(number, node, now) {
                    probes.push((node, number));
                }
            }
        }
        let list = Broadcast::List { from, request, prefix: prefix.into() };
        self.member.post(Target::All(None), None, wire::encode(&list));
        for (node, number) in probes {
            let probe = Control::Probe { from, probe: number, requests: Vec::new() };
            self.member.post(Target::Node(node, None), Some(number), wire::encode(&probe));
        }
    }

    async fn next(&mut self, prefix: &str, missing: &mut Vec<(NodeId, Arc<str>)>) -> Option<Vec<StationInfo>> {
        if !self.is_begun {
            self.is_begun = true;
            if !self.member.transport.is_connected() {
                // Requests would wait for the broker, and all nodes would answer them when it is back.
                missing.extend(self.member.state().members.all(Instant::now().into_std()));
                return None;
            }
            self.begin(prefix);
        }
        // A node that has just joined may not have heard of all others.
        let known_by = self.member.joined_at + JOIN_TIME;
        loop {
            let first = self.awaited.values().map(|(_, deadline)| *deadline).min();
            let deadline = match first {
                Some(first) => first,
                None if Instant::now() < known_by => known_by,
                None => return None,
            };
            match timeout_at(deadline, self.receiver.recv()).await {
                Ok(Some(ListUpdate::Page(mut page))) => {
                    self.awaited.remove(&page.node);
                    missing.retain(|(node, _)| *node != page.node);
                    if let Some(last) = page.stations.last().filter(|_| page.more) {
                        let deadline = Instant::now() + PAGE_TIMEOUT;
                        self.awaited.insert(page.node, ((*page.name).into(), deadline));
                        let (from, request) = (self.member.id, self.request);
                        let (after, prefix) = (last.key.as_str().into(), prefix.into());
                        self.member.control(page.node, &Control::List { from, request, after, prefix });
                    }
                    // A node of an older release sends all of its stations.
                    page.stations.retain(|station| station.key.starts_with(prefix));
                    if !page.stations.is_empty() {
                        return Some(page.stations);
                    }
                }
                Ok(Some(ListUpdate::Lost(node))) => _ = self.awaited.remove(&node),
                Ok(None) => return None,
                Err(_) => {
                    let now = Instant::now();
                    let late = self.awaited.extract_if(|_, (_, deadline)| *deadline <= now);
                    missing.extend(late.map(|(node, (name, _))| (node, name)));
                }
            }
        }
    }
}

impl Drop for RemoteStations {
    fn drop(&mut self) {
        self.member.state().lists.remove(&self.request);
    }
}

impl Member {
    /// Sends a page of the stations of this node.
    pub(super) fn on_list(&self, from: NodeId, request: u64, after: Option<&str>, prefix: &str) {
        let home = self.home();
        let mut sessions = home.map(|home| home.sessions_after(after, prefix, PAGE + 1)).unwrap_or_default();
        let mut more = sessions.len() > PAGE;
        sessions.truncate(PAGE);
        let mut stations: Vec<_> = sessions.iter().map(|session| session.station_info(Some(&self.name))).collect();
        loop {
            let page = Page { node: self.id, name: (&*self.name).into(), stations, more };
            let message = wire::encode(&Response { page: Some(page), ..Response::default() });
            if message.len() <= self.transport.max_message_size() || sessions.len() <= 1 {
                return self.post(Target::Response(from, request, None), None, message);
            }
            more = true;
            sessions.truncate(sessions.len() / 2);
            stations = sessions.iter().map(|session| session.station_info(Some(&self.name))).collect();
        }
    }

    pub(super) fn on_page(&self, request: u64, response: Response) {
        if let Some(page) = response.page
            && let Some(list) = self.state().lists.get(&request)
        {
            let _ = list.try_send(ListUpdate::Page(page));
        }
    }

    pub(super) fn end_list_of(&self, node: NodeId) {
        for list in self.state().lists.values() {
            let _ = list.try_send(ListUpdate::Lost(node));
        }
    }
}

impl fmt::Debug for Stations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stations").field("missing", &self.missing).finish_non_exhaustive()
    }
}
