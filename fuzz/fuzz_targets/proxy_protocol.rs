//! Reads PROXY headers byte by byte. The reader must never ask for a byte behind the header, which belongs to the client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocpp_rpc::unstable::read_proxy_header;

fuzz_target!(|bytes: &[u8]| {
    // As the server reads: no more than the reader asks for.
    let mut len = 0;
    let (header, end) = loop {
        match read_proxy_header(&bytes[..len]) {
            Ok(Err(missing)) => {
                assert_ne!(missing, 0, "the reader is stuck");
                len += missing;
                if len > bytes.len() {
                    return;
                }
            }
            outcome => break (outcome, len),
        }
    };
    let Ok(header) = header else { return };
    assert!(end <= 4096, "a header of {end} bytes");
    for len in 0..end {
        let part = read_proxy_header(&bytes[..len]);
        assert!(matches!(part, Ok(Err(missing)) if len + missing <= end), "{part:?} after {len} of {end} bytes");
    }
    if let (Some(line), Ok(Some(client))) = (bytes[..end].strip_prefix(b"PROXY "), header) {
        let line = std::str::from_utf8(line).expect("text");
        let source = line.split(' ').nth(1).expect("a source");
        assert_eq!(source.parse(), Ok(client.ip()), "{line}");
    }
});
