//! TLS with certificates at both ends (OCPP's security profile 3): the server accepts a station if its certificate is
//! signed by a trusted authority, and the authenticator sees that certificate. The program creates all certificates.
//!
//!     cargo run --example tls --features tls

use std::error::Error;

use ocpp_rpc::{
    Accept, Close, Handshake, Reject, RpcClient, RpcRouter, RpcServer,
    tls::{Certificate, ClientTls, RootCerts, ServerTls},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

async fn authenticate(handshake: Handshake) -> Result<Accept, Reject> {
    let tls = handshake.tls().ok_or_else(Reject::unauthorized)?;
    println!("{} sent certificate {:?} over {:?}", handshake.identity(), tls.serial_number(), tls.version());
    match tls.common_name() {
        Some(name) if name == handshake.identity() => Ok(Accept::new()),
        _ => Err(Reject::unauthorized().body("the certificate is for another station")),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The certificate authority.
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);

    let tls = ServerTls::builder()
        .certificate(issue(&issuer, "localhost")?)
        .required_client_certificates(RootCerts::from_pem(authority.as_bytes())?)
        .build()?;
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).auth(authenticate).build()?;
    let listener = server.bind("127.0.0.1:0").tls(tls).serve().await?;

    let tls = ClientTls::builder()
        .authorities(RootCerts::from_pem(authority.as_bytes())?)
        .certificate(issue(&issuer, "CP-1")?)
        .build()?;
    let endpoint = format!("wss://localhost:{}", listener.local_addr().port());
    let client = RpcClient::builder(endpoint, "CP-1").protocols(["ocpp1.6"]).tls(tls).connect().await?;
    println!("connected with {}", client.session().protocol().unwrap_or_default());

    client.close(Close::normal()).await;
    listener.close(Close::going_away()).await;
    Ok(())
}

/// Creates a certificate for `name`, signed by the authority.
fn issue(issuer: &Issuer<'_, KeyPair>, name: &str) -> Result<Certificate, Box<dyn Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Certificate::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())?)
}
