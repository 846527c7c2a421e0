//! What axum knows: the extractor, and what it leaves in a request's extensions.

use std::net::SocketAddr;

use ::axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts, OriginalUri},
    response::{IntoResponse, Response},
};
use http::{Extensions, Uri, request::Parts};

use super::upgrade::{RpcUpgrade, UpgradeError};

pub(super) fn original_uri(extensions: &Extensions) -> Option<&Uri> {
    extensions.get::<OriginalUri>().map(|OriginalUri(uri)| uri)
}

pub(super) fn connect_info(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| *address)
}

impl<S: Sync> FromRequestParts<S> for RpcUpgrade {
    type Rejection = UpgradeError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, UpgradeError> {
        let on_upgrade = parts.extensions.remove();
        Self::read(parts.clone(), on_upgrade)
    }
}

impl IntoResponse for UpgradeError {
    fn into_response(self) -> Response {
        UpgradeError::into_response::<Body>(self)
    }
}
