//! A stream in memory whose faults a test controls.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

use crate::server::rpc_server::RpcServer;

/// The bytes that are on their way in each direction, as in the buffers of a socket.
const BUFFER: usize = 64 * 1024;

/// The control of a stream. All clones control the same stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Link(Arc<Mutex<LinkState>>);

#[derive(Debug, Default)]
struct LinkState {
    is_cut: bool,
    is_paused: bool,
    /// The reader, if it waits for the link.
    reader: Option<Waker>,
}

/// The end of a stream that its link controls.
pub(super) struct LinkStream {
    stream: DuplexStream,
    link: Link,
}

impl Link {
    /// Opens a stream to a server, and returns the client's end.
    pub(super) fn open(server: &RpcServer) -> (LinkStream, Self, AbortOnDropHandle<()>) {
        let (near, far) = tokio::io::duplex(BUFFER);
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), TowerToHyperService::new(server.clone()))
            .with_upgrades();
        // The session has a task of its own after the upgrade.
        let serving = tokio::spawn(async {
            let _ = connection.await;
        });
        let link = Self::default();
        (LinkStream { stream: near, link: link.clone() }, link, AbortOnDropHandle::new(serving))
    }

    /// Ends the stream without a close frame.
    pub(super) fn cut(&self) {
        self.change(|state| state.is_cut = true);
    }

    /// Returns whether the stream is gone.
    pub(super) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Stops the client from reading, or lets it read again.
    pub(super) fn pause(&self, is_paused: bool) {
        self.change(|state| state.is_paused = is_paused);
    }

    fn change(&self, change: impl FnOnce(&mut LinkState)) {
        let mut state = self.state();
        change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        // No code that runs under the lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkStream {
    fn check_cut(&self) -> io::Result<()> {
        if self.link.state().is_cut { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        {
            let mut state = self.link.state();
            state.reader = Some(cx.waker().clone());
            if state.is_paused && !state.is_cut {
                return Poll::Pending;
            }
        }
        self.check_cut()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
