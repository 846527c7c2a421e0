//! OCPP 1.6 and 2.0.1 at one endpoint, each with its own types, and one application behind both.
//!
//!     cargo run --example typed --features ocpp-kit
//!
//! Two charging stations inside, one of each version, boot, ask whether a token may charge, and are reset by the
//! server. Then it ends.

use std::{convert::Infallible, error::Error};

use jiff::Timestamp;
use ocpp_rpc::{
    Close, RpcClient, RpcRouter, RpcServer, Session,
    extract::{Params, State},
};

/// What the backend knows, whatever version asks.
#[derive(Clone)]
struct App {
    interval: i32,
    token: &'static str,
}

impl App {
    fn boot(&self, session: &Session, model: &str) -> Booted {
        println!("{}, a {model}, boots with {}", session.identity(), session.protocol().unwrap_or("no protocol"));
        Booted { at: Timestamp::now(), interval: self.interval }
    }

    fn may_charge(&self, token: &str) -> bool {
        token == self.token
    }
}

struct Booted {
    at: Timestamp,
    interval: i32,
}

/// The handlers of OCPP 1.6.
mod v1_6 {
    use ocpp_rpc::ocpp_kit::v1_6::*;

    use super::*;

    pub(crate) fn router(app: App) -> RpcRouter<App> {
        RpcRouter::with_state(app)
            .on_action::<BootNotificationRequest, _>(boot)
            .on_action::<AuthorizeRequest, _>(authorize)
    }

    async fn boot(
        Params(boot): Params<BootNotificationRequest>,
        session: Session,
        State(app): State<App>,
    ) -> Result<BootNotificationResponse, Infallible> {
        let booted = app.boot(&session, &boot.charge_point_model);
        Ok(BootNotificationResponse::new(RegistrationStatus::Accepted, booted.at, booted.interval))
    }

    async fn authorize(
        Params(authorize): Params<AuthorizeRequest>,
        State(app): State<App>,
    ) -> Result<AuthorizeResponse, Infallible> {
        let status = match app.may_charge(&authorize.id_tag) {
            true => AuthorizationStatus::Accepted,
            false => AuthorizationStatus::Invalid,
        };
        Ok(AuthorizeResponse::new(IdTagInfo::new(status)))
    }

    /// The server asks for a reset.
    pub(crate) async fn reset(session: &Session) -> Result<bool, ocpp_rpc::Error> {
        let answer = session.request(ResetRequest::new(ResetType::Soft)).await?;
        Ok(answer.status == ResetStatus::Accepted)
    }

    /// What a station of this version does.
    pub(crate) async fn station(client: &RpcClient) -> Result<(), ocpp_rpc::Error> {
        let boot = client.request(BootNotificationRequest::new("ACME", "One")).await?;
        println!("OLD-1 is {} for {} s", boot.status, boot.interval);
        let authorized = client.request(AuthorizeRequest::new("A1B2")).await?;
        println!("OLD-1 may charge: {}", authorized.id_tag_info.status);
        Ok(())
    }

    /// What a station of this version answers.
    pub(crate) fn station_router() -> RpcRouter {
        async fn reset(Params(reset): Params<ResetRequest>) -> Result<ResetResponse, Infallible> {
            println!("the station makes a {} reset", reset.r#type);
            Ok(ResetResponse::new(ResetStatus::Accepted))
        }
        RpcRouter::new().on_action::<ResetRequest, _>(reset)
    }
}

/// The handlers of OCPP 2.0.1.
mod v2_0_1 {
    use ocpp_rpc::ocpp_kit::v2_0_1::*;

    use super::*;

    pub(crate) fn router(app: App) -> RpcRouter<App> {
        RpcRouter::with_state(app)
            .on_action::<BootNotificationRequest, _>(boot)
            .on_action::<AuthorizeRequest, _>(authorize)
    }

    async fn boot(
        Params(boot): Params<BootNotificationRequest>,
        session: Session,
        State(app): State<App>,
    ) -> Result<BootNotificationResponse, Infallible> {
        let booted = app.boot(&session, &boot.charging_station.model);
        Ok(BootNotificationResponse::new(booted.at, booted.interval, RegistrationStatus::Accepted))
    }

    async fn authorize(
        Params(authorize): Params<AuthorizeRequest>,
        State(app): State<App>,
    ) -> Result<AuthorizeResponse, Infallible> {
        let status = match app.may_charge(&authorize.id_token.id_token) {
            true => AuthorizationStatus::Accepted,
            false => AuthorizationStatus::Invalid,
        };
        Ok(AuthorizeResponse::new(IdTokenInfo::new(status)))
    }

    /// The server asks for a reset.
    pub(crate) async fn reset(session: &Session) -> Result<bool, ocpp_rpc::Error> {
        let answer = session.request(ResetRequest::new(ResetEnum::Immediate)).await?;
        Ok(answer.status == ResetStatus::Accepted)
    }

    /// What a station of this version does.
    pub(crate) async fn station(client: &RpcClient) -> Result<(), ocpp_rpc::Error> {
        let station = ChargingStation::new("Two", "ACME");
        let boot = client.request(BootNotificationRequest::new(station, BootReason::PowerUp)).await?;
        println!("NEW-1 is {} for {} s", boot.status, boot.interval);
        let authorized = client.request(AuthorizeRequest::new(IdToken::new("0000", IdTokenEnum::Central))).await?;
        println!("NEW-1 may charge: {}", authorized.id_token_info.status);
        Ok(())
    }

    /// What a station of this version answers.
    pub(crate) fn station_router() -> RpcRouter {
        async fn reset(Params(reset): Params<ResetRequest>) -> Result<ResetResponse, Infallible> {
            println!("the station makes a {} reset", reset.r#type);
            Ok(ResetResponse::new(ResetStatus::Accepted))
        }
        RpcRouter::new().on_action::<ResetRequest, _>(reset)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = App { interval: 300, token: "A1B2" };
    let router =
        RpcRouter::new().protocol("ocpp1.6", v1_6::router(app.clone())).protocol("ocpp2.0.1", v2_0_1::router(app));
    let server = RpcServer::builder(router).protocols(["ocpp2.0.1", "ocpp1.6"]).build()?;
    let listener = server.listen("127.0.0.1:0").await?;
    let endpoint = format!("ws://{}", listener.local_addr());

    let old = RpcClient::builder(&endpoint, "OLD-1").protocols(["ocpp1.6"]).router(v1_6::station_router());
    let old = old.connect().await?;
    v1_6::station(&old).await?;
    let new = RpcClient::builder(&endpoint, "NEW-1").protocols(["ocpp2.0.1"]).router(v2_0_1::station_router());
    let new = new.connect().await?;
    v2_0_1::station(&new).await?;

    for session in server.sessions() {
        let accepted = match session.protocol() {
            Some("ocpp1.6") => v1_6::reset(&session).await?,
            _ => v2_0_1::reset(&session).await?,
        };
        println!("{} {}", session.identity(), if accepted { "restarts" } else { "does not restart" });
    }
    let report = listener.close(Close::going_away()).await;
    println!("{} stations closed, {} dropped", report.clean, report.forced);
    Ok(())
}
