//! A stream in memory whose faults a test controls.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf},
    time::{Sleep, sleep},
};
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
    reading: Reading,
    /// The reader, if it waits for the link.
    reader: Option<Waker>,
}

/// The speed at which the client reads.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Reading {
    #[default]
    Unlimited,
    /// At most this many bytes after each interval.
    Limited {
        bytes: usize,
        interval: Duration,
    },
    Stopped,
}

/// The end of a stream that its link controls.
pub(super) struct LinkStream {
    stream: DuplexStream,
    link: Link,
    /// The wait for the next bytes, if reading is limited.
    interval: Option<Pin<Box<Sleep>>>,
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
        (LinkStream { stream: near, link: link.clone(), interval: None }, link, AbortOnDropHandle::new(serving))
    }

    /// Ends the stream without a close frame.
    pub(super) fn cut(&self) {
        self.change(|state| state.is_cut = true);
    }

    /// Returns whether the stream is gone.
    pub(super) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Sets the speed at which the client reads.
    pub(super) fn set_reading(&self, reading: Reading) {
        self.change(|state| state.reading = reading);
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
        let this = &mut *self;
        let reading = {
            let mut state = this.link.state();
            state.reader = Some(cx.waker().clone());
            state.reading
        };
        this.check_cut()?;
        match reading {
            Reading::Unlimited => {
                this.interval = None;
                Pin::new(&mut this.stream).poll_read(cx, buf)
            }
            Reading::Limited { bytes, interval } => {
                ready!(this.interval.get_or_insert_with(|| Box::pin(sleep(interval))).as_mut().poll(cx));
                ready!(Pin::new(&mut (&mut this.stream).take(bytes as u64)).poll_read(cx, buf))?;
                this.interval = None;
                Poll::Ready(Ok(()))
            }
            Reading::Stopped => Poll::Pending,
        }
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
