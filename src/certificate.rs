//! Certificates and authorities for TLS, the same at both ends.
//!
//! Nothing here prints a key.

use std::{
    fmt,
    path::Path,
    sync::{Arc, LazyLock},
};

use tokio_rustls::rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::error::BuildError;

/// A certificate, those that lead from it to an authority, and its private key.
#[derive(Clone)]
pub struct Certificate(pub(crate) Arc<CertifiedKey>);

impl Certificate {
    /// Reads PEM files: the chain with the certificate itself first, and the key as PKCS#8, PKCS#1 or SEC1.
    ///
    /// # Errors
    /// When a file cannot be read, or the key is not that of the certificate.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, BuildError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        Self::new(certificates(chain)?, PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, &error))?)
            .map_err(|error| in_file(chain, &error))
    }

    /// Reads PEM texts, of the same contents.
    ///
    /// # Errors
    /// When they cannot be read, or the key is not that of the certificate.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, BuildError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| wrong("a certificate", &error))?;
        Self::new(chain, PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("a private key", &error))?)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, BuildError> {
        let certified = CertifiedKey::from_der(chain, key, &provider());
        Ok(Self(Arc::new(certified.map_err(|error| wrong("a certificate and its key", &error))?)))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.0.cert.len()).finish_non_exhaustive()
    }
}

/// The authorities whose certificates are believed.
#[derive(Clone)]
pub struct RootCerts(pub(crate) Arc<RootCertStore>);

impl RootCerts {
    /// Reads a PEM file of certificates.
    ///
    /// # Errors
    /// When it cannot be read, or has no certificate in it.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, BuildError> {
        let path = path.as_ref();
        Self::new(certificates(path)?).map_err(|error| in_file(path, &error))
    }

    /// Reads a PEM text of certificates.
    ///
    /// # Errors
    /// When it cannot be read, or has no certificate in it.
    pub fn from_pem(text: &[u8]) -> Result<Self, BuildError> {
        let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        Self::new(certificates.map_err(|error| wrong("a certificate", &error))?)
    }

    /// Those that the operating system trusts, or the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. They are
    /// read once in the life of a process.
    ///
    /// # Errors
    /// When there are none.
    pub fn native() -> Result<Self, BuildError> {
        static SYSTEM: LazyLock<Result<RootCerts, BuildError>> = LazyLock::new(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // Systems have certificates that nobody can read any more; the others will do.
            roots.add_parsable_certificates(found.certs);
            match (roots.is_empty(), found.errors.first()) {
                (false, _) => Ok(RootCerts(Arc::new(roots))),
                (true, Some(error)) => Err(wrong("the system's certificates", error)),
                (true, None) => Err(BuildError("the system has no certificates".into())),
            }
        });
        SYSTEM.clone()
    }

    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, BuildError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| wrong("an authority", &error))?;
        }
        match roots.is_empty() {
            true => Err(BuildError("there is no certificate of an authority".into())),
            false => Ok(Self(Arc::new(roots))),
        }
    }
}

impl fmt::Debug for RootCerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RootCerts").field(&self.0.len()).finish()
    }
}

/// The cryptography of all that this crate sets up: handed over each time, so that it does not depend on what else in
/// the program uses rustls.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static RING: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    RING.clone()
}

pub(crate) fn wrong(what: &str, error: &impl fmt::Display) -> BuildError {
    BuildError(format!("{what}: {error}"))
}

fn in_file(path: &Path, error: &impl fmt::Display) -> BuildError {
    wrong(&path.display().to_string(), error)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    certificates.map_err(|error| in_file(path, &error))
}
