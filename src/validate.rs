//! Validation of payloads, by the rules of their protocol and action.

mod adapter;
pub(crate) mod decode_error;
#[cfg(feature = "json-schema")]
mod json_schemas;
#[cfg(any(feature = "json-schema", feature = "ocpp-schemas"))]
mod multiple;
#[cfg(feature = "ocpp-schemas")]
mod ocpp_schemas;
mod payload_error;
pub(crate) mod validation;
pub(crate) mod validator;

#[cfg(feature = "json-schema")]
pub use self::json_schemas::{JsonSchemas, error::SchemaError};
#[cfg(feature = "ocpp-schemas")]
pub use self::ocpp_schemas::OcppSchemas;
pub use crate::error::Violation;

pub use self::{
    validation::Validation,
    validator::{PayloadContext, PayloadKind, Valid, Validator},
};
