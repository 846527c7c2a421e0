//! Health checks.

use axum::extract::State;

use super::{Api, error::ApiError};

/// Returns 200 as long as the process runs.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "ok", body = str)))]
pub(super) async fn healthz() -> &'static str {
    "ok"
}

/// Returns 200 if the backend accepts stations, and 503 if it stops or has no database.
#[utoipa::path(get, path = "/readyz", responses((status = 200, description = "ready", body = str), ApiError))]
pub(super) async fn readyz(State(api): State<Api>) -> Result<&'static str, ApiError> {
    if api.stopping.is_cancelled() {
        return Err(ApiError::stopping());
    }
    sqlx::query("SELECT 1").execute(&api.database).await?;
    Ok("ready")
}
