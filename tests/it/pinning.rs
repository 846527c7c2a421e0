//! A client that accepts pinned certificates of the server, and no others.

use std::sync::Arc;

use ocpp_rpc::{
    client::ConnectError,
    tls::{
        CertificatePin, ClientTls, ServerTls,
        rustls::{
            self, ServerConfig,
            crypto::ring,
            pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
            sign::{CertifiedKey, SingleCertAndKey},
        },
    },
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

use crate::{
    support::says_nothing_twice,
    tcp::soon,
    tls::{Issued, build, builder, client, site, who},
};

/// A self-signed certificate for another host, which has expired.
fn self_signed(is_ca: IsCa) -> Issued {
    let mut params = CertificateParams::new(["csms.example".to_owned()]).expect("a name");
    params.not_after = date_time_ymd(2020, 1, 1);
    params.is_ca = is_ca;
    let key = KeyPair::generate().expect("a key");
    Issued { chain: params.self_signed(&key).expect("a certificate").pem(), key: key.serialize_pem() }
}

fn pin(issued: &Issued) -> CertificatePin {
    CertificatePin::from_pem(issued.chain.as_bytes()).expect("a certificate")
}

fn pinned(pins: impl IntoIterator<Item = CertificatePin>) -> ClientTls {
    let tls = pins.into_iter().fold(ClientTls::builder(), |tls, pin| tls.pin(pin));
    tls.build().expect("valid settings")
}

/// The TLS of a server that presents a certificate with this key, whatever the certificate says.
fn presenting(issued: &Issued, key: &str, version: &'static rustls::SupportedProtocolVersion) -> ServerTls {
    let chain = vec![CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let key = ring::default_provider().key_provider.load_private_key(key).expect("a key");
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("valid settings")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    ServerTls::from_config(config)
}

#[tokio::test]
async fn b73_pinned_certificate_is_accepted_without_authority() {
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let (issued, next) = (self_signed(is_ca), self_signed(IsCa::NoCa));
        let site = site(builder(), build(ServerTls::builder().certificate(issued.certificate()))).await;
        let parsed = pin(&issued).to_string().parse().expect("a fingerprint");
        for tls in [pinned([pin(&issued)]), pinned([parsed]), pinned([pin(&next), pin(&issued)])] {
            who(&soon(client(&site, tls).connect()).await.expect("connected")).await;
        }
    }
}

#[tokio::test]
async fn b73_other_certificate_is_refused_with_its_fingerprint() {
    let (issued, other) = (self_signed(IsCa::NoCa), self_signed(IsCa::NoCa));
    let mut site = site(builder(), build(ServerTls::builder().certificate(issued.certificate()))).await;
    let error = soon(client(&site, pinned([pin(&other)])).connect()).await.expect_err("not pinned");
    assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
    let expected = format!("the server's certificate is not pinned: its SHA-256 is {}: ", pin(&issued));
    assert!(error.to_string().contains(&expected), "{error}");
    says_nothing_twice(&error);
    let (_, _, reason) = site.refused().await;
    assert!(reason.contains("the client rejects this server's certificate"), "{reason}");
}

#[tokio::test]
async fn b73_server_must_have_the_key_of_the_pinned_certificate() {
    let (issued, other) = (self_signed(IsCa::NoCa), self_signed(IsCa::NoCa));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (key, is_accepted) in [(&issued.key, true), (&other.key, false)] {
            let site = site(builder(), presenting(&issued, key, version)).await;
            let connected = soon(client(&site, pinned([pin(&issued)])).connect()).await;
            assert_eq!(connected.is_ok(), is_accepted, "{version:?}");
            if let Err(error) = connected {
                assert!(error.to_string().contains("a signature for the server's certificate is invalid"), "{error}");
            }
        }
    }
}

#[test]
fn pins_and_authorities_exclude_each_other() {
    let issued = self_signed(IsCa::NoCa);
    let authorities = crate::tls::Authority::new().authorities();
    let error = ClientTls::builder().pin(pin(&issued)).authorities(authorities).build().expect_err("invalid settings");
    assert_eq!(error.to_string(), "a pinned certificate needs no authorities: set one of the two");
}
