//! Whether payloads are what their action allows.

pub(crate) mod misfit;
mod payload_error;
#[cfg(feature = "json-schema")]
mod schema;
#[cfg(feature = "strict")]
mod strict;
pub(crate) mod validation;
pub(crate) mod validator;

#[cfg(feature = "json-schema")]
pub use self::schema::{JsonSchemas, error::SchemaError};
#[cfg(feature = "strict")]
pub use self::strict::OcppSchemas;
pub use self::{
    validation::Validation,
    validator::{PayloadContext, PayloadKind, Valid, Validator},
};
