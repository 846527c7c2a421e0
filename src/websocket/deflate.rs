//! The compression of whole messages (RFC 7692 §7.2).
//!
//! A zlib state takes some 300 KiB, so it belongs to the thread and is borrowed for one message. A connection keeps
//! only the end of its earlier text per direction, and gives it to the state as a dictionary. A large message is inflated
//! in steps, because a payload can take 100 ns for each of its bytes. It keeps the state until its last step.

use std::{cell::RefCell, mem};

use bytes::Bytes;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use crate::websocket::extension::Direction;

/// The end of a flushed payload, an empty block without its first bits. It is not sent (RFC 7692 §7.2.1).
const FLUSH_TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A received payload that is not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InflateError {
    /// The payload is not a complete deflate stream, or refers to text that is not in the window.
    #[error("invalid compressed data")]
    Invalid,
    /// The text is longer than the limit of messages.
    #[error("message too large")]
    TooLarge,
    /// The text is longer than this many times the payload.
    #[error("message too large: more than {0} times its compressed payload")]
    RatioExceeded(u32),
}

/// The decompression of one direction of a connection.
pub(crate) struct Inflate {
    past: Past,
    max_ratio: Option<u32>,
    /// The message that is inflated in steps.
    unfinished: Option<Box<(Decompress, Inflating)>>,
}

/// A message that was inflated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inflated {
    pub(crate) text: Vec<u8>,
    /// The length of its compressed payload.
    pub(crate) payload_len: usize,
}

/// The length of a text that may have any ratio, in bytes.
const ANY_RATIO: usize = 64 << 10;

impl Inflate {
    /// Creates the decompression. A text that is longer than 64 KiB may be at most `max_ratio` times as long as its
    /// payload.
    pub(crate) fn new(direction: Direction, max_ratio: Option<u32>) -> Self {
        // Some peers use a window of 9 bits if 8 are agreed, as zlib does.
        let window = 1 << direction.window_bits.clamp(9, 15);
        Self { past: Past::new(direction, window), max_ratio, unfinished: None }
    }

    /// Begins a message. `payload` is the payload of all its frames. Returns `None` if the message is large: then
    /// [`resume`](Self::resume) must be called until it returns the message.
    ///
    /// After an error, the text of later messages is undefined: the connection must end.
    ///
    /// # Errors
    ///
    /// If the payload is invalid, or its text is longer than `max_size` or than the ratio allows. It never allocates
    /// more than that and a buffer.
    // Not inlined, because messages that are not compressed would pay for its stack.
    #[inline(never)]
    pub(crate) fn begin(&mut self, payload: Bytes, max_size: usize) -> Result<Option<Inflated>, InflateError> {
        // A message without any block is empty for other implementations, too.
        if payload.is_empty() {
            return Ok(Some(Inflated { text: Vec::new(), payload_len: 0 }));
        }
        let mut limit = (max_size, InflateError::TooLarge);
        if let Some(ratio) = self.max_ratio {
            let by_ratio = payload.len().saturating_mul(ratio as usize).max(ANY_RATIO);
            if by_ratio < max_size {
                limit = (by_ratio, InflateError::RatioExceeded(ratio));
            }
        }
        INFLATER.with_borrow_mut(|Inflater { zlib, buffer }| {
            zlib.reset(false);
            if !self.past.text.is_empty() {
                zlib.set_dictionary(&self.past.text).expect("a raw stream accepts a dictionary at any time");
            }
            let mut text = mem::take(buffer);
            text.clear();
            let mut inflating = Inflating { payload, read: 0, text, limit };
            if inflating.step(zlib)? {
                let inflated = inflating.finish(buffer);
                self.past.push(&inflated.text);
                return Ok(Some(inflated));
            }
            let zlib = mem::replace(zlib, Decompress::new(false));
            self.unfinished = Some(Box::new((zlib, inflating)));
            Ok(None)
        })
    }

    /// Returns whether [`resume`](Self::resume) must be called.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Gives up the message that is unfinished, after which others are not read. Returns whether there was one.
    pub(crate) fn abandon(&mut self) -> bool {
        self.unfinished.take().is_some()
    }

    /// Inflates the next part of the message that was begun, like [`begin`](Self::begin).
    pub(crate) fn resume(&mut self) -> Result<Option<Inflated>, InflateError> {
        let Some(mut unfinished) = self.unfinished.take() else { return Ok(None) };
        let (zlib, inflating) = &mut *unfinished;
        if !inflating.step(zlib)? {
            self.unfinished = Some(unfinished);
            return Ok(None);
        }
        let inflated = unfinished.1.finish(&mut Vec::new());
        self.past.push(&inflated.text);
        Ok(Some(inflated))
    }
}

/// Returns the longest payload of a text that does not compress: 9 bits for a byte, and some bytes for the blocks.
pub(crate) fn max_payload(text_len: usize) -> usize {
    text_len.saturating_add(text_len / 8).saturating_add(64)
}

/// The compression of one direction of a connection.
pub(crate) struct Deflate {
    past: Past,
    window_bits: u8,
}

/// The bytes at the far end of a window that zlib does not reach. A dictionary that fills the window costs more.
const UNREACHABLE: usize = 262;

impl Deflate {
    /// Creates the compression. Returns `None` for a window of 8 bits, which zlib does not have.
    pub(crate) fn new(direction: Direction) -> Option<Self> {
        let window_bits = direction.window_bits;
        let past =
            WINDOW_BITS.contains(&window_bits).then(|| Past::new(direction, (1 << window_bits) - UNREACHABLE))?;
        Some(Self { past, window_bits })
    }

    /// Appends the compressed payload of a message to `out`.
    pub(crate) fn message(&mut self, text: &[u8], out: &mut Vec<u8>) {
        out.reserve(max_payload(text.len()));
        DEFLATERS.with_borrow_mut(|deflaters| {
            let deflater = deflaters[usize::from(self.window_bits - WINDOW_BITS.start())].get_or_insert_with(|| {
                // Level 1. Higher levels take several times as long, and save few bytes of a JSON message.
                Compress::new_with_window_bits(flate2::Compression::fast(), false, self.window_bits)
            });
            deflate(deflater, &self.past.text, text, out);
        });
        self.past.push(text);
    }
}

/// The end of the earlier text of one direction.
struct Past {
    text: Vec<u8>,
    /// The maximum length. Zero without context takeover.
    limit: usize,
}

impl Past {
    fn new(direction: Direction, limit: usize) -> Self {
        Self { text: Vec::new(), limit: if direction.context_takeover { limit } else { 0 } }
    }

    /// Appends a text, and drops what exceeds the limit. The capacity is exact, because most connections are idle.
    fn push(&mut self, text: &[u8]) {
        let text = &text[text.len().saturating_sub(self.limit)..];
        let excess = (self.text.len() + text.len()).saturating_sub(self.limit);
        self.text.drain(..excess);
        self.text.reserve_exact(text.len());
        self.text.extend_from_slice(text);
    }
}

thread_local! {
    static INFLATER: RefCell<Inflater> = RefCell::new(Inflater { zlib: Decompress::new(false), buffer: Vec::new() });
    /// The states by their window size, each created on first use.
    static DEFLATERS: RefCell<[Option<Compress>; 7]> = const { RefCell::new([const { None }; 7]) };
}

/// The windows of zlib.
const WINDOW_BITS: std::ops::RangeInclusive<u8> = 9..=15;

/// The decompression of a thread. Its window has 15 bits, so it reads all smaller windows as well.
struct Inflater {
    zlib: Decompress,
    /// The buffer of short texts, which are then copied to an allocation of exactly their length.
    buffer: Vec<u8>,
}

/// The capacity of the buffer for short texts, in bytes.
const BUFFER: usize = 4 << 10;

/// The bytes of payload that one step reads, at most.
const STEP_PAYLOAD: usize = 32 << 10;

/// The bytes of text that one step makes, at most.
const STEP_TEXT: usize = 64 << 10;

/// The work on a message.
struct Inflating {
    payload: Bytes,
    /// The bytes of the payload that were read.
    read: usize,
    text: Vec<u8>,
    /// The maximum length of the text, and the error beyond it.
    limit: (usize, InflateError),
}

impl Inflating {
    /// Inflates a part of the payload. Returns whether it was the last one.
    fn step(&mut self, zlib: &mut Decompress) -> Result<bool, InflateError> {
        let (max_len, too_long) = self.limit;
        let (until_read, until_len) = (self.read.saturating_add(STEP_PAYLOAD), self.text.len() + STEP_TEXT);
        loop {
            let rest = &self.payload[self.read..self.payload.len().min(until_read)];
            if self.text.len() == self.text.capacity() {
                // One byte more than allowed shows that a text is too long.
                let allowed = max_len.saturating_add(1) - self.text.len();
                self.text.reserve_exact(self.text.len().clamp(BUFFER, STEP_TEXT).min(allowed));
            }
            let (read_before, len_before) = (zlib.total_in(), self.text.len());
            let status = zlib.decompress_vec(rest, &mut self.text, FlushDecompress::None);
            let status = status.map_err(|_| InflateError::Invalid)?;
            let read = (zlib.total_in() - read_before) as usize;
            self.read += read;
            if self.text.len() > max_len {
                return Err(too_long);
            }
            let rest = &self.payload[self.read..];
            if status == Status::StreamEnd {
                // A peer that sends a final block must add one byte (RFC 7692 §7.2.3.5). Some do not.
                return if matches!(rest, [] | [0]) { Ok(true) } else { Err(InflateError::Invalid) };
            }
            if rest.is_empty() && self.text.len() < self.text.capacity() {
                return if self.ends_at_flush(zlib) { Ok(true) } else { Err(InflateError::Invalid) };
            }
            // Each iteration makes progress, so that no payload runs for ever.
            if read == 0 && self.text.len() == len_before {
                return Err(InflateError::Invalid);
            }
            if self.read >= until_read || self.text.len() >= until_len {
                return Ok(false);
            }
        }
    }

    /// Returns whether the blocks of the payload ended where the sender flushed them.
    ///
    /// A payload that was cut anywhere else swallows some of the bytes that follow here: they become text, or are
    /// invalid.
    fn ends_at_flush(&self, zlib: &mut Decompress) -> bool {
        /// The tail that the sender removed, and an empty final block.
        const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
        // Some peers do not remove the tail. A payload without it never ends so: its last bit is zero.
        let end = if self.payload.ends_with(&FLUSH_TAIL) { &END[FLUSH_TAIL.len()..] } else { &END };
        let read_before = zlib.total_in();
        // There is no room, so that text is an error.
        let status = zlib.decompress(end, &mut [], FlushDecompress::Finish);
        let is_read = zlib.total_in() - read_before == end.len() as u64;
        is_read && status.is_ok_and(|status| status == Status::StreamEnd)
    }

    /// Returns the message. A short text leaves its memory to `buffer`.
    fn finish(&mut self, buffer: &mut Vec<u8>) -> Inflated {
        let mut text = mem::take(&mut self.text);
        if text.capacity() <= BUFFER {
            let exact = text.as_slice().to_vec();
            *buffer = text;
            text = exact;
        } else if text.capacity() > text.len() + text.len() / 8 {
            // A payload keeps the memory of its message.
            text.shrink_to_fit();
        }
        Inflated { text, payload_len: self.payload.len() }
    }
}

/// Appends the compressed payload of a text that follows `past`. `out` must have room for it, or the payload may contain
/// needless empty blocks.
fn deflate(zlib: &mut Compress, past: &[u8], text: &[u8], out: &mut Vec<u8>) {
    zlib.reset();
    if !past.is_empty() {
        zlib.set_dictionary(past).expect("a raw stream accepts a dictionary at its start");
    }
    let mut rest = text;
    loop {
        if out.len() == out.capacity() {
            out.reserve(64);
        }
        let read_before = zlib.total_in();
        zlib.compress_vec(rest, out, FlushCompress::Sync).expect("a stream that is not finished accepts text");
        rest = &rest[(zlib.total_in() - read_before) as usize..];
        // A flush is complete if it leaves room.
        if rest.is_empty() && out.len() < out.capacity() {
            break;
        }
    }
    debug_assert!(out.ends_with(&FLUSH_TAIL));
    out.truncate(out.len() - FLUSH_TAIL.len());
}

#[cfg(test)]
mod tests;
