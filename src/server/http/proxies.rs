//! Reads the client's address, TLS and certificate from the headers of trusted proxies.

use std::net::{IpAddr, SocketAddr};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, header};
use percent_encoding::percent_decode;

use crate::{
    error::BuildError,
    info::TlsInfo,
    server::http::{
        info::{self, RemoteAddress},
        networks::Networks,
    },
};

/// Proxies in front of a server. Their headers determine a client's address, TLS and certificate.
///
/// The server ignores the headers of requests from other addresses. The client is the last address in the list that is
/// not one of these proxies, because a client can forge the addresses before it.
///
/// If a station can connect from one of these addresses directly, it can forge all of them. Name only the proxies
/// themselves, or a network without other hosts.
///
/// ```
/// use ocpp_rpc::{RpcRouter, RpcServer, server::TrustedProxies};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let proxies = TrustedProxies::x_forwarded(["10.0.7.1", "10.0.7.2", "127.0.0.1"])?
///     .client_certificate("x-ssl-client-cert".parse()?);
/// let server = RpcServer::builder(RpcRouter::new()).trusted_proxies(proxies).build()?;
/// # Ok(())
/// # }
/// ```
///
/// If the proxy sends no port, the address of the client has port 0. [`TlsInfo`] then has no
/// version, and has the certificate if the proxy sends it.
#[derive(Debug, Clone)]
pub struct TrustedProxies {
    networks: Networks,
    headers: Headers,
    certificate: Option<HeaderName>,
}

/// The headers that the proxies set. The other kind is ignored, because a proxy may pass on what a client sends.
#[derive(Debug, Clone, Copy)]
enum Headers {
    XForwarded,
    Forwarded,
}

/// The address and scheme that one proxy reports.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hop {
    address: Option<SocketAddr>,
    scheme: Option<String>,
}

impl TrustedProxies {
    /// Trusts proxies at these addresses or networks that set `X-Forwarded-For` and `X-Forwarded-Proto`.
    ///
    /// A network has the form `10.0.0.0/8`.
    ///
    /// # Errors
    ///
    /// Fails if a text is neither an address nor a network.
    pub fn x_forwarded<N: AsRef<str>>(networks: impl IntoIterator<Item = N>) -> Result<Self, BuildError> {
        Self::new(networks, Headers::XForwarded)
    }

    /// Trusts proxies at these addresses or networks that set `Forwarded` (RFC 7239).
    ///
    /// # Errors
    ///
    /// Fails if a text is neither an address nor a network.
    pub fn forwarded<N: AsRef<str>>(networks: impl IntoIterator<Item = N>) -> Result<Self, BuildError> {
        Self::new(networks, Headers::Forwarded)
    }

    fn new<N: AsRef<str>>(networks: impl IntoIterator<Item = N>, headers: Headers) -> Result<Self, BuildError> {
        Ok(Self { networks: Networks::parse(networks)?, headers, certificate: None })
    }

    /// Sets the header in which the proxies send a client's certificate.
    ///
    /// The proxies must verify the certificate, and must remove the header from the requests of clients. Otherwise a
    /// client can impersonate others.
    ///
    /// The formats are `Client-Cert` (RFC 9440), percent-encoded PEM and DER in base64. nginx
    /// (`$ssl_client_escaped_cert`) and AWS send PEM, HAProxy and Traefik send DER.
    #[must_use]
    pub fn client_certificate(self, header: HeaderName) -> Self {
        Self { certificate: Some(header), ..self }
    }

    /// Returns the address and TLS of a request's client.
    pub(crate) fn client(
        &self,
        headers: &HeaderMap,
        remote_address: Option<SocketAddr>,
        tls: Option<TlsInfo>,
    ) -> (Option<SocketAddr>, Option<TlsInfo>) {
        let Some(peer) = remote_address.filter(|address| self.trusts(address)) else { return (remote_address, tls) };
        let hops = match self.headers {
            Headers::XForwarded => x_forwarded(headers),
            Headers::Forwarded => forwarded(headers),
        };
        let Some(nearest) = hops.last() else { return (remote_address, tls) };
        let (mut client, mut scheme) = (peer, nearest.scheme.as_deref());
        for hop in hops.iter().rev() {
            let Some(address) = hop.address.filter(|_| self.trusts(&client)) else { break };
            client = address;
            scheme = hop.scheme.as_deref().or(scheme);
        }
        let chain = self.certificate.as_ref().map_or_else(Vec::new, |name| certificates(headers, name));
        let is_tls = scheme.is_some_and(|scheme| ["https", "wss"].iter().any(|tls| scheme.eq_ignore_ascii_case(tls)));
        // `tls` is dropped: it describes the connection to the proxy, not to the client.
        (Some(client), (is_tls || !chain.is_empty()).then(|| TlsInfo::new().with_peer_chain(chain)))
    }

    /// Replaces the address and TLS in a request's extensions by those of the client.
    pub(crate) fn apply(&self, headers: &HeaderMap, extensions: &mut Extensions) {
        let known = extensions.get().map(|&RemoteAddress(address)| address);
        let remote_address = known.or_else(|| info::connect_info(extensions));
        let (client, tls) = self.client(headers, remote_address, extensions.remove());
        if let Some(client) = client {
            extensions.insert(RemoteAddress(client));
        }
        if let Some(tls) = tls {
            extensions.insert(tls);
        }
    }

    pub(crate) fn trusts(&self, address: &SocketAddr) -> bool {
        self.networks.contain(address.ip())
    }
}

/// Returns the elements of a list header, from the client to the server.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).into_iter().flat_map(|line| line.to_str().unwrap_or_default().split(','));
    lines.map(str::trim).collect()
}

fn x_forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let schemes = elements(headers, &HeaderName::from_static("x-forwarded-proto"));
    let hops = elements(headers, &HeaderName::from_static("x-forwarded-for"));
    let hop = |(before, text): (usize, &&str)| {
        // Each proxy appends to both lists, or the nearest proxy replaces the scheme by a single one.
        let scheme = schemes.iter().rev().nth(hops.len() - 1 - before).or(schemes.last());
        Hop { address: address(text), scheme: scheme.map(|&scheme| scheme.to_owned()) }
    };
    hops.iter().enumerate().map(hop).collect()
}

/// Reads the hops of `Forwarded` headers (RFC 7239 §4).
///
/// Elements are split at every comma and semicolon, even within quotes, because no address or scheme contains them. A
/// hop is empty if the split cuts a quoted text, or if a parameter occurs twice. The hops before it are then ignored.
fn forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let hop = |element: &str| {
        let value_of = |name_of_value: &str| {
            let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
            let mut values =
                pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(name_of_value)).map(|(_, value)| value);
            values.next().filter(|_| values.next().is_none()).map(|value| value.trim().trim_matches('"'))
        };
        let has_paired_quotes = |part: &str| part.matches('"').count().is_multiple_of(2);
        if element.split(';').all(has_paired_quotes) {
            Hop { address: value_of("for").and_then(address), scheme: value_of("proto").map(str::to_owned) }
        } else {
            Hop::default()
        }
    };
    elements(headers, &header::FORWARDED).into_iter().map(hop).collect()
}

/// Parses an address with or without a port. An IPv6 address may have brackets.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = || text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse::<IpAddr>();
    text.parse().or_else(|_| bare().map(|address| SocketAddr::new(address, 0))).ok()
}

/// Returns the certificates in a header as DER. Returns none if the header is malformed or occurs twice.
fn certificates(headers: &HeaderMap, name: &HeaderName) -> Vec<Bytes> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut lines = headers.get_all(name).into_iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Vec::new() };
    let Ok(text) = percent_decode(line.as_bytes()).decode_utf8() else { return Vec::new() };
    let encoded: Vec<&str> = if text.contains(BEGIN) {
        text.split(BEGIN).skip(1).map(|block| block.split(END).next().unwrap_or_default()).collect()
    } else {
        // RFC 9440 encloses each certificate in colons (RFC 8941 §3.3.5).
        text.split(',').map(|item| item.trim().trim_matches(':')).collect()
    };
    let der = |text: &str| {
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        BASE64_STANDARD.decode(text).ok().filter(|der| !der.is_empty()).map(Bytes::from)
    };
    encoded.into_iter().map(der).collect::<Option<_>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        lines.iter().map(line).collect()
    }

    /// Returns the client's address, and whether it uses TLS.
    fn client(proxies: &TrustedProxies, peer: &str, lines: &[(&'static str, &str)]) -> (String, bool) {
        let peer = SocketAddr::new(peer.parse().expect("an address"), 7);
        let (address, tls) = proxies.client(&headers(lines), Some(peer), None);
        (address.expect("known").to_string(), tls.is_some())
    }

    #[test]
    fn client_is_the_last_address_that_is_not_a_proxy() {
        const FOR: &str = "x-forwarded-for";
        const PROTO: &str = "x-forwarded-proto";
        let proxies = TrustedProxies::x_forwarded(["10.0.0.0/8", "::1", "192.0.2.1"]).expect("networks");
        for (peer, lines, address, is_tls) in [
            // Headers of other hosts are ignored.
            ("203.0.113.9", &[(FOR, "1.1.1.1"), (PROTO, "https")][..], "203.0.113.9:7", false),
            ("10.1.2.3", &[], "10.1.2.3:7", false),
            ("10.1.2.3", &[(PROTO, "https")], "10.1.2.3:7", false),
            ("10.1.2.3", &[(FOR, "203.0.113.9")], "203.0.113.9:0", false),
            ("::ffff:10.1.2.3", &[(FOR, "203.0.113.9"), (PROTO, "HTTPS")], "203.0.113.9:0", true),
            ("::1", &[(FOR, "203.0.113.9:4711"), (PROTO, "wss")], "203.0.113.9:4711", true),
            ("::1", &[(FOR, "2001:db8::5"), (PROTO, "http")], "[2001:db8::5]:0", false),
            ("::1", &[(FOR, "[2001:db8::5]")], "[2001:db8::5]:0", false),
            ("::1", &[(FOR, "[2001:db8::5]:99")], "[2001:db8::5]:99", false),
            // Addresses that the client may have forged come first.
            ("10.1.2.3", &[(FOR, "1.1.1.1, 203.0.113.9")], "203.0.113.9:0", false),
            ("10.1.2.3", &[(FOR, "1.1.1.1"), (FOR, "203.0.113.9")], "203.0.113.9:0", false),
            // Through two proxies.
            ("10.1.2.3", &[(FOR, "1.1.1.1, 203.0.113.9, 192.0.2.1")], "203.0.113.9:0", false),
            (
                "10.1.2.3",
                &[(FOR, "1.1.1.1, 203.0.113.9,10.0.0.9"), (PROTO, "http, https, http")],
                "203.0.113.9:0",
                true,
            ),
            ("10.1.2.3", &[(FOR, "203.0.113.9, 10.0.0.9"), (PROTO, "https")], "203.0.113.9:0", true),
            // All addresses are proxies.
            ("10.1.2.3", &[(FOR, "10.0.0.7, 10.0.0.9")], "10.0.0.7:0", false),
            // An element that is not an address ends the list.
            ("10.1.2.3", &[(FOR, "unknown"), (PROTO, "https")], "10.1.2.3:7", true),
            ("10.1.2.3", &[(FOR, "1.1.1.1, , 10.0.0.9")], "10.0.0.9:0", false),
            ("10.1.2.3", &[(FOR, "1.1.1.1, 300.1.1.1, 10.0.0.9")], "10.0.0.9:0", false),
            // The proxy may pass on the other kind of header from the client.
            ("10.1.2.3", &[("forwarded", "for=1.1.1.1;proto=https")], "10.1.2.3:7", false),
        ] {
            assert_eq!(client(&proxies, peer, lines), (address.to_owned(), is_tls), "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_header_has_address_and_scheme() {
        const FORWARDED: &str = "forwarded";
        let proxies = TrustedProxies::forwarded(["10.0.0.0/8"]).expect("networks");
        for (value, address, is_tls) in [
            ("for=203.0.113.9", "203.0.113.9:0", false),
            ("For=\"203.0.113.9:4711\"; Proto=https;by=10.0.0.9", "203.0.113.9:4711", true),
            ("for=\"[2001:db8::5]:99\";proto=wss", "[2001:db8::5]:99", true),
            ("for=1.1.1.1;proto=https, for=203.0.113.9;proto=http", "203.0.113.9:0", false),
            ("for=203.0.113.9;proto=https, for=10.0.0.9;proto=http", "203.0.113.9:0", true),
            ("for=_hidden, for=10.0.0.9", "10.0.0.9:0", false),
            ("for=\"1.1.1.1, for=2.2.2.2\"", "10.1.2.3:7", false),
            // The client's Host header, passed on by a proxy.
            ("for=203.0.113.9;host=\"a,for=6.6.6.6\";proto=http", "10.1.2.3:7", false),
            ("for=203.0.113.9;host=\"a,for=6.6.6.6;proto=https,b\"", "10.1.2.3:7", false),
            ("for=203.0.113.9;for=6.6.6.6", "10.1.2.3:7", false),
            ("nonsense", "10.1.2.3:7", false),
        ] {
            assert_eq!(client(&proxies, "10.1.2.3", &[(FORWARDED, value)]), (address.to_owned(), is_tls), "{value}");
        }
        let x = &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https")];
        assert_eq!(client(&proxies, "10.1.2.3", x), ("10.1.2.3:7".to_owned(), false));
    }

    #[test]
    fn client_is_the_same_when_headers_are_read_twice() {
        let proxies = TrustedProxies::x_forwarded(["10.0.0.0/8"]).expect("networks");
        for line in ["203.0.113.9, 10.0.0.9", "10.0.0.7, 10.0.0.9", "unknown"] {
            let headers = headers(&[("x-forwarded-for", line), ("x-forwarded-proto", "https")]);
            let peer = "10.1.2.3:7".parse().ok();
            let (client, tls) = proxies.client(&headers, peer, None);
            assert_eq!(proxies.client(&headers, client, tls.clone()), (client, tls), "{line}");
        }
    }

    #[test]
    fn certificate_is_read_in_all_formats_of_proxies() {
        let proxies = TrustedProxies::x_forwarded(["10.0.0.0/8"]).expect("networks");
        let proxies = proxies.client_certificate(HeaderName::from_static("client-cert"));
        let chain = |value: &str| {
            let headers = headers(&[("x-forwarded-for", "203.0.113.9"), ("client-cert", value)]);
            let (_, tls) = proxies.client(&headers, "10.1.2.3:7".parse().ok(), None);
            tls.map_or(Vec::new(), |tls| tls.peer_chain().iter().map(|der| der.to_vec()).collect())
        };
        for (value, expected) in [
            (":AQID:", &[&[1, 2, 3][..]][..]),
            (":AQID:, :BAUG:", &[&[1, 2, 3], &[4, 5, 6]]),
            ("AQID", &[&[1, 2, 3]]),
            ("AQID,BAUG", &[&[1, 2, 3], &[4, 5, 6]]),
            ("-----BEGIN CERTIFICATE-----\t+/+/ -----END CERTIFICATE-----", &[&[0xfb, 0xff, 0xbf]]),
            ("-----BEGIN%20CERTIFICATE-----%0AAQ%0AID%0A-----END%20CERTIFICATE-----%0A", &[&[1, 2, 3]]),
            ("-----BEGIN%20CERTIFICATE-----%0A%2B/+%2F%0A-----END%20CERTIFICATE-----%0A", &[&[0xfb, 0xff, 0xbf]]),
            (
                "-----BEGIN CERTIFICATE-----AQID-----END CERTIFICATE----------BEGIN CERTIFICATE-----BAUG",
                &[&[1, 2, 3], &[4, 5, 6]],
            ),
            ("", &[]),
            ("(null)", &[]),
            ("%ff", &[]),
            ("AQID,!", &[]),
        ] {
            assert_eq!(chain(value), expected, "{value}");
        }
        // Sent twice, so one is by the client.
        let twice = headers(&[("x-forwarded-for", "1.1.1.1"), ("client-cert", "AQID"), ("client-cert", "BAUG")]);
        assert_eq!(proxies.client(&twice, "10.1.2.3:7".parse().ok(), None).1, None);
        // Sent by a host that is not trusted.
        let alone = headers(&[("x-forwarded-for", "1.1.1.1"), ("client-cert", "AQID")]);
        assert_eq!(proxies.client(&alone, "203.0.113.9:7".parse().ok(), None).1, None);
    }

    #[test]
    fn invalid_network_is_an_error() {
        for wrong in ["", "localhost", "10.0.0.0/33", "10.0.0.1:80"] {
            assert!(TrustedProxies::x_forwarded([wrong]).is_err(), "{wrong}");
        }
    }
}
