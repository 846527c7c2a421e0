//! `--strict`: validation by OCPP's own schemas. The handlers take the types that it decodes, so each payload is
//! decoded once.

use ocpp_rpc::{Options, RpcRouter};

#[derive(clap::Args)]
pub(crate) struct Checks {
    /// Validates every payload. Requires the feature `ocpp-schemas`.
    #[arg(long)]
    strict: bool,
}

impl Checks {
    /// Returns the options and the router that the flag selects.
    pub(crate) fn apply(&self) -> Result<(Options, RpcRouter), &'static str> {
        if self.strict { strict() } else { Ok((Options::server(), load::router())) }
    }
}

#[cfg(feature = "ocpp-schemas")]
fn strict() -> Result<(Options, RpcRouter), &'static str> {
    use ocpp_rpc::validate::{OcppSchemas, Validation};

    Ok((Options::server().validation(Validation::new(OcppSchemas)), typed::router()))
}

#[cfg(not(feature = "ocpp-schemas"))]
fn strict() -> Result<(Options, RpcRouter), &'static str> {
    Err("--strict requires the feature `ocpp-schemas`: build with `--features ocpp-schemas`")
}

/// Handlers that take the types of `ocpp-kit`.
#[cfg(feature = "ocpp-schemas")]
mod typed {
    use std::convert::Infallible;

    use ocpp_rpc::{ErrorCode, RpcRouter, extract::Params, ocpp_kit::v1_6::*};

    pub(super) fn router() -> RpcRouter {
        RpcRouter::new()
            .on_action::<HeartbeatRequest, _>(heartbeat)
            .on_action::<BootNotificationRequest, _>(boot)
            .on_action::<MeterValuesRequest, _>(meter_values)
    }

    async fn heartbeat(_: Params<HeartbeatRequest>) -> Result<HeartbeatResponse, Infallible> {
        Ok(HeartbeatResponse::new(jiff::Timestamp::now()))
    }

    async fn boot(Params(boot): Params<BootNotificationRequest>) -> Result<BootNotificationResponse, Infallible> {
        let is_valid = !boot.charge_point_vendor.is_empty() && !boot.charge_point_model.is_empty();
        let status = if is_valid { RegistrationStatus::Accepted } else { RegistrationStatus::Rejected };
        Ok(BootNotificationResponse::new(status, jiff::Timestamp::now(), 300))
    }

    async fn meter_values(Params(meter): Params<MeterValuesRequest>) -> Result<MeterValuesResponse, ErrorCode> {
        if meter.meter_value.iter().all(|value| !value.sampled_value.is_empty()) {
            Ok(MeterValuesResponse::new())
        } else {
            Err(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION)
        }
    }
}
