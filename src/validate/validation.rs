//! The choice of payloads to validate.

use std::{fmt, sync::Arc};

use crate::{error::BuildError, validate::validator::Validator};

#[doc = include_str!("../docs/validation.md")]
#[derive(Clone)]
pub struct Validation {
    pub(crate) validator: Arc<dyn Validator>,
    /// The protocols to validate, or `None` for all.
    pub(crate) protocols: Option<Vec<Arc<str>>>,
    pub(crate) report_only: bool,
}

impl Validation {
    /// Creates a validation of the payloads of every protocol.
    pub fn new(validator: impl Validator) -> Self {
        Self { validator: Arc::new(validator), protocols: None, report_only: false }
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

/// Compares validators by identity: two are equal only if they share one.
impl PartialEq for Validation {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.validator, &other.validator)
            && (&self.protocols, self.report_only) == (&other.protocols, other.report_only)
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
