//! Certificates and authorities for TLS, the same at both ends.
//!
//! Nothing here prints a key.

use std::{
    error::Error as StdError,
    fmt,
    path::Path,
    sync::{Arc, LazyLock, OnceLock},
};

use tokio_rustls::rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};

use crate::error::BuildError;

/// A certificate with the chain to its authority, and its private key.
///
/// ```no_run
/// use ocpp_rpc::tls::{Certificate, ServerTls};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let certificate = Certificate::from_pem_files("chain.pem", "key.pem")?;
/// let tls = ServerTls::builder().certificate(certificate).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Certificate(pub(crate) Arc<CertifiedKey>);

impl Certificate {
    /// Reads PEM files: the chain with the certificate itself first, and the key as PKCS#8, PKCS#1 or SEC1.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read ([`BuildError::File`], with the [`std::io::Error`]), is not PEM, or if the key
    /// does not match the certificate.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, BuildError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let certificates = certificates_in_file(chain)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, "private key", error))?;
        Self::new(certificates, key, &format!("certificate and key: {}", chain.display()))
    }

    /// Reads PEM texts: the chain with the certificate itself first, and the key as PKCS#8, PKCS#1 or SEC1.
    ///
    /// # Errors
    ///
    /// Fails if a text is not PEM, or if the key does not match the certificate.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, BuildError> {
        let chain = certificates_in(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| BuildError::tls("a private key", error))?;
        Self::new(chain, key, "a certificate and its key")
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        subject: &str,
    ) -> Result<Self, BuildError> {
        let certified = CertifiedKey::from_der(chain, key, &provider());
        Ok(Self(Arc::new(certified.map_err(|error| BuildError::tls(subject, error))?)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.0.cert.len()).finish_non_exhaustive()
    }
}

/// The trusted authorities.
///
/// ```no_run
/// use ocpp_rpc::tls::{ClientTls, RootCerts};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = ClientTls::builder().authorities(RootCerts::from_pem_file("csms-root.pem")?).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RootCerts(pub(crate) Arc<RootCertStore>);

impl RootCerts {
    /// Reads a PEM file of certificates.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read ([`BuildError::File`], with the [`std::io::Error`]), is not PEM, or contains
    /// no certificate.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, BuildError> {
        let path = path.as_ref();
        Self::new(certificates_in_file(path)?, &format!("an authority: {}", path.display()))
    }

    /// Reads a PEM text of certificates.
    ///
    /// # Errors
    ///
    /// Fails if the text is not PEM, or contains no certificate.
    pub fn from_pem(text: &[u8]) -> Result<Self, BuildError> {
        Self::new(certificates_in(text)?, "an authority")
    }

    /// Returns the authorities that the operating system trusts, or those in the files of `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR`. They are read once in the life of a process.
    ///
    /// # Errors
    ///
    /// Returns an error if no certificate is found.
    pub fn native() -> Result<Self, BuildError> {
        static NATIVE: OnceLock<RootCerts> = OnceLock::new();
        if let Some(roots) = NATIVE.get() {
            return Ok(roots.clone());
        }
        let mut found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Systems have certificates that can no longer be parsed; the others suffice.
        roots.add_parsable_certificates(found.certs);
        if !roots.is_empty() {
            return Ok(NATIVE.get_or_init(|| Self(Arc::new(roots))).clone());
        }
        match found.errors.pop() {
            Some(error) => Err(BuildError::tls("the system's certificates", error)),
            None => Err(BuildError::settings("the system has no certificates")),
        }
    }

    fn new(certificates: Vec<CertificateDer<'static>>, subject: &str) -> Result<Self, BuildError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| BuildError::tls(subject, error))?;
        }
        if roots.is_empty() {
            return Err(BuildError::settings(format!("{subject}: no certificate of an authority")));
        }
        Ok(Self(Arc::new(roots)))
    }
}

impl fmt::Debug for RootCerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RootCerts").field(&self.0.len()).finish()
    }
}

/// Returns the cryptography of all TLS of this crate. It is passed on explicitly, so that it does not depend on what
/// else in the program uses rustls.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static RING: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    RING.clone()
}

impl BuildError {
    /// Creates the error of a setting that TLS does not accept.
    pub(crate) fn tls(subject: impl Into<String>, cause: impl StdError + Send + Sync + 'static) -> Self {
        Self::Tls { subject: subject.into(), cause: Box::new(cause) }
    }
}

fn in_file(path: &Path, subject: &str, error: pem::Error) -> BuildError {
    match error {
        pem::Error::Io(error) => BuildError::File { path: path.to_owned(), error },
        error => BuildError::tls(format!("{subject}: {}", path.display()), error),
    }
}

/// Returns the certificates in a PEM text.
pub(crate) fn certificates_in(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    certificates.map_err(|error| BuildError::tls("a certificate", error))
}

/// Returns the certificates in a PEM file.
pub(crate) fn certificates_in_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    certificates.map_err(|error| in_file(path, "certificate", error))
}
