//! TLS of the backend: OCPP security profiles 2 and 3.

use std::{error::Error, path::PathBuf};

use axum::Router;
use ocpp_rpc::server::{Listener, ListenerBuilder};
use tokio::net::ToSocketAddrs;

#[derive(clap::Args)]
pub(crate) struct Tls {
    /// Serves TLS with this certificate chain (PEM). Can be repeated, for example for ECDSA and RSA. Requires the
    /// feature `tls`.
    #[arg(long, value_name = "FILE", requires = "tls_key", conflicts_with = "demo")]
    tls_cert: Vec<PathBuf>,
    /// The private key of each certificate (PEM), in the same order.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Vec<PathBuf>,
    /// Requires client certificates that these authorities have signed (PEM, security profile 3).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
}

impl Tls {
    pub(crate) fn is_on(&self) -> bool {
        !self.tls_cert.is_empty()
    }

    /// Starts the listener with or without TLS, as the flags say.
    #[cfg(feature = "tls")]
    pub(crate) async fn serve(
        &self,
        listener: ListenerBuilder<impl ToSocketAddrs, Router>,
    ) -> Result<Listener, Box<dyn Error>> {
        use ocpp_rpc::tls::{Certificate, RootCerts, ServerTls};

        if !self.is_on() {
            return Ok(listener.serve().await?);
        }
        if self.tls_cert.len() != self.tls_key.len() {
            return Err("every --tls-cert needs its --tls-key".into());
        }
        let mut tls = ServerTls::builder();
        for (chain, key) in self.tls_cert.iter().zip(&self.tls_key) {
            tls = tls.certificate(Certificate::from_pem_files(chain, key)?);
        }
        if let Some(path) = &self.client_ca {
            tls = tls.required_client_certificates(RootCerts::from_pem_file(path)?);
        }
        Ok(listener.tls(tls.build()?).serve().await?)
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) async fn serve(
        &self,
        listener: ListenerBuilder<impl ToSocketAddrs, Router>,
    ) -> Result<Listener, Box<dyn Error>> {
        if self.is_on() {
            return Err("--tls-cert requires the feature `tls`: build with `--features tls`".into());
        }
        Ok(listener.serve().await?)
    }
}
