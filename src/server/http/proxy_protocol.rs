//! Reads the PROXY header that a proxy sends in front of a client's bytes, in version 1 or 2.
//!
//! The specification is `proxy-protocol.txt` of HAProxy. The crates for it parse a buffer. Here, the reader must also
//! know how many bytes are safe to read, because TLS or HTTP follows the header in the same stream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of a header of version 2 (§2.2).
pub(crate) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of a header of version 1 (§2.1).
pub(crate) const WORD: &[u8] = b"PROXY ";

/// The length of the shortest header of version 1: `PROXY UNKNOWN` and the end of the line.
///
/// Each header of version 2 is longer.
const MIN_LENGTH: usize = 15;

/// The maximum length of a header of version 1 (§2.1).
const MAX_LINE: usize = 107;

/// The length of a version 2 header without addresses.
const FIXED_LENGTH: usize = 16;

/// The maximum length of a header of version 2.
///
/// Addresses take at most 216 bytes. The rest leaves room for extensions, which may contain a certificate.
const MAX_LENGTH: usize = 4096;

/// The state of a header that is being read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// At least this number of bytes is missing. More bytes may belong to the client.
    Partial { missing: usize },
    /// The header is complete. It has the client's address, unless the proxy speaks for itself or does not know it.
    Complete(Option<SocketAddr>),
}

/// Parses the bytes that were read so far, which must not extend beyond the header.
///
/// Returns an error with the fault if the bytes do not begin a header.
pub(crate) fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
    if bytes.len() < MIN_LENGTH {
        return Ok(Header::Partial { missing: MIN_LENGTH - bytes.len() });
    }
    if bytes.starts_with(SIGNATURE) {
        parse_binary(bytes)
    } else if bytes.starts_with(WORD) {
        parse_line(bytes)
    } else {
        Err("no PROXY header")
    }
}

/// Parses version 1, a line of text.
fn parse_line(bytes: &[u8]) -> Result<Header, &'static str> {
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        // The shortest end of the line: `\n` if `\r` was read already, else both.
        let missing = if bytes.ends_with(b"\r") { 1 } else { 2 };
        return if bytes.len() + missing > MAX_LINE {
            Err("a PROXY header whose line is too long")
        } else {
            Ok(Header::Partial { missing })
        };
    };
    let client = |line: &[u8]| {
        let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
        match words[..] {
            ["PROXY", "UNKNOWN", ..] => Some(None),
            ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
                let source: IpAddr = source.parse().ok()?;
                let destination: IpAddr = destination.parse().ok()?;
                let is_of_family = |address: IpAddr| address.is_ipv4() == (family == "TCP4");
                destination_port.parse::<u16>().ok()?;
                let client = SocketAddr::new(source, source_port.parse().ok()?);
                (is_of_family(source) && is_of_family(destination)).then_some(Some(client))
            }
            _ => None,
        }
    };
    client(line).map(Header::Complete).ok_or("a malformed PROXY header")
}

/// Parses version 2, which is binary.
fn parse_binary(bytes: &[u8]) -> Result<Header, &'static str> {
    const MALFORMED: &str = "a malformed PROXY header";
    let Some((head, rest)) = bytes.split_at_checked(FIXED_LENGTH) else {
        return Ok(Header::Partial { missing: FIXED_LENGTH - bytes.len() });
    };
    let [.., command, family, high, low] = *head else { return Err(MALFORMED) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if FIXED_LENGTH + length > MAX_LENGTH {
        return Err("a PROXY header that is too long");
    }
    if let Some(missing) = length.checked_sub(rest.len()).filter(|missing| *missing > 0) {
        return Ok(Header::Partial { missing });
    }
    let has_address = match command {
        // LOCAL: the proxy speaks for itself, for example to check the server's health.
        0x20 => false,
        0x21 => true,
        _ => return Err(MALFORMED),
    };
    // Extensions (TLVs) follow the addresses and are ignored. A transport other than TCP cannot reach a listener.
    let client = match family {
        _ if !has_address => None,
        0x11 => {
            let (addresses, ports) = rest.split_first_chunk::<8>().ok_or(MALFORMED)?;
            let source = addresses.first_chunk::<4>().ok_or(MALFORMED)?;
            Some((IpAddr::from(Ipv4Addr::from(*source)), ports))
        }
        0x21 => {
            let (addresses, ports) = rest.split_first_chunk::<32>().ok_or(MALFORMED)?;
            let source = addresses.first_chunk::<16>().ok_or(MALFORMED)?;
            Some((IpAddr::from(Ipv6Addr::from(*source)), ports))
        }
        // No address, or that of a Unix socket.
        0x00 | 0x31 => None,
        _ => return Err(MALFORMED),
    };
    let Some((address, ports)) = client else { return Ok(Header::Complete(None)) };
    let [high, low, _, _, ..] = *ports else { return Err(MALFORMED) };
    Ok(Header::Complete(Some(SocketAddr::new(address, u16::from_be_bytes([high, low])))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header from a stream, as the listener does. Returns the client and the number of bytes read.
    fn read(stream: &[u8]) -> Result<(Option<String>, usize), &'static str> {
        let mut length = 0;
        loop {
            match parse(&stream[..length])? {
                Header::Complete(client) => return Ok((client.map(|client| client.to_string()), length)),
                Header::Partial { missing } => {
                    assert!(missing > 0);
                    length += missing;
                    if length > stream.len() {
                        return Err("cut");
                    }
                }
            }
        }
    }

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[command, family], &length, body].concat()
    }

    /// Addresses and ports: from 203.0.113.9:4711, or [2001:db8::5]:4711.
    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0x23, 0xf4];
    const V6: [u8; 36] = {
        let mut bytes = [0; 36];
        (bytes[0], bytes[1], bytes[2], bytes[3], bytes[15]) = (0x20, 0x01, 0x0d, 0xb8, 5);
        (bytes[32], bytes[33]) = (0x12, 0x67);
        bytes
    };

    #[test]
    fn header_has_client_and_ends_before_the_next_byte() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_LINE - 16));
        let extended = [&V4[..], &[0x04, 0, 3, 1, 2, 3], &[0x20; 500]].concat();
        let unix = [0; 216];
        let longest_binary = [&V4[..], &[0; MAX_LENGTH - FIXED_LENGTH - 12]].concat();
        for (header, client) in [
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 9220\r\n".to_vec(), Some("203.0.113.9:4711")),
            (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_vec(), Some("255.255.255.255:65535")),
            (b"PROXY TCP6 2001:db8::5 ::1 4711 9220\r\n".to_vec(), Some("[2001:db8::5]:4711")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (longest.into_bytes(), None),
            (binary(0x21, 0x11, &V4), Some("203.0.113.9:4711")),
            (binary(0x21, 0x21, &V6), Some("[2001:db8::5]:4711")),
            (binary(0x21, 0x11, &extended), Some("203.0.113.9:4711")),
            (binary(0x21, 0x11, &longest_binary), Some("203.0.113.9:4711")),
            (binary(0x21, 0x31, &unix), None),
            (binary(0x21, 0x00, &[]), None),
            (binary(0x20, 0x00, &[]), None),
            // LOCAL, whose addresses are ignored.
            (binary(0x20, 0x11, &V4), None),
            (binary(0x20, 0xff, &[1, 2, 3]), None),
        ] {
            for next in [&b"\x16\x03\x01"[..], b"\r\n", b"GET / HTTP/1.1\r\n"] {
                let stream = [&header, next].concat();
                assert_eq!(read(&stream), Ok((client.map(str::to_owned), header.len())), "{header:?}");
            }
            for cut in 0..header.len() {
                assert_eq!(read(&header[..cut]), Err("cut"), "{header:?} to {cut}");
            }
        }
    }

    #[test]
    fn other_bytes_are_no_header() {
        let long_line = format!("PROXY TCP6 {}", "f".repeat(200));
        let mut other_version = binary(0x21, 0x11, &V4);
        other_version[12] = 0x11;
        let too_long = binary(0x21, 0x11, &[0; MAX_LENGTH - FIXED_LENGTH + 1]);
        for bytes in [
            &b"GET /CP HTTP/1.1\r\nHost: test\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaa",
            b"proxy TCP4 203.0.113.9 10.0.0.1 4711 9220\r\n",
            b"PROXY\tTCP4 203.0.113.9 10.0.0.1 4711 9220\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 4711\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 9220 1\r\n",
            b"PROXY TCP4  203.0.113.9 10.0.0.1 4711 9220\r\n",
            b"PROXY TCP4 2001:db8::5 ::1 4711 9220\r\n",
            b"PROXY TCP6 203.0.113.9 10.0.0.1 4711 9220\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 9220\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 -1 9220\r\n",
            b"PROXY TCP4 203.0.113.256 10.0.0.1 1 9220\r\n",
            b"PROXY UDP4 203.0.113.9 10.0.0.1 4711 9220\r\n",
            b"PROXY \xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 9220\n            \r\n",
            long_line.as_bytes(),
            &binary(0x22, 0x11, &V4),
            &binary(0x21, 0x12, &V4),
            &binary(0x21, 0x41, &V4),
            &binary(0x21, 0x11, &V4[..11]),
            &binary(0x21, 0x21, &V4),
            &other_version,
            &too_long,
        ] {
            let read = read(bytes);
            assert!(read.is_err() && read != Err("cut"), "{bytes:?}: {read:?}");
        }
    }
}
