//! What the fuzz targets share: frames that they build out of the fuzzer's bytes, and connections to a server.

use std::io::{self, ErrorKind, Read, Write};

use arbitrary::{Result, Unstructured};
use ocpp_rpc::{RpcServer, server::ConnectionInfo};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::Builder,
};
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketContext},
};

/// A frame, which may be invalid.
#[derive(Debug)]
pub struct Frame {
    /// The final bit, the reserved bits and the opcode.
    pub first: u8,
    pub is_masked: bool,
    pub payload: Vec<u8>,
    /// The bytes that encode the length: 0, 2 or 8. More are used if the length needs them.
    len_bytes: u8,
    /// The length in the head, if it differs from that of the payload.
    wrong_len: Option<u64>,
}

pub const FINAL: u8 = 0x80;
pub const RSV1: u8 = 0x40;
pub const TEXT: u8 = 1;
const CLOSE: u8 = 8;

impl Frame {
    /// Returns a frame that is final and valid.
    pub fn new(opcode: u8, is_masked: bool, payload: Vec<u8>) -> Self {
        Self { first: FINAL | opcode, is_masked, payload, len_bytes: 0, wrong_len: None }
    }

    /// Builds a frame that is valid more often than not. Few payloads are longer than `limit`.
    pub fn arbitrary(bytes: &mut Unstructured<'_>, is_masked: bool, limit: usize) -> Result<Self> {
        let opcode = *bytes.choose(&[0, 0, 0, 0, TEXT, TEXT, TEXT, 2, 2, 9, 10, CLOSE])?;
        let payload = if opcode == CLOSE { close_payload(bytes)? } else { payload(bytes, limit)? };
        let mut frame = Self::new(opcode, is_masked, payload);
        if opcode < CLOSE && bytes.arbitrary()? {
            frame.first &= !FINAL;
        }
        if bytes.ratio(1_u8, 8)? {
            match bytes.int_in_range(0..=4)? {
                0 => frame.first = bytes.arbitrary()?,
                1 => frame.is_masked = !is_masked,
                2 => frame.len_bytes = *bytes.choose(&[2, 8])?,
                3 => frame.wrong_len = Some(bytes.arbitrary()?),
                _ => frame.wrong_len = Some(bytes.arbitrary::<u8>()?.into()),
            }
        }
        Ok(frame)
    }

    /// Appends the frame to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        /// Has zeros, so that some bytes look the same with it and without it.
        const MASK: [u8; 4] = [0x37, 0, 0x21, 0xff];
        let mask_bit = if self.is_masked { 0x80 } else { 0 };
        let len = self.wrong_len.unwrap_or(self.payload.len() as u64);
        out.push(self.first);
        match (len, self.len_bytes) {
            (0..=125, 0) => out.push(mask_bit | len as u8),
            (0..=0xffff, 0 | 2) => {
                out.push(mask_bit | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {
                out.push(mask_bit | 127);
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
        if self.is_masked {
            out.extend_from_slice(&MASK);
            out.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            out.extend_from_slice(&self.payload);
        }
    }
}

/// Returns a payload of a control frame or of a data frame.
fn payload(bytes: &mut Unstructured<'_>, limit: usize) -> Result<Vec<u8>> {
    Ok(match bytes.int_in_range(0..=3)? {
        0 => {
            let len = bytes.arbitrary::<u8>()?;
            bytes.bytes(usize::from(len).min(bytes.len()))?.to_vec()
        }
        1 => vec![b'x'; bytes.int_in_range(0..=limit + limit / 8)?],
        _ => pieces(bytes)?,
    })
}

/// Returns text of whole characters and of their parts, which fragments may join.
fn pieces(bytes: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let pieces: [&[u8]; 16] = [
        b"a",
        b"\0",
        "é".as_bytes(),
        "€".as_bytes(),
        "🔌".as_bytes(),
        b"\xc3",
        b"\xa9",
        b"\xe2",
        b"\xe2\x82",
        b"\xac",
        b"\xf0\x9f",
        b"\x94\x8c",
        // A surrogate, an overlong character, one above U+10FFFF, and a byte that no text has.
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"\xff",
    ];
    let count = bytes.int_in_range(0..=12)?;
    let mut text = Vec::new();
    for _ in 0..count {
        text.extend_from_slice(bytes.choose(&pieces)?);
    }
    Ok(text)
}

fn close_payload(bytes: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let code = match bytes.int_in_range(0..=7)? {
        0 => return Ok(Vec::new()),
        1 => return Ok(vec![3]),
        2 => bytes.arbitrary()?,
        3 => bytes.int_in_range(999..=1017)?,
        4 => *bytes.choose(&[0, 2999, 3000, 3999, 4000, 4999, 5000, u16::MAX])?,
        _ => 1000,
    };
    Ok([&code.to_be_bytes(), &*pieces(bytes)?].concat())
}

/// Runs a future with a clock that is paused. Its seed and the input decide everything that happens.
pub fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    ocpp_rpc::unstable::seed(1);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(future)
}

/// A client's end of a connection to a server, over a stream in memory.
#[derive(Debug)]
pub struct Connection {
    stream: DuplexStream,
}

impl Connection {
    /// Opens a connection, which the server serves in a task of its own.
    pub fn open(server: &RpcServer) -> Self {
        let (stream, far) = tokio::io::duplex(1 << 20);
        let server = server.clone();
        tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await });
        Self { stream }
    }

    /// Opens a session with this subprotocol for the identity `CP`.
    pub async fn upgraded(server: &RpcServer, protocol: &str) -> Self {
        let mut connection = Self::open(server);
        let head = format!(
            "GET /CP HTTP/1.1\r\nHost: csms\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
            Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        );
        connection.send(head.as_bytes()).await;
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            response.push(connection.stream.read_u8().await.expect("a response"));
        }
        connection
    }

    /// Sends bytes. The server may have closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) {
        _ = self.stream.write_all(bytes).await;
        tokio::task::yield_now().await;
    }

    pub async fn send_frame(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        self.send(&bytes).await;
    }

    /// Sends no more, and returns everything that the server sends until it ends the connection.
    pub async fn end(mut self) -> Vec<u8> {
        _ = self.stream.shutdown().await;
        let mut received = Vec::new();
        _ = self.stream.read_to_end(&mut received).await;
        received
    }
}

/// Returns the messages in the frames of a server.
///
/// # Panics
/// Panics if the server has broken the WebSocket protocol, or if a message is not JSON.
pub fn messages(frames: &[u8]) -> Vec<Value> {
    let mut input = Input(frames);
    let mut context = WebSocketContext::new(Role::Client, None);
    let mut messages = Vec::new();
    loop {
        match context.read(&mut input) {
            Ok(Message::Text(text)) => messages.push(serde_json::from_str(&text).expect("JSON")),
            Ok(Message::Binary(_)) => panic!("binary data"),
            Ok(_) => {}
            Err(Error::ConnectionClosed | Error::Io(_)) => return messages,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A stream with bytes to read, and without end. It accepts all writes.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match Read::read(&mut self.0, buffer)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Input<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
