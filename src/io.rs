//! The byte streams under a connection.

use tokio::io::{AsyncRead, AsyncWrite};

/// A bidirectional stream of bytes.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}
