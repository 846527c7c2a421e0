//! Logs, events, errors and debug output contain no password and no private key.

use std::{convert::Infallible, fmt::Write as _};

use base64::{Engine, prelude::BASE64_STANDARD};
use ocpp_rpc::{
    Accept, Close, Handshake, Reject, RpcClient, RpcRouter, RpcServer,
    client::Reconnect,
    event::EventKind,
    handler::IncomingCall,
    middleware::{self, Next},
    tls::{ClientTls, ServerTls},
};
use serde_json::{Value, json};

use crate::{
    support::{self, Log, log_to},
    tcp::{Site, soon},
    tls::Authority,
};

const PASSWORD: &str = "Tr0ub4dor&3-xyzzy";

#[tokio::test]
async fn logs_events_errors_and_debug_output_contain_no_secret() {
    async fn ping() -> Result<(), Infallible> {
        Ok(())
    }
    // The subscriber is set for this thread only. The bridge from `log` is global and uses the subscriber of the calling
    // thread.
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    let _logging = log_to(subscriber.with_writer(log.clone()).finish());
    let _ = tracing_log::LogTracer::init();

    let (authority, stations) = (Authority::new(), Authority::new());
    let certificates = [authority.issue("127.0.0.1"), stations.issue("SN-0815")];
    let mut written = String::new();
    let hook = async |handshake: Handshake| {
        tracing::trace!(?handshake, headers = ?handshake.headers(), parts = ?handshake.parts(), "authenticating");
        if handshake.password_is(PASSWORD.as_bytes()) { Ok(Accept::new()) } else { Err(Reject::unauthorized()) }
    };
    let builder = RpcServer::builder(RpcRouter::new().on("Ping", ping)).protocols(["ocpp1.6"]).auth(hook);
    let tls = ServerTls::builder().certificate(certificates[0].certificate());
    let tls = tls.required_client_certificates(stations.authorities());
    let _ = write!(written, "{builder:?} {tls:?}");
    let server = builder.build().expect("valid settings");
    let listener = server.bind("127.0.0.1:0").tls(tls.build().expect("valid settings")).serve().await.expect("a port");
    let mut site = Site { events: server.events(), listener, server };

    let tls = ClientTls::builder().authorities(authority.authorities()).certificate(certificates[1].certificate());
    let _ = write!(written, "{tls:?}");
    let tls = tls.build().expect("valid settings");
    let client = |identity: &str, password: &str| {
        RpcClient::builder(format!("wss://{}/ocpp", site.listener.local_addr()), identity)
            .protocols(["ocpp1.6"])
            .reconnect(Reconnect::never())
            .tls(tls.clone())
            .password(password)
    };
    let passwords = [PASSWORD.to_owned(), format!("not {PASSWORD}")];
    for (identity, password) in [("CP", &passwords[0]), ("other", &passwords[1])] {
        let _ = write!(written, "{:?}", client(identity, password));
        match soon(client(identity, password).connect()).await {
            Ok(client) => {
                let mut events = client.events();
                soon(client.call::<Value>("Ping", &())).await.expect("a response");
                let session = site.server.session(identity).expect("registered");
                let error = soon(session.call::<Value>("Any", &())).await.expect_err("no handler");
                let _ = write!(written, "{client:?} {session:?} {:?} {error:?} {error}", session.tls());
                soon(client.close(Close::normal())).await;
                let _ = write!(written, "{:?}", soon(events.next()).await);
            }
            Err(error) => {
                let _ = write!(written, "{error:?} {error}");
            }
        }
    }
    loop {
        let event = soon(site.events.next()).await.expect("an event");
        let _ = write!(written, "{event:?}");
        if let EventKind::HandshakeRefused { .. } = event.kind {
            break;
        }
    }

    let logged = log.text();
    // Each part must have logged something, or the checks below prove nothing.
    for part in ["authenticating", "handshake refused", "session opened", "rustls", "Sensitive"] {
        assert!(logged.contains(part), "{part}: {logged}");
    }
    let mut secrets = vec!["Tr0ub4dor".to_owned(), BASE64_STANDARD.encode(PASSWORD)];
    for (identity, password) in [("CP", &passwords[0]), ("other", &passwords[1])] {
        // Without the last characters, which depend on the bytes that follow.
        let encoded = BASE64_STANDARD.encode(format!("{identity}:{password}"));
        secrets.push(encoded[..encoded.len() - 4].to_owned());
    }
    for issued in &certificates {
        let lines = issued.key.lines().filter(|line| !line.starts_with("-----"));
        let encoded: String = lines.collect();
        let der = BASE64_STANDARD.decode(&encoded).expect("PEM");
        // The private number of a PKCS#8 key on P-256 (RFC 5915): in base64, in hexadecimal and as a list of bytes.
        let number = &der[36..68];
        secrets.extend(issued.key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned));
        secrets.push(number.iter().map(|byte| format!("{byte:02x}")).collect());
        secrets.push(format!("{number:?}").trim_matches(['[', ']']).to_owned());
    }
    for secret in secrets {
        assert!(!logged.contains(&secret), "{secret} was logged");
        assert!(!written.contains(&secret), "{secret} was printed: {written}");
    }
}

#[tokio::test]
async fn debug_output_of_a_call_omits_its_parameters() {
    async fn debug(call: IncomingCall, _: Next) -> Result<Value, Infallible> {
        Ok(json!({ "call": format!("{call:?}") }))
    }
    let server = support::server(RpcRouter::new().on("Authorize", support::echo).layer(middleware::from_fn(debug)));
    let mut station = support::Station::connect(&server, "CP-1", "ocpp1.6").await;
    let response = station.ask(r#"[2,"1","Authorize",{"idTag":"C0FFEE"}]"#).await;
    assert!(response.contains("Authorize") && !response.contains("C0FFEE"), "{response}");
}
