//! The recorded messages of stations, which a console of this server keeps.

use std::{
    fmt,
    sync::{Mutex, PoisonError, Weak},
};

use crate::message::payload::Payload;

/// Records the messages of the stations of a server.
pub(crate) trait History: Send + Sync + 'static {
    /// Returns the recorded messages of a station: the newest that fit into `max_bytes` bytes of JSON. `None` if there
    /// are none.
    ///
    /// `query` is what the console that asks has sent, perhaps one of another release at another node.
    fn recorded(&self, key: &str, query: &Payload, max_bytes: usize) -> Option<Payload>;
}

/// The recordings of a server. It has one for each console that is mounted.
#[derive(Default)]
pub(crate) struct Histories(Mutex<Vec<Weak<dyn History>>>);

impl Histories {
    /// Adds a recording, which takes precedence over the earlier ones until it is dropped.
    #[cfg_attr(not(feature = "console"), allow(dead_code, reason = "only the console uses it"))]
    pub(crate) fn add(&self, history: Weak<dyn History>) {
        let mut histories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histories.retain(|history| history.strong_count() > 0);
        histories.push(history);
    }

    /// Returns true if this recording takes precedence over all others.
    #[cfg(feature = "console")]
    pub(crate) fn is_latest(&self, history: &Weak<dyn History>) -> bool {
        let histories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = histories.iter().rev().find(|history| history.strong_count() > 0);
        latest.is_some_and(|latest| latest.ptr_eq(history))
    }

    /// Returns the recorded messages of a station, see [`History::recorded`].
    pub(crate) fn recorded(&self, key: &str, query: &Payload, max_bytes: usize) -> Option<Payload> {
        // Not under the lock, because it takes some time.
        let histories = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut histories = histories.iter().rev().filter_map(Weak::upgrade);
        histories.find_map(|history| history.recorded(key, query, max_bytes))
    }
}

impl fmt::Debug for Histories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histories").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use serde_json::json;
    use tokio::time::{Instant, sleep};
    use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::client::IntoClientRequest};

    use super::*;
    use crate::{Error, RpcRouter, RpcServer, cluster::Local, info::ConnectionInfo};

    /// A recording that names its node, and repeats the key and the query.
    struct Recording {
        node: &'static str,
        only: Option<&'static str>,
    }

    impl History for Recording {
        fn recorded(&self, key: &str, query: &Payload, max_bytes: usize) -> Option<Payload> {
            let is_recorded = self.only.is_none_or(|only| only == key);
            let text = json!({"node": self.node, "key": key, "query": query, "max_bytes": max_bytes});
            is_recorded.then(|| Payload::encode(&text).expect("an object"))
        }
    }

    fn node(cluster: &Local, name: &str) -> RpcServer {
        let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(cluster.node(name));
        server.build().expect("valid settings")
    }

    fn record(server: &RpcServer, node: &'static str, only: Option<&'static str>) -> Arc<dyn History> {
        let history: Arc<dyn History> = Arc::new(Recording { node, only });
        server.add_history(Arc::downgrade(&history));
        history
    }

    async fn connect(server: &RpcServer, identity: &str) -> WebSocketStream<tokio::io::DuplexStream> {
        let (near, far) = tokio::io::duplex(4096);
        let server = server.clone();
        tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await });
        let mut request = format!("ws://test/{identity}").into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", "ocpp1.6".parse().expect("a value"));
        let (station, _) = client_async(request, near).await.expect("accepted");
        sleep(Duration::from_millis(50)).await;
        station
    }

    /// Returns the node that answers and the whole answer.
    async fn recorded(server: &RpcServer, key: &str) -> Result<Option<serde_json::Value>, Error> {
        let query = Payload::encode(&json!({"limit": 3})).expect("an object");
        let recorded = server.recorded(&key.into(), query).await?;
        Ok(recorded.map(|recorded| recorded.decode().expect("JSON")))
    }

    #[tokio::test(start_paused = true)]
    async fn recorded_messages_come_from_the_node_of_the_station() {
        let cluster = Local::new();
        cluster.set_max_message_size(5000);
        let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
        let (_of_a, of_b) = (record(&a, "a", None), record(&b, "b", None));
        let station = connect(&b, "CP-1").await;
        let from_b = recorded(&a, "CP-1").await.expect("reachable").expect("recorded");
        // The response is an object with one more member.
        let expected = json!({"node": "b", "key": "CP-1", "query": {"limit": 3}, "max_bytes": 5000 - 13});
        assert_eq!(from_b, expected);
        assert_eq!(recorded(&b, "CP-1").await.expect("here").expect("recorded")["node"], "b");

        // The other node has no console any more.
        drop(of_b);
        assert_eq!(recorded(&a, "CP-1").await.expect("reachable").expect("recorded")["node"], "a");
        // The station is gone, and this node still has its messages.
        drop(station);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(recorded(&a, "CP-1").await.expect("not connected").expect("recorded")["node"], "a");
        assert_eq!(recorded(&b, "CP-1").await.expect("not connected"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn node_that_cannot_be_asked_is_an_error_unless_its_messages_are_here() {
        let cluster = Local::new();
        let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
        let (_of_a, _of_b) = (record(&a, "a", Some("CP-1")), record(&b, "b", None));
        let _stations = [connect(&b, "CP-1").await, connect(&b, "CP-2").await];
        cluster.set_loss(1.0);
        let start = Instant::now();
        let lost = recorded(&a, "CP-2").await;
        assert!(matches!(lost, Err(Error::Timeout | Error::Disconnected { .. })), "{lost:?}");
        assert!(start.elapsed() <= Duration::from_secs(2));
        assert_eq!(recorded(&a, "CP-1").await.expect("here").expect("recorded")["node"], "a");
        cluster.disconnect("a");
        assert!(matches!(recorded(&a, "CP-2").await, Err(Error::Unreachable)));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_exceed_the_size_of_a_message_are_an_error() {
        struct Endless;
        impl History for Endless {
            fn recorded(&self, _: &str, _: &Payload, max_bytes: usize) -> Option<Payload> {
                Payload::encode(&json!({"text": "x".repeat(max_bytes)})).ok()
            }
        }
        let cluster = Local::new();
        let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
        let history: Arc<dyn History> = Arc::new(Endless);
        b.add_history(Arc::downgrade(&history));
        let _station = connect(&b, "CP-1").await;
        let outcome = recorded(&a, "CP-1").await;
        assert!(matches!(outcome, Err(Error::TooLarge { .. })), "{outcome:?}");
    }
}
