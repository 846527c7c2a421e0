//! The texts of TLS errors, which say what was wrong and what to do, at both ends.

use std::sync::Arc;

use ocpp_rpc::{
    RpcClient,
    client::{ConnectError, Target},
    tls::{
        ClientTls, ServerTls,
        rustls::{self, crypto::ring},
    },
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};

use crate::{
    support::says_nothing_twice,
    tcp::{Site, head, soon},
    tls::{
        Authority, build, builder, client, config, localhost_tls, site, tls_to, trusting, trusting_with_certificate,
    },
};

/// The ClientHello of a client that supports this version and these suites, and accepts RSA keys.
fn hello(version: [u8; 2], suites: &[u8]) -> Vec<u8> {
    let length = |content: &[u8]| u16::try_from(content.len()).expect("short").to_be_bytes();
    let extensions = [&[0, 13, 0, 4, 0, 2, 4, 1][..], &[0, 10, 0, 4, 0, 2, 0, 23]].concat();
    let body =
        [&version[..], &[7; 32], &[0], &length(suites), suites, &[1, 0], &length(&extensions), &extensions].concat();
    let message = [&[1, 0][..], &length(&body), &body].concat();
    [&[22, 3, 1][..], &length(&message), &message].concat()
}

#[tokio::test]
async fn b70_event_says_what_the_client_offers() {
    let authority = Authority::new();
    let mut site = site(builder(), build(localhost_tls(&authority))).await;
    for (hello, expected) in [
        (hello([3, 2], &[0xc0, 0x2f]), "no TLS version in common: the client offers TLS 1.1: enable TLS 1.2 or 1.3"),
        (hello([3, 3], &[0, 0x9c]), "no cipher suite in common: the client offers TLS_RSA_WITH_AES_128_GCM_SHA256:"),
        (hello([3, 3], &[0xc0, 0x2f]), "the client accepts keys of the kind RSA: add a certificate with such a key"),
    ] {
        let mut client = site.dial().await;
        client.send(hello).await;
        let (_, _, reason) = site.refused().await;
        assert!(reason.starts_with("connection setup failed: no ") && reason.contains(expected), "{reason}");
        assert_eq!(client.rest().await.first(), Some(&21), "the alert of a failed handshake (RFC 8446 §5.1)");
    }
}

#[tokio::test]
async fn b70_tls_and_plain_http_on_the_wrong_port_are_named() {
    let authority = Authority::new();
    let mut secure = site(builder(), build(localhost_tls(&authority))).await;
    let mut station = secure.dial().await;
    let response = station.ask(&head("/CP")).await;
    assert_eq!((response.status, &*response.body), (400, "this port uses TLS, use a wss:// or https:// URL"));
    drop(station);
    let (_, _, reason) = secure.refused().await;
    assert!(reason.contains("the client speaks HTTP without TLS: use a wss://"), "{reason}");

    let mut plain = Site::of(builder()).await;
    let error = soon(client(&plain, trusting(&authority)).connect()).await.expect_err("no TLS");
    assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
    assert!(error.to_string().contains("the server does not speak TLS at this port: use a ws:// endpoint"), "{error}");
    says_nothing_twice(&error);
    let (_, _, reason) = plain.refused().await;
    assert!(reason.contains("the client speaks TLS, but this port does not: use a ws:// endpoint"), "{reason}");
}

type Change = fn(&mut CertificateParams);

const CHANGES: [(Change, &str); 3] = [
    (|params| params.not_after = date_time_ymd(2020, 1, 1), "certificate has expired: renew it"),
    (|params| params.not_before = date_time_ymd(4020, 1, 1), "certificate is not valid yet: correct the clock"),
    (
        |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
        "certificate is for another purpose: issue one with the extended key usage",
    ),
];

#[tokio::test]
async fn b70_client_says_why_it_refuses_the_server() {
    let authority = Authority::new();
    let issue = |change: Change| authority.issue_for("127.0.0.1", &KeyPair::generate().expect("a key"), change);
    let own = || ClientTls::builder().authorities(authority.authorities());
    let mut cases: Vec<_> =
        CHANGES.into_iter().map(|(change, expected)| (issue(change), own(), expected.to_owned())).collect();
    cases.push((issue(|_| {}), own().server_name("csms.example"), "is for another name: use its name".to_owned()));
    let other = ClientTls::builder().authorities(Authority::named("another").authorities());
    cases.push((issue(|_| {}), other, "of no trusted authority: trust its authority".to_owned()));
    for (issued, tls, expected) in cases {
        let server_tls = build(ServerTls::builder().certificate(issued.certificate()));
        let mut site = site(builder(), server_tls).await;
        let error = soon(client(&site, tls.build().expect("valid settings")).connect()).await.expect_err("not trusted");
        assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(error.to_string().contains("the server's certificate"), "{error}");
        says_nothing_twice(&error);
        // The server names the alert of the client.
        let (_, _, reason) = site.refused().await;
        assert!(reason.contains("this server's certificate") && reason.contains("received fatal alert: "), "{reason}");
    }
}

#[tokio::test]
async fn b70_event_says_why_the_certificate_of_a_client_is_refused() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let tls = build(localhost_tls(&authority).required_client_certificates(stations.authorities()));
    let mut site = site(builder(), tls).await;
    let issue = |change: Change| stations.issue_for("SN-0815", &KeyPair::generate().expect("a key"), change);
    let mut cases: Vec<_> = CHANGES
        .into_iter()
        .map(|(change, expected)| (trusting_with_certificate(&authority, &issue(change)), expected))
        .collect();
    let unknown = trusting_with_certificate(&authority, &Authority::named("another").issue("SN-0815"));
    cases.push((unknown, "certificate is of no trusted authority: add its authority to the listener"));
    cases.push((trusting(&authority), "the client has no certificate, but the server requires one"));
    for (tls, expected) in cases {
        assert!(soon(client(&site, tls).connect()).await.is_err());
        let (_, _, reason) = site.refused().await;
        assert!(reason.contains(expected), "{reason}");
    }
}

/// In memory, because a reset of a socket could overtake the alert.
#[tokio::test]
async fn b70_client_says_why_the_server_refuses_its_certificate() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let server_tls = build(localhost_tls(&authority).required_client_certificates(stations.authorities()));
    let expired = stations.issue_for("SN-0815", &KeyPair::generate().expect("a key"), CHANGES[0].0);
    let unknown = Authority::named("another").issue("SN-0815");
    for (tls, expected) in [
        (trusting(&authority), "the server requires a certificate of this client: set one"),
        (trusting_with_certificate(&authority, &expired), "the server finds this client's certificate expired"),
        (trusting_with_certificate(&authority, &unknown), "the server does not trust this client's certificate"),
    ] {
        let server_tls = server_tls.clone();
        let in_memory = move |_: Target| {
            let (near, far) = tokio::io::duplex(4096);
            let server_tls = server_tls.clone();
            tokio::spawn(async move { server_tls.accept(far).await.map(drop) });
            async { Ok(near) }
        };
        let client = RpcClient::builder("wss://127.0.0.1/ocpp", "CP").connector(in_memory).tls(tls);
        let error = soon(client.connect()).await.expect_err("no valid certificate");
        assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        says_nothing_twice(&error);
    }
}

#[tokio::test]
async fn b70_client_that_leaves_during_the_tls_handshake_is_named() {
    let authority = Authority::new();
    let mut site = site(builder(), build(localhost_tls(&authority))).await;
    let mut client = site.dial().await;
    client.send(&hello([3, 3], &[0xc0, 0x2b])[..20]).await;
    drop(client);
    let (_, _, reason) = site.refused().await;
    assert!(reason.contains("the client disconnected during the TLS handshake"), "{reason}");
}

/// A ClientHello that arrives in many pieces is read as one that arrives at once.
#[tokio::test]
async fn client_hello_in_pieces_leads_to_a_handshake() {
    let authority = Authority::new();
    let site = site(builder(), build(localhost_tls(&authority))).await;
    let config = Arc::new(config(&authority, ring::default_provider(), &rustls::version::TLS13));
    let name = "127.0.0.1".try_into().expect("a name");
    let mut connection = rustls::ClientConnection::new(config.clone(), name).expect("valid settings");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a buffer");
    let mut client = site.dial().await;
    for byte in hello {
        client.send([byte]).await;
    }
    assert_eq!(client.read(1).await, [22], "the ServerHello");
    assert!(tls_to(site.listener.local_addr(), config).await.is_ok());
}
