//! OCPP's own types: a request determines its action and its response, so a call or handler that mixes them up does not
//! compile. Two versions share one endpoint, and each has its own types.
//!
//!     cargo run --example typed --features ocpp-kit

use std::{convert::Infallible, error::Error};

use ocpp_rpc::{
    Close, RpcClient, RpcRouter, RpcServer, Session, date,
    extract::Params,
    ocpp_kit::{v1_6, v2_0_1},
};

async fn boot_1_6(
    Params(boot): Params<v1_6::BootNotificationRequest>,
    session: Session,
) -> Result<v1_6::BootNotificationResponse, Infallible> {
    println!("{}, a {}, boots with OCPP 1.6", session.identity(), boot.charge_point_model);
    Ok(v1_6::BootNotificationResponse::new(v1_6::RegistrationStatus::Accepted, date::now(), 300))
}

async fn boot_2_0_1(
    Params(boot): Params<v2_0_1::BootNotificationRequest>,
    session: Session,
) -> Result<v2_0_1::BootNotificationResponse, Infallible> {
    println!("{}, a {}, boots with OCPP 2.0.1", session.identity(), boot.charging_station.model);
    Ok(v2_0_1::BootNotificationResponse::new(date::now(), 60, v2_0_1::RegistrationStatus::Accepted))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let router = RpcRouter::new()
        .protocol("ocpp1.6", RpcRouter::new().on_action::<v1_6::BootNotificationRequest, _>(boot_1_6))
        .protocol("ocpp2.0.1", RpcRouter::new().on_action::<v2_0_1::BootNotificationRequest, _>(boot_2_0_1));
    let server = RpcServer::builder(router).protocols(["ocpp2.0.1", "ocpp1.6"]).build()?;
    let listener = server.listen("127.0.0.1:0").await?;
    let endpoint = format!("ws://{}", listener.local_addr());

    let old = RpcClient::builder(&endpoint, "OLD-1").protocols(["ocpp1.6"]).connect().await?;
    let response = old.session().request(v1_6::BootNotificationRequest::new("ACME", "One")).await?;
    println!("OLD-1 is {}, heartbeat every {} s", response.status, response.interval);

    let new = RpcClient::builder(&endpoint, "NEW-1").protocols(["ocpp2.0.1"]).connect().await?;
    let station = v2_0_1::ChargingStation::new("Two", "ACME");
    let response =
        new.session().request(v2_0_1::BootNotificationRequest::new(station, v2_0_1::BootReason::PowerUp)).await?;
    println!("NEW-1 is {}, heartbeat every {} s", response.status, response.interval);

    let report = listener.close(Close::going_away()).await;
    println!("{} stations closed, {} dropped", report.clean, report.forced);
    Ok(())
}
