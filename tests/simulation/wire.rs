//! Units of a WebSocket connection on the wire: the head of the handshake, then frames.

use flate2::{Decompress, FlushDecompress};

/// A unit that the proxy forwards, with its bytes as they were sent.
pub struct Unit {
    pub bytes: Vec<u8>,
    /// The length of the frame's head; the rest is payload. `None` if the unit is no frame.
    pub frame_head: Option<usize>,
    /// The text of an unfragmented text message.
    pub text: Option<String>,
}

/// Splits the bytes of one direction into units.
pub struct Splitter {
    buffer: Vec<u8>,
    stage: Stage,
    inflate: Decompress,
}

#[derive(PartialEq)]
enum Stage {
    Head,
    Frames,
    /// An HTTP response that is no upgrade, and its body.
    Plain,
}

impl Splitter {
    pub fn new() -> Self {
        Self { buffer: Vec::new(), stage: Stage::Head, inflate: Decompress::new(false) }
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole unit.
    pub fn next(&mut self) -> Option<Unit> {
        match self.stage {
            Stage::Head => {
                let end = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
                let is_upgrade = self.buffer.starts_with(b"GET ") || self.buffer.starts_with(b"HTTP/1.1 101");
                self.stage = if is_upgrade { Stage::Frames } else { Stage::Plain };
                Some(self.take(end, None))
            }
            Stage::Frames => self.frame(),
            Stage::Plain if self.buffer.is_empty() => None,
            Stage::Plain => Some(self.take(self.buffer.len(), None)),
        }
    }

    /// Takes what is left of an incomplete unit.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    fn take(&mut self, len: usize, frame_head: Option<usize>) -> Unit {
        Unit { bytes: self.buffer.drain(..len).collect(), frame_head, text: None }
    }

    fn frame(&mut self) -> Option<Unit> {
        let &[first, second, ..] = &*self.buffer else { return None };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_len = if second & 0x80 == 0 { 0 } else { 4 };
        let head = 2 + extended + mask_len;
        let length = self.buffer.get(2..2 + extended)?;
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let length = if extended == 0 { usize::from(second & 0x7f) } else { length };
        self.buffer.get(..head + length)?;
        let mut unit = self.take(head + length, Some(head));
        if first & 0x8f == 0x81 {
            let mask = &unit.bytes[head - mask_len..head];
            let payload = unit.bytes[head..].iter().enumerate();
            let payload: Vec<u8> =
                payload.map(|(at, byte)| byte ^ mask.get(at % 4).copied().unwrap_or_default()).collect();
            let payload = if first & 0x40 == 0 { payload } else { self.decompress(payload) };
            unit.text = String::from_utf8(payload).ok();
        }
        Some(unit)
    }

    fn decompress(&mut self, mut payload: Vec<u8>) -> Vec<u8> {
        payload.extend([0, 0, 0xff, 0xff]);
        let mut text = Vec::with_capacity(payload.len() * 4 + 256);
        let start = self.inflate.total_in();
        loop {
            let read = usize::try_from(self.inflate.total_in() - start).expect("a short message");
            if self.inflate.decompress_vec(&payload[read..], &mut text, FlushDecompress::Sync).is_err()
                || text.len() < text.capacity()
            {
                return text;
            }
            text.reserve(text.capacity());
        }
    }
}
