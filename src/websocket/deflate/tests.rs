//! Tests of compression: the identity, limits, and payloads that are no messages.

use proptest::{collection::vec, prelude::*};

use crate::websocket::deflate::*;

const MAX_SIZE: usize = 1 << 20;

fn direction(window_bits: u8) -> Direction {
    Direction { window_bits, context_takeover: true }
}

impl Inflate {
    /// Returns the text of a message.
    fn message(&mut self, payload: &[u8], max_size: usize) -> Result<Vec<u8>, InflateError> {
        let mut inflated = self.begin(Bytes::copy_from_slice(payload), max_size)?;
        while inflated.is_none() {
            inflated = self.resume()?;
        }
        let Inflated { text, payload_len } = inflated.expect("the loop has ended");
        assert_eq!(payload_len, payload.len());
        Ok(text)
    }
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
    let (mut deflate, mut inflate) = (Deflate::new(direction(9)).expect("a window"), Inflate::new(direction(8), None));
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
    for (level, flush) in [0, 1, 6].into_iter().flat_map(|l| [(l, FlushCompress::Sync), (l, FlushCompress::Finish)]) {
        let text = meter_values(1).repeat(2) + &meter_values(7);
        let payload = deflate_raw(level, flush, text.as_bytes());
        let is_final = flush == FlushCompress::Finish;
        let end = if is_final { payload.len() } else { payload.len() - 4 };
        assert_eq!(inflate(&payload[..end]).as_deref(), Ok(text.as_bytes()));
        // The first byte of a stored block alone is the empty message.
        for cut in 1 + usize::from(level == 0)..end {
            assert_eq!(inflate(&payload[..cut]), Err(InflateError::Invalid), "level {level}, cut at {cut} of {end}");
        }
        // The tail was removed in part.
        for cut in end + 1..payload.len() {
            assert_eq!(inflate(&payload[..cut]), Err(InflateError::Invalid), "level {level}, cut at {cut} of {end}");
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
    let limit = (MAX_SIZE, InflateError::TooLarge);
    let mut inflating = Inflating { payload: bomb.into(), read: 0, text: Vec::new(), limit };
    let mut zlib = Decompress::new(false);
    let error = std::iter::repeat_with(|| inflating.step(&mut zlib)).find(|step| *step != Ok(false));
    assert_eq!(error, Some(Err(InflateError::TooLarge)));
    assert!(inflating.text.capacity() <= MAX_SIZE + 1, "{} bytes", inflating.text.capacity());
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

#[test]
fn large_messages_are_inflated_in_steps_beside_other_messages() {
    let direction = direction(11);
    let texts = [noise(300_000), vec![b' '; 300_000]];
    let mut deflate = Deflate::new(direction).expect("a window of zlib");
    let mut inflate = Inflate::new(direction, None);
    for text in &texts {
        let mut payload = Vec::new();
        deflate.message(text, &mut payload);
        let mut inflated = inflate.begin(payload.clone().into(), MAX_SIZE).expect("valid");
        let mut steps = 1;
        while inflated.is_none() {
            let other = Inflate::new(direction, None).message(&deflate_with(direction, b"other"), MAX_SIZE);
            assert_eq!(other.as_deref(), Ok(&b"other"[..]));
            inflated = inflate.resume().expect("valid");
            steps += 1;
        }
        assert_eq!(inflated, Some(Inflated { text: text.clone(), payload_len: payload.len() }));
        assert!((5..=12).contains(&steps), "{steps} steps");
    }
    let mut payload = Vec::new();
    deflate.message(&texts[1][..2000], &mut payload);
    assert_eq!(inflate.message(&payload, MAX_SIZE).as_deref(), Ok(&texts[1][..2000]), "the text before is known");
}

#[test]
fn large_payload_that_is_invalid_or_too_large_fails_in_a_later_step() {
    let mut payload = deflate_with(direction(11), &noise(200_000));
    payload.truncate(150_000);
    let mut inflate = Inflate::new(direction(11), None);
    assert_eq!(inflate.begin(payload.clone().into(), MAX_SIZE), Ok(None));
    assert_eq!(inflate.message(&payload, MAX_SIZE), Err(InflateError::Invalid));
    assert_eq!(inflate.message(&payload, 100_000), Err(InflateError::TooLarge));
}
