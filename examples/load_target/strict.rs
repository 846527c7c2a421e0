//! `--strict`: OCPP's own rules, and handlers of the types that payloads are read as to be checked: they are read once.

use std::convert::Infallible;

use ocpp_rpc::{ErrorCode, Options, RpcRouter, Strict, Validation, extract::Params, ocpp_kit::v1_6::*};

use crate::handlers;

#[derive(clap::Args)]
pub(crate) struct Checks {
    /// Validates every payload.
    #[arg(long)]
    strict: bool,
}

impl Checks {
    pub(crate) fn options(&self) -> Options {
        match self.strict {
            true => Options::server().validation(Validation::new(Strict)),
            false => Options::server(),
        }
    }

    pub(crate) fn router(&self) -> RpcRouter {
        match self.strict {
            true => RpcRouter::new()
                .on_action::<HeartbeatRequest, _>(heartbeat)
                .on_action::<BootNotificationRequest, _>(boot)
                .on_action::<MeterValuesRequest, _>(meter_values),
            false => handlers::router(),
        }
    }
}

async fn heartbeat(_: Params<HeartbeatRequest>) -> Result<HeartbeatResponse, Infallible> {
    Ok(HeartbeatResponse::new(jiff::Timestamp::now()))
}

async fn boot(Params(boot): Params<BootNotificationRequest>) -> Result<BootNotificationResponse, Infallible> {
    let known = !boot.charge_point_vendor.is_empty() && !boot.charge_point_model.is_empty();
    let status = if known { RegistrationStatus::Accepted } else { RegistrationStatus::Rejected };
    Ok(BootNotificationResponse::new(status, jiff::Timestamp::now(), 300))
}

async fn meter_values(Params(meter): Params<MeterValuesRequest>) -> Result<MeterValuesResponse, ErrorCode> {
    match meter.meter_value.iter().all(|value| !value.sampled_value.is_empty()) {
        true => Ok(MeterValuesResponse::new()),
        false => Err(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION),
    }
}
