//! The REST API.

use std::collections::BTreeSet;

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use ocpp_rpc::{CallError, RpcRouter, handler::NoResponse};
use serde_json::{Value, json};

use crate::support::Backend;

#[tokio::test]
async fn change_without_json_content_type_returns_415() {
    let backend = Backend::start(&[]);
    for (method, path) in [
        (Method::POST, "/api/stations/CP-1/calls/Reset"),
        (Method::DELETE, "/api/stations/CP-1"),
        (Method::POST, "/api/tokens"),
        (Method::DELETE, "/api/tokens/DEMO-TAG"),
        (Method::PUT, "/api/tokens/DEMO-TAG"),
    ] {
        // The types that a form of another site can have.
        for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            let mut request = Request::builder().method(&method).uri(path).header("host", "localhost");
            if let Some(content_type) = content_type {
                request = request.header("content-type", content_type);
            }
            let request = request.body(Full::new(br#"{"token":"X"}"#.as_slice().into())).expect("a request");
            let response = backend.send(request).await;
            assert_eq!(response.status(), 415, "{method} {path} {content_type:?}");
        }
    }
    assert_eq!(backend.get("/api/tokens").await.as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn openapi_document_lists_every_route_and_method() {
    let backend = Backend::start(&[]);
    let document = backend.get("/api/openapi.json").await;
    let mut listed = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let concrete = path
            .replace("{identity}", "CP-1")
            .replace("{action}", "Reset")
            .replace("{token}", "X")
            .replace("{id}", "1");
        assert!(!concrete.contains('{'), "{path}");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let request = Request::builder().method(&method).uri(&concrete).header("host", "localhost");
            let request = request.header("content-type", "application/json").body(Full::default()).expect("a request");
            let response = backend.send(request).await;
            let is_listed = item.get(method.as_str().to_ascii_lowercase()).is_some();
            assert_eq!(response.status() != 405, is_listed, "{method} {path}: {}", response.status());
            // A path without a route has no body.
            let is_stream = path == "/api/events";
            let body = if is_stream { None } else { response.into_body().collect().await.ok() };
            assert!(!is_listed || is_stream || !body.expect("a body").to_bytes().is_empty(), "{method} {path}");
            if is_listed {
                listed.insert(format!("{method} {path}"));
            }
        }
    }
    // OpenAPI requires a description of each response, and a unique id of each operation.
    let operations = document["paths"].as_object().expect("paths").values().filter_map(Value::as_object).flatten();
    let mut ids = BTreeSet::new();
    for (_, operation) in operations {
        assert!(ids.insert(operation["operationId"].to_string()), "{operation}");
        let mut responses = operation["responses"].as_object().expect("responses").values();
        let is_described = |response: &Value| response["description"].as_str().is_some_and(|text| !text.is_empty());
        assert!(responses.all(is_described), "{operation}");
    }
    let parameters = &document["paths"]["/api/messages"]["get"]["parameters"];
    let names: Vec<&Value> =
        parameters.as_array().expect("a list").iter().map(|parameter| &parameter["name"]).collect();
    assert_eq!(names, ["station", "limit", "before"]);
    let expected = [
        "DELETE /api/stations/{identity}",
        "DELETE /api/tokens/{token}",
        "GET /api/events",
        "GET /api/messages",
        "GET /api/openapi.json",
        "GET /api/stations",
        "GET /api/stations/{identity}",
        "GET /api/stations/{identity}/messages",
        "GET /api/tokens",
        "GET /api/transactions",
        "GET /api/transactions/{id}/meter_values",
        "GET /healthz",
        "GET /readyz",
        "POST /api/stations/{identity}/calls/{action}",
        "POST /api/tokens",
    ];
    assert_eq!(listed.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn call_that_may_have_been_delivered_says_so() {
    let backend = Backend::start(&[]);
    let silent = RpcRouter::new().on("Reset", async || Ok::<_, CallError>(NoResponse));
    let _station = backend.station_with("CP-1", "ocpp1.6", silent).await;
    let reset = "/api/stations/CP-1/calls/Reset";
    let (status, body) = backend.post(&format!("{reset}?timeout_ms=100"), &json!({"type": "Soft"})).await;
    assert_eq!((status.as_u16(), body), (504, json!({"error": "timeout", "maybe_delivered": true})));
    let (status, body) = backend.post("/api/stations/CP-2/calls/Reset", &json!({"type": "Soft"})).await;
    assert_eq!((status.as_u16(), body), (404, json!({"error": "not_connected"})));
}

#[tokio::test]
async fn history_of_a_station_is_newest_first_and_has_pages() {
    let backend = Backend::start(&[]);
    let (first, second) = (backend.station("CP-1", "ocpp1.6").await, backend.station("CP/2", "ocpp1.6").await);
    for _ in 0..3 {
        first.call::<Value>("Heartbeat", &json!({})).await.expect("a response");
        second.call::<Value>("Heartbeat", &json!({})).await.expect("a response");
    }
    let history = backend.get("/api/stations/CP%2F2/messages").await;
    let directions = |page: &Value| -> Vec<Value> {
        let page = page.as_array().expect("a list").iter();
        page.map(|message| {
            assert_eq!(message["station"], "CP/2");
            message["direction"].clone()
        })
        .collect()
    };
    assert_eq!(directions(&history), ["out", "in", "out", "in", "out", "in"]);
    let older = backend.get(&format!("/api/stations/CP%2F2/messages?limit=1&before={}", history[2]["id"])).await;
    assert_eq!(older.as_array().expect("a list"), &history.as_array().expect("a list")[3..4]);
    assert_eq!(backend.get("/api/messages").await.as_array().map(Vec::len), Some(12));
    assert_eq!(backend.get("/api/messages?station=CP-1&limit=2").await.as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn messages_show_neither_tokens_nor_passwords() {
    let backend = Backend::start(&[]);
    let router = RpcRouter::new().on("ChangeConfiguration", async || Ok::<_, CallError>(json!({"status": "Accepted"})));
    let station = backend.station_with("CP-1", "ocpp1.6", router).await;
    let request = Request::builder().uri("/api/events").header("host", backend.address()).body(Full::default());
    let mut stream = backend.send(request.expect("a request")).await.into_body();
    station.call::<Value>("Authorize", &json!({"idTag": "C0FFEE"})).await.expect("a response");
    let change = json!({"key": "AuthorizationKey", "value": "hush"});
    assert_eq!(backend.post("/api/stations/CP-1/calls/ChangeConfiguration", &change).await.0, 200);
    let mut streamed = String::new();
    while streamed.matches("data:").count() < 4 {
        let frame = stream.frame().await.expect("four messages").expect("no error").into_data().expect("data");
        streamed.push_str(str::from_utf8(&frame).expect("UTF-8"));
    }
    let stored = json!(backend.all("/api/stations/CP-1/messages").await).to_string();
    for shown in [streamed, stored] {
        assert!(shown.contains("Authorize") && shown.contains("AuthorizationKey"), "{shown}");
        assert!(!shown.contains("C0FFEE") && !shown.contains("hush"), "{shown}");
    }
}

#[tokio::test]
async fn tokens_are_added_once_listed_and_deleted() {
    let backend = Backend::start(&[]);
    let (status, body) = backend.post("/api/tokens", &json!({"token": "A1", "status": "Expired"})).await;
    assert_eq!((status.as_u16(), body), (201, json!({"token": "A1", "status": "Expired"})));
    let (status, body) = backend.post("/api/tokens", &json!({"token": "a1"})).await;
    assert_eq!((status.as_u16(), body), (409, json!({"error": "exists"})));
    for bad in
        [json!({}), json!({"token": ""}), json!({"token": "A\u{0}"}), json!({"token": "B", "status": "x"}), Value::Null]
    {
        let (status, body) = backend.post("/api/tokens", &bad).await;
        assert_eq!((status.as_u16(), &body["error"]), (400, &json!("bad_body")), "{bad}");
    }
    let tokens: Vec<Value> = ["A1", "DEMO-BLOCKED", "DEMO-TAG"].map(Value::from).into();
    let listed = async |path: &str| -> Vec<Value> {
        backend.get(path).await.as_array().expect("a list").iter().map(|token| token["token"].clone()).collect()
    };
    assert_eq!(listed("/api/tokens").await, tokens);
    assert_eq!(listed("/api/tokens?after=a1").await, tokens[1..]);
    assert_eq!(backend.delete("/api/tokens/a1").await.0, 204);
    let (status, body) = backend.delete("/api/tokens/a1").await;
    assert_eq!((status.as_u16(), body), (404, json!({"error": "not_found"})));
}

#[tokio::test]
async fn unknown_station_returns_404_and_connected_station_its_connection() {
    let backend = Backend::start(&[]);
    assert_eq!(backend.request(Method::GET, "/api/stations/CP-1", &Value::Null).await.0, 404);
    assert_eq!(backend.get("/api/stations").await, json!([]));
    let _station = backend.station("CP-1", "ocpp2.1").await;
    let shown = backend.get("/api/stations/CP-1").await;
    assert_eq!((&shown["boot"], &shown["connection"]["protocol"]), (&Value::Null, &json!("ocpp2.1")));
    assert_eq!(backend.get("/api/stations").await, json!([shown["connection"]]));
}

#[tokio::test]
async fn call_that_station_rejects_returns_its_call_error() {
    let backend = Backend::start(&[]);
    let _station = backend.station("CP-1", "ocpp1.6").await;
    let (status, body) = backend.post("/api/stations/CP-1/calls/Reset", &json!({"type": "Soft"})).await;
    let expected = json!({
        "error": "rejected", "code": "NotImplemented", "description": "no handler for Reset", "details": {},
    });
    assert_eq!((status.as_u16(), body), (502, expected));
    let (status, body) = backend.post("/api/stations/CP-1/calls/Reset", &json!([1])).await;
    assert_eq!((status.as_u16(), &body["error"]), (400, &json!("bad_body")));
}
