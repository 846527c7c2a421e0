//! The failures of TLS handshakes in the words of an operator, with what to do.

use std::{borrow::Cow, error::Error as StdError, fmt, io};

use tokio_rustls::rustls::{
    AlertDescription::{self as Alert},
    CertificateError, Error, PeerIncompatible,
};

/// The end of a connection at which a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only a client constructs it"))]
    Client,
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only a server constructs it"))]
    Server,
}

impl End {
    fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// A failure with its explanation. The source is the error of rustls.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct ExplainedError {
    text: Cow<'static, str>,
    source: Error,
}

/// The error of a server's certificate that is not pinned. In errors of rustls, it appears by its `Debug` output.
#[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only a client pins certificates"))]
pub(crate) struct UnpinnedCertificate {
    /// The fingerprint of the certificate.
    pub(crate) sha256: String,
}

impl fmt::Debug for UnpinnedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnpinnedCertificate")
    }
}

impl fmt::Display for UnpinnedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's certificate is not pinned: its SHA-256 is {}: pin it if it is genuine", self.sha256)
    }
}

impl StdError for UnpinnedCertificate {}

/// Returns the error of rustls in an I/O error.
pub(crate) fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Explains the failure of a handshake at this end. Returns other errors unchanged.
pub(crate) fn explain(error: io::Error, end: End) -> io::Error {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match rustls_error(&error).map(|cause| text(cause, end)) {
        Some(Some(text)) => with_text(error, text),
        Some(None) => error,
        None => match error.kind() {
            kind @ (BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
                io::Error::new(kind, format!("the {} disconnected during the TLS handshake: {error}", end.peer()))
            }
            _ => error,
        },
    }
}

/// Explains an error that occurred behind a stream, such as an HTTP connection. Returns `None` if TLS is not the cause.
#[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only a client sees such errors"))]
pub(crate) fn explain_cause(cause: &io::Error, end: End) -> Option<io::Error> {
    let source = rustls_error(cause)?.clone();
    Some(explain(io::Error::new(cause.kind(), source), end))
}

/// Adds an explanation to an error of rustls. Returns other errors unchanged.
pub(crate) fn with_text(error: io::Error, text: impl Into<Cow<'static, str>>) -> io::Error {
    match rustls_error(&error).cloned() {
        Some(source) => io::Error::new(error.kind(), ExplainedError { text: text.into(), source }),
        None => error,
    }
}

fn text(cause: &Error, end: End) -> Option<Cow<'static, str>> {
    let peer = end.peer();
    Some(match (cause, end) {
        (Error::InvalidCertificate(error), _) => return certificate_text(error, end),
        (Error::AlertReceived(alert), _) => alert_text(*alert, end),
        (Error::NoCertificatesPresented, _) => {
            "the client has no certificate, but the server requires one: install one in the client".into()
        }
        (Error::InvalidMessage(_), End::Client) => {
            "the server does not speak TLS at this port: use a ws:// endpoint, or the port with TLS".into()
        }
        (Error::InvalidMessage(_), End::Server) => {
            "the client does not speak TLS, or its TLS is malformed: use a wss:// endpoint".into()
        }
        (
            Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ),
            _,
        ) => "no TLS version in common: the server must support TLS 1.2 or 1.3".into(),
        (Error::PeerIncompatible(_), _) => {
            format!("the TLS of the {peer} has nothing in common with that of this {end}: change the settings of one")
                .into()
        }
        (Error::NoApplicationProtocol, _) => {
            format!("the {peer} offers no HTTP version that this {end} supports (ALPN)").into()
        }
        _ => return None,
    })
}

/// Explains why this end does not accept the certificate of its peer.
fn certificate_text(error: &CertificateError, end: End) -> Option<Cow<'static, str>> {
    let peer = end.peer();
    let text = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the {peer}'s certificate has expired: renew it, or correct the clock of this {end}")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the {peer}'s certificate is not valid yet: correct the clock of this {end}")
        }
        CertificateError::UnknownIssuer if end == End::Client => {
            "the server's certificate is of no trusted authority: trust its authority, let the server send the whole \
             chain, or pin the certificate"
                .to_owned()
        }
        CertificateError::UnknownIssuer => {
            "the client's certificate is of no trusted authority: add its authority to the listener, or let the client \
             send the whole chain"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another name: use its name in the endpoint, or set `server_name`"
                .to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            let usage = if end == End::Client { "serverAuth" } else { "clientAuth" };
            format!("the {peer}'s certificate is for another purpose: issue one with the extended key usage {usage}")
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "the {peer}'s certificate is of a kind that is not supported: issue one with a key of ECDSA (P-256 or \
             P-384), Ed25519 or RSA, signed with SHA-256 or better"
        ),
        CertificateError::BadSignature => format!(
            "a signature for the {peer}'s certificate is invalid: its authority or its key is another one, or an RSA \
             key has less than 2048 bits"
        ),
        CertificateError::Revoked => format!("the {peer}'s certificate is revoked: issue another"),
        CertificateError::Other(error) if error.0.is::<UnpinnedCertificate>() => error.0.to_string(),
        CertificateError::BadEncoding | CertificateError::Other(_) => format!(
            "the {peer}'s certificate cannot be used: issue one of X.509 version 3 that is not that of an authority"
        ),
        _ => return None,
    };
    Some(text.into())
}

/// Explains an alert by which the peer ended the handshake.
fn alert_text(alert: Alert, end: End) -> Cow<'static, str> {
    let peer = end.peer();
    let text = match alert {
        Alert::HandshakeFailure | Alert::InsufficientSecurity => {
            format!("the {peer} found no cipher suite, key exchange or kind of certificate in common")
        }
        Alert::ProtocolVersion => format!("the {peer} supports neither TLS 1.2 nor TLS 1.3"),
        Alert::UnknownCA => format!(
            "the {peer} does not trust this {end}'s certificate: install its authority at the {peer}, and send the \
             whole chain"
        ),
        Alert::CertificateExpired => format!(
            "the {peer} finds this {end}'s certificate expired or not yet valid: renew it, or correct the {peer}'s \
             clock"
        ),
        Alert::CertificateRevoked => format!("the {peer} finds this {end}'s certificate revoked: use another"),
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
            format!("the {peer} rejects this {end}'s certificate: check its name, purpose, kind of key and authority")
        }
        Alert::CertificateRequired | Alert::NoCertificate => {
            format!("the {peer} requires a certificate of this {end}: set one")
        }
        Alert::AccessDenied => format!("the {peer} denies access, or has no certificate that this {end} can verify"),
        Alert::DecryptError => format!("the {peer} cannot verify a signature of this {end}: check certificate and key"),
        Alert::UnrecognisedName => {
            "the server has no certificate for this name: check the host of the endpoint".to_owned()
        }
        Alert::NoApplicationProtocol => format!("the {peer} supports no HTTP version of this {end} (ALPN)"),
        Alert::UserCanceled | Alert::CloseNotify => format!("the {peer} abandoned the TLS handshake"),
        _ => format!("the {peer} ended the TLS handshake"),
    };
    text.into()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio_rustls::rustls::{InvalidMessage, OtherError, PeerMisbehaved, pki_types::UnixTime};

    use super::*;

    #[test]
    fn failure_is_explained_by_the_end_that_sees_it() {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let invalid = Error::InvalidCertificate;
        let (client, server) = (End::Client, End::Server);
        for (cause, end, expected) in [
            (invalid(CertificateError::Expired), client, "the server's certificate has expired: renew it"),
            (
                invalid(CertificateError::ExpiredContext { time: time(2), not_after: time(1) }),
                server,
                "the client's certificate has expired: renew it",
            ),
            (invalid(CertificateError::NotValidYet), client, "not valid yet: correct the clock of this client"),
            (invalid(CertificateError::UnknownIssuer), client, "pin the certificate"),
            (invalid(CertificateError::UnknownIssuer), server, "add its authority to the listener"),
            (invalid(CertificateError::NotValidForName), client, "set `server_name`"),
            (invalid(CertificateError::InvalidPurpose), client, "the extended key usage serverAuth"),
            (invalid(CertificateError::InvalidPurpose), server, "the extended key usage clientAuth"),
            (
                invalid(CertificateError::UnsupportedSignatureAlgorithmContext {
                    signature_algorithm_id: vec![],
                    supported_algorithms: vec![],
                }),
                server,
                "the client's certificate is of a kind that is not supported",
            ),
            (invalid(CertificateError::BadSignature), server, "less than 2048 bits"),
            (invalid(CertificateError::Revoked), server, "revoked: issue another"),
            (
                invalid(CertificateError::Other(OtherError(Arc::new(io::Error::other("old version"))))),
                client,
                "X.509 version 3",
            ),
            (Error::NoCertificatesPresented, server, "the client has no certificate"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), client, "does not speak TLS at this port"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), server, "does not speak TLS"),
            (PeerIncompatible::ServerDoesNotSupportTls12Or13.into(), client, "TLS 1.2 or 1.3"),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), client, "the TLS of the server has nothing in common"),
            (Error::NoApplicationProtocol, server, "the client offers no HTTP version"),
            (Error::AlertReceived(Alert::HandshakeFailure), client, "the server found no cipher suite"),
            (Error::AlertReceived(Alert::ProtocolVersion), server, "supports neither TLS 1.2 nor TLS 1.3"),
            (Error::AlertReceived(Alert::UnknownCA), server, "install its authority at the client"),
            (Error::AlertReceived(Alert::CertificateExpired), server, "or correct the client's clock"),
            (Error::AlertReceived(Alert::CertificateUnknown), client, "the server rejects this client's certificate"),
            (Error::AlertReceived(Alert::CertificateRequired), client, "the server requires a certificate"),
            (Error::AlertReceived(Alert::UserCanceled), server, "the client abandoned the TLS handshake"),
            (Error::AlertReceived(Alert::Unknown(99)), server, "the client ended the TLS handshake"),
        ] {
            let explained = explain(io::Error::new(io::ErrorKind::InvalidData, cause.clone()), end);
            assert_eq!(explained.kind(), io::ErrorKind::InvalidData);
            assert!(explained.to_string().contains(expected), "{explained}");
            let source = explained.get_ref().and_then(|error| error.source()).and_then(|source| source.downcast_ref());
            assert_eq!(source.map(Error::to_string), Some(cause.to_string()));
        }
    }

    #[test]
    fn other_failures_keep_their_text() {
        let misbehaved = Error::from(PeerMisbehaved::InvalidKeyShare);
        let error = explain(io::Error::new(io::ErrorKind::InvalidData, misbehaved.clone()), End::Client);
        assert_eq!(error.to_string(), misbehaved.to_string());
        let denied = explain(io::ErrorKind::PermissionDenied.into(), End::Client);
        assert_eq!(
            (denied.kind(), denied.to_string()),
            (io::ErrorKind::PermissionDenied, "permission denied".to_owned())
        );
        let ended = explain(io::ErrorKind::UnexpectedEof.into(), End::Server);
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        assert!(ended.to_string().starts_with("the client disconnected during the TLS handshake: "), "{ended}");
    }
}
