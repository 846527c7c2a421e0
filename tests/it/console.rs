//! The console: its page, its data, its bounds, and requests of other sites.

use std::time::Duration;

use axum::{Router, body::Body, response::Response};
use futures_util::FutureExt;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use ocpp_rpc::{
    Close, Mask, RpcRouter, RpcServer,
    cluster::{Local, Received},
    console::Console,
    extract::Params,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use crate::{
    support::{SECOND, Station, connected, echo, server},
    tapped::Tapped,
};

/// The time after which the recorder has recorded everything that happened.
const RECORDED: Duration = Duration::from_millis(1);

async fn send(router: &Router, request: Request<Body>) -> Response {
    router.clone().oneshot(request).await.expect("infallible")
}

async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("UTF-8")
}

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "test");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).expect("a request")
}

/// Requests JSON, after the recorder has recorded what happened.
async fn get(router: &Router, path: &str) -> (StatusCode, Value) {
    sleep(RECORDED).await;
    let response = send(router, request(Method::GET, path, &[])).await;
    let status = response.status();
    let text = text(response).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Does the same for a request that must succeed.
async fn read(router: &Router, path: &str) -> Value {
    let (status, body) = get(router, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

/// Returns the messages of a station, without their numbers and times.
async fn messages(router: &Router, path: &str) -> Vec<Value> {
    let mut body = read(router, path).await;
    let messages = body["messages"].as_array_mut().expect("a list");
    messages
        .iter_mut()
        .map(|message| {
            let message = message.as_object_mut().expect("an object");
            message.retain(|name, value| !["seq", "at", "seconds"].contains(&&**name) && !value.is_null());
            Value::Object(std::mem::take(message))
        })
        .collect()
}

/// A stream of server-sent events.
struct Live {
    body: Body,
    text: String,
}

impl Live {
    async fn open(router: &Router, query: &str) -> Self {
        Self::open_with(router, query, &[]).await
    }

    async fn open_with(router: &Router, query: &str, headers: &[(&str, &str)]) -> Self {
        let response = send(router, request(Method::GET, &format!("/api/live{query}"), headers)).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body(), text: String::new() }
    }

    /// Waits for the next event. `None` if the stream has ended.
    async fn next(&mut self) -> Option<(String, Value, Option<String>)> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
                };
                let parsed = field("event").map(|name| {
                    let data = serde_json::from_str(&field("data").expect("data")).expect("JSON");
                    (name, data, field("id"))
                });
                self.text = rest.to_owned();
                if parsed.is_some() {
                    return parsed;
                }
            }
            let frame = self.body.frame().await?.expect("no error").into_data().expect("data");
            self.text.push_str(str::from_utf8(&frame).expect("UTF-8"));
        }
    }

    /// Waits for the next event of this name.
    async fn find(&mut self, name: &str) -> Value {
        self.find_with_id(name).await.0
    }

    async fn find_with_id(&mut self, name: &str) -> (Value, Option<String>) {
        let found = timeout(60 * SECOND, async {
            loop {
                let (event, data, id) = self.next().await.expect("the stream has ended");
                if event == name {
                    return (data, id);
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no event {name}"))
    }
}

fn console(server: &RpcServer) -> Router {
    Console::new(server).router()
}

#[tokio::test(start_paused = true)]
async fn b94_console_is_found_at_every_prefix() {
    let server = server(RpcRouter::new());
    let app = Router::new()
        .nest_service("/console", console(&server))
        .nest("/admin/tools", console(&server))
        .nest("/slash/", console(&server));
    for (path, target) in [
        ("/console/", None),
        ("/console/index.html", None),
        ("/console", Some("./console/index.html")),
        ("/admin/tools", Some("./tools/index.html")),
        ("/admin/tools/index.html", None),
        ("/slash/", None),
        // The target of the redirect, if a layer has removed the slash of `/console/`.
        ("/console/console/index.html", Some("../index.html")),
    ] {
        let response = send(&app, request(Method::GET, path, &[])).await;
        match target {
            Some(target) => {
                assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT, "{path}");
                assert_eq!(response.headers()["location"], target);
            }
            None => {
                assert_eq!(response.status(), StatusCode::OK, "{path}");
                assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
                assert!(text(response).await.contains("<!doctype html>"));
            }
        }
    }
    for prefix in ["/console", "/admin/tools", "/slash"] {
        assert_eq!(read(&app, &format!("{prefix}/api/overview")).await["calls_allowed"], false);
        let (status, body) = get(&app, &format!("{prefix}/api/nothing")).await;
        assert_eq!((status, &body["error"]), (StatusCode::NOT_FOUND, &json!("no such path")), "{prefix}");
    }
    // Below a parameter of the application.
    let router = Console::new(&server).allow_calls(true).allow_close(true).router();
    let tenants = Router::new().nest("/{key}/console", router);
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    assert!(station.ask(r#"[2,"1","Unknown",{}]"#).await.starts_with("[4,"));
    let path = "/acme/console/api/stations/CP-1";
    assert_eq!(read(&tenants, path).await["station"]["key"], "CP-1");
    assert_eq!(messages(&tenants, &format!("{path}/messages")).await.len(), 3);
    assert_eq!(get(&tenants, &format!("{path}/messages.jsonl?limit=1")).await.1["type"], "error");
    for action in ["calls/Reset", "close"] {
        let (status, body) = post(&tenants, &format!("/acme/console/api/stations/CP-2/{action}"), "{}").await;
        assert!(body["maybe_delivered"] == false || body["pointer"].is_string(), "{status} {body}");
    }
    // At the root, and behind a layer of the application.
    let denied = async |_: axum::extract::Request| StatusCode::UNAUTHORIZED;
    let layer = axum::middleware::from_fn(move |request, _| denied(request));
    let root = Router::new().route("/other", axum::routing::get(async || "other")).merge(console(&server).layer(layer));
    assert_eq!(get(&root, "/").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&root, "/api/stations").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&root, "/other").await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn b94_every_response_restricts_what_the_page_may_do() {
    let server = server(RpcRouter::new());
    let router = console(&server);
    for path in ["/", "/index.html", "/nothing", "/api/overview", "/api/nothing", "/api/stations/unknown"] {
        let response = send(&router, request(Method::GET, path, &[])).await;
        let policy = response.headers()["content-security-policy"].to_str().expect("text");
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"), "{policy}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(response.headers()["referrer-policy"], "no-referrer", "{path}");
        let is_stored = response.headers().get(header::CACHE_CONTROL).is_none_or(|value| value != "no-store");
        assert_eq!(is_stored, !path.starts_with("/api/"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn b94_errors_of_the_api_are_json() {
    let server = server(RpcRouter::new());
    let router = console(&server);
    let json_type = ("content-type", "application/json");
    for (method, path, status) in [
        (Method::POST, "/api/overview", StatusCode::METHOD_NOT_ALLOWED),
        (Method::DELETE, "/api/stations/CP-1", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/api/stations/%FF", StatusCode::BAD_REQUEST),
        (Method::GET, "/api/stations?limit=x", StatusCode::BAD_REQUEST),
    ] {
        let response = send(&router, request(method, path, &[json_type])).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        assert_eq!(response.headers().contains_key("allow"), status == StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let body: Value = serde_json::from_str(&text(response).await).expect("JSON");
        assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{path}: {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn b95_console_that_is_not_mounted_records_nothing() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let unmounted = Console::new(&server);
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    station.ask(r#"[2,"1","Echo",{"before":1}]"#).await;
    let router = unmounted.router();
    station.ask(r#"[2,"2","Echo",{"after":1}]"#).await;
    let sequence = messages(&router, "/api/stations/CP-1/messages").await;
    assert_eq!(sequence[0]["payload"], json!({"after": 1}));
    assert_eq!(sequence.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn b95_messages_beyond_the_bounds_are_dropped_and_counted() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let router = Console::new(&server).max_messages_per_station(3).router();
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    for number in 0..5 {
        station.ask(format!(r#"[2,"{number}","Echo",{{"number":{number}}}]"#)).await;
    }
    let body = read(&router, "/api/stations/CP-1/messages").await;
    let ids: Vec<&Value> = body["messages"].as_array().expect("a list").iter().map(|message| &message["id"]).collect();
    assert_eq!(ids, ["3", "4", "4"]);
    // One opened, and ten messages.
    assert_eq!(body["forgotten"], 8);
    assert_eq!(read(&router, "/api/stations/CP-1").await["messages"], 3);

    // The station that has been silent for the longest time goes first.
    let router = Console::new(&server).max_bytes(64 * 1024).router();
    let large = "x".repeat(13_000);
    let mut stations = Vec::new();
    for name in ["A", "B", "C", "A", "D"] {
        let mut station = Station::connect(&server, name, "ocpp1.6").await;
        station.ask(format!(r#"[2,"1","Unknown",{{"text":"{large}"}}]"#)).await;
        stations.push(station);
        sleep(RECORDED).await;
    }
    for (name, is_recorded) in [("A", true), ("B", false), ("C", true), ("D", true)] {
        let (_, body) = get(&router, &format!("/api/stations/{name}")).await;
        assert_eq!(body["is_recorded"], is_recorded, "{name}");
    }
    let recorded = &read(&router, "/api/overview").await["totals"]["recorded"];
    assert_eq!((&recorded["stations"], &recorded["max_bytes"]), (&json!(3), &json!(65536)));
    assert!((52_000..65_536).contains(&recorded["bytes"].as_u64().expect("a number")), "{recorded}");
}

#[tokio::test(start_paused = true)]
async fn b95_bounds_below_16_kib_record_nothing() {
    let server = server(RpcRouter::new());
    let bounded = |per_station: usize, all: usize| {
        Console::new(&server).max_bytes_per_station(per_station).max_bytes(all).router()
    };
    let (least, most) = (16 * 1024, 1 << 20);
    let routers = [
        (bounded(least, most), 3),
        (bounded(most, least), 3),
        (bounded(least - 1, most), 0),
        (bounded(most, least - 1), 0),
    ];
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    station.ask(r#"[2,"1","Unknown",{}]"#).await;
    for (place, (router, count)) in routers.iter().enumerate() {
        let recorded = messages(router, "/api/stations/CP-1/messages").await;
        assert_eq!(recorded.len(), *count, "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn b95_message_over_the_bound_has_no_payload() {
    let server = server(RpcRouter::new());
    let router = Console::new(&server).max_bytes_per_station(32 * 1024).router();
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    station.ask(format!(r#"[2,"1","Unknown",{{"text":"{}"}}]"#, "x".repeat(40_000))).await;
    let sequence = messages(&router, "/api/stations/CP-1/messages").await;
    let expected = json!({
        "type": "call", "direction": "in", "id": "1", "action": "Unknown",
        "description": "40011 bytes, too many to record",
    });
    assert_eq!(sequence[1], expected);
}

#[tokio::test(start_paused = true)]
async fn b95_lost_events_are_counted() {
    let server = server(RpcRouter::new());
    let router = console(&server);
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    sleep(RECORDED).await;
    // Refusals are events at once, so the recorder cannot read in between.
    for _ in 0..5000 {
        let refused = server.clone().oneshot(Request::get("/").body(Body::empty()).expect("a request"));
        refused.now_or_never().expect("no wait").expect("infallible");
    }
    let totals = &read(&router, "/api/overview").await["totals"];
    let lost = totals["lost_events"].as_u64().expect("a number");
    assert!(lost >= 5000 - 4096, "{totals}");
    assert_eq!(totals["refusals"], json!([[400, 5000 - lost]]));
    // A message of any station may be lost: the next one leaves out a number.
    assert!(station.ask(r#"[2,"1","Unknown",{}]"#).await.starts_with("[4,"));
    let body = read(&router, "/api/stations/CP-1/messages").await;
    let seqs = [0, 1, 2].map(|place| body["messages"][place]["seq"].as_u64().expect("a number"));
    assert_eq!((seqs[1] - seqs[0], seqs[2] - seqs[1], &body["forgotten"]), (2, 1, &json!(1)));
    station.close(1000, "").await;
}

#[tokio::test(start_paused = true)]
async fn b95_recording_ends_with_the_router_and_with_the_server() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let without_console = tasks();
    let router = console(&server);
    let clone = router.clone();
    drop(router);
    station.ask(r#"[2,"1","Echo",{}]"#).await;
    assert_eq!(messages(&clone, "/api/stations/CP-1/messages").await.len(), 2);
    assert_eq!(tasks(), without_console + 1);
    drop(clone);
    sleep(RECORDED).await;
    assert_eq!(tasks(), without_console);

    let router = console(&server);
    let (closed, _) = tokio::join!(server.close(Close::going_away()), station.closed());
    assert_eq!(closed.clean, 1);
    assert!(!session.is_open());
    let last = messages(&router, "/api/stations/CP-1/messages").await;
    assert_eq!(last, [json!({"type": "closed", "code": "1001", "description": "local"})]);
}

#[tokio::test(start_paused = true)]
async fn b96_overview_counts_what_happens() {
    let (router, gate) = crate::support::gated();
    let server = server(router);
    let router = console(&server);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    sleep(Duration::from_millis(300)).await;
    gate.add_permits(1);
    station.receive().await;
    assert!(station.ask(r#"[2,"2","Unknown",{}]"#).await.starts_with("[4,"));
    station.send("[2]").await;
    station.send("").await;
    let call = session.call::<Value>("Reset", &()).timeout(SECOND / 10);
    // This one waits for the first, and is never sent.
    let never_sent = session.call::<Value>("Reset", &()).total_timeout(SECOND / 20);
    let (call, never_sent) = tokio::join!(call, never_sent);
    assert!(call.expect_err("no response").is_timeout() && never_sent.expect_err("no response").is_timeout());
    sleep(SECOND).await;

    let overview = read(&router, "/api/overview").await;
    let totals = &overview["totals"];
    assert_eq!(overview["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(overview["node"], Value::Null);
    assert_eq!(overview["nodes"], json!([{"name": null, "is_this": true, "stations": 1}]));
    assert_eq!((&overview["missing_nodes"], &overview["close_allowed"]), (&json!([]), &json!(false)));
    for (name, count) in [("stations", 1), ("calls_in", 2), ("calls_out", 1), ("bad_messages", 1), ("errors", 3)] {
        assert_eq!(totals[name], count, "{name}: {totals}");
    }
    assert_eq!(totals["deviations"], json!([["empty_message", 1]]));
    let latency = &totals["latency"];
    // Calls that no handler took, and those without a response, have no time.
    assert_eq!((&latency["in"]["calls"], &latency["out"]["calls"]), (&json!(1), &json!(0)));
    // The call is in the bucket from 250 to 500 ms.
    for name in ["p50", "p99"] {
        let time = latency["in"][name].as_f64().expect("a time");
        assert!((0.25..0.5).contains(&time), "{latency}");
    }
    let point = overview["points"].as_array().expect("a list").first().expect("a second has passed").clone();
    assert_eq!((&point["stations"], &point["calls_in"], &point["calls_out"]), (&json!(1), &json!(2), &json!(1)));

    station.close(1000, "").await;
    station.closed().await;
    sleep(2 * SECOND).await;
    let overview = read(&router, "/api/overview").await;
    assert_eq!(overview["totals"]["closes"], json!([["remote", 1]]));
    assert_eq!(overview["nodes"][0]["stations"], 0);
    // Five minutes are kept.
    sleep(400 * SECOND).await;
    let overview = read(&router, "/api/overview").await;
    assert_eq!(overview["points"].as_array().map(Vec::len), Some(300));
    assert_eq!(overview["totals"]["latency"]["in"], json!({"calls": 0, "p50": null, "p99": null}));
    assert_eq!(overview["totals"]["calls_in"], 2);
}

#[tokio::test(start_paused = true)]
async fn b96_stream_has_points_refusals_and_messages() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let router = console(&server);
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    let mut other = Station::connect(&server, "CP-2", "ocpp1.6").await;
    let mut live = Live::open(&router, "?station=CP-1").await;
    let point = live.find("point").await;
    assert_eq!((&point["point"]["stations"], &point["nodes"][0]["stations"]), (&json!(2), &json!(2)));
    assert_eq!(point["totals"]["stations"], 2);

    // Messages and refusals come at once, not with the next point.
    let start = Instant::now();
    other.ask(r#"[2,"other","Echo",{}]"#).await;
    station.ask(r#"[2,"1","Echo",{"a":1}]"#).await;
    let (call, id) = live.find_with_id("message").await;
    assert_eq!((&call["type"], &call["id"], &call["payload"]), (&json!("call"), &json!("1"), &json!({"a": 1})));
    assert_eq!(id, Some(call["seq"].to_string()));
    assert_eq!(live.find("message").await["type"], "result");

    let headers = [("authorization", "Basic c2VjcmV0OnNlY3JldA=="), ("user-agent", "ACME/1")];
    let refused = request(Method::GET, "/ocpp/CP-3?token=secret", &headers);
    let refused = server.clone().oneshot(refused).await.expect("infallible");
    let handshake = live.find("handshake").await;
    assert!(start.elapsed() < SECOND / 2, "{:?}", start.elapsed());
    assert_eq!(handshake["status"], refused.status().as_u16());
    assert_eq!((&handshake["request"]["authorization"], &handshake["seq"]), (&json!("Basic"), &json!(1)));
    assert_eq!((&handshake["request"]["path"], &handshake["node"]), (&json!("/ocpp/CP-3"), &Value::Null));
    let listed = read(&router, "/api/handshakes").await;
    assert_eq!(listed["handshakes"], json!([handshake]));

    // A reader that connects again loses nothing, and gets nothing twice.
    drop(live);
    station.ask(r#"[2,"2","Echo",{}]"#).await;
    let after = format!("?station=CP-1&after={}", call["seq"]);
    let mut live = Live::open(&router, &after).await;
    assert_eq!(live.find("message").await["type"], "result");
    assert_eq!(live.find("message").await["id"], "2");
    let last = live.find_with_id("message").await.1.expect("an id");
    station.ask(r#"[2,"3","Echo",{}]"#).await;
    let mut live = Live::open_with(&router, &after, &[("last-event-id", &last)]).await;
    assert_eq!(live.find("message").await["id"], "3");
    assert_eq!(live.find("station").await["key"], "CP-1");
    station.close(1000, "").await;
    station.closed().await;
    assert_eq!(live.find("station").await, Value::Null);
}

#[tokio::test(start_paused = true)]
async fn b96_slow_reader_of_a_stream_learns_what_it_lost() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let router = Console::new(&server).max_messages_per_station(10).router();
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    let mut live = Live::open(&router, "?station=CP-1").await;
    live.find("station").await;
    for number in 0..20 {
        station.ask(format!(r#"[2,"{number}","Echo",{{}}]"#)).await;
    }
    sleep(RECORDED).await;
    assert_eq!(live.find("lost").await, json!({"events": 30}));
    assert_eq!(live.find("message").await["id"], "15");

    // The page knows numbers of another process, whose clock was ahead, or from before all messages were dropped.
    for (after, lost, oldest) in [("9007199254740991", 32, "15"), ("1", 34, "16")] {
        let mut live = Live::open(&router, &format!("?station=CP-1&after={after}")).await;
        assert_eq!(live.find("lost").await, json!({"events": lost}), "{after}");
        assert_eq!(live.find("message").await["id"], oldest, "{after}");
        station.ask(r#"[2,"20","Echo",{}]"#).await;
        while live.find("message").await["id"] != "20" {}
    }
}

#[tokio::test(start_paused = true)]
async fn b96_streams_end_when_the_server_closes_and_are_limited() {
    let server = server(RpcRouter::new());
    let router = console(&server);
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(Live::open(&router, "").await);
    }
    let (status, body) = get(&router, "/api/live").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    streams.pop();
    let mut live = Live::open(&router, "").await;
    let (_station, session) = connected(&server, "ocpp1.6").await;
    // The close waits for the call, and the stream does not.
    let call = session.call::<Value>("Reset", &());
    let mut closing = Box::pin(server.close(Close::going_away().drain(10 * SECOND)));
    let ended = async { while live.next().await.is_some() {} };
    let newcomer = async {
        ended.await;
        get(&router, "/api/live").await
    };
    let (_, newcomer, _) = tokio::join!(call, timeout(SECOND, newcomer), &mut closing);
    let closes = (StatusCode::SERVICE_UNAVAILABLE, json!({"error": "the server closes"}));
    assert_eq!(newcomer.expect("the stream ends"), closes);
}

#[tokio::test(start_paused = true)]
async fn b97_stations_are_searched_sorted_and_paged() {
    let server = server(RpcRouter::new());
    let router = console(&server);
    let mut stations = Vec::new();
    for (name, protocol) in [("b-1", "ocpp1.6"), ("A-2", "ocpp2.0.1"), ("a%2F3", "ocpp1.6")] {
        stations.push(Station::connect(&server, name, protocol).await);
        sleep(RECORDED).await;
    }
    // Long enough for the first ping.
    sleep(31 * SECOND).await;
    let keys = async |query: &str| {
        let page = read(&router, &format!("/api/stations{query}")).await;
        let keys = page["stations"].as_array().expect("a list").iter().map(|station| station["key"].clone());
        (keys.collect::<Vec<_>>(), page["matched"].clone(), page["total"].clone())
    };
    assert_eq!(keys("").await.0, ["A-2", "a/3", "b-1"]);
    assert_eq!(keys("?order=desc").await.0, ["b-1", "a/3", "A-2"]);
    assert_eq!(keys("?sort=protocol&order=desc").await.0, ["A-2", "a/3", "b-1"]);
    assert!(stations[0].ask(r#"[2,"1","Unknown",{}]"#).await.starts_with("[4,"));
    sleep(SECOND).await;
    assert_eq!(keys("?sort=errors&order=desc").await.0, ["b-1", "A-2", "a/3"]);
    assert_eq!(keys("?sort=ping&order=desc").await.0, ["b-1", "A-2", "a/3"], "a station without a ping is last");
    assert_eq!(keys("?search=A").await, (vec![json!("A-2"), json!("a/3")], json!(2), json!(3)));
    assert_eq!(keys("?search=OCPP2").await.0, ["A-2"]);
    assert_eq!(keys("?offset=1&limit=1").await, (vec![json!("a/3")], json!(3), json!(3)));
    let station = read(&router, "/api/stations/a%2F3").await;
    assert_eq!((&station["station"]["identity"], &station["is_recorded"]), (&json!("a/3"), &json!(true)));
    assert_eq!(station["station"]["protocol"], "ocpp1.6");
    for query in ["?sort=color", "?order=up", "?limit=-1", "?offset=x"] {
        let (status, body) = get(&router, &format!("/api/stations{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(body["error"].is_string(), "{query}: {body}");
    }
    // The list is shared for a second.
    stations.push(Station::connect(&server, "new", "ocpp1.6").await);
    sleep(SECOND).await;
    assert_eq!(keys("").await.0.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn b97_station_has_its_messages_as_a_sequence() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let router = console(&server);
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    station.ask(r#"[2,"1","Echo",{"a":1.50}]"#).await;
    station.ask(r#"[2,"2","Unknown",{}]"#).await;
    station.send(r#"[6,"3","NotifyPeriodicEventStream",{}]"#).await;
    station.ask(r#"[2,"4",5,{}]"#).await;
    station.send("").await;
    let reset = session.call::<Value>("Reset", &json!({"type": "Immediate"})).id("own");
    let (_, response) = tokio::join!(reset, async {
        station.receive_call().await;
        station.send(r#"[4,"own","NotSupported","no relay",{"relay":1}]"#).await;
    });
    let () = response;
    let late = session.call::<Value>("Reset", &()).id("late").timeout(SECOND);
    assert!(late.await.expect_err("no response").is_timeout());
    station.close(4000, "bye").await;
    session.closed().await;

    let sequence = messages(&router, "/api/stations/CP-1/messages").await;
    let expected = [
        json!({"type": "opened", "description": "ocpp2.1"}),
        json!({"type": "call", "direction": "in", "id": "1", "action": "Echo", "payload": {"a": 1.5}}),
        json!({"type": "result", "direction": "out", "id": "1", "action": "Echo", "payload": {"a": 1.5}}),
        json!({"type": "call", "direction": "in", "id": "2", "action": "Unknown", "payload": {}}),
        json!({
            "type": "error", "direction": "out", "id": "2", "action": "Unknown", "code": "NotImplemented",
            "description": "no handler for Unknown",
        }),
        json!({"type": "send", "direction": "in", "id": "3", "action": "NotifyPeriodicEventStream", "payload": {}}),
    ];
    for (place, expected) in expected.iter().enumerate() {
        assert_eq!(sequence[place], *expected, "{place}");
    }
    let types: Vec<_> = sequence.iter().map(|message| message["type"].as_str().expect("a type")).collect();
    assert_eq!(types[6..], ["bad", "error", "deviation", "call", "error", "call", "failed", "closed"], "{sequence:#?}");
    assert_eq!(sequence[6]["text"], r#"[2,"4",5,{}]"#);
    assert_eq!(sequence[6]["id"], "4");
    assert_eq!(sequence[8]["code"], "empty_message");
    let rejected = json!({
        "type": "error", "direction": "in", "id": "own", "action": "Reset", "code": "NotSupported",
        "description": "no relay", "payload": {"relay": 1},
    });
    assert_eq!(sequence[10], rejected);
    assert_eq!(sequence[12]["id"], "late");
    assert!(sequence[12]["description"].as_str().expect("a text").contains("no response in time"));
    assert_eq!(sequence[13], json!({"type": "closed", "code": "4000", "description": "remote: bye"}));

    let body = read(&router, "/api/stations/CP-1/messages?action=Echo&limit=1").await;
    let message = &body["messages"][0];
    assert_eq!((&message["type"], body["messages"].as_array().map(Vec::len)), (&json!("result"), Some(1)));
    assert!(message["seconds"].as_f64().is_some_and(|seconds| (0.0..1.0).contains(&seconds)), "{message}");
    let whole = read(&router, "/api/stations/CP-1/messages").await;
    let seqs: Vec<_> = whole["messages"].as_array().expect("a list").iter().map(|m| m["seq"].as_u64()).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0].map(|seq| seq + 1)), "{seqs:?}");
    assert!(whole["messages"][0]["at"].as_u64().is_some_and(|at| at > 1_700_000_000_000));
}

#[tokio::test(start_paused = true)]
async fn b97_messages_are_downloaded_as_json_lines() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let router = console(&server);
    let mut station = Station::connect(&server, "..%2F%22a", "ocpp1.6").await;
    station.ask("[2,\"1\",\"Echo\",{\"a\":1,\r\n\"b\":2}]").await;
    sleep(RECORDED).await;
    let response = send(&router, request(Method::GET, "/api/stations/..%2F%22a/messages.jsonl", &[])).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-disposition"], "attachment; filename=\"_.__a.jsonl\"");
    let text = text(response).await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1]["payload"], json!({"a": 1, "b": 2}));
    let (status, body) = get(&router, "/api/stations/unknown").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("unknown")), "{body}");
    assert_eq!(read(&router, "/api/stations/unknown/messages").await["messages"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn b98_requests_of_other_sites_are_refused() {
    let server = server(RpcRouter::new());
    let router = Console::new(&server).allow_calls(true).allow_close(true).router();
    let get = |headers: &'static [(&str, &str)]| send(&router, request(Method::GET, "/api/overview", headers));
    for (headers, status) in [
        (&[][..], 200),
        (&[("sec-fetch-site", "same-origin")], 200),
        (&[("sec-fetch-site", "none")], 200),
        (&[("sec-fetch-site", "same-site")], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "cross-site"), ("origin", "http://test")], 403),
        (&[("origin", "http://test")], 200),
        (&[("origin", "https://TEST:443")], 200),
        (&[("origin", "http://test:8080")], 403),
        (&[("origin", "http://evil.example")], 403),
        (&[("origin", "null")], 403),
    ] {
        assert_eq!(get(headers).await.status(), status, "{headers:?}");
    }
    // A proxy that does not pass on the port is known by both.
    let error = text(get(&[("origin", "http://test:8080")]).await).await;
    assert!(error.contains("http://test:8080") && error.contains(r#"host is \"test\""#), "{error}");
    // The page itself may be opened by a link.
    let response = send(&router, request(Method::GET, "/", &[("sec-fetch-site", "cross-site")])).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn b98_requests_to_other_hosts_are_refused() {
    let server = server(RpcRouter::new());
    let router = Console::new(&server).hosts(["Console.example", "[::1]", "127.0.0.1"]).router();
    for (host, uri, status) in [
        (Some("console.example"), "/api/overview", 200),
        (Some("CONSOLE.example.:8080"), "/", 200),
        (Some("[::1]:9220"), "/", 200),
        (Some("127.0.0.1"), "/console.css", 200),
        (None, "http://console.example/api/overview", 200),
        (Some("evil.example"), "/api/overview", 421),
        (Some("evil.example:9220"), "/", 421),
        (Some("console.example.evil.example"), "/console.css", 421),
        (Some("127.0.0.2"), "/api/nothing", 421),
        (Some("console.example"), "http://evil.example/api/overview", 421),
        (Some("evil.example"), "http://console.example/api/overview", 421),
        (Some(""), "/api/overview", 421),
        (None, "/api/overview", 421),
    ] {
        let request = Request::builder().uri(uri);
        let request = host.into_iter().fold(request, |request, host| request.header("host", host));
        let response = send(&router, request.body(Body::empty()).expect("a request")).await;
        assert_eq!(response.status(), status, "{host:?} {uri}");
        assert!(response.headers().contains_key("content-security-policy"));
        if status == 421 {
            let body: Value = serde_json::from_str(&text(response).await).expect("JSON");
            let error = body["error"].as_str().expect("a text");
            assert!(error.contains(host.unwrap_or("Host header")) || uri.contains("evil"), "{error}");
        }
    }
    // A page that another site has loaded by its own name is of the same site for the browser.
    let headers = [("sec-fetch-site", "same-origin"), ("content-type", "application/json")];
    let response = send(&router, request(Method::POST, RESET, &headers)).await;
    assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn b98_tokens_never_appear() {
    const TOKEN: &str = "C0FFEE42";
    async fn reject(_: Params<Value>) -> Result<Value, ocpp_rpc::CallError> {
        Err(ocpp_rpc::CallError::new(ocpp_rpc::ErrorCode::SECURITY_ERROR, format!("{TOKEN} is unknown")))
    }
    let server = RpcServer::builder(RpcRouter::new().on("Echo", echo).on("Authorize", reject))
        .protocols(["ocpp2.1"])
        .mask(Mask::new().name("vin"))
        .build()
        .expect("a valid configuration");
    let router = Console::new(&server).max_bytes_per_station(32 * 1024).allow_calls(true).router();
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let mut live = Live::open(&router, "?station=CP-1").await;
    station.ask(format!(r#"[2,"1","Echo",{{"idTag":"{TOKEN}","vin":"{TOKEN}","other":1}}]"#)).await;
    station.ask(format!(r#"[2,"2","Authorize",{{"idTag":"{TOKEN}"}}]"#)).await;
    station.ask(format!(r#"[2,"3",{{"idTag":"{TOKEN}"}}"#)).await;
    let call = session.call::<Value>("RemoteStartTransaction", &json!({"idTag": TOKEN})).timeout(SECOND);
    call.await.expect_err("no response");
    station.receive_call().await;
    // A result that the caller cannot read.
    let call = session.call::<std::collections::HashMap<String, u32>>("GetReport", &json!({}));
    let (error, ()) = tokio::join!(call, async {
        let (id, _) = station.receive_call().await;
        station.send(format!(r#"[3,"{id}",{{"idTag":"{TOKEN}"}}]"#)).await;
    });
    assert!(error.expect_err("not a number").to_string().contains(TOKEN));
    assert!(station.receive().await.starts_with("[5,"));
    // Errors of the peer: without the id of the call, and with details.
    for response in [
        format!(r#"[4,"-1","X","unknown tag {TOKEN}",{{}}]"#),
        format!(r#"[4,"ID","X","unknown tag {TOKEN}",{{"message":"unknown tag {TOKEN}"}}]"#),
    ] {
        let path = "/api/stations/CP-1/calls/com.example.Start";
        let body = format!(r#"{{"idTag":"{TOKEN}"}}"#);
        let ((_, rejected), ()) = tokio::join!(post(&router, path, &body), async {
            let (id, _) = station.receive_call().await;
            station.send(response.replace("ID", &id)).await;
        });
        assert_eq!(rejected["description"], "unknown tag ***", "{rejected}");
        assert!(!rejected.to_string().contains(TOKEN), "{rejected}");
    }
    // A token in JSON inside of a string, and one in a message that is too large to record.
    station.ask(format!(r#"[2,"4","Authorize",{{"data":"{{\"idTag\":\"{TOKEN}\"}}"}}]"#)).await;
    station.ask(format!(r#"[2,"5","Authorize",{{"idTag":"{TOKEN}","x":"{}"}}]"#, "x".repeat(40_000))).await;
    sleep(RECORDED).await;

    let path = "/api/stations/CP-1/messages";
    let sequence = messages(&router, path).await;
    assert_eq!(sequence[1]["payload"], json!({"idTag": "***", "vin": "***", "other": 1}));
    assert_eq!(sequence[4]["description"], "*** is unknown");
    let errors: Vec<_> = sequence
        .iter()
        .skip(5)
        .filter(|message| {
            ["error", "result_error", "failed"].iter().any(|kind| message["type"] == **kind) && message["id"] != "3"
        })
        .map(|message| message["description"].as_str().unwrap_or_default())
        .collect();
    assert!(errors.iter().any(|text| text.contains("string \"***\"")), "{errors:#?}");
    let not_shown = "not shown: the message that it is about is not recorded";
    assert!(errors.ends_with(&["unknown tag ***", "unknown tag ***", "*** is unknown", not_shown]), "{errors:#?}");
    for path in [path, "/api/stations/CP-1/messages.jsonl", "/api/overview", "/api/stations", "/api/handshakes"] {
        let response = text(send(&router, request(Method::GET, path, &[])).await).await;
        assert!(!response.contains(TOKEN), "{path}: {response}");
    }
    let mut seen = 0;
    while let Ok(Some((_, data, _))) = timeout(SECOND / 2, live.next()).await {
        assert!(!data.to_string().contains(TOKEN), "{data}");
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

/// Sends a POST request as the page does.
async fn post(router: &Router, path: &str, body: &str) -> (StatusCode, Value) {
    let headers = [("content-type", "application/json"), ("sec-fetch-site", "same-origin")];
    let mut request = request(Method::POST, path, &headers);
    *request.body_mut() = Body::from(body.to_owned());
    let response = send(router, request).await;
    let status = response.status();
    let text = text(response).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

const RESET: &str = "/api/stations/CP-1/calls/Reset";

#[tokio::test(start_paused = true)]
async fn b99_console_only_reads_by_default() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for (router, call, close) in [
        (console(&server), StatusCode::FORBIDDEN, StatusCode::FORBIDDEN),
        (Console::new(&server).allow_calls(true).router(), StatusCode::NOT_FOUND, StatusCode::FORBIDDEN),
        (Console::new(&server).allow_close(true).router(), StatusCode::FORBIDDEN, StatusCode::NOT_FOUND),
    ] {
        let (status, body) = post(&router, "/api/stations/unknown/calls/Reset", r#"{"type":"Soft"}"#).await;
        assert_eq!(status, call, "{body}");
        let (status, body) = post(&router, "/api/stations/unknown/close", "{}").await;
        assert_eq!(status, close, "{body}");
    }
    let router = console(&server);
    let (status, body) = post(&router, RESET, r#"{"type":"Soft"}"#).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("allow_calls")), "{body}");
    assert_eq!(post(&router, "/api/stations/CP-1/close", "{}").await.0, StatusCode::FORBIDDEN);
    assert!(session.is_open());
    station.silent().await;
}

#[tokio::test(start_paused = true)]
async fn b99_call_of_the_page_has_its_result_error_or_failure() {
    let server = server(RpcRouter::new());
    let router = Console::new(&server).allow_calls(true).router();
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = async |station: &mut Station, response: &str| {
        let respond = async {
            let (id, call) = station.receive_call().await;
            assert_eq!(call, json!(["Reset", {"type": "Soft"}]));
            sleep(SECOND / 4).await;
            station.send(response.replace("ID", &id)).await;
        };
        tokio::join!(post(&router, RESET, r#"{"type":"Soft"}"#), respond).0
    };
    let (status, body) = call(&mut station, r#"[3,"ID",{"status":"Accepted","idTag":"C0FFEE"}]"#).await;
    let expected = json!({"outcome": "result", "result": {"status": "Accepted", "idTag": "***"}, "seconds": 0.25});
    assert_eq!((status, without_fractions(body)), (StatusCode::OK, expected));
    let (status, body) = call(&mut station, r#"[4,"ID","NotSupported","no relay",{"idTag":"C0FFEE"}]"#).await;
    let expected = json!({
        "outcome": "error", "code": "NotSupported", "description": "no relay", "details": {"idTag": "***"},
        "seconds": 0.25,
    });
    assert_eq!((status, without_fractions(body)), (StatusCode::OK, expected));

    // Without a response.
    let (result, _) = tokio::join!(post(&router, RESET, r#"{"type":"Soft"}"#), station.receive_call());
    assert_eq!((result.0, &result.1["maybe_delivered"]), (StatusCode::GATEWAY_TIMEOUT, &json!(true)));
    let (status, body) = post(&router, "/api/stations/CP-2/calls/Reset", r#"{"type":"Soft"}"#).await;
    assert_eq!((status, &body["maybe_delivered"]), (StatusCode::NOT_FOUND, &json!(false)), "{body}");

    // A browser that goes away.
    {
        let mut leaving = Box::pin(post(&router, RESET, r#"{"type":"Soft"}"#));
        assert!((&mut leaving).now_or_never().is_none());
        let mut queued = Box::pin(post(&router, RESET, r#"{"type":"Hard"}"#));
        assert!((&mut queued).now_or_never().is_none());
        station.receive_call().await;
        assert_eq!((session.in_flight(), session.queued()), (1, 1));
    }
    station.silent().await;
    assert_eq!((session.in_flight(), session.queued()), (0, 0));
}

/// Rounds `seconds` to hundredths.
fn without_fractions(mut body: Value) -> Value {
    if let Some(seconds) = body["seconds"].as_f64() {
        body["seconds"] = json!((seconds * 100.0).round() / 100.0);
    }
    body
}

#[tokio::test(start_paused = true)]
async fn b99_invalid_calls_are_errors_and_nothing_is_sent() {
    let server = server(RpcRouter::new());
    let router = Console::new(&server).allow_calls(true).allow_close(true).router();
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    for (body, status, error) in [
        ("", StatusCode::BAD_REQUEST, "cannot read the body: "),
        ("{", StatusCode::BAD_REQUEST, "cannot read the body: "),
        ("[]", StatusCode::BAD_REQUEST, "not a JSON object"),
        (&"x".repeat(65 << 10), StatusCode::PAYLOAD_TOO_LARGE, ""),
    ] {
        let (actual, body) = post(&router, RESET, body).await;
        assert_eq!(actual, status, "{body}");
        assert!(body["error"].as_str().is_some_and(|text| text.contains(error)), "{body}");
    }
    if cfg!(feature = "ocpp-schemas") {
        for (path, body, pointer) in [
            (RESET, r#"{"type":"Never"}"#, "/type"),
            ("/api/stations/CP-1/calls/RemoteStartTransaction", r#"{"idTag":"A-TOKEN-THAT-IS-TOO-LONG"}"#, "/idTag"),
        ] {
            let (status, body) = post(&router, path, body).await;
            assert_eq!((status, &body["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(pointer)), "{body}");
            assert!(!body.to_string().contains("A-TOKEN"), "{body}");
        }
    }
    for content_type in [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/json5")]] {
        for path in [RESET, "/api/stations/CP-1/close"] {
            let mut request = request(Method::POST, path, content_type);
            *request.body_mut() = Body::from(r#"{"type":"Soft"}"#);
            assert_eq!(send(&router, request).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
    }
    for headers in [[("sec-fetch-site", "cross-site")], [("origin", "http://evil.example")]] {
        let mut request = request(Method::POST, RESET, &headers);
        request.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
        *request.body_mut() = Body::from(r#"{"type":"Soft"}"#);
        assert_eq!(send(&router, request).await.status(), StatusCode::FORBIDDEN);
    }
    station.silent().await;
    // Stations may have actions of their own.
    let own = post(&router, "/api/stations/CP-1/calls/com.example%2FOwn", "{}");
    let (response, ()) = tokio::join!(own, async {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["com.example/Own", {}]));
        station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    });
    assert_eq!(response.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn b99_page_closes_a_connection() {
    let server = server(RpcRouter::new());
    let router = Console::new(&server).allow_close(true).router();
    let (mut station, _) = connected(&server, "ocpp1.6").await;
    assert_eq!(post(&router, "/api/stations/CP-1/close", r#"{"reason":5}"#).await.0, StatusCode::BAD_REQUEST);
    let close = post(&router, "/api/stations/CP-1/close", r#"{"reason":"maintenance"}"#);
    let ((status, body), received) = tokio::join!(close, station.closed());
    assert_eq!(received, (1000, "maintenance".to_owned()));
    let expected = json!({"code": 1000, "reason": "maintenance", "cause": "local"});
    assert_eq!((status, body), (StatusCode::OK, expected));
}

#[tokio::test(start_paused = true)]
async fn b99_page_has_templates_for_the_actions_of_a_protocol() {
    let router = console(&server(RpcRouter::new()));
    for (protocol, count) in [("ocpp1.6", 26), ("ocpp2.0.1", 40), ("ocpp2.1", 55), ("acme", 0)] {
        let body = read(&router, &format!("/api/actions?protocol={protocol}")).await;
        let actions = body["actions"].as_array().expect("a list");
        assert_eq!(actions.len(), count, "{protocol}");
        if count > 0 {
            let reset = actions.iter().find(|template| template["action"] == "Reset").expect("a Reset");
            assert!(reset["params"]["type"].is_string(), "{reset}");
        }
    }
}

fn node(cluster: &Local, name: &str) -> RpcServer {
    let router = RpcRouter::new().on("Echo", echo);
    let server = RpcServer::builder(router).protocols(["ocpp1.6"]).cluster(cluster.node(name));
    server.build().expect("a valid configuration")
}

#[tokio::test(start_paused = true)]
async fn b100_console_of_any_node_has_the_figures_of_all_nodes() {
    let cluster = Local::new();
    let (a, b, _without_console) = (node(&cluster, "a"), node(&cluster, "b"), node(&cluster, "c"));
    let (console_a, console_b) = (console(&a), console(&b));
    // A second console of a node counts nothing twice.
    let _second = console(&b);
    let mut live = Live::open(&console_a, "").await;
    sleep(2 * SECOND).await;
    let mut station = Station::connect(&b, "CP-1", "ocpp1.6").await;
    let _other = Station::connect(&a, "CP-2", "ocpp1.6").await;
    station.ask(r#"[2,"1","Echo",{}]"#).await;
    station.ask(r#"[2,"2","Unknown",{}]"#).await;
    station.send("").await;
    let refused = b.clone().oneshot(request(Method::GET, "/ocpp/CP-3", &[])).await.expect("infallible");
    sleep(2 * SECOND).await;

    for (router, this) in [(&console_a, "a"), (&console_b, "b")] {
        let overview = read(router, "/api/overview").await;
        let nodes = overview["nodes"].as_array().expect("a list");
        let of = |name: &str| nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("{overview}"));
        assert_eq!(overview["node"], this);
        for (name, stations) in [("a", json!(1)), ("b", json!(1)), ("c", Value::Null)] {
            assert_eq!(*of(name), json!({"name": name, "is_this": name == this, "stations": stations}));
        }
        let totals = &overview["totals"];
        assert_eq!((&totals["stations"], &totals["calls_in"], &totals["errors"]), (&json!(2), &json!(2), &json!(1)));
        assert_eq!(totals["latency"]["in"]["calls"], 1, "no handler took the other call");
        assert_eq!(totals["deviations"], json!([["empty_message", 1]]));
        assert_eq!(totals["refusals"], json!([[refused.status().as_u16(), 1]]));
        let handshake = &read(router, "/api/handshakes").await["handshakes"][0];
        assert_eq!((&handshake["node"], &handshake["request"]["path"]), (&json!("b"), &json!("/ocpp/CP-3")));
    }
    assert_eq!(live.find("handshake").await["node"], "b");
    let listed = read(&console_a, "/api/stations?sort=node&search=cp-").await;
    let nodes: Vec<_> = listed["stations"].as_array().expect("a list").iter().map(|s| s["node"].clone()).collect();
    assert_eq!((nodes, &listed["missing_nodes"]), (vec![json!("a"), json!("b")], &json!([])));

    station.close(1000, "").await;
    station.closed().await;
    sleep(2 * SECOND).await;
    let overview = read(&console_a, "/api/overview").await;
    assert_eq!(overview["totals"]["closes"], json!([["remote", 1]]));
    assert_eq!(overview["totals"]["stations"], 1);

    cluster.disconnect("b");
    sleep(6 * SECOND).await;
    let overview = read(&console_a, "/api/overview").await;
    assert_eq!(overview["missing_nodes"], json!(["b"]));
}

#[tokio::test(start_paused = true)]
async fn line_breaks_in_events_of_other_nodes_do_not_break_a_stream() {
    let tapped = Tapped::new(Local::new().node("a"));
    let other = tapped.node();
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).cluster(tapped).build().expect("valid");
    let mut live = Live::open(&console(&server), "").await;
    let refused = "{\"type\":\"handshake_refused\",\"at\":1,\"request\":{\r\n\"path\":\r\"/CP-1\"}}";
    let event = format!("{{\"node\":\"b\",\"event\":{refused}}}");
    sleep(SECOND / 2).await;
    other.get().expect("joined").received(Received::Event, event.into());
    assert_eq!(live.find("handshake").await["request"]["path"], "/CP-1");
}

#[tokio::test(start_paused = true)]
async fn b100_messages_of_a_station_come_from_its_node() {
    let cluster = Local::new();
    let (a, b) = (node(&cluster, "a"), node(&cluster, "b"));
    let router = Console::new(&a).allow_calls(true).allow_close(true).router();
    let console_b = console(&b);
    let mut station = Station::connect(&b, "CP-1", "ocpp1.6").await;
    station.ask(r#"[2,"1","Echo",{"idTag":"C0FFEE"}]"#).await;
    sleep(SECOND).await;
    let path = "/api/stations/CP-1/messages";
    let history = read(&router, path).await;
    assert_eq!((&history["node"], history["messages"].as_array().map(Vec::len)), (&json!("b"), Some(3)));
    assert_eq!(history["messages"][1]["payload"], json!({"idTag": "***"}));
    assert_eq!(history, read(&console_b, path).await);
    let found = read(&router, "/api/stations/CP-1").await;
    assert_eq!((&found["station"]["node"], &found["messages"]), (&json!("b"), &json!(3)));

    // New messages, and those of a call that the page makes.
    let mut live = Live::open(&router, &format!("?station=CP-1&after={}", history["messages"][1]["seq"])).await;
    assert_eq!(live.find("message").await["type"], "result");
    let call = post(&router, RESET, r#"{"type":"Soft"}"#);
    let ((status, body), ()) = tokio::join!(call, async {
        let (id, _) = station.receive_call().await;
        station.send(format!(r#"[3,"{id}",{{"status":"Accepted"}}]"#)).await;
    });
    assert_eq!((status, &body["result"]), (StatusCode::OK, &json!({"status": "Accepted"})));
    assert_eq!(live.find("message").await["action"], "Reset");
    assert_eq!(live.find("message").await["payload"], json!({"status": "Accepted"}));
    let mut from_now = Live::open(&router, "?station=CP-1").await;
    assert_eq!(from_now.find("station").await["node"], "b");

    // The station moves to this node.
    let mut moved = Station::connect(&a, "CP-1", "ocpp1.6").await;
    assert_eq!(station.closed().await.0, 1008);
    moved.ask(r#"[2,"2","Echo",{"moved":true}]"#).await;
    for live in [&mut live, &mut from_now] {
        let moved = async { while live.find("message").await["payload"] != json!({"moved": true}) {} };
        timeout(10 * SECOND, moved).await.expect("the message of the other session");
    }
    let history = read(&router, path).await;
    assert_eq!(history["node"], "a");

    let close = post(&console(&b), "/api/stations/CP-1/close", "{}").await;
    assert_eq!(close.0, StatusCode::FORBIDDEN);
    let console_b = Console::new(&b).allow_close(true).router();
    let (closed, received) = tokio::join!(post(&console_b, "/api/stations/CP-1/close", "{}"), moved.closed());
    assert_eq!((closed.0, received.0), (StatusCode::OK, 1000));
}
