//! Certificates of stations and of ISO 15118. The backend has no certificate authority, so it rejects each request in
//! the form that its response has.

use std::convert::Infallible;

use ocpp_rpc::{RpcRouter, extract::Params};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reject;
use crate::date;

pub(super) fn router() -> RpcRouter {
    RpcRouter::new()
        .on("SignCertificate", reject)
        .on("Get15118EVCertificate", ev_certificate)
        .on("GetCertificateStatus", status)
        .on("GetCertificateChainStatus", chain_status)
}

async fn ev_certificate() -> Result<Value, Infallible> {
    Ok(json!({"status": "Failed", "exiResponse": ""}))
}

async fn status() -> Result<Value, Infallible> {
    Ok(json!({"status": "Failed"}))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChainStatus {
    certificate_status_requests: Vec<ChainStatusRequest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChainStatusRequest {
    source: Value,
    certificate_hash_data: Value,
}

async fn chain_status(Params(chain): Params<ChainStatus>) -> Result<Value, Infallible> {
    let failed = |ChainStatusRequest { source, certificate_hash_data }| {
        json!({
            "source": source,
            "certificateHashData": certificate_hash_data,
            "status": "Failed",
            "nextUpdate": date::now(),
        })
    };
    let statuses: Vec<Value> = chain.certificate_status_requests.into_iter().map(failed).collect();
    Ok(json!({"certificateStatus": statuses}))
}
