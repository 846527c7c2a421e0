//! What of a connection is validated.

use std::{fmt, sync::Arc};

use crate::{error::BuildError, validate::validator::Validator};

#[doc = include_str!("../docs/validation.md")]
#[derive(Clone)]
pub struct Validation {
    pub(crate) validator: Arc<dyn Validator>,
    /// None are all.
    pub(crate) protocols: Option<Vec<Arc<str>>>,
    pub(crate) report_only: bool,
}

impl Validation {
    /// Checks the payloads of every protocol.
    pub fn new(validator: impl Validator) -> Self {
        Self { validator: Arc::new(validator), protocols: None, report_only: false }
    }

    /// Checks the payloads of these protocols only.
    #[must_use]
    pub fn only<P: AsRef<str>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        let protocols = protocols.into_iter().map(|protocol| protocol.as_ref().into()).collect();
        Self { protocols: Some(protocols), ..self }
    }

    /// Lets everything pass, and tells of violations by events alone.
    #[must_use]
    pub fn report_only(self) -> Self {
        Self { report_only: true, ..self }
    }

    /// Whether payloads of this protocol are checked.
    pub(crate) fn applies_to(&self, protocol: &str) -> bool {
        let is_named = |names: &Vec<Arc<str>>| names.iter().any(|name| **name == *protocol);
        self.protocols.as_ref().is_none_or(is_named) && self.validator.supports(protocol)
    }

    /// Refuses what checks nothing, or not all that it is asked to.
    pub(crate) fn check(&self, protocols: &[Arc<str>]) -> Result<(), BuildError> {
        if protocols.is_empty() {
            return Err(BuildError::settings("validation without a protocol: nobody could say what is valid"));
        }
        let named = self.protocols.as_deref().unwrap_or(protocols);
        if let Some(unknown) = named.iter().find(|name| !protocols.contains(name)) {
            return Err(BuildError::settings(format!("validation of {unknown:?}, which is none of the protocols")));
        }
        match named.iter().find(|name| !self.validator.supports(name)) {
            Some(unknown) => Err(BuildError::settings(format!("the validator does not know the protocol {unknown:?}"))),
            None => Ok(()),
        }
    }
}

/// Two are equal that have the same validator, not one that is like it.
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
