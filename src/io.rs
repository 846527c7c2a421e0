//! The streams that connections run over.

use tokio::io::{AsyncRead, AsyncWrite};

/// Any stream of bytes.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}
