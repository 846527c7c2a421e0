//! Reads what a client offered in a TLS handshake that failed, and names the part that does not fit.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::{
    CipherSuite, Error, NamedGroup, PeerIncompatible, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::CryptoProvider,
};

/// The maximum number of bytes of a ClientHello that are kept.
const MAX_KEPT: usize = 16 << 10;

/// The number of names that an explanation lists.
const MAX_NAMES: usize = 6;

/// A stream that returns its first bytes again after they were read, and keeps the bytes of the ClientHello.
#[derive(Debug)]
pub(crate) struct HelloReader<T> {
    io: T,
    kept: Vec<u8>,
    /// The number of bytes in `kept` that were read from the stream.
    returned: usize,
}

impl<T> HelloReader<T> {
    /// Creates a reader of a stream whose first bytes were read already.
    pub(crate) fn new(first: Vec<u8>, io: T) -> Self {
        Self { io, kept: first, returned: 0 }
    }

    /// Returns the stream, and the bytes of the ClientHello.
    pub(crate) fn into_parts(self) -> (T, Vec<u8>) {
        (self.io, self.kept)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for HelloReader<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let waiting = &this.kept[this.returned..];
        if !waiting.is_empty() {
            let length = waiting.len().min(buf.remaining());
            buf.put_slice(&waiting[..length]);
            this.returned += length;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        this.kept.extend(read.iter().take(MAX_KEPT.saturating_sub(this.kept.len())));
        this.returned = this.kept.len();
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for HelloReader<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The offer of a client (RFC 8446 §4.1.2).
#[derive(Debug, Default, PartialEq, Eq)]
struct ClientHello {
    versions: Vec<u16>,
    suites: Vec<u16>,
    groups: Vec<u16>,
    schemes: Vec<u16>,
}

/// Names the part of the client's offer that made the handshake fail. Returns `None` if the cause is another.
pub(crate) fn explain(hello: &[u8], provider: &CryptoProvider, cause: &Error) -> Option<String> {
    // The general error means that no certificate fits the client.
    if !matches!(cause, Error::PeerIncompatible(_) | Error::General(_)) {
        return None;
    }
    let hello = ClientHello::parse(hello)?;
    let offers = |version: &SupportedProtocolVersion| hello.versions.contains(&version.version.into());
    let all = provider.cipher_suites.iter();
    if !all.clone().any(|suite| offers(suite.version()))
        || matches!(
            cause,
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                    | PeerIncompatible::Tls12NotOffered
                    | PeerIncompatible::Tls12NotOfferedOrEnabled
            )
        )
    {
        let offered = list(&hello.versions, |version| version_name(version).map(str::to_owned));
        return Some(format!(
            "no TLS version in common: the client offers {offered}: enable TLS 1.2 or 1.3 at the client, or serve it \
             through a TLS proxy"
        ));
    }
    let is_common =
        |suite: &&SupportedCipherSuite| offers(suite.version()) && hello.suites.contains(&suite.suite().into());
    let common: Vec<_> = all.filter(is_common).collect();
    if common.is_empty() {
        let offered = list(&hello.suites, |suite| CipherSuite::from(suite).as_str().map(str::to_owned));
        return Some(format!(
            "no cipher suite in common: the client offers {offered}: enable one with forward secrecy (ECDHE) at the \
             client, or serve it through a TLS proxy"
        ));
    }
    match cause {
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
            let offered = list(&hello.groups, |group| NamedGroup::from(group).as_str().map(str::to_owned));
            Some(format!("no key exchange group in common: the client offers {offered}"))
        }
        Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) | Error::General(_) => {
            let kinds = hello.key_kinds(&common);
            let offered =
                if kinds.is_empty() { "none".to_owned() } else { kinds.into_iter().collect::<Vec<_>>().join(" and ") };
            Some(format!(
                "no kind of certificate in common: the client accepts keys of the kind {offered}: add a certificate \
                 with such a key to the listener"
            ))
        }
        Error::PeerIncompatible(_) if hello.schemes.is_empty() => {
            Some("the client names no signature algorithms: update its TLS, or serve it through a TLS proxy".to_owned())
        }
        _ => None,
    }
}

impl ClientHello {
    /// Parses the records that were read so far. Returns `None` if they hold no whole ClientHello.
    fn parse(mut records: &[u8]) -> Option<Self> {
        const HANDSHAKE: u8 = 22;
        const CLIENT_HELLO: u8 = 1;
        const SUPPORTED_GROUPS: u16 = 10;
        const SIGNATURE_ALGORITHMS: u16 = 13;
        const SUPPORTED_VERSIONS: u16 = 43;
        let mut messages = Vec::new();
        while let Some([HANDSHAKE, _, _]) = take::<3>(&mut records) {
            messages.extend(vector(&mut records, 2)?);
        }
        let mut rest = &messages[..];
        let [CLIENT_HELLO] = take(&mut rest)? else { return None };
        let mut body = vector(&mut rest, 3)?;
        let legacy_version = u16::from_be_bytes(take(&mut body)?);
        let _random: [u8; 32] = take(&mut body)?;
        let _session = vector(&mut body, 1)?;
        let suites = numbers(vector(&mut body, 2)?);
        let _compression = vector(&mut body, 1)?;
        let mut hello = Self { versions: vec![legacy_version], suites, ..Self::default() };
        // Old clients send no extensions.
        let mut extensions = vector(&mut body, 2).unwrap_or_default();
        while let Some(kind) = take(&mut extensions) {
            let mut content = vector(&mut extensions, 2)?;
            match u16::from_be_bytes(kind) {
                SUPPORTED_GROUPS => hello.groups = numbers(vector(&mut content, 2)?),
                SIGNATURE_ALGORITHMS => hello.schemes = numbers(vector(&mut content, 2)?),
                SUPPORTED_VERSIONS => hello.versions = numbers(vector(&mut content, 1)?),
                _ => {}
            }
        }
        Some(hello)
    }

    /// Returns the kinds of keys that the client accepts in a certificate, if one of these suites is used.
    fn key_kinds(&self, common: &[&SupportedCipherSuite]) -> BTreeSet<&'static str> {
        let suits = |kind: &str| {
            common.iter().any(|suite| match suite {
                SupportedCipherSuite::Tls13(_) => true,
                // In TLS 1.2, the suite names the kind of key as well.
                SupportedCipherSuite::Tls12(suite) => {
                    suite.sign.iter().any(|scheme| key_kind((*scheme).into()) == Some(kind))
                }
            })
        };
        self.schemes.iter().filter_map(|scheme| key_kind(*scheme)).filter(|kind| suits(kind)).collect()
    }
}

/// Returns the kind of key of a signature scheme (RFC 8446 §4.2.3).
fn key_kind(scheme: u16) -> Option<&'static str> {
    match scheme {
        0x0201 | 0x0401 | 0x0501 | 0x0601 | 0x0804..=0x0806 | 0x0809..=0x080b => Some("RSA"),
        0x0203 | 0x0403 | 0x0503 | 0x0603 => Some("ECDSA"),
        0x0807 | 0x0808 => Some("EdDSA"),
        _ => None,
    }
}

fn version_name(version: u16) -> Option<&'static str> {
    match version {
        0x0300 => Some("SSL 3.0"),
        0x0301 => Some("TLS 1.0"),
        0x0302 => Some("TLS 1.1"),
        0x0303 => Some("TLS 1.2"),
        0x0304 => Some("TLS 1.3"),
        _ => None,
    }
}

/// Lists values by their names, or else their numbers.
fn list(values: &[u16], name: impl Fn(u16) -> Option<String>) -> String {
    // Clients send reserved values to test servers (RFC 8701), and values that are no suites (RFC 5746, RFC 7507).
    let is_meant = |value: &&u16| {
        let [high, low] = value.to_be_bytes();
        let is_reserved = high == low && high & 0x0f == 0x0a;
        !is_reserved && ![0x00ff, 0x5600].contains(*value)
    };
    let names: Vec<String> =
        values.iter().filter(is_meant).map(|value| name(*value).unwrap_or_else(|| format!("{value:#06x}"))).collect();
    match &names[..] {
        [] => "none".to_owned(),
        [first @ .., _] if first.len() >= MAX_NAMES => {
            format!("{} and {} more", names[..MAX_NAMES].join(", "), names.len() - MAX_NAMES)
        }
        names => names.join(", "),
    }
}

/// Takes a number of bytes from the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// Takes a vector from the front whose length is in its first `width` bytes.
fn vector<'a>(bytes: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_at_checked(width)?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (taken, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn numbers(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::crypto::ring;

    use super::*;

    fn vec_of(width: usize, content: &[u8]) -> Vec<u8> {
        let length = content.len().to_be_bytes();
        [&length[length.len() - width..], content].concat()
    }

    fn bytes(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    /// A ClientHello in records of at most `record` bytes.
    fn hello(legacy: u16, suites: &[u16], extensions: &[(u16, Vec<u8>)], record: usize) -> Vec<u8> {
        let mut body =
            [&legacy.to_be_bytes()[..], &[7; 32], &vec_of(1, &[9; 32]), &vec_of(2, &bytes(suites)), &[1, 0]].concat();
        if !extensions.is_empty() {
            let extensions =
                extensions.iter().flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &vec_of(2, content)].concat());
            body.extend(vec_of(2, &extensions.collect::<Vec<u8>>()));
        }
        let message = [&[1][..], &vec_of(3, &body)].concat();
        message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &vec_of(2, part)].concat()).collect()
    }

    #[test]
    fn offer_is_read_from_any_number_of_records() {
        let extensions = [
            (0, b"name".to_vec()),
            (43, vec_of(1, &bytes(&[0x0304, 0x0303]))),
            (13, vec_of(2, &bytes(&[0x0403, 0x0804]))),
            (10, vec_of(2, &bytes(&[29]))),
        ];
        let expected = ClientHello {
            versions: vec![0x0304, 0x0303],
            suites: vec![0x1301, 0xc02b],
            groups: vec![29],
            schemes: vec![0x0403, 0x0804],
        };
        for record in [1 << 14, 50, 1] {
            let hello = hello(0x0303, &[0x1301, 0xc02b], &extensions, record);
            assert_eq!(ClientHello::parse(&hello).as_ref(), Some(&expected));
            for cut in 0..hello.len() {
                assert_eq!(ClientHello::parse(&hello[..cut]), None, "{cut}");
            }
        }
        let old = ClientHello { versions: vec![0x0301], suites: vec![0x002f], ..ClientHello::default() };
        assert_eq!(ClientHello::parse(&hello(0x0301, &[0x002f], &[], 100)), Some(old));
        for noise in [&[22; 300][..], &[0; 300], b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 0, 4, 2, 0, 0, 0], &[]] {
            assert_eq!(ClientHello::parse(noise), None);
        }
    }

    #[test]
    fn explanation_names_what_the_client_offers() {
        let none = Error::General("no certificate".to_owned());
        let incompatible = Error::PeerIncompatible;
        let schemes = |schemes: &[u16]| (13, vec_of(2, &bytes(schemes)));
        let groups = |groups: &[u16]| (10, vec_of(2, &bytes(groups)));
        let ecdhe = &[0xc02b, 0xc02f][..];
        for (legacy, suites, extensions, cause, expected) in [
            (
                0x0302,
                ecdhe,
                vec![],
                incompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired),
                "the client offers TLS 1.1:",
            ),
            (0x0300, ecdhe, vec![], incompatible(PeerIncompatible::Tls12NotOffered), "the client offers SSL 3.0:"),
            (
                0x0303,
                ecdhe,
                vec![],
                incompatible(PeerIncompatible::SupportedVersionsExtensionRequired),
                "the client offers TLS 1.2:",
            ),
            (
                0x0303,
                &[0x0a0a, 0x009c, 0x009d, 0x00ff],
                vec![schemes(&[0x0401])],
                none.clone(),
                "the client offers TLS_RSA_WITH_AES_128_GCM_SHA256, TLS_RSA_WITH_AES_256_GCM_SHA384:",
            ),
            (
                0x0303,
                &[1, 2, 4, 5, 6, 7, 8, 9, 0xfffe],
                vec![schemes(&[0x0401])],
                none.clone(),
                "TLS_RSA_WITH_IDEA_CBC_SHA and 3 more:",
            ),
            (0x0303, &[0xfffe], vec![schemes(&[0x0401])], none.clone(), "the client offers 0xfffe:"),
            // Suites of TLS 1.3 without that version.
            (0x0303, &[0x1301], vec![schemes(&[0x0401])], none.clone(), "no cipher suite in common"),
            (
                0x0303,
                &[0xc02f],
                vec![schemes(&[0x0401, 0x0403])],
                none.clone(),
                "the client accepts keys of the kind RSA:",
            ),
            (
                0x0303,
                ecdhe,
                vec![schemes(&[0x0804, 0x0403])],
                none.clone(),
                "the client accepts keys of the kind ECDSA and RSA:",
            ),
            (
                0x0303,
                ecdhe,
                vec![schemes(&[0x0401]), groups(&[25])],
                incompatible(PeerIncompatible::NoKxGroupsInCommon),
                "the client offers secp521r1",
            ),
            (
                0x0303,
                ecdhe,
                vec![],
                incompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired),
                "no signature algorithms",
            ),
        ] {
            let hello = hello(legacy, suites, &extensions, 1 << 14);
            let text = explain(&hello, &ring::default_provider(), &cause).expect("an explanation");
            assert!(text.contains(expected), "{text}");
        }
        let hello = hello(0x0302, ecdhe, &[], 1 << 14);
        assert_eq!(explain(&hello, &ring::default_provider(), &Error::DecryptError), None);
    }
}
