//! TLS of the backend: OCPP security profiles 2 and 3.

use std::{error::Error, path::PathBuf};

use axum::Router;
use ocpp_rpc::{RpcServer, server::Listener};

#[derive(clap::Args)]
pub(crate) struct Tls {
    /// Serves TLS with this certificate chain (PEM). Can be repeated, for example for ECDSA and RSA. Requires the
    /// feature `tls`.
    #[arg(long, requires = "tls_key", conflicts_with = "demo")]
    tls_cert: Vec<PathBuf>,
    /// The private key of each certificate (PEM), in the same order.
    #[arg(long, requires = "tls_cert")]
    tls_key: Vec<PathBuf>,
    /// Requires client certificates that these authorities have signed (PEM, security profile 3).
    #[arg(long, requires = "tls_cert")]
    client_ca: Option<PathBuf>,
}

impl Tls {
    /// Returns the scheme of a station's URL.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls_cert.is_empty() { "ws" } else { "wss" }
    }

    /// Listens with or without TLS, as the arguments say.
    pub(crate) async fn listen(
        &self,
        server: &RpcServer,
        address: &str,
        app: Router,
    ) -> Result<Listener, Box<dyn Error>> {
        if self.tls_cert.is_empty() {
            return Ok(server.bind(address).app(app).serve().await?);
        }
        self.listen_tls(server, address, app).await
    }

    #[cfg(feature = "tls")]
    async fn listen_tls(&self, server: &RpcServer, address: &str, app: Router) -> Result<Listener, Box<dyn Error>> {
        use ocpp_rpc::tls::{Certificate, RootCerts, ServerTls};

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
        Ok(server.bind(address).tls(tls.build()?).app(app).serve().await?)
    }

    #[cfg(not(feature = "tls"))]
    async fn listen_tls(&self, _: &RpcServer, _: &str, _: Router) -> Result<Listener, Box<dyn Error>> {
        Err("--tls-cert requires the feature `tls`: build with `--features tls`".into())
    }
}
