//! TLS at both ends, over real sockets: selection, replacement, verification and rejection of certificates.

use std::{
    convert::Infallible,
    error::Error as _,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use ocpp_rpc::{
    Accept, BuildError, Close, Handshake, Options, Reject, RpcClient, RpcRouter, RpcServer, Session,
    client::{ConnectError, Reconnect, RpcClientBuilder},
    server::{ConnectionInfo, RpcServerBuilder},
    tls::{
        Certificate, ClientTls, RootCerts, ServerTls, ServerTlsBuilder, TlsVersion,
        rustls::{
            self, ClientConfig, DigitallySignedStruct, DistinguishedName, HandshakeKind, RootCertStore,
            SignatureScheme,
            client::danger::HandshakeSignatureValid,
            crypto::{CryptoProvider, ring},
            pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
            server::danger::{ClientCertVerified, ClientCertVerifier},
        },
    },
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    support::says_nothing_twice,
    tcp::{Client, Site, head, soon},
};

/// A certificate authority for one test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate that an authority issued, and its key.
#[derive(Clone)]
pub struct Issued {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("an authority")
    }

    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues an ECDSA certificate for this name.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_for(name, &KeyPair::generate().expect("a key"), |_| {})
    }

    /// Issues an RSA certificate. OpenSSL generates the key, because ring cannot generate RSA keys.
    pub fn issue_rsa(&self, name: &str) -> Issued {
        let arguments = ["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let made = Command::new("openssl").args(arguments).output().expect("openssl");
        let key = String::from_utf8(made.stdout).expect("PEM");
        self.issue_for(name, &KeyPair::from_pem(&key).expect("a key"), |_| {})
    }

    pub fn issue_for(&self, name: &str, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).expect("a certificate");
        Issued { chain: certificate.pem(), key: key.serialize_pem() }
    }

    pub fn authorities(&self) -> RootCerts {
        RootCerts::from_pem(self.pem.as_bytes()).expect("an authority")
    }
}

impl Issued {
    pub fn certificate(&self) -> Certificate {
        Certificate::from_pem(self.chain.as_bytes(), self.key.as_bytes()).expect("a certificate")
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("PEM")
    }
}

pub fn builder() -> RpcServerBuilder {
    async fn who(session: Session) -> Result<Value, Infallible> {
        let tls = session.tls().map(|tls| (tls.version().map(|version| version.to_string()), tls.peer_chain().len()));
        Ok(json!({"identity": session.identity(), "tls": tls}))
    }
    RpcServer::builder(RpcRouter::new().on("Who", who))
        .protocols(["ocpp1.6"])
        .options(Options::server().close_timeout(Duration::from_millis(100)))
}

/// A site whose only listener uses TLS.
pub async fn site(builder: RpcServerBuilder, tls: ServerTls) -> Site {
    let server = builder.build().expect("valid settings");
    let listener = server.bind("127.0.0.1:0").tls(tls).serve().await.expect("a port");
    Site { events: server.events(), listener, server }
}

pub fn localhost_tls(authority: &Authority) -> ServerTlsBuilder {
    ServerTls::builder().certificate(authority.issue("127.0.0.1").certificate())
}

pub fn build(builder: ServerTlsBuilder) -> ServerTls {
    builder.build().expect("valid settings")
}

pub fn trusting(authority: &Authority) -> ClientTls {
    ClientTls::builder().authorities(authority.authorities()).build().expect("valid settings")
}

/// A client of this site that does not reconnect.
pub fn client(site: &Site, tls: ClientTls) -> RpcClientBuilder {
    let endpoint = format!("wss://{}/ocpp", site.listener.local_addr());
    RpcClient::builder(endpoint, "CP").protocols(["ocpp1.6"]).reconnect(Reconnect::never()).tls(tls)
}

pub async fn who(client: &RpcClient) -> Value {
    soon(client.call("Who", &())).await.expect("a response")
}

/// Connects with this configuration, so that a test can inspect the TLS stream.
pub async fn tls_to(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = soon(TcpStream::connect(address)).await?;
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    soon(TlsConnector::from(config).connect(name, stream)).await
}

/// The configuration of a client that uses this provider and this version of TLS.
pub fn config(
    authority: &Authority,
    provider: CryptoProvider,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("an authority");
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .expect("valid settings")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The configuration of a client that trusts this authority.
pub fn trust(authority: &Authority) -> Arc<ClientConfig> {
    Arc::new(config(authority, ring::default_provider(), &rustls::version::TLS13))
}

/// The configuration of a client that offers these ALPN protocols.
#[cfg(feature = "http2")]
pub fn alpn(authority: &Authority, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut config = config(authority, ring::default_provider(), &rustls::version::TLS13);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn server_certificate(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

// Profile 2: the server has a certificate

#[tokio::test]
async fn wss_client_makes_and_receives_calls() {
    let authority = Authority::new();
    let site = site(builder(), build(localhost_tls(&authority))).await;
    let client = soon(client(&site, trusting(&authority)).password("secret").connect()).await.expect("connected");
    assert_eq!(who(&client).await, json!({"identity": "CP", "tls": ["TLS 1.3", 0]}));
    let session = site.server.session("CP").expect("registered");
    let error = soon(session.call::<Value>("Any", &())).await.expect_err("no handler");
    assert!(error.to_string().contains("NotImplemented"), "{error}");
    let closed = soon(client.close(Close::new(3000).reason("enough"))).await;
    assert_eq!((closed.code, soon(session.closed()).await.code), (3000, 3000));
}

#[tokio::test]
async fn large_message_is_echoed_unchanged() {
    async fn echo(ocpp_rpc::extract::Params(params): ocpp_rpc::extract::Params<Value>) -> Result<Value, Infallible> {
        Ok(params)
    }
    let authority = Authority::new();
    let builder = RpcServer::builder(RpcRouter::new().on("Echo", echo)).protocols(["ocpp1.6"]);
    let site = site(builder, build(localhost_tls(&authority))).await;
    let client = soon(client(&site, trusting(&authority)).connect()).await.expect("connected");
    let params = json!({"x": "x".repeat(900_000)});
    assert_eq!(soon(client.call::<Value>("Echo", &params)).await.expect("a response"), params);
}

#[tokio::test]
async fn frame_sent_with_head_is_not_lost_over_tls() {
    let authority = Authority::new();
    let site = site(builder(), build(localhost_tls(&authority))).await;
    let config = config(&authority, ring::default_provider(), &rustls::version::TLS12);
    let mut client = Client::over(tls_to(site.listener.local_addr(), Arc::new(config)).await.expect("a stream"));
    let early = crate::tcp::frame(r#"[2,"1","Who",{}]"#);
    client.send([crate::tcp::offering("/CP", "ocpp1.6").into_bytes(), early].concat()).await;
    let response = client.answer().await;
    let mut station = client.upgraded(&response).await;
    assert_eq!(soon(station.receive()).await, r#"[3,"1",{"identity":"CP","tls":["TLS 1.2",0]}]"#);
}

#[tokio::test]
async fn untrusted_server_is_refused_by_client() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut site = site(builder(), build(localhost_tls(&authority))).await;
    let other_name = ClientTls::builder().authorities(authority.authorities()).server_name("csms.example");
    for tls in [trusting(&other), other_name.build().expect("valid settings")] {
        let error = soon(client(&site, tls).connect()).await.expect_err("not trusted");
        assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
        assert!(error.to_string().contains("invalid peer certificate"), "{error}");
        says_nothing_twice(&error);
        let (identity, status, reason) = site.refused().await;
        assert_eq!((identity, status), (None, None));
        assert!(reason.starts_with("connection setup failed: "), "{reason}");
    }
}

#[tokio::test]
async fn b66_new_tls_settings_and_endpoint_apply_from_the_next_connection() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let plain = crate::tcp::Site::of(builder()).await;
    let tls = build(localhost_tls(&authority).optional_client_certificates(stations.authorities()));
    let secure = site(builder(), tls).await;
    let endpoint = format!("ws://{}/ocpp", plain.listener.local_addr());
    let client = RpcClient::builder(endpoint, "CP").protocols(["ocpp1.6"]);
    let client = soon(client.connect()).await.expect("connected");
    assert_eq!(who(&client).await["tls"], Value::Null);
    // From security profile 1 to 2, and to 3.
    let endpoint = format!("wss://{}/ocpp", secure.listener.local_addr());
    client.update(|settings| settings.endpoint(endpoint).tls(trusting(&authority))).expect("valid settings");
    soon(client.reconnect()).await.expect("connected");
    assert_eq!(who(&client).await["tls"], json!(["TLS 1.3", 0]));
    let certified = trusting_with_certificate(&authority, &stations.issue("SN-0815"));
    client.update(|settings| settings.tls(certified)).expect("valid settings");
    soon(client.reconnect()).await.expect("connected");
    assert_eq!(who(&client).await["tls"], json!(["TLS 1.3", 1]));
}

#[tokio::test]
async fn server_name_may_differ_from_host() {
    let authority = Authority::new();
    let tls = build(ServerTls::builder().certificate(authority.issue("csms.example").certificate()));
    let site = site(builder(), tls).await;
    let tls = ClientTls::builder().authorities(authority.authorities()).server_name("csms.example").build();
    who(&soon(client(&site, tls.expect("valid settings")).connect()).await.expect("connected")).await;
}

#[tokio::test]
async fn client_receives_certificate_it_can_verify() {
    let authority = Authority::new();
    let (ecdsa, rsa) = (authority.issue("127.0.0.1"), authority.issue_rsa("127.0.0.1"));
    let both = ServerTls::builder().certificate(ecdsa.certificate()).certificate(rsa.certificate());
    let site = site(builder(), build(both)).await;
    let only = |suite: fn(&rustls::SupportedCipherSuite) -> bool| {
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(suite);
        provider
    };
    let is_rsa = |suite: &rustls::SupportedCipherSuite| format!("{suite:?}").contains("_RSA_");
    let is_ecdsa = |suite: &rustls::SupportedCipherSuite| format!("{suite:?}").contains("_ECDSA_");
    let mut no_ecdsa = ring::default_provider();
    // In TLS 1.3, cipher suites do not imply a kind of certificate: a client restricts the signature algorithms. The
    // mapping alone is restricted, because the client must still verify the ECDSA signature of the authority.
    no_ecdsa.signature_verification_algorithms.mapping = Box::leak(
        no_ecdsa
            .signature_verification_algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| format!("{scheme:?}").starts_with("RSA"))
            .copied()
            .collect(),
    );
    let (tls12, tls13) = (&rustls::version::TLS12, &rustls::version::TLS13);
    for (provider, version, expected) in [
        (ring::default_provider(), tls12, &ecdsa),
        (ring::default_provider(), tls13, &ecdsa),
        (only(is_ecdsa), tls12, &ecdsa),
        (only(is_rsa), tls12, &rsa),
        (no_ecdsa, tls13, &rsa),
    ] {
        let stream = tls_to(site.listener.local_addr(), Arc::new(config(&authority, provider, version))).await;
        assert_eq!(server_certificate(&stream.expect("a stream")), expected.der());
    }
}

#[tokio::test]
async fn replaced_certificate_keeps_connections_open() {
    let authority = Authority::new();
    let (old, new) = (authority.issue("127.0.0.1"), authority.issue("127.0.0.1"));
    let tls = build(ServerTls::builder().certificate(old.certificate()));
    let site = site(builder(), tls.clone()).await;
    let connected = soon(client(&site, trusting(&authority)).connect()).await.expect("connected");
    let config = Arc::new(config(&authority, ring::default_provider(), &rustls::version::TLS13));
    let before = tls_to(site.listener.local_addr(), config.clone()).await.expect("a stream");
    assert_eq!(server_certificate(&before), old.der());
    tls.replace(&build(ServerTls::builder().certificate(new.certificate())));
    let after = tls_to(site.listener.local_addr(), config).await.expect("a stream");
    assert_eq!(server_certificate(&after), new.der());
    who(&connected).await;
    // A connection of before the replacement stays usable.
    let mut before = Client::over(before);
    assert_eq!(before.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.status, 404);
}

#[tokio::test]
async fn tls_sessions_resume_unless_client_certificate_requested() {
    let authority = Authority::new();
    let requesting = localhost_tls(&authority).optional_client_certificates(authority.authorities());
    for (tls, second) in [(localhost_tls(&authority), HandshakeKind::Resumed), (requesting, HandshakeKind::Full)] {
        let site = site(builder(), build(tls)).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = Arc::new(config(&authority, ring::default_provider(), version));
            for kind in [HandshakeKind::Full, second] {
                let stream = tls_to(site.listener.local_addr(), config.clone()).await.expect("a stream");
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
                // The server sends the ticket after the handshake, so the client must read once more.
                let mut client = Client::over(stream);
                client.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
            }
        }
    }
}

#[tokio::test]
async fn connection_without_tls_emits_event_and_blocks_no_client() {
    let authority = Authority::new();
    let builder = builder().handshake_timeout(Duration::from_millis(300));
    let mut site = site(builder, build(localhost_tls(&authority))).await;
    // Plain HTTP, noise, no bytes at all, and the beginning of an incomplete ClientHello.
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00];
    for (sent, times_out) in [(head("/CP").as_bytes(), false), (&[0xff; 100], false), (&[], true), (&hello, true)] {
        let mut client = Client::dial(site.listener.local_addr()).await;
        let address = client.address();
        client.send(sent).await;
        let event = soon(site.events.next()).await.expect("an event");
        assert_eq!(event.remote_address, Some(address));
        let text = format!("{:?}", event.kind);
        assert_eq!(text.contains("the TLS handshake timed out"), times_out, "{text}");
        assert!(text.contains("connection setup failed") || times_out, "{text}");
        client.rest().await;
    }
    who(&soon(client(&site, trusting(&authority)).connect()).await.expect("connected")).await;
}

#[tokio::test]
async fn client_hello_sent_byte_by_byte_times_out() {
    let authority = Authority::new();
    let builder = builder().handshake_timeout(Duration::from_millis(300));
    let mut site = site(builder, build(localhost_tls(&authority))).await;
    let stream = TcpStream::connect(site.listener.local_addr()).await.expect("a listener");
    // The beginning of a record of 16 KiB that holds a ClientHello of the same size.
    let hello = [0x16, 0x03, 0x01, 0x40, 0x00, 0x01, 0x00, 0x3f, 0xf0, 0x03, 0x03];
    let dripping = crate::hostile::drip(stream, hello.into_iter().chain(std::iter::repeat(0)));
    let served = async { who(&soon(client(&site, trusting(&authority)).connect()).await.expect("connected")).await };
    let (seen, _) = tokio::join!(dripping, served);
    assert!(seen.is_empty(), "{seen:x?}");
    let (_, _, reason) = site.refused().await;
    assert_eq!(reason, "the TLS handshake timed out");
}

#[tokio::test]
async fn closing_listener_does_not_wait_for_tls_handshakes() {
    let authority = Authority::new();
    let hour = Duration::from_secs(3600);
    let builder = builder().handshake_timeout(hour).options(Options::server().close_timeout(hour));
    let site = site(builder, build(localhost_tls(&authority))).await;
    let silent = Client::dial(site.listener.local_addr()).await;
    // A later client is served, which proves that the server has accepted the silent connection.
    let client = soon(client(&site, trusting(&authority)).connect()).await.expect("connected");
    soon(client.close(Close::normal())).await;
    soon(site.listener.close(Close::going_away())).await;
    assert!(silent.rest().await.is_empty());
}

// Profile 3: the client has a certificate as well

/// Writes a file in a folder of this process and returns its path.
fn write_temporary(name: &str, text: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ocpp-rpc-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    fs::write(&path, text).expect("a file");
    path
}

/// The recipe of the module `tls`, as it is there.
#[cfg(unix)]
#[tokio::test]
async fn certificate_is_renewed_at_sighup_and_stays_if_files_are_invalid() {
    use tokio::signal::unix::{SignalKind, signal};

    fn load(chain: &Path, key: &Path) -> Result<ServerTls, BuildError> {
        ServerTls::builder().certificate(Certificate::from_pem_files(chain, key)?).build()
    }

    async fn renew(tls: ServerTls, chain: PathBuf, key: PathBuf) -> io::Result<()> {
        let mut hangups = signal(SignalKind::hangup())?;
        while hangups.recv().await.is_some() {
            match load(&chain, &key) {
                Ok(renewed) => tls.replace(&renewed),
                Err(error) => eprintln!("the certificate is not renewed: {error}"),
            }
        }
        Ok(())
    }

    let authority = Authority::new();
    let (old, new) = (authority.issue("127.0.0.1"), authority.issue("127.0.0.1"));
    let (chain, key) = (write_temporary("csms.pem", &old.chain), write_temporary("csms.key", &old.key));
    let tls = load(&chain, &key).expect("a certificate");
    let site = site(builder(), tls.clone()).await;
    let renewing = tokio::spawn(renew(tls, chain, key));
    let connected = soon(client(&site, trusting(&authority)).connect()).await.expect("connected");
    let hang_up = || rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP);
    let config = Arc::new(config(&authority, ring::default_provider(), &rustls::version::TLS13));
    let current = async || server_certificate(&tls_to(site.listener.local_addr(), config.clone()).await.expect("TLS"));
    // The new certificate without its key is invalid.
    write_temporary("csms.pem", &new.chain);
    hang_up().expect("a signal");
    assert_eq!(current().await, old.der());
    write_temporary("csms.key", &new.key);
    hang_up().expect("a signal");
    soon(async { while current().await != new.der() {} }).await;
    // The station stays connected.
    who(&connected).await;
    renewing.abort();
}

/// An authenticator that forwards each handshake to the test, and requires a client certificate.
fn recording_hook() -> (impl ocpp_rpc::Authenticate, mpsc::UnboundedReceiver<Handshake>) {
    let (sender, handshakes) = mpsc::unbounded_channel();
    let hook = move |handshake: Handshake| {
        let has_certificate = handshake.tls().is_some_and(|tls| !tls.peer_chain().is_empty());
        sender.send(handshake).expect("a receiver");
        async move { if has_certificate { Ok(Accept::new()) } else { Err(Reject::unauthorized()) } }
    };
    (hook, handshakes)
}

pub fn trusting_with_certificate(authority: &Authority, certificate: &Issued) -> ClientTls {
    let tls = ClientTls::builder().authorities(authority.authorities()).certificate(certificate.certificate());
    tls.build().expect("valid settings")
}

#[tokio::test]
async fn b11_client_certificate_reaches_hook_and_session() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let (hook, mut handshakes) = recording_hook();
    let tls = build(localhost_tls(&authority).required_client_certificates(stations.authorities()));
    let site = site(builder().auth(hook), tls).await;
    let mut issued = stations.issue("SN-0815");
    let own = issued.der();
    issued.chain.push_str(&stations.pem);
    let connected =
        soon(client(&site, trusting_with_certificate(&authority, &issued)).connect()).await.expect("connected");
    assert_eq!(who(&connected).await["tls"], json!(["TLS 1.3", 2]));
    let handshake = soon(handshakes.recv()).await.expect("a handshake");
    let tls = handshake.tls().expect("TLS info");
    assert_eq!((tls.version(), &tls.peer_chain()[0][..]), (Some(TlsVersion::Tls13), &own[..]));
    let serial = Command::new("openssl")
        .args(["x509", "-noout", "-serial", "-in"])
        .arg(write_temporary("serial.pem", &issued.chain))
        .output()
        .expect("openssl");
    let serial = String::from_utf8(serial.stdout).expect("text");
    let serial = serial.trim().strip_prefix("serial=").expect("a number").trim_start_matches('0');
    assert_eq!((tls.common_name().as_deref(), tls.serial_number().as_deref()), (Some("SN-0815"), Some(serial)));
    let session = site.server.session("CP").expect("registered");
    assert_eq!(session.tls(), Some(tls.clone()));
}

#[tokio::test]
async fn b17_event_has_the_tls_version_and_the_common_name_of_the_certificate() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let tls = build(localhost_tls(&authority).required_client_certificates(stations.authorities()));
    let mut site = site(builder().auth(async |_: Handshake| Err(Reject::unauthorized())), tls).await;
    let tls = trusting_with_certificate(&authority, &stations.issue("SN-0815"));
    soon(client(&site, tls).connect()).await.expect_err("refused");
    let event = soon(site.events.next()).await.expect("an event");
    let written = serde_json::to_value(&event).expect("JSON");
    assert_eq!(
        (&written["request"]["tls"], &written["request"]["certificate"]),
        (&json!("TLSv1.3"), &json!("SN-0815"))
    );
}

#[tokio::test]
async fn required_client_certificate_missing_or_untrusted_is_refused() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let tls = build(localhost_tls(&authority).required_client_certificates(stations.authorities()));
    let mut site = site(builder(), tls).await;
    // In TLS 1.3, the client sees the refusal only after its own handshake has completed.
    for tls in [trusting(&authority), trusting_with_certificate(&authority, &Authority::new().issue("SN-0815"))] {
        assert!(soon(client(&site, tls).connect()).await.is_err());
        let (identity, status, reason) = site.refused().await;
        assert_eq!((identity, status), (None, None));
        assert!(reason.contains("certificate") || reason.contains("Certificate"), "{reason}");
    }
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn optional_client_certificate_is_checked_by_hook() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let (hook, _handshakes) = recording_hook();
    let tls = build(localhost_tls(&authority).optional_client_certificates(stations.authorities()));
    let site = site(builder().auth(hook), tls).await;
    let error = soon(client(&site, trusting(&authority)).connect()).await.expect_err("refused");
    assert_eq!(error.status().map(|status| status.as_u16()), Some(401));
    let with_certificate = trusting_with_certificate(&authority, &stations.issue("SN-0815"));
    who(&soon(client(&site, with_certificate).connect()).await.expect("connected")).await;
}

/// A verifier that accepts every certificate, also expired ones, and leaves the decision to the authenticator.
#[derive(Debug)]
struct Lenient;

impl ClientCertVerifier for Lenient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn custom_verifier_may_accept_expired_certificate() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let expired = stations.issue_for("SN-0815", &KeyPair::generate().expect("a key"), |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let strict = localhost_tls(&authority).required_client_certificates(stations.authorities());
    let lenient = localhost_tls(&authority).client_verifier(Arc::new(Lenient));
    for (tls, is_accepted) in [(strict, false), (lenient, true)] {
        let site = site(builder(), build(tls)).await;
        let connected = soon(client(&site, trusting_with_certificate(&authority, &expired)).connect()).await;
        assert_eq!(connected.is_ok(), is_accepted);
        if let Ok(connected) = connected {
            assert_eq!(who(&connected).await["tls"], json!(["TLS 1.3", 1]));
        }
    }
}

// Custom streams and connectors

#[tokio::test]
async fn tls_works_over_any_stream_at_both_ends() {
    let (authority, stations) = (Authority::new(), Authority::new());
    let tls = build(localhost_tls(&authority).required_client_certificates(stations.authorities()));
    let server = builder().build().expect("valid settings");
    let (dialled, mut accepted) = mpsc::unbounded_channel();
    tokio::spawn({
        let server = server.clone();
        async move {
            while let Some(stream) = accepted.recv().await {
                let (stream, info): (_, ocpp_rpc::tls::TlsInfo) = tls.accept::<tokio::io::DuplexStream>(stream).await?;
                let info = ConnectionInfo::new().tls(info);
                server.serve_connection(stream, info).await;
            }
            Ok::<_, std::io::Error>(())
        }
    });
    let in_memory = move |target: ocpp_rpc::client::Target| {
        assert!(!target.is_secure(), "the connector must not add TLS, because the client does");
        let (near, far) = tokio::io::duplex(4096);
        dialled.send(far).expect("a server");
        async { Ok(near) }
    };
    let tls = trusting_with_certificate(&authority, &stations.issue("SN-0815"));
    let client = RpcClient::builder("wss://127.0.0.1/ocpp", "CP").protocols(["ocpp1.6"]);
    let client = soon(client.connector(in_memory).tls(tls).connect()).await.expect("connected");
    assert_eq!(who(&client).await, json!({"identity": "CP", "tls": ["TLS 1.3", 1]}));
}

#[tokio::test]
async fn wss_endpoint_receives_no_plain_text_with_any_connector() {
    let authority = Authority::new();
    let client = |connector| {
        let client = RpcClient::builder("wss://127.0.0.1/ocpp", "CP").password("secret").reconnect(Reconnect::never());
        let builders = [
            client.clone().connector(connector),
            client.clone().tls(trusting(&authority)).connector(connector),
            client.connector(connector).tls(trusting(&authority)),
        ];
        builders.map(|builder| builder.build().expect("valid settings"))
    };
    // A connector without TLS, whose stream ends at a task that records the received bytes.
    static RECEIVED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let plain_connector = async |_: ocpp_rpc::client::Target| {
        let (near, mut far) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut bytes = vec![0; 4096];
            let read = far.read(&mut bytes).await.unwrap_or_default();
            RECEIVED.lock().expect("no panic").extend(&bytes[..read]);
        });
        Ok(near)
    };
    for client in client(plain_connector) {
        assert!(soon(client.connect()).await.is_err());
        let received = std::mem::take(&mut *RECEIVED.lock().expect("no panic"));
        assert_eq!(received.first(), Some(&0x16), "the ClientHello of a TLS handshake (RFC 8446 §5.1): {received:?}");
    }
}

#[tokio::test]
async fn ws_endpoint_uses_no_tls_despite_tls_settings() {
    let authority = Authority::new();
    let site = Site::of(builder()).await;
    let endpoint = format!("ws://{}/ocpp", site.listener.local_addr());
    let client = RpcClient::builder(endpoint, "CP").protocols(["ocpp1.6"]).tls(trusting(&authority));
    let client = soon(client.connect()).await.expect("connected");
    assert_eq!(who(&client).await["tls"], Value::Null);
}

#[tokio::test]
async fn closed_session_sends_tls_close_notify() {
    let authority = Authority::new();
    let site = site(builder(), build(localhost_tls(&authority))).await;
    let config = config(&authority, ring::default_provider(), &rustls::version::TLS13);
    let mut client = Client::over(tls_to(site.listener.local_addr(), Arc::new(config)).await.expect("a stream"));
    let response = client.ask(&crate::tcp::offering("/CP", "ocpp1.6")).await;
    let mut station = client.upgraded(&response).await;
    soon(station.ask(r#"[2,"1","Who",{}]"#)).await;
    let session = site.server.session("CP").expect("registered");
    let (_, seen) = soon(async { tokio::join!(session.close(Close::restart()), station.closed()) }).await;
    assert_eq!(seen.0, 1012);
    let mut stream = station.ws.into_inner().into_inner();
    let mut rest = Vec::new();
    // Without a close_notify, rustls returns an error, because an attacker may have truncated the stream.
    soon(stream.read_to_end(&mut rest)).await.expect("a clean end");
    let _ = stream.shutdown().await;
}

// Invalid settings

#[test]
fn invalid_tls_settings_are_build_errors() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one"), authority.issue("other"));
    let check = |error: BuildError, text: &str| assert!(error.to_string().contains(text), "{error}");
    let pem =
        |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes()).expect_err("invalid settings");
    check(pem(&one.chain, &other.key), "keys may not be consistent");
    check(pem("", &one.key), "a certificate");
    check(pem(&one.chain, ""), "a private key");
    check(Certificate::from_pem_files("/nowhere/at.all", "/nowhere").expect_err("invalid settings"), "/nowhere/at.all");
    check(RootCerts::from_pem_file("/nowhere/at.all").expect_err("invalid settings"), "/nowhere/at.all");
    check(RootCerts::from_pem(b"").expect_err("invalid settings"), "no certificate of an authority");
    check(ServerTls::builder().build().expect_err("invalid settings"), "needs a certificate");
    let named = ClientTls::builder().authorities(authority.authorities()).server_name("not a name");
    check(named.build().expect_err("invalid settings"), "the server name");
}

#[test]
fn missing_pem_file_is_an_io_error_of_kind_not_found() {
    for error in [
        Certificate::from_pem_files("/nowhere/at.all", "/nowhere").expect_err("no file"),
        RootCerts::from_pem_file("/nowhere/at.all").expect_err("no file"),
    ] {
        assert_eq!(error.to_string(), "cannot read /nowhere/at.all: no such file");
        says_nothing_twice(&error);
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>()).expect("a source");
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
        let BuildError::File { path, error, .. } = &error else { panic!("another kind: {error:?}") };
        assert_eq!((path.as_path(), error.kind()), (Path::new("/nowhere/at.all"), io::ErrorKind::NotFound));
        let error = ConnectError::from(RootCerts::from_pem_file("/nowhere").expect_err("no file"));
        assert!(error.source().is_some_and(|source| source.is::<io::Error>()), "{error:?}");
    }
}

#[test]
fn tls_errors_have_rustls_errors_as_cause() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one"), authority.issue("other"));
    let error = Certificate::from_pem(one.chain.as_bytes(), other.key.as_bytes()).expect_err("another key");
    says_nothing_twice(&error);
    let BuildError::Tls { cause, .. } = &error else { panic!("another kind: {error:?}") };
    assert!(cause.is::<rustls::Error>(), "{cause:?}");
}

#[test]
fn debug_output_contains_no_keys() {
    let authority = Authority::new();
    let issued = authority.issue("one");
    let key: String = issued.key.lines().filter(|line| !line.starts_with("-----")).take(1).collect();
    let server = ServerTls::builder().certificate(issued.certificate());
    let client = ClientTls::builder().authorities(authority.authorities()).certificate(issued.certificate());
    let printed = format!("{:?} {server:?} {client:?}", issued.certificate());
    assert!(printed.contains("Certificate { chain: 1, .. }"), "{printed}");
    assert!(!printed.contains(&key) && printed.len() < 400, "{printed}");
}
