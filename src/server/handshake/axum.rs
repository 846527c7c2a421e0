//! The axum extractor.

use ::axum::{
    body::Body,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::request::Parts;

use crate::server::handshake::upgrade::{RpcUpgrade, UpgradeError};

impl<S: Sync> FromRequestParts<S> for RpcUpgrade {
    type Rejection = UpgradeError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, UpgradeError> {
        let on_upgrade = parts.extensions.remove();
        Self::from_parts(parts.clone(), on_upgrade)
    }
}

impl IntoResponse for UpgradeError {
    fn into_response(self) -> Response {
        UpgradeError::into_response::<Body>(self)
    }
}
