//! Pinned certificates: a client accepts exactly these certificates of a server.

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use ring::digest;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    certificate::{certificates_in, certificates_in_file, provider},
    error::BuildError,
    tls_error::UnpinnedCertificate,
};

/// The SHA-256 of a certificate that a client accepts from any issuer.
///
/// Set it with [`ClientTlsBuilder::pin`](super::tls::ClientTlsBuilder::pin). It parses from the fingerprint that
/// `openssl x509 -noout -fingerprint -sha256` prints: 64 hexadecimal digits, with or without colons.
///
/// ```
/// use ocpp_rpc::tls::{CertificatePin, ClientTls};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pin: CertificatePin = "7D:1A:28:C9:5E:4D:8B:A1:3C:97:0E:F2:66:B0:41:58:\
///                            9E:D3:70:2B:C4:85:16:AF:E9:33:5C:08:D7:62:BE:94".parse()?;
/// let tls = ClientTls::builder().pin(pin).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificatePin([u8; 32]);

impl CertificatePin {
    /// Creates the pin of the first certificate in a PEM file, for example of a self-signed certificate.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read ([`BuildError::File`], with the [`std::io::Error`]), is not PEM, or contains
    /// no certificate.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, BuildError> {
        let path = path.as_ref();
        Self::first_of(&certificates_in_file(path)?, &format!("a pinned certificate: {}", path.display()))
    }

    /// Creates the pin of the first certificate in a PEM text.
    ///
    /// # Errors
    ///
    /// Fails if the text is not PEM, or contains no certificate.
    pub fn from_pem(text: &[u8]) -> Result<Self, BuildError> {
        Self::first_of(&certificates_in(text)?, "a pinned certificate")
    }

    fn first_of(chain: &[CertificateDer<'_>], subject: &str) -> Result<Self, BuildError> {
        let none = || BuildError::settings(format!("{subject}: no certificate"));
        chain.first().map(Self::of).ok_or_else(none)
    }

    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(hash)
    }
}

impl FromStr for CertificatePin {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<Self, BuildError> {
        let parse = || {
            let digits = text.chars().filter(|c| *c != ':').map(|c| u8::try_from(c.to_digit(16)?).ok());
            let digits: [u8; 64] = digits.collect::<Option<Vec<_>>>()?.try_into().ok()?;
            let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            bytes.try_into().ok()
        };
        parse().map(Self).ok_or_else(|| {
            BuildError::settings(format!("invalid SHA-256 of a certificate {text:?}: not 64 hexadecimal digits"))
        })
    }
}

/// Formats the fingerprint as OpenSSL does.
impl fmt::Display for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: Vec<String> = self.0.iter().map(|byte| format!("{byte:02X}")).collect();
        f.write_str(&digits.join(":"))
    }
}

impl fmt::Debug for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificatePin({self})")
    }
}

/// A verifier that accepts the pinned certificates, and no others.
///
/// A pin replaces the checks of chain, name, validity and purpose. The server must still prove in the handshake that it
/// has the certificate's key.
#[derive(Debug)]
pub(super) struct PinVerifier(pub(super) Vec<CertificatePin>);

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pin = CertificatePin::of(certificate);
        if self.0.contains(&pin) {
            Ok(ServerCertVerified::assertion())
        } else {
            let cause = UnpinnedCertificate { sha256: pin.to_string() };
            Err(CertificateError::Other(OtherError(Arc::new(cause))).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_parses_from_fingerprint_of_openssl() {
        let digits = "7D1A28C95E4D8BA13C970EF266B041589ED3702BC48516AFE9335C08D762BE94";
        let colons: Vec<&str> = (0..32).map(|at| &digits[2 * at..][..2]).collect();
        let pin: CertificatePin = colons.join(":").parse().expect("a fingerprint");
        assert_eq!(pin.to_string(), colons.join(":"));
        for same in [digits, &digits.to_lowercase()] {
            assert_eq!(same.parse::<CertificatePin>().expect("a fingerprint"), pin);
        }
        let sign = format!("+{}", &digits[1..]);
        let letter = format!("g{}", &digits[1..]);
        for wrong in ["", &digits[1..], &digits[2..], &format!("{digits}00"), &sign, &letter, "sha256:", ":::"] {
            let error = wrong.parse::<CertificatePin>().expect_err(wrong).to_string();
            assert!(error.contains("not 64 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn pin_is_the_sha256_of_the_first_certificate() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let issue = |name: &str| {
            let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
            params.self_signed(&key).expect("a certificate")
        };
        let (one, other) = (issue("one"), issue("other"));
        let pin = CertificatePin::from_pem((one.pem() + &other.pem()).as_bytes()).expect("a certificate");
        assert_eq!(pin, CertificatePin::of(one.der()));
        assert_ne!(pin, CertificatePin::of(other.der()));
        // The SHA-256 of no bytes, FIPS 180-4.
        assert!(CertificatePin::of(&CertificateDer::from(vec![])).to_string().starts_with("E3:B0:C4:42:98:FC:1C:14"));
        for wrong in [&b""[..], key.serialize_pem().as_bytes()] {
            let error = CertificatePin::from_pem(wrong).expect_err("no certificate").to_string();
            assert_eq!(error, "a pinned certificate: no certificate");
        }
        let error = CertificatePin::from_pem_file("/nowhere/at.all").expect_err("no file").to_string();
        assert_eq!(error, "cannot read /nowhere/at.all: no such file");
    }
}
