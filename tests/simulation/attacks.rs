//! Attackers: each sends what a stranger, a broken station or a bad network could send.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flate2::{Compression, write::DeflateEncoder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::{TcpSocket, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// The head of a request with a large body.
const POST: &[u8] = b"POST /read HTTP/1.1\r\nHost: csms\r\nContent-Length: 1000000\r\n\r\n";

/// An attack by many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attack {
    /// Stations call and never read.
    SlowReaders,
    /// Random bytes come after the handshake.
    GarbageLater,
    /// Small messages decompress to large ones.
    Bombs,
    /// A station comes back again and again, and leaves calls to slow handlers.
    Reconnects,
    /// Stations call as fast as they can.
    Flood,
    /// A large frame comes byte by byte.
    PartialFrames,
    /// Stations send pings as fast as they can, and read nothing.
    Pings,
    /// Stations send messages that are no OCPP.
    BadMessages,
    /// Handshakes wait for an authenticator that never decides.
    HangingAuthentications,
    /// Strangers send requests and read no response.
    UnreadResponses,
    /// Strangers announce a body that never comes.
    HangingBodies,
    /// A body comes byte by byte.
    TrickledBodies,
    /// A head comes byte by byte.
    HalfHandshakes,
    Silence,
    /// Only the preface of HTTP/2 comes.
    Preface,
    /// Random bytes come instead of a request.
    GarbageFirst,
    /// Strangers keep their connections by cheap requests.
    CheapRequests,
}

/// The connections of an attack.
#[derive(Debug, Default)]
pub struct Tally {
    /// Those that got to the point of the attack.
    pub arrived: AtomicUsize,
    /// The attackers that are not done.
    pub running: AtomicUsize,
}

impl Attack {
    /// In the order of a round.
    pub const ALL: &[Self] = &[
        Self::SlowReaders,
        Self::GarbageLater,
        Self::Bombs,
        Self::Reconnects,
        Self::Flood,
        Self::PartialFrames,
        Self::Pings,
        Self::BadMessages,
        Self::HangingAuthentications,
        Self::UnreadResponses,
        Self::HangingBodies,
        Self::TrickledBodies,
        Self::HalfHandshakes,
        Self::Silence,
        Self::Preface,
        Self::GarbageFirst,
        Self::CheapRequests,
    ];

    /// Returns the number of connections at once. Those of several attacks together take all places of the server.
    pub fn connections(self) -> usize {
        match self {
            // These keep a processor busy, which they share with the server.
            Self::Flood | Self::Pings | Self::BadMessages => 4,
            Self::Bombs | Self::GarbageLater | Self::Reconnects | Self::SlowReaders | Self::UnreadResponses => 8,
            _ => 48,
        }
    }

    /// Returns whether the server must end the connections by itself. Others keep sending and may stay.
    fn is_ended_by_the_server(self) -> bool {
        !matches!(
            self,
            Self::SlowReaders
                | Self::Reconnects
                | Self::Flood
                | Self::PartialFrames
                | Self::Pings
                | Self::BadMessages
                | Self::TrickledBodies
                | Self::CheapRequests
        )
    }

    /// Attacks by one connection after the other, until `stop` is cancelled. The last one stays until the server ends it,
    /// if it must.
    pub async fn run(self, server: SocketAddr, number: usize, tally: Arc<Tally>, stop: CancellationToken) {
        tally.running.fetch_add(1, Ordering::Relaxed);
        while !stop.is_cancelled() {
            let connection = self.connect(server, number, &tally.arrived);
            // The server or the system may refuse the connection, or end it at any time.
            if self.is_ended_by_the_server() {
                let _ = connection.await;
            } else {
                stop.run_until_cancelled(connection).await;
            }
            stop.run_until_cancelled(sleep(Duration::from_millis(10))).await;
        }
        tally.running.fetch_sub(1, Ordering::Relaxed);
    }

    async fn connect(self, server: SocketAddr, number: usize, arrived: &AtomicUsize) -> io::Result<()> {
        // More addresses would take the pending handshakes of all others, up to the deadline.
        let addresses = if self == Self::HangingAuthentications { 3 } else { 8 };
        let mut stream = open(server, number % addresses).await?;
        let arrive = || _ = arrived.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::CheapRequests => loop {
                stream.write_all(b"GET /health HTTP/1.1\r\nHost: csms\r\n\r\n").await?;
                read_some(&mut stream).await?;
                arrive();
                sleep(Duration::from_millis(50)).await;
            },
            Self::HangingBodies => {
                stream.write_all(POST).await?;
                arrive();
                until_closed(&mut stream).await
            }
            Self::TrickledBodies => {
                stream.write_all(POST).await?;
                loop {
                    arrive();
                    stream.write_u8(b'x').await?;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Self::UnreadResponses => loop {
                stream.write_all(b"GET /large HTTP/1.1\r\nHost: csms\r\n\r\n").await?;
                arrive();
                sleep(Duration::from_millis(10)).await;
            },
            Self::HangingAuthentications => {
                stream.write_all(&handshake(&format!("hang-{number}"), "")).await?;
                arrive();
                until_closed(&mut stream).await
            }
            Self::HalfHandshakes => {
                arrive();
                for byte in handshake("half", "") {
                    stream.write_u8(byte).await?;
                    sleep(Duration::from_millis(50)).await;
                }
                until_closed(&mut stream).await
            }
            Self::Silence => {
                arrive();
                until_closed(&mut stream).await
            }
            Self::Preface => {
                stream.write_all(b"PRI * HT").await?;
                arrive();
                until_closed(&mut stream).await
            }
            Self::GarbageFirst => {
                stream.write_all(&garbage(4096)).await?;
                arrive();
                until_closed(&mut stream).await
            }
            Self::GarbageLater => {
                upgrade(&mut stream, &format!("garbage-{number}"), "").await?;
                arrive();
                let mut garbage = garbage(4096);
                // Reserved bits, because a head of a longer frame would be no garbage: the server would wait for the rest.
                garbage[0] |= 0x70;
                stream.write_all(&garbage).await?;
                until_closed(&mut stream).await
            }
            Self::Reconnects => {
                upgrade(&mut stream, &format!("returns-{number}"), "").await?;
                arrive();
                let padding = "x".repeat(1000);
                for call in 0..64 {
                    stream.write_all(&text(&format!(r#"[2,"{call}","Slow",{{"p":"{padding}"}}]"#))).await?;
                }
                Ok(())
            }
            Self::Flood => {
                upgrade(&mut stream, &format!("flood-{number}"), "").await?;
                arrive();
                let calls: Vec<u8> =
                    (0..64).flat_map(|call| text(&format!(r#"[2,"{call}","Heartbeat",{{}}]"#))).collect();
                exchange(stream, &calls).await
            }
            Self::SlowReaders => {
                upgrade(&mut stream, &format!("slow-{number}"), "").await?;
                arrive();
                loop {
                    stream.write_all(&text(r#"[2,"1","Large",{}]"#)).await?;
                }
            }
            Self::PartialFrames => {
                upgrade(&mut stream, &format!("partial-{number}"), "").await?;
                arrive();
                stream.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0, 0x0f, 0xff, 0xff, 0, 0, 0, 0]).await?;
                loop {
                    stream.write_u8(b'[').await?;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Self::Bombs => {
                let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
                upgrade(&mut stream, &format!("bomb-{number}"), extension).await?;
                arrive();
                stream.write_all(&bomb()).await?;
                until_closed(&mut stream).await
            }
            Self::Pings => {
                upgrade(&mut stream, &format!("ping-{number}"), "").await?;
                arrive();
                let pings = [0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4].repeat(400);
                loop {
                    stream.write_all(&pings).await?;
                }
            }
            Self::BadMessages => {
                upgrade(&mut stream, &format!("bad-{number}"), "").await?;
                arrive();
                let bad = [r#"[2,"1","#, "[]", r#"{"a":1}"#, r#"[9,"1"]"#, r#"[3,"unknown",{}]"#, r#"[2,7,"A",{}]"#];
                let bad: Vec<u8> = bad.iter().cycle().take(60).flat_map(|message| text(message)).collect();
                exchange(stream, &bad).await
            }
        }
    }
}

/// Connects from the address with this number, of eight.
async fn open(server: SocketAddr, address: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Other systems than Linux have only one address of the loopback interface.
    if cfg!(target_os = "linux") {
        let address = Ipv4Addr::new(127, 0, 0, 2 + address as u8);
        socket.bind(SocketAddr::new(address.into(), 0))?;
    }
    socket.connect(server).await
}

fn handshake(identity: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET /ocpp/{identity} HTTP/1.1\r\nHost: csms\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: ocpp1.6\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// Opens a session.
async fn upgrade(stream: &mut TcpStream, identity: &str, headers: &str) -> io::Result<()> {
    stream.write_all(&handshake(identity, headers)).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 101") { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

/// Writes the bytes again and again, and discards what arrives.
async fn exchange(stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        loop {
            writer.write_all(bytes).await?;
        }
    };
    let mut discarded = sink();
    tokio::select! {
        ended = copy(&mut reader, &mut discarded) => ended.map(drop),
        ended = write => ended,
    }
}

async fn read_some(stream: &mut TcpStream) -> io::Result<()> {
    if stream.read(&mut [0; 4096]).await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

async fn until_closed(stream: &mut TcpStream) -> io::Result<()> {
    loop {
        read_some(stream).await?;
    }
}

/// A frame with a mask of zeros.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..0x1_0000 => frame.extend([&[0x80 | 126][..], &(len as u16).to_be_bytes()].concat()),
        len => frame.extend([&[0x80 | 127][..], &(len as u64).to_be_bytes()].concat()),
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

/// A message of some kilobytes that decompresses to 8 MiB.
fn bomb() -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![b' '; 8 << 20]).expect("memory");
    frame(0xc1, &encoder.finish().expect("memory"))
}

/// Random bytes.
fn garbage(len: usize) -> Vec<u8> {
    (0..len).map(|_| rand::random()).collect()
}
