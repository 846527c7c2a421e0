//! Tenants: the key of a session in calls, lists, events and the log. The recipe of the guide is an example.

use axum::{
    Router,
    body::{Body, to_bytes},
};
use futures_util::FutureExt;
use http::{Request, StatusCode, header};
use ocpp_rpc::{
    Accept, Handshake, Reject, RpcRouter, RpcServer,
    client::ConnectError,
    cluster::{EventFilter, Local, NodeEvent},
    testing::Station,
};
use serde_json::Value;
use tokio::time::sleep;
use tower::ServiceExt;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::support::{Log, SECOND, log_to};

#[path = "../../examples/tenants.rs"]
#[allow(dead_code, reason = "its main function is not used")]
mod example;

/// Connects a station of a tenant.
async fn enter(server: &RpcServer, path: &str, password: &str) -> Result<Station, ConnectError> {
    Station::builder(server, "CP-1").protocols(["ocpp1.6"]).path(path).password(password).connect().await
}

/// Makes a REST request with a token.
async fn ask(app: &Router, method: &str, path: &str, token: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
    let response = app.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("infallible");
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn b103_stations_of_two_tenants_with_one_identity_both_connect() {
    let (server, _app) = example::app().expect("valid settings");
    let acme = enter(&server, "/ocpp/acme", "secret").await.expect("accepted");
    let globex = enter(&server, "/ocpp/globex", "hidden").await.expect("accepted");
    let mut keys: Vec<_> = server.sessions().iter().map(|session| session.key().to_string()).collect();
    keys.sort();
    assert_eq!(keys, ["acme/CP-1", "globex/CP-1"]);
    assert!(acme.session().is_open() && globex.session().is_open(), "neither replaces the other");

    // A password is of one tenant. Slashes and escapes do not lead to another one.
    for (path, password, status) in [
        ("/ocpp/acme", "hidden", 401),
        ("/acme", "secret", 404),
        ("/ocpp/initech", "secret", 404),
        ("/ocpp", "secret", 404),
        ("/ocpp/acme%2Fglobex", "hidden", 404),
        ("/ocpp/globex/acme", "secret", 404),
    ] {
        let refused = enter(&server, path, password).await.expect_err("refused");
        assert_eq!(refused.status().map(|status| status.as_u16()), Some(status), "{path}");
    }
    assert!(enter(&server, "/ocpp//acme/", "secret").await.is_ok(), "surplus slashes are tolerated");
}

#[tokio::test(start_paused = true)]
async fn b103_rest_caller_reaches_the_stations_of_its_tenant_alone() {
    let (server, app) = example::app().expect("valid settings");
    let mut globex = enter(&server, "/ocpp/globex", "hidden").await.expect("accepted");
    let (resetting, ()) = tokio::join!(ask(&app, "POST", "/api/stations/CP-1/reset", "token-of-globex"), async {
        globex.expect_call("Reset").await.respond(&serde_json::json!({"status": "Accepted"})).await;
    });
    assert_eq!(resetting, (StatusCode::OK, serde_json::json!({"status": "Accepted"})));

    // The other tenant has no connected station, whatever the path says.
    for identity in ["CP-1", "globex%2FCP-1", "..%2Fglobex%2FCP-1"] {
        let path = format!("/api/stations/{identity}/reset");
        let (status, error) = ask(&app, "POST", &path, "token-of-acme").await;
        assert_eq!(
            (status, &error["error"]),
            (StatusCode::SERVICE_UNAVAILABLE, &Value::from("not_connected")),
            "{path}"
        );
    }
    assert_eq!(ask(&app, "POST", "/api/stations/CP-1/reset", "guessed").await.0, StatusCode::UNAUTHORIZED);
    assert!(globex.next_call().now_or_never().is_none());

    let listed = async |token| {
        let (_, stations) = ask(&app, "GET", "/api/stations", token).await;
        stations.as_array().expect("a list").iter().map(|station| station["key"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed("token-of-globex").await, ["\"globex/CP-1\""]);
    assert!(listed("token-of-acme").await.is_empty());
}

/// Returns a node of a cluster whose keys begin with the endpoint.
fn node(cluster: &Local, name: &str) -> RpcServer {
    let accept = async |handshake: Handshake| {
        let tenant = handshake.endpoint().trim_start_matches('/');
        Ok::<_, Reject>(Accept::new().key(format!("{tenant}/{}", handshake.identity())))
    };
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).auth(accept);
    server.cluster(cluster.node(name)).build().expect("valid settings")
}

#[tokio::test(start_paused = true)]
async fn b103_lists_and_events_can_be_of_one_tenant_in_a_cluster() {
    let cluster = Local::new();
    let [a, b] = ["a", "b"].map(|name| node(&cluster, name));
    let mut of_acme = a.events_everywhere(EventFilter::all().key_prefix("acme/")).expect("a cluster");
    sleep(SECOND).await;
    let mut stations = Vec::new();
    for (server, path) in [(&a, "/acme"), (&b, "/acme-2"), (&b, "/acme")] {
        stations.push(enter(server, path, "").await.expect("accepted"));
    }
    // More than a page of another tenant, at this node and at the other one.
    for number in 0..600 {
        let server = if number < 520 { &b } else { &a };
        let of_other = Station::builder(server, &format!("CP-{number}")).protocols(["ocpp1.6"]).path("/globex");
        stations.push(of_other.connect().await.expect("accepted"));
    }
    for station in &stations[..3] {
        station.call::<Value>("Heartbeat", &()).await.expect_err("no handler");
    }
    sleep(SECOND).await;

    for (prefix, expected) in [
        ("acme/", vec![("acme/CP-1", "a"), ("acme/CP-1", "b")]),
        ("acme", vec![("acme-2/CP-1", "b"), ("acme/CP-1", "a"), ("acme/CP-1", "b")]),
        ("initech/", vec![]),
    ] {
        let mut list = a.stations().key_prefix(prefix);
        let mut listed = Vec::new();
        while let Some(page) = list.next().await {
            listed.extend(page.into_iter().map(|station| (station.key, station.node.expect("a node"))));
        }
        listed.sort();
        // The newer session of `acme/CP-1` has replaced the one at the other node.
        let expected: Vec<_> = expected.into_iter().filter(|station| *station != ("acme/CP-1", "a")).collect();
        let listed: Vec<_> = listed.iter().map(|(key, node)| (&**key, &**node)).collect();
        assert_eq!(listed, expected, "{prefix}");
    }
    let mut of_globex = a.stations().key_prefix("globex/");
    let mut count = 0;
    while let Some(page) = of_globex.next().await {
        count += page.len();
    }
    assert_eq!(count, 600);

    let events: Vec<NodeEvent> = std::iter::from_fn(|| of_acme.next().now_or_never().flatten()).collect();
    assert!(events.iter().all(|event| event.key.as_deref() == Some("acme/CP-1")), "{events:?}");
    let kinds: Vec<_> = events.iter().map(|event| format!("{} {}", event.node, event.kind)).collect();
    for expected in ["a opened", "b opened", "a closed", "b call"] {
        assert!(kinds.iter().any(|kind| kind == expected), "{expected}: {kinds:?}");
    }
}

#[cfg(feature = "console")]
#[tokio::test(start_paused = true)]
async fn b103_console_finds_stations_by_key_and_by_identity() {
    let (server, _app) = example::app().expect("valid settings");
    let _acme = enter(&server, "/ocpp/acme", "secret").await.expect("accepted");
    let _globex = enter(&server, "/ocpp/globex", "hidden").await.expect("accepted");
    let console = ocpp_rpc::console::Console::new(&server).router();
    for (search, expected) in [("globex", 1), ("cp-1", 2), ("initech", 0)] {
        let (_, page) = ask(&console, "GET", &format!("/api/stations?search={search}"), "").await;
        let stations = page["stations"].as_array().expect("a list");
        assert_eq!(stations.len(), expected, "{search}: {page}");
        assert!(stations.iter().all(|station| station["identity"] == "CP-1"), "{page}");
    }
}

#[tokio::test(start_paused = true)]
async fn b103_spans_name_the_key_if_it_is_not_the_identity() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_span_events(FmtSpan::CLOSE).with_writer(log.clone());
    let _logged = log_to(subscriber.with_max_level(tracing::Level::TRACE).finish());
    let (server, _app) = example::app().expect("valid settings");
    let mut station = enter(&server, "/ocpp/acme", "secret").await.expect("accepted");
    let session = server.session("acme/CP-1").expect("registered");
    let of_key = server.station("acme/CP-1");
    for call in [session.call::<Value>("Reset", &()), of_key.call("Reset", &())] {
        let (result, ()) =
            tokio::join!(call, async { station.next_call().await.respond(&serde_json::json!({})).await });
        result.expect("a result");
    }
    let log = log.text();
    for span in [
        r#"connection{identity="CP-1" key="acme/CP-1" protocol="ocpp1.6"}"#,
        r#"call{direction="out" identity="CP-1" key="acme/CP-1" action="Reset""#,
        r#"call{direction="out" key="acme/CP-1" action="Reset""#,
    ] {
        assert!(log.contains(span), "{span}: {log}");
    }
}
