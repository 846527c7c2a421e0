//! The transport of a client without the feature `tls`.

use std::{io, sync::Arc};

use crate::{
    client::connector::{AnyConnector, Connector, Target},
    error::BuildError,
    io::Io,
};

/// Dials `ws` endpoints only: there is no TLS without the feature `tls`.
pub(super) fn over(connector: Arc<dyn AnyConnector>, target: &Target) -> Result<Arc<dyn AnyConnector>, BuildError> {
    if target.is_secure() {
        return Err(BuildError::settings("a wss:// endpoint needs the feature `tls`, or a secure_connector"));
    }
    Ok(Arc::new(WithoutTls(connector)))
}

/// Refuses to follow a redirect to a `wss` endpoint.
struct WithoutTls(Arc<dyn AnyConnector>);

impl Connector for WithoutTls {
    type Stream = Box<dyn Io>;

    async fn connect(&self, target: Target) -> io::Result<Self::Stream> {
        if target.is_secure() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS needs a connector that speaks it"));
        }
        self.0.dial(target).await
    }
}
