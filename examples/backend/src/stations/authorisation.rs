//! Decides on id tokens by the table `id_tokens`.

use ocpp_rpc::{
    CallError, RpcRouter,
    extract::{Params, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::AnyPool;

use super::App;

pub(super) fn router(app: App) -> RpcRouter<App> {
    let ocpp1_6 = RpcRouter::with_state(app.clone()).on("Authorize", authorize_1_6);
    RpcRouter::with_state(app).protocol("ocpp1.6", ocpp1_6).on("Authorize", authorize)
}

/// Returns the status of a token. An unknown one is *Invalid*.
pub(super) async fn status(database: &AnyPool, token: &str) -> sqlx::Result<String> {
    let found = sqlx::query_scalar("SELECT status FROM id_tokens WHERE lower(token) = lower($1)");
    Ok(found.bind(token).fetch_optional(database).await?.unwrap_or_else(|| "Invalid".to_owned()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorize1_6 {
    id_tag: String,
}

async fn authorize_1_6(
    Params(Authorize1_6 { id_tag }): Params<Authorize1_6>,
    State(app): State<App>,
) -> Result<Value, CallError> {
    Ok(json!({"idTagInfo": {"status": status(&app.database, &id_tag).await?}}))
}

/// A token of OCPP 2.x.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IdToken {
    pub(super) id_token: String,
    r#type: String,
}

impl IdToken {
    /// Returns the status of the token. A start without authorisation, such as by a button, has an empty token.
    pub(super) async fn status(&self, database: &AnyPool) -> sqlx::Result<String> {
        match &*self.r#type {
            "NoAuthorization" => Ok("Accepted".to_owned()),
            _ => status(database, &self.id_token).await,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorize {
    id_token: IdToken,
    certificate: Option<Value>,
    iso15118_certificate_hash_data: Option<Value>,
}

async fn authorize(Params(authorize): Params<Authorize>, State(app): State<App>) -> Result<Value, CallError> {
    let status = authorize.id_token.status(&app.database).await?;
    if authorize.certificate.is_none() && authorize.iso15118_certificate_hash_data.is_none() {
        return Ok(json!({"idTokenInfo": {"status": status}}));
    }
    // The backend cannot check the contract certificate of a vehicle.
    Ok(json!({"idTokenInfo": {"status": "Invalid"}, "certificateStatus": "NoCertificateAvailable"}))
}
