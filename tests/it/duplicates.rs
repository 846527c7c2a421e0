//! Sessions of one key: which is the newest, and what happens to the others.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    middleware::{Next, from_fn},
};
use futures_util::FutureExt;
use ocpp_rpc::{
    Accept, Handshake, Options, Reject, RpcRouter, RpcServer, Session,
    cluster::Local,
    event::EventKind,
    server::{ConnectionInfo, DuplicateIdentity, RpcServerBuilder},
};
use tokio::{
    io::{BufReader, DuplexStream},
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

use crate::{
    support::{Log, Station, dial, dial_with_buffer, echo, log_to},
    tcp::{Client, Responder, head},
};

const REPLACED: (u16, &str) = (1008, "replaced by a newer connection");

/// Builds a server whose authenticator holds requests with the query `slow` until the semaphore has a permit.
fn builder() -> (RpcServerBuilder, Arc<Notify>, Arc<Semaphore>) {
    let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (has_entered, open) = (entered.clone(), gate.clone());
    let authenticator = move |handshake: Handshake| {
        let (has_entered, open) = (has_entered.clone(), open.clone());
        async move {
            if handshake.query() == Some("slow") {
                has_entered.notify_one();
                open.acquire().await.expect("not closed").forget();
            }
            Ok::<_, Reject>(Accept::new())
        }
    };
    let options = Options::server().ping_interval(None);
    (RpcServer::builder(RpcRouter::new().on("Echo", echo)).options(options).auth(authenticator), entered, gate)
}

/// A request that waits in the authenticator, and the session of a newer request.
struct Race {
    server: RpcServer,
    gate: Arc<Semaphore>,
    older: JoinHandle<(Responder, Client<DuplexStream>)>,
    newer: Station,
    session: Session,
}

impl Race {
    async fn start(duplicate_identity: DuplicateIdentity) -> Self {
        let (builder, entered, gate) = builder();
        let server = builder.duplicate_identity(duplicate_identity).build().expect("a valid configuration");
        let mut client = Client::over(dial(&server));
        let older = tokio::spawn(async move {
            let response = client.ask(&head("/CP?slow")).await;
            (response, client)
        });
        entered.notified().await;
        let newer = enter(&server).await;
        let session = server.session("CP").expect("registered");
        Self { server, gate, older, newer, session }
    }

    /// Lets the authenticator accept the older request. Returns the response and the connection.
    async fn accept_older(&mut self) -> (Responder, Client<DuplexStream>) {
        self.gate.add_permits(1);
        (&mut self.older).await.expect("no panic")
    }

    /// Does the same, and returns the station of the older request.
    async fn open_older(&mut self) -> Station<BufReader<DuplexStream>> {
        let (response, client) = self.accept_older().await;
        client.upgraded(&response).await
    }
}

/// Connects a station whose session is open when this returns.
async fn enter(server: &RpcServer) -> Station {
    let mut station = Station::connect(server, "CP", "").await;
    serves(&mut station).await;
    station
}

async fn serves<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(station: &mut Station<S>) {
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn b21_older_request_that_is_accepted_late_does_not_replace_newer_session() {
    let mut race = Race::start(DuplicateIdentity::ReplaceOld).await;
    let mut older = race.open_older().await;
    assert_eq!(older.closed().await, (REPLACED.0, REPLACED.1.to_owned()));
    drop(older);
    let Race { server, mut newer, session, .. } = race;
    serves(&mut newer).await;
    assert_eq!(server.session("CP").expect("registered").id(), session.id());
    assert!(session.is_open() && server.sessions().len() == 1);
    newer.close(1000, "").await;
    session.closed().await;
    assert!(server.session("CP").is_none());
}

#[tokio::test(start_paused = true)]
async fn b21_older_request_whose_socket_comes_late_does_not_replace_newer_session() {
    let server = builder().0.build().expect("a valid configuration");
    // The response does not fit the buffer, so the session opens only when the client has read the response.
    let mut client = Client::over(dial_with_buffer(&server, 16));
    client.send(head("/CP")).await;
    let status = client.status().await;
    let mut newer = enter(&server).await;
    let response = client.answer_behind(status).await;
    let mut older = client.upgraded(&response).await;
    assert_eq!(older.closed().await, (REPLACED.0, REPLACED.1.to_owned()));
    serves(&mut newer).await;
}

#[tokio::test(start_paused = true)]
async fn b21_older_request_that_a_layer_holds_does_not_replace_newer_session() {
    let server = builder().0.build().expect("a valid configuration");
    let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (has_entered, open) = (entered.clone(), gate.clone());
    let hold = from_fn(move |request: Request, next: Next| {
        let (has_entered, open) = (has_entered.clone(), open.clone());
        async move {
            if request.uri().query() == Some("held") {
                has_entered.notify_one();
                open.acquire().await.expect("not closed").forget();
            }
            next.run(request).await
        }
    });
    let app = axum::Router::new().route_service("/{*identity}", server.clone()).layer(hold);
    let dial = || {
        let (near, far) = tokio::io::duplex(4096);
        let (server, app) = (server.clone(), app.clone());
        tokio::spawn(async move { server.serve_connection_with(far, ConnectionInfo::new(), app).await });
        Client::over(near)
    };
    let mut client = dial();
    client.send(head("/CP?held")).await;
    entered.notified().await;
    let mut newer = dial();
    let response = newer.ask(&head("/CP")).await;
    let mut newer = newer.upgraded(&response).await;
    serves(&mut newer).await;

    gate.add_permits(1);
    let response = client.answer().await;
    let mut older = client.upgraded(&response).await;
    assert_eq!(older.closed().await, (REPLACED.0, REPLACED.1.to_owned()));
    serves(&mut newer).await;
}

#[tokio::test(start_paused = true)]
async fn b21_older_request_opens_if_the_newer_session_has_ended() {
    let mut race = Race::start(DuplicateIdentity::ReplaceOld).await;
    race.newer.close(1000, "").await;
    race.session.closed().await;

    let mut older = race.open_older().await;
    serves(&mut older).await;
    assert!(race.server.session("CP").expect("registered").id() < race.session.id());
}

#[tokio::test(start_paused = true)]
async fn b21_lookup_returns_the_session_of_the_latest_request_if_both_are_kept() {
    let mut race = Race::start(DuplicateIdentity::AllowBoth).await;
    let mut older = race.open_older().await;
    let Race { server, mut newer, session, .. } = race;
    serves(&mut older).await;
    serves(&mut newer).await;
    assert_eq!(server.sessions().len(), 2);
    assert_eq!(server.session("CP").expect("registered").id(), session.id());
    newer.close(1000, "").await;
    session.closed().await;
    assert!(server.session("CP").expect("the older one").id() < session.id());
}

#[tokio::test(start_paused = true)]
async fn b21_older_request_is_refused_if_newcomers_are() {
    let mut race = Race::start(DuplicateIdentity::RejectNew).await;
    assert_eq!(race.accept_older().await.0.status, 409);
    serves(&mut race.newer).await;
}

#[tokio::test(start_paused = true)]
async fn b21_sessions_with_different_keys_are_independent() {
    let authenticator = async |handshake: Handshake| {
        let tenant = handshake.query().unwrap_or_default();
        Ok::<_, Reject>(Accept::new().key(format!("{tenant}/{}", handshake.identity())))
    };
    let options = Options::server().ping_interval(None);
    let server = RpcServer::builder(RpcRouter::new().on("Echo", echo)).options(options).auth(authenticator);
    let server = server.build().expect("a valid configuration");
    let mut stations = Vec::new();
    for tenant in ["a", "b"] {
        let mut station = Station::connect(&server, &format!("CP?{tenant}"), "").await;
        serves(&mut station).await;
        stations.push(station);
    }
    for key in ["a/CP", "b/CP"] {
        let session = server.session(key).expect("registered");
        assert_eq!((&*session.key(), &*session.identity()), (key, "CP"));
    }
    assert!(server.session("CP").is_none());

    let mut newer = Station::connect(&server, "CP?a", "").await;
    serves(&mut newer).await;
    let [older, other] = &mut stations[..] else { unreachable!() };
    assert_eq!(older.closed().await.0, 1008);
    serves(other).await;
    assert_eq!(server.sessions().len(), 2);
}

/// Connects stations of one identity, each of which replaces the one before, and returns the last one.
async fn replace(server: &RpcServer, times: usize) -> Station {
    let mut station = enter(server).await;
    for _ in 0..times {
        let newer = enter(server).await;
        assert_eq!(station.closed().await.0, 1008);
        station = newer;
    }
    station
}

#[tokio::test(start_paused = true)]
async fn b74_sessions_that_replace_each_other_repeatedly_are_an_event() {
    let server = builder().0.build().expect("a valid configuration");
    let mut events = server.events();
    let mut conflicts = async || {
        let mut conflicts = Vec::new();
        while let Some(Some(event)) = events.next().now_or_never() {
            if matches!(event.kind, EventKind::IdentityConflict) {
                conflicts.push((event.session_id, event.key.as_deref().map(str::to_owned)));
            }
        }
        conflicts
    };
    let station = replace(&server, 5).await;
    assert_eq!(conflicts().await, []);
    let _newest = enter(&server).await;
    drop(station);
    let newest = server.session("CP").expect("registered").id();
    assert_eq!(conflicts().await, [(Some(newest), Some("CP".to_owned()))]);
    replace(&server, 20).await;
    assert_eq!(conflicts().await, [], "at most one event in a minute");
    tokio::time::advance(Duration::from_secs(60)).await;
    replace(&server, 6).await;
    assert_eq!(conflicts().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn b74_warning_names_the_station_also_if_another_node_replaces_its_sessions() {
    let (cluster, log) = (Local::new(), Log::default());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone());
    let _logged = log_to(subscriber.with_max_level(tracing::Level::WARN).finish());
    let [a, b] = ["a", "b"].map(|name| builder().0.cluster(cluster.node(name)).build().expect("valid settings"));
    let mut stations = Vec::new();
    for _ in 0..6 {
        for server in [&a, &b] {
            stations.push(enter(server).await);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let log = log.text();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("replace each other repeatedly")).collect();
    assert!(!warnings.is_empty() && warnings.iter().all(|line| line.contains(r#"key="CP""#)), "{log}");
}

#[tokio::test(start_paused = true)]
async fn b74_newcomer_waits_if_sessions_replace_each_other_repeatedly() {
    let delay = Duration::from_secs(20);
    let server = builder().0.replacement_delay(delay).build().expect("a valid configuration");
    let mut station = replace(&server, 6).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    let refused = Client::over(dial(&server)).ask(&head("/CP")).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "15"));
    assert_eq!(refused.body, "the sessions of this identity replace each other repeatedly");
    serves(&mut station).await;
    // Other stations are not affected, and the newcomer gets in after the delay.
    serves(&mut Station::connect(&server, "other", "").await).await;
    tokio::time::advance(Duration::from_secs(15)).await;
    let _newer = enter(&server).await;
    assert_eq!(station.closed().await.0, 1008);
    assert_eq!(Client::over(dial(&server)).ask(&head("/CP")).await.status, 429);
    // A station whose session has ended replaces none.
    server.session("CP").expect("registered").close(ocpp_rpc::Close::forced()).await;
    enter(&server).await;
}

#[test]
fn b74_replacement_delay_of_zero_is_refused() {
    let built = builder().0.replacement_delay(Duration::ZERO).build();
    assert!(built.expect_err("zero").to_string().contains("replacement_delay"));
}
