//! Attackers: each sends what a stranger, a broken station or a bad network could send, until its task is aborted.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use flate2::{Compression, write::DeflateEncoder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    net::{TcpSocket, TcpStream},
    time::sleep,
};

/// An attack by many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attack {
    /// Strangers keep their connections by cheap requests.
    CheapRequests,
    /// Strangers announce a body that never comes.
    HangingBodies,
    /// Strangers send requests and read no response.
    UnreadResponses,
    /// Handshakes wait for an authenticator that never decides.
    HangingAuthentications,
    /// A head comes byte by byte.
    HalfHandshakes,
    Silence,
    /// Only the preface of HTTP/2 comes.
    Preface,
    /// Random bytes come instead of a request.
    GarbageFirst,
    /// Random bytes come after the handshake.
    GarbageLater,
    /// A station comes back again and again, and leaves calls to slow handlers.
    Reconnects,
    /// Stations call as fast as they can.
    Flood,
    /// Stations call and never read.
    SlowReaders,
    /// A large frame comes byte by byte.
    PartialFrames,
    /// Small messages decompress to large ones.
    Bombs,
    /// Stations send pings as fast as they can, and read nothing.
    Pings,
    /// Stations send messages that are no OCPP.
    BadMessages,
}

impl Attack {
    pub const ALL: &[Self] = &[
        Self::CheapRequests,
        Self::HangingBodies,
        Self::UnreadResponses,
        Self::HangingAuthentications,
        Self::HalfHandshakes,
        Self::Silence,
        Self::Preface,
        Self::GarbageFirst,
        Self::GarbageLater,
        Self::Reconnects,
        Self::Flood,
        Self::SlowReaders,
        Self::PartialFrames,
        Self::Bombs,
        Self::Pings,
        Self::BadMessages,
    ];

    /// Returns the number of connections at once.
    pub fn connections(self) -> usize {
        match self {
            // These keep a processor busy, which they share with the server.
            Self::Flood | Self::Pings | Self::BadMessages => 4,
            Self::Bombs | Self::GarbageLater | Self::Reconnects | Self::SlowReaders => 8,
            Self::UnreadResponses => 32,
            _ => 96,
        }
    }

    /// Attacks by one connection after the other. Each of them ends if the server ends it.
    pub async fn run(self, server: SocketAddr, number: usize) {
        loop {
            // The server or the system may refuse the connection, or end it at any time.
            let _ = self.connect(server, number).await;
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn connect(self, server: SocketAddr, number: usize) -> io::Result<()> {
        let mut stream = open(server, number).await?;
        match self {
            Self::CheapRequests => loop {
                stream.write_all(b"GET /health HTTP/1.1\r\nHost: csms\r\n\r\n").await?;
                read_some(&mut stream).await?;
                sleep(Duration::from_millis(50)).await;
            },
            Self::HangingBodies => {
                stream.write_all(b"POST /x HTTP/1.1\r\nHost: csms\r\nContent-Length: 1000000\r\n\r\n").await?;
                until_closed(&mut stream).await
            }
            Self::UnreadResponses => loop {
                stream.write_all(&b"GET /x HTTP/1.1\r\nHost: csms\r\n\r\n".repeat(100)).await?;
                sleep(Duration::from_millis(10)).await;
            },
            Self::HangingAuthentications => {
                stream.write_all(&handshake(&format!("hang-{number}"), "")).await?;
                until_closed(&mut stream).await
            }
            Self::HalfHandshakes => {
                for byte in handshake("half", "") {
                    stream.write_u8(byte).await?;
                    sleep(Duration::from_millis(50)).await;
                }
                until_closed(&mut stream).await
            }
            Self::Silence => until_closed(&mut stream).await,
            Self::Preface => {
                stream.write_all(b"PRI * HT").await?;
                until_closed(&mut stream).await
            }
            Self::GarbageFirst => {
                stream.write_all(&garbage(4096)).await?;
                until_closed(&mut stream).await
            }
            Self::GarbageLater => {
                upgrade(&mut stream, &format!("garbage-{number}"), "").await?;
                stream.write_all(&garbage(4096)).await?;
                until_closed(&mut stream).await
            }
            Self::Reconnects => {
                upgrade(&mut stream, &format!("returns-{number}"), "").await?;
                let padding = "x".repeat(1000);
                for call in 0..64 {
                    stream.write_all(&text(&format!(r#"[2,"{call}","Slow",{{"p":"{padding}"}}]"#))).await?;
                }
                Ok(())
            }
            Self::Flood => {
                upgrade(&mut stream, &format!("flood-{number}"), "").await?;
                let calls: Vec<u8> =
                    (0..64).flat_map(|call| text(&format!(r#"[2,"{call}","Heartbeat",{{}}]"#))).collect();
                exchange(stream, &calls).await
            }
            Self::SlowReaders => {
                upgrade(&mut stream, &format!("slow-{number}"), "").await?;
                loop {
                    stream.write_all(&text(r#"[2,"1","Large",{}]"#)).await?;
                }
            }
            Self::PartialFrames => {
                upgrade(&mut stream, &format!("partial-{number}"), "").await?;
                stream.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0, 0x0f, 0xff, 0xff, 0, 0, 0, 0]).await?;
                loop {
                    stream.write_u8(b'[').await?;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Self::Bombs => {
                let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
                upgrade(&mut stream, &format!("bomb-{number}"), extension).await?;
                stream.write_all(&bomb()).await?;
                until_closed(&mut stream).await
            }
            Self::Pings => {
                upgrade(&mut stream, &format!("ping-{number}"), "").await?;
                let pings = [0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4].repeat(400);
                loop {
                    stream.write_all(&pings).await?;
                }
            }
            Self::BadMessages => {
                upgrade(&mut stream, &format!("bad-{number}"), "").await?;
                let bad = [r#"[2,"1","#, "[]", r#"{"a":1}"#, r#"[9,"1"]"#, r#"[3,"unknown",{}]"#, r#"[2,7,"A",{}]"#];
                let bad: Vec<u8> = bad.iter().cycle().take(60).flat_map(|message| text(message)).collect();
                exchange(stream, &bad).await
            }
        }
    }
}

/// Connects from one of eight addresses.
async fn open(server: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Other systems than Linux have only one address of the loopback interface.
    if cfg!(target_os = "linux") {
        let address = Ipv4Addr::new(127, 0, 0, 2 + (number % 8) as u8);
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
