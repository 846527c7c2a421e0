//! The request of a refused handshake, as an event shows it.

use http::{HeaderMap, HeaderName, header};
use serde::{Serialize, Serializer};

use crate::info::{TlsInfo, TlsVersion};

/// The request of a handshake that was refused, in
/// [`EventKind::HandshakeRefused`](crate::event::EventKind::HandshakeRefused).
///
/// It contains no credentials: of the query nothing, and of the `Authorization` header the scheme alone. A text has at
/// most 256 bytes; the rest is cut off. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RefusedRequest {
    /// The path as the client sent it, without the query.
    pub path: String,
    /// The subprotocols that the client offers: the `Sec-WebSocket-Protocol` header. Several lines are joined.
    pub protocols: Option<String>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// The scheme of the `Authorization` header, such as `Basic`. Is `other` if the scheme is not registered, because
    /// the text may then be a password.
    pub authorization: Option<String>,
    /// The version of TLS. It serializes to `TLSv1.2` or `TLSv1.3`.
    #[serde(serialize_with = "tls_version")]
    pub tls: Option<TlsVersion>,
    /// The common name of the client's certificate.
    pub certificate: Option<String>,
}

/// The bytes of a text, at most.
const MAX_TEXT: usize = 256;

/// The registered authentication schemes (<https://www.iana.org/assignments/http-authschemes>).
const SCHEMES: [&str; 13] = [
    "Basic",
    "Bearer",
    "Concealed",
    "Digest",
    "DPoP",
    "GNAP",
    "HOBA",
    "Mutual",
    "Negotiate",
    "OAuth",
    "PrivateToken",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
];

impl RefusedRequest {
    pub(crate) fn new(path: &str, headers: &HeaderMap, tls: Option<&TlsInfo>) -> Self {
        let authorization = headers.get(header::AUTHORIZATION).map(|value| scheme(value.as_bytes()).to_owned());
        Self {
            path: cut(path.to_owned()),
            protocols: joined(headers, &header::SEC_WEBSOCKET_PROTOCOL),
            user_agent: joined(headers, &header::USER_AGENT),
            authorization,
            tls: tls.and_then(TlsInfo::version),
            certificate: tls.and_then(TlsInfo::common_name).map(cut),
        }
    }
}

/// Returns the scheme of an `Authorization` header if it is registered, in its registered spelling.
fn scheme(value: &[u8]) -> &'static str {
    let sent = value.split(|byte| *byte == b' ').next().unwrap_or_default();
    SCHEMES.into_iter().find(|scheme| scheme.as_bytes().eq_ignore_ascii_case(sent)).unwrap_or("other")
}

/// Returns the lines of a header as one text.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    (!lines.is_empty()).then(|| cut(lines.join(", ")))
}

fn cut(mut text: String) -> String {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or_default());
    text
}

fn tls_version<S: Serializer>(version: &Option<TlsVersion>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = version.map(|version| match version {
        TlsVersion::Tls12 => "TLSv1.2",
        TlsVersion::Tls13 => "TLSv1.3",
    });
    text.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn headers(lines: &[(HeaderName, &[u8])]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_bytes(value).expect("a value"))).collect()
    }

    #[test]
    fn request_serializes_with_what_is_absent_as_null() {
        let request = RefusedRequest::new("/ocpp/CP-1", &HeaderMap::new(), None);
        let expected = json!({
            "path": "/ocpp/CP-1", "protocols": null, "user_agent": null, "authorization": null, "tls": null,
            "certificate": null,
        });
        assert_eq!(serde_json::to_value(&request).expect("JSON"), expected);
        let tls = TlsInfo::new().with_version(TlsVersion::Tls13);
        let request = RefusedRequest::new("/", &HeaderMap::new(), Some(&tls));
        assert_eq!(serde_json::to_value(&request).expect("JSON")["tls"], "TLSv1.3");
    }

    #[test]
    fn authorization_is_reduced_to_a_registered_scheme() {
        for (value, expected) in [
            (&b"Basic Q1AtMTpzZWNyZXQ="[..], "Basic"),
            (b"basic Q1AtMTpzZWNyZXQ=", "Basic"),
            (b"BEARER token", "Bearer"),
            (b"Basic", "Basic"),
            (b"secret", "other"),
            (b"my secret", "other"),
            (b"\xff\xfe secret", "other"),
            (b"", "other"),
        ] {
            let request = RefusedRequest::new("/", &headers(&[(header::AUTHORIZATION, value)]), None);
            assert_eq!(request.authorization.as_deref(), Some(expected), "{value:?}");
        }
    }

    #[test]
    fn texts_are_joined_and_cut_at_the_end_of_a_character() {
        let long = "é".repeat(200);
        let lines = headers(&[
            (header::SEC_WEBSOCKET_PROTOCOL, b"ocpp2.0.1"),
            (header::SEC_WEBSOCKET_PROTOCOL, b"ocpp1.6"),
            (header::USER_AGENT, long.as_bytes()),
        ]);
        let request = RefusedRequest::new(&format!("/{long}"), &lines, None);
        assert_eq!(request.protocols.as_deref(), Some("ocpp2.0.1, ocpp1.6"));
        assert_eq!(request.user_agent.as_deref(), Some(&*"é".repeat(128)));
        assert_eq!(request.path, format!("/{}", "é".repeat(127)));
    }
}
