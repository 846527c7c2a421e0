//! The connector of a client without the feature `tls`.

use std::{io, sync::Arc};

use crate::{
    client::connector::{Connector, DynConnector, Target},
    error::BuildError,
    io::Io,
};

/// Returns a connector for `ws` targets. Returns an error if `target` needs TLS.
pub(super) fn wrap(connector: Arc<dyn DynConnector>, target: &Target) -> Result<Arc<dyn DynConnector>, BuildError> {
    if target.is_secure() {
        return Err(BuildError::settings("a wss:// endpoint needs the feature `tls` or a `secure_connector`"));
    }
    Ok(Arc::new(WithoutTls(connector)))
}

/// A connector that fails if a redirect leads to a `wss` target.
struct WithoutTls(Arc<dyn DynConnector>);

impl Connector for WithoutTls {
    type Stream = Box<dyn Io>;

    async fn connect(&self, target: Target) -> io::Result<Self::Stream> {
        if target.is_secure() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a redirect to wss:// needs the feature `tls` or a `secure_connector`",
            ));
        }
        self.0.open(target).await
    }
}
