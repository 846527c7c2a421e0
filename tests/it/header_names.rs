//! The spelling of header names on the wire, read as bytes: some stations compare them letter by letter.

use axum::{
    Router,
    http::{HeaderValue, header},
    response::Response,
};
use ocpp_rpc::{Accept, Handshake, Options, Reject, RpcClient, RpcRouter, RpcServer, compression::Compression};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::tcp::{head, offering, soon, with};

/// Returns a server whose authenticator refuses the identity `unknown` and sets a cookie for `with-cookie`.
fn server() -> RpcServer {
    let authenticator = async |handshake: Handshake| match handshake.identity() {
        "unknown" => Err(Reject::unauthorized()),
        "with-cookie" => Ok(Accept::new().header(header::SET_COOKIE, HeaderValue::from_static("a=1"))),
        _ => Ok(Accept::new()),
    };
    RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).auth(authenticator).build().expect("valid settings")
}

/// Reads until the end of a head.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.expect("a whole head"));
    }
    String::from_utf8(head).expect("text")
}

/// Returns the names of the header lines, in alphabetical order.
fn names(head: &str) -> Vec<&str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let mut names: Vec<_> = lines.map(|(name, _)| name).collect();
    names.sort_unstable();
    names
}

async fn response_to(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = soon(TcpStream::connect(address)).await.expect("a listener");
    soon(stream.write_all(request.as_bytes())).await.expect("open");
    read_head(&mut stream).await
}

#[tokio::test]
async fn b63_responses_spell_header_names_as_the_standards_do() {
    let server = server();
    let own = server.listen("127.0.0.1:0").await.expect("a port");
    let app = Router::new().route_service("/{identity}", server.clone());
    let in_axum = server.bind("127.0.0.1:0").app(app.clone()).serve().await.expect("a port");
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let axum_serve = socket.local_addr().expect("a port");
    tokio::spawn({
        let app = app.clone();
        async { axum::serve(socket, app).await }
    });
    let compressed = with(&offering("/CP", "ocpp1.6"), "Sec-WebSocket-Extensions: permessage-deflate");
    let upgrade: &[&str] = &[
        "Connection",
        "Date",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Protocol",
        "Upgrade",
    ];
    let with_cookie: &[&str] = &["Connection", "Date", "Sec-WebSocket-Accept", "Set-Cookie", "Upgrade"];
    let refusal: &[&str] = &["Content-Length", "Content-Type", "Date", "WWW-Authenticate"];
    let version: &[&str] =
        &["Connection", "Content-Length", "Content-Type", "Date", "Sec-WebSocket-Version", "Upgrade"];
    for address in [own.local_addr(), in_axum.local_addr(), axum_serve] {
        for (request, expected) in [
            (&compressed, upgrade),
            (&head("/with-cookie"), with_cookie),
            (&head("/unknown"), refusal),
            (&head("/CP").replace("Version: 13", "Version: 8"), version),
        ] {
            let response = response_to(address, request).await;
            assert_eq!(names(&response), expected, "{response}");
        }
    }
    // A layer of the application adds a header.
    let layer = axum::middleware::map_response(async |mut response: Response| {
        response.headers_mut().insert(header::SERVER, HeaderValue::from_static("csms"));
        response
    });
    let layered = server.bind("127.0.0.1:0").app(app.layer(layer)).serve().await.expect("a port");
    let response = response_to(layered.local_addr(), &head("/CP")).await;
    assert_eq!(names(&response), ["Connection", "Date", "Sec-WebSocket-Accept", "Server", "Upgrade"], "{response}");
    let response = response_to(own.local_addr(), "GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(names(&response), ["Content-Length", "Date"], "{response}");
}

#[tokio::test]
async fn b63_client_spells_header_names_as_the_standards_do() {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("ws://{}", socket.local_addr().expect("a port"));
    let client = RpcClient::builder(endpoint, "CP")
        .protocols(["ocpp1.6"])
        .password("secret")
        .header("cookie".parse().expect("a name"), "a=1".parse().expect("a value"))
        .header("x-own".parse().expect("a name"), "1".parse().expect("a value"))
        .options(Options::client().compression(Compression::new()));
    let connecting = tokio::spawn(async move { client.connect().await });
    let (mut stream, _) = soon(socket.accept()).await.expect("a client");
    let request = read_head(&mut stream).await;
    let expected = [
        "Authorization",
        "Connection",
        "Cookie",
        "Host",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
        "Upgrade",
        "User-Agent",
        "x-own",
    ];
    assert_eq!(names(&request), expected, "{request}");
    connecting.abort();
}
