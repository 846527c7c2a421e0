//! Permissions of NATS for nodes, for processes that serve an API, and for those of one tenant.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream::select_all};
use ocpp_rpc::{Close, Error, client::Reconnect, cluster::EventFilter};
use ocpp_rpc_nats::{Nats, async_nats};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    broker::{Broker, TIMEOUT, pinned},
    node::{Node, Station, connect, start},
};

const CONFIG: &str = include_str!("nats.conf");

/// A cluster of two nodes, with a station of each tenant.
async fn cluster() -> (Broker, [Node; 2], [Station; 2]) {
    let broker = Broker::start_with(pinned(), CONFIG).await;
    let url = broker.url_of("node");
    let nodes = [start(connect(&url, "a").await).await, start(connect(&url, "b").await).await];
    let mut stations = Vec::new();
    for identity in ["acme~CP-1", "umbrella~CP-1"] {
        stations.push(Station::connect_with(&nodes[1].endpoint(), identity, "ocpp2.1", Reconnect::never()).await);
        nodes[0].finds(&identity.replace('~', "/")).await;
    }
    (broker, nodes, stations.try_into().ok().expect("two"))
}

async fn tenant(broker: &Broker, name: &str) -> Nats {
    connect(&broker.url_of(name), "api").await.tenant(name)
}

/// A client with the rights of this user, which does not keep to the protocol.
async fn client(broker: &Broker, user: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned());
    options.connect(broker.url()).await.expect("NATS is there")
}

#[tokio::test]
async fn tenant_calls_its_own_stations_and_no_others() {
    let (broker, [a, _b], [own, other]) = cluster().await;
    let acme = tenant(&broker, "acme").await;
    let station = acme.station("acme/CP-1");
    let info = station.connected(TIMEOUT).await.expect("connected");
    assert_eq!((&*info.key, info.node.as_deref()), ("acme/CP-1", Some("b")));
    let echo: Value = station.call("Echo", &json!({"n": 1})).await.expect("a result");
    assert_eq!(echo, json!({"n": 1}));
    let unknown = acme.station("acme/CP-2").call::<Value>("Echo", &()).await;
    assert!(matches!(unknown, Err(Error::NotConnected)), "{unknown:?}");

    // A call that takes longer than the time after which its node is probed.
    let mut in_flight = station.call::<Value>("Wait", &()).timeout(None);
    assert!((&mut in_flight).now_or_never().is_none());
    own.receives(2).await;
    let mut cancelled = station.call::<Value>("Echo", &json!({"n": 2}));
    assert!((&mut cancelled).now_or_never().is_none());
    sleep(Duration::from_millis(50)).await;
    drop(cancelled);
    assert!(timeout(Duration::from_secs(3), &mut in_flight).await.is_err(), "the node is alive");
    own.release(1);
    in_flight.await.expect("a result");
    let undecodable = station.call::<u8>("Echo", &json!({"n": 3})).await;
    assert!(matches!(undecodable, Err(Error::Decode(_))), "{undecodable:?}");
    assert_eq!([1, 2, 3].map(|number| own.echoed(number)), [1, 0, 1]);

    // NATS refuses the call, which therefore fails at once.
    let start = Instant::now();
    for key in ["umbrella/CP-1", "umbrella/CP-2", "CP-1", "acme", "acme//CP-1"] {
        let call = acme.station(key).call::<Value>("Echo", &()).await;
        assert!(matches!(call, Err(Error::Unreachable)), "{key}: {call:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(matches!(acme.station("umbrella/CP-1").close(Close::normal()).await, Err(Error::Unreachable)));
    assert_eq!(other.received(), 0);
    a.call("umbrella/CP-1", "Echo").await.expect("a node may call all");
    assert_eq!(other.received(), 1);
    assert!(acme.stations().next().await.is_none(), "a tenant lists nothing");
}

#[tokio::test]
async fn tenant_hears_its_own_stations_and_no_others() {
    let (broker, [a, b], [_own, _other]) = cluster().await;
    let acme = tenant(&broker, "acme").await;
    let mut events = acme.events(EventFilter::all());
    let mut calls = acme.events(EventFilter::all().key("acme/CP-1").kinds(["call"]));
    let mut foreign = acme.events(EventFilter::all().key("umbrella/CP-1"));

    // A client with the rights of the tenant that subscribes to everything that could be of use.
    let spy = client(&broker, "acme").await;
    let mut heard = Vec::new();
    for subject in [
        ">",
        "ocpp.v1.>",
        "ocpp.v1.all",
        "ocpp.v1.all.>",
        "ocpp.v1.s.>",
        "ocpp.v1.s.umbrella.>",
        "ocpp.v1.s.acme.>",
        "ocpp.v1.n.>",
        "ocpp.v1.n.*.>",
        "ocpp.v1.n.*.s.>",
        "ocpp.v1.n.*.do",
        "ocpp.v1.n.*.do.>",
        "ocpp.v1.n.*.re.>",
        "ocpp.v1.n.*.re.*",
        "ocpp.v1.n.*.re.*.umbrella.>",
        "ocpp.v1.n.*.re.*.*.>",
        "ocpp.v1.ev.>",
        "ocpp.v1.ev.umbrella.>",
        "_INBOX.>",
    ] {
        heard.push(spy.subscribe(subject).await.expect("sent"));
    }
    spy.flush().await.expect("flushed");
    sleep(Duration::from_millis(300)).await;

    let umbrella = tenant(&broker, "umbrella").await;
    for _ in 0..3 {
        umbrella.station("umbrella/CP-1").call::<Value>("Echo", &()).await.expect("a result");
        a.call("umbrella/CP-1", "Echo").await.expect("a result");
        b.call("umbrella/CP-1", "Echo").await.expect("a result");
    }
    let third = Station::connect(&a.endpoint(), "umbrella~CP-3").await;
    third.client.close(Close::normal()).await;
    a.call("acme/CP-1", "Echo").await.expect("a result");
    let fourth = Station::connect(&a.endpoint(), "acme~CP-4").await;
    let opened = timeout(TIMEOUT, events.next()).await.expect("an event").expect("an event");
    assert_eq!(opened.key.as_deref().map(|key| key.starts_with("acme/")), Some(true), "{opened:?}");
    let call = timeout(TIMEOUT, calls.next()).await.expect("an event").expect("an event");
    assert_eq!((&*call.kind, call.key.as_deref()), ("call", Some("acme/CP-1")));
    assert!(timeout(Duration::from_millis(200), foreign.next()).await.is_err());
    drop(fourth);
    let mut heard = select_all(heard);
    while let Some(Some(message)) = heard.next().now_or_never() {
        assert!(!String::from_utf8_lossy(&message.payload).contains("umbrella"), "{message:?}");
        assert!(!message.subject.contains("umbrella"), "{message:?}");
    }
}

#[tokio::test]
async fn tenant_cannot_reach_a_station_of_another_through_its_own_subjects() {
    let (broker, [_a, b], [own, other]) = cluster().await;
    let session = b.server.session("umbrella/CP-1").expect("connected").id();
    let spy = client(&broker, "acme").await;
    let mut replies = spy.subscribe("ocpp.v1.n.*.re.*.acme.>").await.expect("subscribed");
    let (reply, expires) = ("ocpp.v1.n.0123456789abcdef.re.1.acme.x", u64::MAX >> 1);
    let epoch = "f".repeat(32);
    for key in ["umbrella/CP-1", "acme/CP-1"] {
        let call = json!({"key": key, "mode": "call", "expires": expires, "action": "Echo", "params": {}});
        spy.publish_with_reply("ocpp.v1.s.acme.CP-1", reply, call.to_string().into()).await.expect("published");
    }
    let message = timeout(TIMEOUT, replies.next()).await.expect("a reply").expect("a reply");
    assert!(message.payload.starts_with(br#"{"result":{}"#), "{message:?}");
    let sessions = json!([{"key": "umbrella/CP-1", "epoch": epoch}, {"key": "acme/CP-1", "epoch": epoch}]);
    for message in [
        json!({"open": {"from": "0123456789abcdef", "after": 0, "until": 2, "sessions": sessions}}),
        json!({"leaving": {"from": "0123456789abcdef"}}),
        json!({"watch": {"from": "0123456789abcdef", "watch": 1, "filter": {}, "lease": 10_000}}),
    ] {
        for subject in ["ocpp.v1.all", "ocpp.v1.all.acme.CP-1", "ocpp.v1.n.0123456789abcdef.do.acme.CP-1"] {
            spy.publish(subject, message.to_string().into()).await.expect("published");
        }
    }
    spy.flush().await.expect("flushed");
    sleep(Duration::from_millis(200)).await;
    assert_eq!((own.received(), other.received()), (1, 0));
    assert_eq!(b.server.session("umbrella/CP-1").expect("connected").id(), session);
    assert!(own.client.session().is_open() && other.client.session().is_open());
}

#[tokio::test]
async fn process_that_serves_an_api_calls_all_and_answers_for_none() {
    let (broker, [a, _b], [own, other]) = cluster().await;
    let api = connect(&broker.url_of("api"), "api").await;
    let mut events = api.events(EventFilter::all().kinds(["opened"]));
    for key in ["acme/CP-1", "umbrella/CP-1"] {
        api.station(key).call::<Value>("Echo", &()).await.expect("a result");
    }
    let mut stations = api.stations();
    assert_eq!(stations.next().await.map(|page| page.len()), Some(2));
    sleep(Duration::from_millis(100)).await;
    let _late = Station::connect(&a.endpoint(), "CP-9").await;
    timeout(TIMEOUT, events.next()).await.expect("an event").expect("an event");

    let spy = client(&broker, "api").await;
    let mut stolen = spy.queue_subscribe("ocpp.v1.s.>", "s".to_owned()).await.expect("sent");
    spy.flush().await.expect("flushed");
    sleep(Duration::from_millis(100)).await;
    // This process has not heard that the station has connected, and calls it at whichever node is subscribed.
    let late = connect(&broker.url_of("node"), "late").await.station("acme/CP-1");
    for _ in 0..20 {
        late.call::<Value>("Echo", &()).await.expect("a result");
    }
    assert!(stolen.next().now_or_never().is_none());
    assert_eq!((own.received(), other.received()), (21, 1));
}
