//! TLS of the station: OCPP security profiles 2 and 3.

use std::{error::Error, path::PathBuf};

use ocpp_rpc::client::RpcClientBuilder;

#[derive(clap::Args)]
pub(crate) struct Tls {
    /// The authorities to trust (PEM) instead of the system's. Requires the feature `tls`.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The client certificate chain (PEM, security profile 3). Requires the feature `tls`.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of the certificate (PEM).
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
}

impl Tls {
    /// Sets up TLS if the arguments ask for it.
    pub(crate) fn apply(&self, client: RpcClientBuilder) -> Result<RpcClientBuilder, Box<dyn Error>> {
        if self.ca.is_none() && self.cert.is_none() {
            return Ok(client);
        }
        self.apply_tls(client)
    }

    #[cfg(feature = "tls")]
    fn apply_tls(&self, client: RpcClientBuilder) -> Result<RpcClientBuilder, Box<dyn Error>> {
        use ocpp_rpc::tls::{Certificate, ClientTls, RootCerts};

        let mut tls = ClientTls::builder();
        if let Some(path) = &self.ca {
            tls = tls.authorities(RootCerts::from_pem_file(path)?);
        }
        if let (Some(chain), Some(key)) = (&self.cert, &self.key) {
            tls = tls.certificate(Certificate::from_pem_files(chain, key)?);
        }
        Ok(client.tls(tls.build()?))
    }

    #[cfg(not(feature = "tls"))]
    fn apply_tls(&self, _: RpcClientBuilder) -> Result<RpcClientBuilder, Box<dyn Error>> {
        Err("--ca and --cert require the feature `tls`: build with `--features tls`".into())
    }
}
