//! A link in memory between a client and a server, with a proxy in between that delays, splits, stalls, cuts, truncates
//! and corrupts what passes.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex, split},
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    history::{Fact, Side},
    wire::{Splitter, Unit},
    world::World,
};

/// The behaviour of a link.
#[derive(Clone)]
pub struct Plan {
    /// The delay of each unit, in milliseconds.
    pub latency: u64,
    /// The bytes of one write at most.
    pub piece: usize,
    /// The bytes that each of the two streams holds.
    pub buffer: usize,
    /// The faults of what the client sends.
    pub from_client: Vec<Fault>,
    /// The faults of what the server sends.
    pub from_server: Vec<Fault>,
}

/// A fault of one direction.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The number of units that pass before it. The first unit is the head of the handshake.
    pub after: usize,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug)]
pub enum FaultKind {
    /// Both directions end.
    Cut,
    /// Both directions fail with a reset.
    Reset,
    /// This direction ends, the other one does not.
    HalfClose,
    /// This direction passes nothing for this many milliseconds.
    Stall(u64),
    /// This direction passes nothing any more.
    Silence,
    /// The client's end is closed, and the server learns nothing of it. A fault of what the server sends.
    Vanish,
    /// The unit passes in part, then both directions end.
    Truncate,
    /// The unit passes with another character in it. The character is in no number and no id, so that the message
    /// cannot become a valid one with other content.
    Character(u8),
    /// The unit passes with a bit of its frame's head inverted.
    Head(u8),
    /// The unit passes with a byte that is not ASCII.
    NotAscii,
    /// The unit passes twice if it is a response.
    Repeat,
}

impl FaultKind {
    /// Returns whether the fault changes what passes.
    pub fn is_corrupting(self) -> bool {
        matches!(self, Self::Character(_) | Self::Head(_) | Self::NotAscii)
    }
}

/// A stream of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// One end of a link.
pub struct LinkEnd {
    io: Box<dyn Stream>,
    is_reset: Arc<AtomicBool>,
}

/// Creates a link in memory. Returns the end of the client and that of the server. Cancelling `cut` cuts it.
pub fn link(world: &Arc<World>, number: u16, plan: Plan, cut: &CancellationToken) -> (LinkEnd, LinkEnd) {
    let (client, client_proxy) = duplex(plan.buffer);
    let (server_proxy, server) = duplex(plan.buffer);
    let is_reset = join(world, number, plan, cut, client_proxy, server_proxy);
    (LinkEnd { io: Box::new(client), is_reset: is_reset.clone() }, LinkEnd { io: Box::new(server), is_reset })
}

/// Creates a link over sockets to a server. Its number is the port that the server sees.
pub async fn link_over_tcp(
    world: &Arc<World>,
    server: SocketAddr,
    plan: Plan,
    cut: &CancellationToken,
) -> io::Result<(u16, LinkEnd)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let (client_proxy, _) = listener.accept().await?;
    let server_proxy = TcpStream::connect(server).await?;
    let number = server_proxy.local_addr()?.port();
    let is_reset = join(world, number, plan, cut, client_proxy, server_proxy);
    Ok((number, LinkEnd { io: Box::new(client), is_reset }))
}

/// Passes data between two streams. Returns a flag that is set if the link fails with a reset.
fn join(
    world: &Arc<World>,
    link: u16,
    plan: Plan,
    cut: &CancellationToken,
    client: impl Stream,
    server: impl Stream,
) -> Arc<AtomicBool> {
    let (is_reset, is_vanished) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (client_reader, client_writer) = split(client);
    let (server_reader, server_writer) = split(server);
    let Plan { latency, piece, from_client, from_server, .. } = plan;
    let direction = |from, faults| {
        let (world, cut, is_reset, is_vanished) = (world.clone(), cut.clone(), is_reset.clone(), is_vanished.clone());
        Direction { world, link, from, latency, piece, faults, cut, is_reset, is_vanished }
    };
    tokio::spawn(direction(Side::Client, from_client).run(client_reader, server_writer));
    tokio::spawn(direction(Side::Server, from_server).run(server_reader, client_writer));
    is_reset
}

/// One direction of a link.
struct Direction {
    world: Arc<World>,
    link: u16,
    from: Side,
    latency: u64,
    piece: usize,
    faults: Vec<Fault>,
    cut: CancellationToken,
    is_reset: Arc<AtomicBool>,
    is_vanished: Arc<AtomicBool>,
}

impl Direction {
    async fn run(self, reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin) {
        self.cut.run_until_cancelled(self.pass(reader, writer)).await;
    }

    async fn pass(&self, mut reader: impl AsyncRead + Unpin, mut writer: impl AsyncWrite + Unpin) {
        let mut splitter = Splitter::new();
        let mut passed = 0;
        let mut input = [0; 4096];
        loop {
            while let Some(unit) = splitter.next() {
                if let Some(text) = &unit.text {
                    self.world.observe(self.link, self.from, text);
                }
                let fault = self.faults.iter().find(|fault| fault.after == passed).map(|fault| fault.kind);
                passed += 1;
                if self.forward(unit, fault, &mut writer).await.is_err() {
                    return;
                }
            }
            match reader.read(&mut input).await {
                Ok(0) | Err(_) => break,
                Ok(read) => splitter.put(&input[..read]),
            }
        }
        if self.is_vanished.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        let _ = writer.write_all(&splitter.rest()).await;
        let _ = writer.shutdown().await;
        // The other direction may still pass data.
    }

    /// Forwards a unit. An error ends the direction.
    async fn forward(
        &self,
        mut unit: Unit,
        fault: Option<FaultKind>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        sleep(Duration::from_millis(self.latency)).await;
        if let Some(kind) = fault {
            self.world.record(Fact::Fault { link: self.link, from: self.from, kind });
            match kind {
                FaultKind::Cut => self.cut.cancel(),
                FaultKind::Reset => {
                    self.is_reset.store(true, Ordering::Relaxed);
                    self.cut.cancel();
                }
                FaultKind::HalfClose => {
                    writer.shutdown().await?;
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                FaultKind::Stall(time) => sleep(Duration::from_millis(time)).await,
                FaultKind::Silence => pending().await,
                FaultKind::Vanish => {
                    self.is_vanished.store(true, Ordering::Relaxed);
                    writer.shutdown().await?;
                    pending().await
                }
                FaultKind::Truncate => {
                    let len = self.world.roll(0..unit.bytes.len());
                    self.write(&unit.bytes[..len], writer).await?;
                    self.cut.cancel();
                }
                FaultKind::Character(_) | FaultKind::Head(_) | FaultKind::NotAscii => self.corrupt(&mut unit, kind),
                FaultKind::Repeat
                    if unit
                        .text
                        .as_ref()
                        .is_some_and(|text| ["[3", "[4"].iter().any(|kind| text.starts_with(kind))) =>
                {
                    self.write(&unit.bytes, writer).await?;
                }
                FaultKind::Repeat => {}
            }
            if self.cut.is_cancelled() {
                // The task ends when it is polled next.
                pending::<()>().await;
            }
        }
        self.write(&unit.bytes, writer).await
    }

    fn corrupt(&self, unit: &mut Unit, kind: FaultKind) {
        let head = unit.frame_head.unwrap_or_default();
        let (head_part, payload) = unit.bytes.split_at_mut(head);
        let is_masked = head_part.get(1).is_some_and(|byte| byte & 0x80 != 0);
        match kind {
            FaultKind::Head(bit) if head > 0 => {
                // The mask is random, and a changed mask is a change of the payload.
                let fields = if is_masked { head - 4 } else { head };
                head_part[self.world.roll(0..fields)] ^= 1 << (bit % 8);
            }
            _ if payload.is_empty() => {}
            FaultKind::Character(character) => {
                let at = self.world.roll(0..payload.len());
                let mask = if is_masked { head_part[head - 4 + at % 4] } else { 0 };
                payload[at] = character ^ mask;
            }
            _ => payload[self.world.roll(0..payload.len())] ^= 0x80,
        }
    }

    /// Writes in pieces, so that the reader sees parts of frames.
    async fn write(&self, bytes: &[u8], writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        for piece in bytes.chunks(self.piece) {
            writer.write_all(piece).await?;
            yield_now().await;
        }
        Ok(())
    }
}

impl AsyncRead for LinkEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && self.is_reset.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LinkEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
