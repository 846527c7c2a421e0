//! The compression of whole messages (RFC 7692 §7.2).
//!
//! A zlib state takes some 300 KiB, so it belongs to the thread and is borrowed for one message. A connection keeps
//! only the end of its earlier text per direction, and gives it to the state as a dictionary.

use std::{cell::RefCell, mem};

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
}

/// The length of a text that may have any ratio, in bytes.
const ANY_RATIO: usize = 64 << 10;

impl Inflate {
    /// Creates the decompression. A text that is longer than 64 KiB may be at most `max_ratio` times as long as its
    /// payload.
    pub(crate) fn new(direction: Direction, max_ratio: Option<u32>) -> Self {
        // Some peers use a window of 9 bits if 8 are agreed, as zlib does.
        let window = 1 << direction.window_bits.clamp(9, 15);
        Self { past: Past::new(direction, window), max_ratio }
    }

    /// Returns the text of a message. `payload` is the payload of all its frames.
    ///
    /// After an error, the text of later messages is undefined: the connection must end.
    ///
    /// # Errors
    ///
    /// If the payload is invalid, or its text is longer than `max_size` or than the ratio allows. It never allocates
    /// more than that and a buffer.
    pub(crate) fn message(&mut self, payload: &[u8], max_size: usize) -> Result<Vec<u8>, InflateError> {
        let mut limit = (max_size, InflateError::TooLarge);
        if let Some(ratio) = self.max_ratio {
            let by_ratio = payload.len().saturating_mul(ratio as usize).max(ANY_RATIO);
            if by_ratio < max_size {
                limit = (by_ratio, InflateError::RatioExceeded(ratio));
            }
        }
        let text = INFLATER.with_borrow_mut(|inflater| inflater.message(payload, &self.past.text, limit))?;
        self.past.push(&text);
        Ok(text)
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

impl Inflater {
    /// Returns the text of a message. `limit` is the maximum length of the text, and the error beyond it.
    fn message(&mut self, payload: &[u8], past: &[u8], limit: (usize, InflateError)) -> Result<Vec<u8>, InflateError> {
        // A message without any block is empty for other implementations, too.
        if payload.is_empty() {
            return Ok(Vec::new());
        }
        self.zlib.reset(false);
        if !past.is_empty() {
            self.zlib.set_dictionary(past).expect("a raw stream accepts a dictionary at any time");
        }
        let mut text = mem::take(&mut self.buffer);
        text.clear();
        let is_ended = self.blocks(payload, &mut text, limit)?;
        if !is_ended && !self.ends_at_flush(payload) {
            return Err(InflateError::Invalid);
        }
        if text.capacity() <= BUFFER {
            let exact = text.as_slice().to_vec();
            self.buffer = text;
            text = exact;
        } else if text.capacity() > text.len() + text.len() / 8 {
            // A payload keeps the memory of its message.
            text.shrink_to_fit();
        }
        Ok(text)
    }

    /// Inflates all blocks of a payload. Returns `true` if one of them is final.
    fn blocks(
        &mut self,
        payload: &[u8],
        text: &mut Vec<u8>,
        (max_len, too_long): (usize, InflateError),
    ) -> Result<bool, InflateError> {
        let mut rest = payload;
        loop {
            if text.len() == text.capacity() {
                // One byte more than allowed shows that a text is too long.
                let allowed = max_len.saturating_add(1) - text.len();
                text.reserve_exact(text.len().max(BUFFER).min(allowed));
            }
            let (read_before, len_before) = (self.zlib.total_in(), text.len());
            let status = self.zlib.decompress_vec(rest, text, FlushDecompress::None);
            let status = status.map_err(|_| InflateError::Invalid)?;
            let read = (self.zlib.total_in() - read_before) as usize;
            rest = &rest[read..];
            if text.len() > max_len {
                return Err(too_long);
            }
            if status == Status::StreamEnd {
                // A peer that sends a final block must add one byte (RFC 7692 §7.2.3.5). Some do not.
                return if matches!(rest, [] | [0]) { Ok(true) } else { Err(InflateError::Invalid) };
            }
            if rest.is_empty() && text.len() < text.capacity() {
                return Ok(false);
            }
            // Each iteration makes progress, so that no payload runs for ever.
            if read == 0 && text.len() == len_before {
                return Err(InflateError::Invalid);
            }
        }
    }

    /// Returns whether the blocks of a payload ended where the sender flushed them.
    ///
    /// A payload that was cut anywhere else swallows some of the bytes that follow here: they become text, or are
    /// invalid.
    fn ends_at_flush(&mut self, payload: &[u8]) -> bool {
        /// The tail that the sender removed, and an empty final block.
        const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
        // Some peers do not remove the tail. A payload without it never ends so: its last bit is zero.
        let end = if payload.ends_with(&FLUSH_TAIL) { &END[FLUSH_TAIL.len()..] } else { &END };
        let read_before = self.zlib.total_in();
        // There is no room, so that text is an error.
        let status = self.zlib.decompress(end, &mut [], FlushDecompress::Finish);
        let is_read = self.zlib.total_in() - read_before == end.len() as u64;
        is_read && status.is_ok_and(|status| status == Status::StreamEnd)
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
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MAX_SIZE: usize = 1 << 20;

    fn direction(window_bits: u8) -> Direction {
        Direction { window_bits, context_takeover: true }
    }

    fn inflate(payload: &[u8]) -> Result<Vec<u8>, InflateError> {
        Inflate::new(direction(15), None).message(payload, MAX_SIZE)
    }

    fn deflate_with(direction: Direction, text: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        Deflate::new(direction).expect("a window of zlib").message(text, &mut payload);
        payload
    }

    /// Deflates by a state of its own. The payload ends with the tail of the flush, or with a final block.
    fn deflate_raw(level: u32, flush: FlushCompress, text: &[u8]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(text.len() + text.len() / 8 + 64);
        let mut zlib = Compress::new(flate2::Compression::new(level), false);
        zlib.compress_vec(text, &mut payload, flush).expect("deflated");
        payload
    }

    /// Returns bytes that do not compress.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_u32;
        let byte = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        std::iter::repeat_with(byte).take(len).collect()
    }

    fn meter_values(n: u32) -> String {
        format!(
            r#"[2,"{n:08x}","MeterValues",{{"connectorId":1,"transactionId":{n},"meterValue":[{{"timestamp":"2026-01-01T00:{:02}:00Z","sampledValue":[{{"value":"{}","context":"Sample.Periodic","measurand":"Energy.Active.Import.Register","unit":"Wh"}}]}}]}}]"#,
            n % 60,
            n * 37
        )
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => any::<u32>().prop_map(|n| meter_values(n % 100_000).into_bytes()),
            2 => (any::<u32>(), 1_usize..200).prop_map(|(n, times)| meter_values(n % 100).repeat(times).into_bytes()),
            1 => vec(any::<u8>(), 0..300),
            1 => (0_usize..40_000).prop_map(noise),
            1 => (any::<u8>(), 0_usize..100_000).prop_map(|(byte, len)| vec![byte; len]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn deflated_messages_inflate_to_their_text(
            texts in vec(text(), 1..8),
            window_bits in WINDOW_BITS,
            context_takeover: bool,
        ) {
            let direction = Direction { window_bits, context_takeover };
            let mut deflate = Deflate::new(direction).expect("a window of zlib");
            let mut inflate = Inflate::new(direction, None);
            for text in &texts {
                let mut payload = b"head".to_vec();
                deflate.message(text, &mut payload);
                prop_assert!(payload.starts_with(b"head"));
                prop_assert!(!payload.ends_with(&FLUSH_TAIL));
                prop_assert_eq!(&inflate.message(&payload[4..], MAX_SIZE).expect("valid"), text);
                let limit = if context_takeover { 1 << window_bits } else { 0 };
                for past in [&deflate.past.text, &inflate.past.text] {
                    prop_assert!(past.len() <= limit && past.capacity() <= limit);
                }
            }
        }

        #[test]
        fn arbitrary_payloads_are_read_without_panic(
            payloads in vec(vec(any::<u8>(), 0..200), 1..4),
            (at, byte) in any::<(prop::sample::Index, u8)>(),
        ) {
            let mut inflate = Inflate::new(direction(11), Some(256));
            for payload in &payloads {
                if let Ok(text) = inflate.message(payload, 1000) {
                    prop_assert!(text.len() <= 1000);
                }
            }
            // A valid payload with one other byte gets further than noise.
            for level in [1, 6] {
                let mut payload = deflate_raw(level, FlushCompress::Sync, meter_values(1).repeat(3).as_bytes());
                let at = at.index(payload.len());
                payload[at] = byte;
                _ = inflate.message(&payload, MAX_SIZE);
            }
            let mut after = Inflate::new(direction(11), None);
            let payload = deflate_with(direction(11), b"text");
            prop_assert_eq!(after.message(&payload, MAX_SIZE).expect("the state works after errors"), b"text");
        }

        #[test]
        fn deflate_into_little_room_is_complete(text in text(), room in 0_usize..80) {
            let mut payload = Vec::with_capacity(room);
            let mut zlib = Compress::new_with_window_bits(flate2::Compression::fast(), false, 11);
            deflate(&mut zlib, &[], &text, &mut payload);
            prop_assert_eq!(inflate(&payload).expect("valid"), text);
        }
    }

    #[test]
    fn context_makes_repeated_messages_short() {
        let (mut deflate, mut payload) = (Deflate::new(direction(11)).expect("a window"), Vec::new());
        deflate.message(meter_values(1).as_bytes(), &mut payload);
        let first = mem::take(&mut payload);
        deflate.message(meter_values(2).as_bytes(), &mut payload);
        assert!(payload.len() * 4 < first.len(), "{} after {} bytes", payload.len(), first.len());

        let without = Direction { context_takeover: false, ..direction(11) };
        let (mut deflate, mut payload) = (Deflate::new(without).expect("a window"), Vec::new());
        deflate.message(meter_values(1).as_bytes(), &mut payload);
        let first = mem::take(&mut payload);
        deflate.message(meter_values(1).as_bytes(), &mut payload);
        assert_eq!(payload, first);
    }

    #[test]
    fn states_of_a_thread_keep_no_text_for_other_connections() {
        let text = meter_values(1);
        let first = deflate_with(direction(11), text.as_bytes());
        assert_eq!(deflate_with(direction(11), text.as_bytes()), first);

        // The second message refers to the first one.
        let (mut deflate, mut payload) = (Deflate::new(direction(11)).expect("a window"), Vec::new());
        deflate.message(text.as_bytes(), &mut Vec::new());
        deflate.message(text.as_bytes(), &mut payload);
        let mut known = Inflate::new(direction(11), None);
        known.message(&first, MAX_SIZE).expect("valid");
        assert_eq!(known.message(&payload, MAX_SIZE), Ok(text.clone().into_bytes()));
        assert_eq!(inflate(&payload), Err(InflateError::Invalid));
        // Without context takeover, nothing is kept.
        let without = Direction { context_takeover: false, ..direction(11) };
        let mut forgetful = Inflate::new(without, None);
        forgetful.message(&first, MAX_SIZE).expect("valid");
        assert_eq!(forgetful.message(&payload, MAX_SIZE), Err(InflateError::Invalid));
    }

    #[test]
    fn window_of_8_bits_is_read_only() {
        assert!(Deflate::new(direction(8)).is_none());
        assert!(Deflate::new(direction(16)).is_none());
        // zlib used 9 bits if it was told 8.
        let (mut deflate, mut inflate) =
            (Deflate::new(direction(9)).expect("a window"), Inflate::new(direction(8), None));
        for n in 0..10 {
            let mut payload = Vec::new();
            deflate.message(meter_values(n).as_bytes(), &mut payload);
            assert_eq!(inflate.message(&payload, MAX_SIZE), Ok(meter_values(n).into_bytes()));
        }
    }

    #[test]
    fn all_distances_of_the_window_are_read() {
        // zlib does not use the last 262 bytes of a window. Other peers do. Some use 9 bits if 8 are agreed.
        for window_bits in 8..15 {
            let window = 1 << window_bits.max(9);
            // zlib does not refer to the first byte of a dictionary.
            let text = noise(1 + window);
            let mut payload = Vec::with_capacity(2 * window);
            deflate(&mut Compress::new(flate2::Compression::best(), false), &text, &text[1..41], &mut payload);
            assert!(payload.len() < 10, "the text is not one reference to the far end of the window");
            let mut inflate = Inflate::new(direction(window_bits), None);
            inflate.message(&deflate_with(direction(15), &text), MAX_SIZE).expect("valid");
            assert_eq!(inflate.message(&payload, MAX_SIZE).as_deref(), Ok(&text[1..41]), "{window_bits}");
        }
    }

    #[test]
    fn empty_message_in_all_spellings_is_empty() {
        assert_eq!(deflate_with(direction(11), b""), [0]);
        let spellings: [&[u8]; 7] = [
            &[],
            &[0],
            &[2, 0],
            // With a final block, and one byte after it or none.
            &[3, 0],
            &[3, 0, 0],
            // With the tail of the flush.
            &[0, 0, 0, 0xff, 0xff],
            &[1, 0, 0, 0xff, 0xff],
        ];
        for spelling in spellings {
            assert_eq!(inflate(spelling), Ok(Vec::new()), "{spelling:?}");
        }
    }

    #[test]
    fn payloads_of_the_rfc_are_read() {
        // RFC 7692 §7.2.3.1, §7.2.3.3, §7.2.3.4 and §7.2.3.5.
        let payloads: [&[u8]; 4] = [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ];
        for payload in payloads {
            assert_eq!(inflate(payload).as_deref(), Ok(&b"Hello"[..]), "{payload:02x?}");
        }
        let mut second = Inflate::new(direction(15), None);
        second.message(payloads[0], MAX_SIZE).expect("valid");
        assert_eq!(second.message(&[0xf2, 0x00, 0x11, 0x00, 0x00], MAX_SIZE).as_deref(), Ok(&b"Hello"[..]));
    }

    #[test]
    fn uncut_tail_is_read() {
        for level in [0, 1, 6] {
            for text in [meter_values(1).as_bytes(), &[0, 0, 0xff, 0xff], &[b'a', 0, 0, 0xff, 0xff].repeat(9)] {
                let payload = deflate_raw(level, FlushCompress::Sync, text);
                assert!(payload.ends_with(&FLUSH_TAIL));
                assert_eq!(inflate(&payload).as_deref(), Ok(text));
                assert_eq!(inflate(&payload[..payload.len() - 4]).as_deref(), Ok(text));
            }
        }
    }

    #[test]
    fn payload_cut_at_any_byte_is_invalid() {
        // Stored, static and dynamic blocks, flushed and final.
        for (level, flush) in [0, 1, 6].into_iter().flat_map(|l| [(l, FlushCompress::Sync), (l, FlushCompress::Finish)])
        {
            let text = meter_values(1).repeat(2) + &meter_values(7);
            let payload = deflate_raw(level, flush, text.as_bytes());
            let is_final = flush == FlushCompress::Finish;
            let end = if is_final { payload.len() } else { payload.len() - 4 };
            assert_eq!(inflate(&payload[..end]).as_deref(), Ok(text.as_bytes()));
            // The first byte of a stored block alone is the empty message.
            for cut in 1 + usize::from(level == 0)..end {
                assert_eq!(
                    inflate(&payload[..cut]),
                    Err(InflateError::Invalid),
                    "level {level}, cut at {cut} of {end}"
                );
            }
            // The tail was removed in part.
            for cut in end + 1..payload.len() {
                assert_eq!(
                    inflate(&payload[..cut]),
                    Err(InflateError::Invalid),
                    "level {level}, cut at {cut} of {end}"
                );
            }
        }
        // A dynamic block that is cut where all bits are valid: in its code lengths, of one bit each.
        assert_eq!(inflate(&[0x04, 0x20, 0x00, 0x24]), Err(InflateError::Invalid));
    }

    #[test]
    fn bytes_after_a_final_block_are_invalid() {
        let payload = deflate_raw(6, FlushCompress::Finish, b"text");
        let with = |bytes: &[u8]| inflate(&[&payload, bytes].concat());
        assert_eq!(with(&[]).as_deref(), Ok(&b"text"[..]));
        assert_eq!(with(&[0]).as_deref(), Ok(&b"text"[..]));
        for bytes in [&[1][..], &[0xff], &[0, 0], &[0, 0, 0, 0xff, 0xff], &payload] {
            assert_eq!(with(bytes), Err(InflateError::Invalid), "{bytes:?}");
        }
    }

    #[test]
    fn many_final_blocks_are_rejected_at_the_first() {
        assert_eq!(inflate(&[3, 0].repeat(100_000)), Err(InflateError::Invalid));
        assert_eq!(INFLATER.with_borrow(|inflater| inflater.zlib.total_in()), 2);
    }

    #[test]
    fn message_longer_than_the_limit_is_rejected() {
        for len in [1, 2, 1000, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER, ANY_RATIO, 300_000] {
            let text = noise(len);
            let payload = deflate_with(direction(11), &text);
            let mut inflate = Inflate::new(direction(11), Some(1));
            assert_eq!(inflate.message(&payload, len), Ok(text), "{len}");
            assert_eq!(inflate.message(&payload, len - 1), Err(InflateError::TooLarge), "{len}");
        }
    }

    #[test]
    fn bomb_costs_no_more_than_the_limit() {
        let bomb = deflate_raw(9, FlushCompress::Sync, &vec![0; 1 << 20]);
        assert!(bomb.len() < 1100);
        assert_eq!(inflate(&bomb), Ok(vec![0; 1 << 20]));
        let mut limited = Inflate::new(direction(11), Some(256));
        assert_eq!(limited.message(&bomb, MAX_SIZE), Err(InflateError::RatioExceeded(256)));
        assert_eq!(limited.message(&bomb, 100_000), Err(InflateError::TooLarge));

        // 1 GiB: the blocks again and again.
        let bomb = bomb.repeat(1 << 10);
        let mut text = Vec::new();
        let mut inflater = Inflater { zlib: Decompress::new(false), buffer: Vec::new() };
        assert_eq!(inflater.blocks(&bomb, &mut text, (MAX_SIZE, InflateError::TooLarge)), Err(InflateError::TooLarge));
        assert!(text.capacity() <= MAX_SIZE + 1, "{} bytes", text.capacity());
    }

    #[test]
    fn ratio_limits_only_long_texts() {
        let mut inflate = Inflate::new(direction(11), Some(4));
        let payload = deflate_raw(9, FlushCompress::Sync, &[0; ANY_RATIO]);
        assert_eq!(inflate.message(&payload, MAX_SIZE), Ok(vec![0; ANY_RATIO]));
        let payload = deflate_raw(9, FlushCompress::Sync, &[0; ANY_RATIO + 1]);
        assert_eq!(inflate.message(&payload, MAX_SIZE), Err(InflateError::RatioExceeded(4)));
        // Half noise and half zeros: a ratio of 2.
        let text = [noise(100_000), vec![0; 95_000]].concat();
        let payload = deflate_raw(6, FlushCompress::Sync, &text);
        assert_eq!(Inflate::new(direction(11), Some(2)).message(&payload, MAX_SIZE), Ok(text));
        let error = Inflate::new(direction(11), Some(1)).message(&payload, MAX_SIZE);
        assert_eq!(error, Err(InflateError::RatioExceeded(1)));
    }

    #[test]
    fn past_keeps_its_limit_with_exact_capacity() {
        let mut past = Past::new(direction(9), 10);
        for (text, kept) in
            [("", ""), ("abc", "abc"), ("defghij", "abcdefghij"), ("k", "bcdefghijk"), ("0123456789abc", "3456789abc")]
        {
            past.push(text.as_bytes());
            assert_eq!(past.text, kept.as_bytes());
            assert_eq!(past.text.capacity(), kept.len());
        }
    }
}
