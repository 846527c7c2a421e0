//! The choice of payloads to validate.

use std::{fmt, sync::Arc};

use crate::{
    error::{BuildError, ErrorCode, Violation},
    validate::validator::Validator,
};

/// Validation of payloads: a validator, and the protocols that it checks.
///
/// Each payload is checked: the parameters and the result of a call, in both directions. The guide's page
/// [validation](crate::guide::validation) has the outcome of each violation, the validators and the codes.
/// [`Options::validation`](crate::Options::validation) sets it.
///
/// ```
/// # #[cfg(feature = "ocpp-schemas")] {
/// use ocpp_rpc::{Options, validate::{OcppSchemas, Validation}};
///
/// let validation = Validation::new(OcppSchemas).only(["ocpp1.6", "ocpp2.0.1"]);
/// let options = Options::server().validation(validation);
/// # }
/// ```
#[derive(Clone)]
pub struct Validation {
    pub(crate) validator: Arc<dyn Validator>,
    /// The protocols to validate, or `None` for all.
    pub(crate) protocols: Option<Vec<Arc<str>>>,
    pub(crate) report_only: bool,
    codes: Option<Arc<CodeOf>>,
}

type CodeOf = dyn Fn(&Violation) -> Option<ErrorCode> + Send + Sync;

impl Validation {
    /// Creates a validation of the payloads of every protocol.
    pub fn new(validator: impl Validator) -> Self {
        Self { validator: Arc::new(validator), protocols: None, report_only: false, codes: None }
    }

    /// Limits the validation to these protocols.
    #[must_use]
    pub fn only<P: AsRef<str>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        let protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        Self { protocols: Some(protocols), ..self }
    }

    /// Sets if violations are only reported by events, so that every payload passes. Default `false`.
    #[must_use]
    pub fn report_only(self, report_only: bool) -> Self {
        Self { report_only, ..self }
    }

    /// Sets the codes of violations, with any validator. If `codes` returns `None`, the validator's code stays.
    ///
    /// ```
    /// # #[cfg(feature = "ocpp-schemas")] {
    /// use ocpp_rpc::{ErrorCode, validate::{OcppSchemas, Validation, Violation}};
    ///
    /// /// Reports unknown members as the older servers of this site do.
    /// fn code(violation: &Violation) -> Option<ErrorCode> {
    ///     (*violation.code() == ErrorCode::FORMAT_VIOLATION).then_some(ErrorCode::PROTOCOL_ERROR)
    /// }
    ///
    /// let validation = Validation::new(OcppSchemas).codes(code);
    /// # }
    /// ```
    #[must_use]
    pub fn codes(self, codes: impl Fn(&Violation) -> Option<ErrorCode> + Send + Sync + 'static) -> Self {
        Self { codes: Some(Arc::new(codes)), ..self }
    }

    /// Returns a violation with the code that the application wants for it.
    pub(crate) fn recode(&self, violation: Violation) -> Violation {
        match self.codes.as_ref().and_then(|codes| codes(&violation)) {
            Some(code) => Violation::new(code, violation.pointer(), violation.reason()),
            None => violation,
        }
    }

    /// Returns `true` if payloads of this protocol must be checked.
    pub(crate) fn applies_to(&self, protocol: &str) -> bool {
        let is_named = |names: &Vec<Arc<str>>| names.iter().any(|name| **name == *protocol);
        self.protocols.as_ref().is_none_or(is_named) && self.validator.supports(protocol)
    }

    /// Checks that the validation covers some of `protocols`, and all that [`only`](Self::only) names.
    pub(crate) fn check(&self, protocols: &[Arc<str>]) -> Result<(), BuildError> {
        if protocols.is_empty() {
            return Err(BuildError::settings("cannot validate payloads without a protocol: set the protocols"));
        }
        let named = self.protocols.as_deref().unwrap_or(protocols);
        if let Some(unknown) = named.iter().find(|name| !protocols.contains(name)) {
            return Err(BuildError::settings(format!(
                "validation is limited to {unknown:?}, which is not one of the protocols"
            )));
        }
        match named.iter().find(|name| !self.validator.supports(name)) {
            Some(unknown) => {
                Err(BuildError::settings(format!("the validator does not support the protocol {unknown:?}")))
            }
            None => Ok(()),
        }
    }
}

/// Compares validators and codes by identity: two are equal only if they share them.
impl PartialEq for Validation {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.validator, &other.validator)
            && (&self.protocols, self.report_only) == (&other.protocols, other.report_only)
            && match (&self.codes, &other.codes) {
                (Some(codes), Some(other)) => Arc::ptr_eq(codes, other),
                (None, None) => true,
                _ => false,
            }
    }
}

impl Eq for Validation {}

impl fmt::Debug for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validation")
            .field("protocols", &self.protocols)
            .field("report_only", &self.report_only)
            .finish_non_exhaustive()
    }
}
