//! A server mounted in other HTTP servers: in axum, in hyper alone, and below tower layers.

use std::time::Duration;
use std::{collections::HashMap, convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    extract::{ConnectInfo, Query},
    response::Response,
    routing::{any, get},
};
use http::Request;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use ocpp_rpc::{
    Accept, Close, Handshake, RpcRouter, RpcServer, RpcUpgrade, Session, event::EventKind, extract::Extension,
    server::RemoteAddress,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceBuilder, util::MapRequestLayer};
use tower_http::trace::TraceLayer;

use crate::{
    support::Station,
    tcp::{Client, frame, head, offering, soon},
};

const WHO: &str = r#"[2,"1","Who",{}]"#;

/// The endpoint of the handshake.
#[derive(Clone)]
struct Endpoint(String);

impl Endpoint {
    fn of(handshake: &Handshake) -> Self {
        Self(handshake.endpoint().to_owned())
    }
}

/// A server with an action that returns the session info of the caller.
fn server() -> RpcServer {
    async fn who(session: Session, Extension(Endpoint(endpoint)): Extension<Endpoint>) -> Result<Value, Infallible> {
        Ok(json!({
            "endpoint": endpoint,
            "identity": session.identity(),
            "protocol": session.protocol(),
            "remote": session.remote_address(),
        }))
    }
    let server = RpcServer::builder(RpcRouter::new().on("Who", who))
        .protocols(["ocpp1.6"])
        .auth(async |handshake: Handshake| Ok(Accept::new().extension(Endpoint::of(&handshake))));
    server.build().expect("a valid configuration")
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    (listener, address)
}

async fn axum(app: Router) -> SocketAddr {
    let (listener, address) = bind().await;
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn axum_with_addresses(app: Router) -> SocketAddr {
    let (listener, address) = bind().await;
    tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await });
    address
}

/// The expectation for the client's address at the server.
#[derive(Clone, Copy)]
enum Remote {
    Known,
    Unknown,
}

/// Makes calls in both directions with a server mounted at `/ocpp`, and checks the responses to invalid requests.
async fn check_mounted_server(server: &RpcServer, address: SocketAddr, remote: Remote) {
    let stream = soon(TcpStream::connect(address)).await.expect("a listener");
    let own = stream.local_addr().expect("a socket");
    let mut station = soon(Station::open(stream, "CP%2F1", "ocpp2.0.1, ocpp1.6")).await;
    let response = soon(station.ask(WHO)).await;
    let remote = match remote {
        Remote::Known => Some(own),
        Remote::Unknown => None,
    };
    let info = json!({"endpoint": "/ocpp", "identity": "CP/1", "protocol": "ocpp1.6", "remote": remote});
    assert_eq!(response, json!([3, "1", info]).to_string());

    let session = server.session("CP/1").expect("registered");
    let reset = session.call::<Value>("Reset", &json!({"type": "Soft"}));
    let responding = async {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Reset", {"type": "Soft"}]));
        station.send(json!([3, id, {"status": "Accepted"}]).to_string()).await;
    };
    let (reset, ()) = soon(async { tokio::join!(reset, responding) }).await;
    assert_eq!(reset.expect("a response"), json!({"status": "Accepted"}));

    // A frame in the same segment as the head is not lost, although the HTTP server may have read it.
    let mut client = Client::dial(address).await;
    let head_and_frame = [offering("/ocpp/early", "ocpp1.6").into_bytes(), frame(WHO)].concat();
    client.send(head_and_frame).await;
    let response = client.answer().await;
    let mut early = client.upgraded(&response).await;
    assert!(soon(early.receive()).await.contains(r#""identity":"early""#));

    // Both requests use one connection: a refused handshake does not close it.
    let mut client = Client::dial(address).await;
    assert_eq!(client.ask(&head("/ocpp/%E0%A4%A")).await.status, 404);
    let response = client.ask("GET /ocpp/CP HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!((response.status, response.header("sec-websocket-version")), (426, "13"));
}

#[tokio::test]
async fn b08_axum_route_service_accepts_stations() {
    let server = server();
    let address = axum(Router::new().route_service("/ocpp/{*identity}", server.clone())).await;
    check_mounted_server(&server, address, Remote::Unknown).await;
}

#[tokio::test]
async fn b08_axum_nested_service_accepts_stations() {
    let server = server();
    let app = Router::new().route("/", get(async || "hello")).nest_service("/ocpp", server.clone());
    check_mounted_server(&server, axum_with_addresses(app).await, Remote::Known).await;
}

#[tokio::test]
async fn b08_axum_fallback_service_accepts_stations() {
    let server = server();
    let address = axum(Router::new().route("/", get(async || "hello")).fallback_service(server.clone())).await;
    check_mounted_server(&server, address, Remote::Unknown).await;
    let response = Client::dial(address).await.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!((response.status, &*response.body), (200, "hello"));
}

/// An axum handler that accepts handshakes.
async fn connect(
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: RpcUpgrade,
    axum::extract::State(server): axum::extract::State<RpcServer>,
) -> Response {
    assert_eq!(upgrade.handshake().remote_address(), Some(remote));
    let mut accept = Accept::new().extension(Endpoint::of(upgrade.handshake()));
    if let Some(protocol) = query.get("protocol") {
        accept = accept.protocol(protocol);
    }
    server.accept(upgrade, accept)
}

#[tokio::test]
async fn b08_axum_handler_accepts_stations_by_extractor() {
    let server = server();
    let stations = Router::new().route("/{identity}", any(connect)).with_state(server.clone());
    let address = axum_with_addresses(Router::new().nest("/ocpp", stations)).await;
    let (mut client, mut events) = (Client::dial(address).await, server.events());
    let response = client.ask(&head("/ocpp/CP?protocol=mine")).await;
    assert_eq!((response.status, &*response.body), (400, "the accepted protocol was not offered"));
    let event = soon(events.next()).await.expect("an event");
    assert!(matches!(event.kind, EventKind::HandshakeRefused { status: Some(400), .. }), "{event:?}");
    assert_eq!((event.identity.as_deref(), event.remote_address), (Some("CP"), Some(client.address())));

    check_mounted_server(&server, address, Remote::Known).await;
}

#[tokio::test]
async fn b08_layered_service_accepts_stations() {
    let server = server();
    let traced = ServiceBuilder::new().layer(TraceLayer::new_for_http()).service(server.clone());
    let app = Router::new().route_service("/ocpp/{*identity}", traced).layer(TraceLayer::new_for_http());
    check_mounted_server(&server, axum(app).await, Remote::Unknown).await;
}

#[tokio::test]
async fn b08_listener_with_application_accepts_stations() {
    let server = server();
    let app = Router::new().route("/", get(async || "hello")).nest_service("/ocpp", server.clone());
    let listener = server.bind("127.0.0.1:0").app(app.layer(TraceLayer::new_for_http())).serve().await.expect("a port");
    check_mounted_server(&server, listener.local_addr(), Remote::Known).await;
    let response = Client::dial(listener.local_addr()).await.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!((response.status, &*response.body), (200, "hello"));
}

#[tokio::test]
async fn b08_hyper_http1_accepts_stations() {
    let server = server();
    let ((listener, address), service) = (bind().await, TowerToHyperService::new(server.clone()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
            tokio::spawn(connection.with_upgrades());
        }
    });
    check_mounted_server(&server, address, Remote::Unknown).await;
}

#[tokio::test]
async fn b08_hyper_auto_with_address_layer_accepts_stations() {
    let server = server();
    let ((listener, address), inner) = (bind().await, server.clone());
    tokio::spawn(async move {
        while let Ok((stream, remote)) = listener.accept().await {
            let layer = MapRequestLayer::new(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(RemoteAddress(remote));
                request
            });
            let service = TowerToHyperService::new(layer.layer(inner.clone()));
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
            });
        }
    });
    check_mounted_server(&server, address, Remote::Known).await;
}

#[tokio::test]
async fn b50_close_waits_for_sessions_and_keeps_http_server() {
    let server = server();
    let app = Router::new().route("/", get(async || "hello")).nest_service("/ocpp", server.clone());
    let address = axum(app).await;
    let stream = soon(TcpStream::connect(address)).await.expect("a listener");
    let mut station = soon(Station::open(stream, "CP", "ocpp1.6")).await;
    assert!(soon(station.ask(WHO)).await.contains(r#""identity":"CP""#));
    let session = server.session("CP").expect("registered");
    let call = session.call::<Value>("Reset", &json!({}));
    let closing = server.close(Close::going_away().drain(Duration::from_secs(30)));
    let station_responds = async {
        let (id, _) = station.receive_call().await;
        station.send(json!([3, id, {}]).to_string()).await;
        station.closed().await
    };
    // The order matters: the call starts before the close, which waits for it.
    let (call, report, seen) = soon(async { tokio::join!(call, closing, station_responds) }).await;
    assert!(call.is_ok(), "{call:?}");
    assert_eq!(((report.clean, report.forced), seen.0), ((1, 0), 1001));
    let mut client = Client::dial(address).await;
    let response = client.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!((response.status, &*response.body), (200, "hello"), "the HTTP server still serves");
    assert_eq!(client.ask(&offering("/ocpp/CP", "ocpp1.6")).await.status, 503);
}
