//! The error of settings.

use std::{borrow::Cow, error::Error as StdError, fmt, io, path::PathBuf};

/// An error of settings: they contradict each other, can never work, or need a file that cannot be read.
///
/// ```
/// use std::{error::Error, io};
/// use ocpp_rpc::BuildError;
///
/// /// A certificate that does not exist yet is no reason to stop.
/// fn is_missing_file(error: &BuildError) -> bool {
///     matches!(error, BuildError::File { error, .. } if error.kind() == io::ErrorKind::NotFound)
/// }
///
/// // The same by way of the source, as it works with `anyhow::Error` and boxed errors:
/// fn has_missing_file(error: &(dyn Error + 'static)) -> bool {
///     let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
///     cause.is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound)
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Settings contradict each other or can never work. The text names them.
    #[error("{0}")]
    Settings(String),
    /// A file cannot be read. The error itself is the `source()` as well.
    #[non_exhaustive]
    #[error("cannot read {}: {}", path.display(), kind_of(error))]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// A certificate, a key or another setting of TLS cannot be used.
    #[non_exhaustive]
    #[error("{subject}: {}", WithSources(&**cause))]
    Tls {
        /// The setting, with its file if it was read from one.
        subject: String,
        /// The cause: an error of `rustls` or of its PEM reader.
        cause: Box<dyn StdError + Send + Sync>,
    },
}

impl BuildError {
    pub(crate) fn settings(text: impl Into<String>) -> Self {
        Self::Settings(text.into())
    }
}

/// Names the kind of an I/O error. Its text is left to the `source()`.
pub(crate) fn kind_of(error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        kind => kind.to_string().into(),
    }
}

/// Displays an error and its sources in one line, without sources that the line names already.
pub(crate) struct WithSources<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for WithSources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        let mut next = self.0.source();
        while let Some(source) = next {
            let text = source.to_string();
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            next = source.source();
        }
        f.write_str(&line)
    }
}
