//! A server on ocpp-kit, with its own WebSocket, engine and types. Its pings are off, and its limit on connections is raised.

use std::error::Error;

use ocpp_kit::{
    RawValue, Version,
    engine::IncomingRequest,
    rpc::CallError,
    transport::{AcceptEveryStation, BoxFuture, Csms, Ctx, Handler, Keepalive},
    types::DateTime,
    v1_6::{Action, BootNotificationResponse, CsRequest, HeartbeatResponse, MeterValuesResponse, RegistrationStatus},
};

struct Handlers;

impl Handler for Handlers {
    fn on_request(&self, ctx: Ctx, request: IncomingRequest) -> BoxFuture<'_, Result<Box<RawValue>, CallError>> {
        Box::pin(async move {
            let unknown = || CallError::not_implemented(&request.action);
            let action = Action::from_wire(&request.action).ok_or_else(unknown)?;
            match CsRequest::decode(action, &request.payload, ctx.decode_options())? {
                CsRequest::Heartbeat(_) => ctx.reply(&HeartbeatResponse::new(DateTime::now())),
                CsRequest::BootNotification(boot) => {
                    let is_valid = !boot.charge_point_vendor.is_empty() && !boot.charge_point_model.is_empty();
                    let status = if is_valid { RegistrationStatus::Accepted } else { RegistrationStatus::Rejected };
                    ctx.reply(&BootNotificationResponse::new(status, DateTime::now(), 300))
                }
                CsRequest::MeterValues(_) => ctx.reply(&MeterValuesResponse::new()),
                _ => Err(unknown()),
            }
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().event_interval(1024).build()?;
    runtime.block_on(async {
        let csms = Csms::builder()
            .bind(([127, 0, 0, 1], compare::port()).into())
            .versions([Version::V1_6])
            .authenticate(AcceptEveryStation)
            .handler(Handlers)
            .keepalive(Keepalive::disabled())
            .max_connections(1_000_000)
            .build()?;
        Ok(csms.serve().await?)
    })
}
