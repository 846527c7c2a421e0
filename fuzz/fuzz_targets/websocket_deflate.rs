//! Reads and writes compressed messages with many parameters. No payload may panic, run for ever or exceed the limit,
//! and a text must arrive as it was sent.
#![no_main]

use arbitrary::{Result, Unstructured};
use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};
use libfuzzer_sys::fuzz_target;
use ocpp_rpc::{
    Tolerance,
    compression::Compression,
    unstable::websocket::{Codec, Message},
};
use ocpp_rpc_fuzz::{Frame, RSV1, TEXT};

/// More than the 64 KiB that a text may have whatever its ratio.
const LIMIT: usize = 100_000;

fuzz_target!(|input: &[u8]| {
    // An error means that the input is used up.
    _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    if input.arbitrary()? { read_hostile(input) } else { send_both_ways(input) }
}

/// Compresses texts, and reads their frames with other bytes in them.
fn read_hostile(input: &mut Unstructured<'_>) -> Result<()> {
    let settings = settings(input)?.max_ratio(*input.choose(&[None, Some(1), Some(4), Some(256)])?);
    let [mut server, mut client] = pair(input, settings)?;
    let is_server: bool = input.arbitrary()?;
    let (sender, receiver) = if is_server { (&mut client, &mut server) } else { (&mut server, &mut client) };
    while !input.is_empty() {
        let mut frame = match input.int_in_range(0..=3)? {
            0 => Frame::new(TEXT, is_server, compressed(sender, text(input)?)),
            1 => {
                let mut payload = compressed(sender, text(input)?);
                for _ in 0..input.int_in_range(1..=4)? {
                    // It is empty if the sender cannot compress and has no text.
                    let at = usize::from(input.arbitrary::<u16>()?) % payload.len().max(1);
                    let byte = input.arbitrary()?;
                    payload.get_mut(at).into_iter().for_each(|at| *at = byte);
                }
                Frame::new(TEXT, is_server, payload)
            }
            2 => Frame::new(TEXT, is_server, payload(input)?),
            _ => Frame::arbitrary(input, is_server, 300)?,
        };
        if frame.first & 0xf == TEXT {
            frame.first |= RSV1;
        }
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        receiver.put(&bytes);
        loop {
            match receiver.take() {
                Ok(Some(Message::Text(text))) => assert!(text.len() <= LIMIT, "text of {} bytes", text.len()),
                Ok(Some(Message::Binary(bytes))) => assert!(bytes.len() <= LIMIT, "{} bytes", bytes.len()),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Sends messages from either end to the other.
fn send_both_ways(input: &mut Unstructured<'_>) -> Result<()> {
    // A long text may be nothing but repetition.
    let settings = settings(input)?.max_ratio(None);
    let mut ends = pair(input, settings)?;
    while !input.is_empty() {
        if input.arbitrary()? {
            ends.reverse();
        }
        let [sender, receiver] = &mut ends;
        let mut messages = Vec::new();
        for _ in 0..input.int_in_range(1..=3)? {
            messages.push(match input.int_in_range(0..=7)? {
                0 => Message::Ping(vec![b'x'; input.int_in_range(0..=125)?].into()),
                1 => Message::Binary(text(input)?.into_bytes().into()),
                _ => Message::Text(text(input)?.into()),
            });
        }
        messages.iter().for_each(|message| sender.queue(message.clone()));
        let part_len = *input.choose(&[usize::MAX, 1, 7, 1000])?;
        let mut received = Vec::new();
        while !sender.unsent().is_empty() {
            let part_len = part_len.min(sender.unsent().len());
            receiver.put(&sender.unsent()[..part_len]);
            sender.mark_sent(part_len);
            while let Some(message) = receiver.take().expect("valid frames") {
                received.push(message);
            }
        }
        assert!(received == messages, "received other messages than were sent");
    }
    Ok(())
}

fn settings(input: &mut Unstructured<'_>) -> Result<Compression> {
    let (received, sent) = (input.int_in_range(9..=15)?, input.int_in_range(9..=15)?);
    Ok(Compression::new().window_bits(received).sent_window_bits(sent))
}

/// Returns a server and a client that agreed on compression, with any of its parameters.
fn pair(input: &mut Unstructured<'_>, settings: Compression) -> Result<[Codec; 2]> {
    let mut offer = "permessage-deflate".to_owned();
    if input.arbitrary()? {
        offer += "; server_no_context_takeover";
    }
    if input.arbitrary()? {
        offer += "; client_no_context_takeover";
    }
    if input.arbitrary()? {
        offer += &format!("; server_max_window_bits={}", input.int_in_range(9..=15)?);
    }
    match input.int_in_range(0..=8)? {
        0 => {}
        1 => offer += "; client_max_window_bits",
        more => offer += &format!("; client_max_window_bits={}", more + 7),
    }
    let server_settings = settings.context_takeover(input.ratio(3_u8, 4)?);
    let (server, answer) = Codec::server(&headers(offer), Some(&server_settings), Tolerance::Lenient, LIMIT);
    let answer = headers(answer.expect("a valid offer"));
    let client = Codec::client(&answer, Some(&settings), Tolerance::Lenient, LIMIT).expect("a valid answer");
    Ok([server, client])
}

fn headers(extensions: impl TryInto<HeaderValue>) -> HeaderMap {
    let extensions = extensions.try_into().ok().expect("a header");
    HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, extensions)])
}

/// Returns a text that is written once or many times.
fn text(input: &mut Unstructured<'_>) -> Result<String> {
    let text = match input.int_in_range(0..=3)? {
        0 => r#"[2,"1","MeterValues",{"connectorId":1}]"#.to_owned(),
        1 => {
            let len = input.arbitrary::<u16>()? >> input.int_in_range(0..=15)?;
            letters(input.int_in_range(1..=3)?, len.into())
        }
        _ => {
            let len = usize::from(input.arbitrary::<u8>()?).min(input.len());
            String::from_utf8_lossy(input.bytes(len)?).into_owned()
        }
    };
    let times = if input.ratio(1_u8, 16)? { usize::from(input.arbitrary::<u16>()?) } else { 1 };
    Ok(text.repeat(times.min(LIMIT / text.len().max(1))))
}

/// Returns letters without repetition. They refer only to a message with the same seed, as far back as the window is
/// long.
fn letters(seed: u32, len: usize) -> String {
    let mut state = seed;
    let letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (state >> 24) as u8 % 26)
    };
    std::iter::repeat_with(letter).take(len).collect()
}

/// Returns bytes, written once or many times.
fn payload(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = usize::from(input.arbitrary::<u8>()?).min(input.len());
    let bytes = input.bytes(len)?;
    let times = if input.ratio(1_u8, 8)? { usize::from(input.arbitrary::<u8>()?) } else { 1 };
    Ok(bytes.repeat(times))
}

/// Returns the compressed payload of a text, without the mask: a random one would hinder the fuzzer.
fn compressed(sender: &mut Codec, text: String) -> Vec<u8> {
    sender.queue(Message::Text(text.into()));
    let bytes = sender.unsent().to_vec();
    sender.mark_sent(bytes.len());
    let len_bytes = match bytes[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let after = &bytes[2 + len_bytes..];
    if bytes[1] & 0x80 == 0 {
        return after.to_vec();
    }
    let (mask, payload) = after.split_at(4);
    payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}
