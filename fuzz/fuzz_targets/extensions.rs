//! Reads arbitrary lines of `Sec-WebSocket-Extensions` at both ends. A client must be able to use what the server answers.
#![no_main]

use arbitrary::{Result, Unstructured};
use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};
use libfuzzer_sys::fuzz_target;
use ocpp_rpc::{
    Tolerance,
    compression::Compression,
    unstable::websocket::{Codec, Message},
};

const LIMIT: usize = 10_000;

/// Parts of valid lines, which a fuzzer finds late by itself.
const TOKENS: &[&str] = &[
    "permessage-deflate",
    "Permessage-Deflate",
    "server_no_context_takeover",
    "client_no_context_takeover",
    "server_max_window_bits",
    "client_max_window_bits",
    "; server_max_window_bits=8",
    "; server_max_window_bits=9",
    "; server_max_window_bits=15",
    "; client_max_window_bits",
    "; client_max_window_bits=8",
    "; client_max_window_bits=\"12\"",
    ";",
    ",",
    "=",
    "\"",
    "\\",
    " ",
    "\t",
    "\n",
    "7",
    "10",
    "16",
    "x",
    "\u{ff}",
];

fuzz_target!(|input: &[u8]| {
    // An error means that the input is used up.
    _ = run(&mut Unstructured::new(input));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let settings = Compression::new()
        .window_bits(input.int_in_range(9..=15)?)
        .sent_window_bits(input.int_in_range(9..=15)?)
        .context_takeover(input.arbitrary()?);
    let lines = lines(input)?;

    // As a response.
    for settings in [Some(&settings), None] {
        let client = Codec::client(&lines, settings, Tolerance::Lenient, LIMIT);
        let is_empty = lines.values().all(|line| line.as_bytes().iter().all(|byte| b" \t,".contains(byte)));
        assert!(settings.is_some() || client.is_ok() == is_empty, "accepted what it did not offer");
    }

    // As a request.
    let (server, answer) = Codec::server(&lines, Some(&settings), Tolerance::Lenient, LIMIT);
    if let Some(answer) = answer {
        check_answer(&lines, &answer);
        // The client that offered this takes a response with context takeover, or has offered to do without.
        let takeover = settings.context_takeover(true);
        let client = Codec::client(&headers(answer), Some(&takeover), Tolerance::Lenient, LIMIT);
        exchange(server, client.expect("an answer to an offer"));
    }

    // With the own offer in front, which is always acceptable.
    let mut request = headers(Codec::offer(&settings));
    for line in lines.values() {
        request.append(SEC_WEBSOCKET_EXTENSIONS, line.clone());
    }
    let other = settings.context_takeover(input.arbitrary()?);
    let (server, answer) = Codec::server(&request, Some(&other), Tolerance::Lenient, LIMIT);
    let answer = headers(answer.expect("an acceptable offer"));
    let client = Codec::client(&answer, Some(&settings), Tolerance::Lenient, LIMIT);
    exchange(server, client.expect("an answer to the own offer"));
    Ok(())
}

/// Returns lines of tokens or of any bytes.
fn lines(input: &mut Unstructured<'_>) -> Result<HeaderMap> {
    let mut bytes = Vec::new();
    if input.arbitrary()? {
        while !input.is_empty() {
            bytes.extend(input.choose(TOKENS)?.chars().map(|char| char as u8));
        }
    } else {
        bytes = input.bytes(input.len())?.to_vec();
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    Ok(lines.map(|line| (SEC_WEBSOCKET_EXTENSIONS, line)).collect())
}

fn headers(extensions: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, extensions)])
}

/// Checks that an answer limits only windows that the request allows to limit (RFC 7692 §7.1.2).
fn check_answer(request: &HeaderMap, answer: &HeaderValue) {
    let answer = answer.to_str().expect("visible ASCII");
    let request: Vec<u8> =
        request.values().flat_map(|line| line.as_bytes()).map(|byte| byte.to_ascii_lowercase()).collect();
    for name in ["server_max_window_bits", "client_max_window_bits"] {
        let is_offered = request.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        assert!(is_offered || !answer.contains(name), "{answer}");
    }
}

/// Sends texts that refer to each other in both directions.
fn exchange(server: Codec, client: Codec) {
    let mut ends = [server, client];
    for text in ["x", r#"[3,"1",{}]"#, r#"[3,"2",{}]"#] {
        for _ in 0..2 {
            ends.reverse();
            let [sender, receiver] = &mut ends;
            sender.queue(Message::Text(text.into()));
            receiver.put(sender.unsent());
            sender.mark_sent(sender.unsent().len());
            assert_eq!(receiver.take(), Ok(Some(Message::Text(text.into()))));
        }
    }
}
