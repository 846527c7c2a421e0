//! A mirror on the Rust crate `ocpp-kit`.
//!
//! ```text
//! mirror-ocpp-kit client URL [on]
//! mirror-ocpp-kit server [on]
//! ```
//!
//! mirror_ws.js says what a mirror does. The crate's compression has no settings.

use std::{env, error::Error};

use ocpp_kit::{
    RawValue, Version,
    engine::{CallOptions, EngineConfig, IncomingRequest, Role},
    rpc::CallError,
    transport::{
        AcceptEveryStation, BasicAuthPassword, BoxFuture, Csms, Ctx, Event, Handle, Handler, SecurityProfile,
        SessionEvent, Station,
    },
};
use tokio::net::TcpListener;

struct Mirror;

impl Handler for Mirror {
    fn on_request(&self, ctx: Ctx, request: IncomingRequest) -> BoxFuture<'_, Result<Box<RawValue>, CallError>> {
        Box::pin(async move { call(&ctx.handle(), request.payload).await })
    }
}

/// Calls the peer and returns the payload of the response.
async fn call(handle: &Handle, payload: Box<RawValue>) -> Result<Box<RawValue>, CallError> {
    // Other calls of a station have to wait for a BootNotification.
    let answer = handle.call_raw("DataTransfer", payload, CallOptions::triggered()).await;
    let answer = answer.map_err(|failure| CallError::internal(format!("{failure:?}")))?;
    Ok(answer.payload().expect("a response to a CALL").to_owned())
}

/// Makes the first call of a connection. The crate does not say which extensions the connection has.
async fn report(handle: &Handle) -> Result<(), CallError> {
    let report = RawValue::from_string(r#"{"vendorId":"report"}"#.to_owned()).expect("valid JSON");
    call(handle, report).await.map(drop)
}

type Outcome = Result<(), Box<dyn Error>>;

async fn client(url: &str, compression: bool) -> Outcome {
    let handle = Station::builder()
        .identity("CP-1")?
        .url(url)
        .versions([Version::V1_6])
        .security_profile(SecurityProfile::BasicAuth)
        .password(BasicAuthPassword::utf8("0123456789abcdef")?)
        .reconnect(false)
        .compression(compression)
        .handler(Mirror)
        .build()?
        .spawn()?;
    let mut events = handle.events();
    loop {
        match events.recv().await? {
            Event::Connected { .. } => report(&handle).await?,
            Event::Disconnected { .. } => return Ok(()),
            _ => {}
        }
    }
}

async fn server(compression: bool) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut engine = EngineConfig::new(Role::Csms, Version::V1_6);
    // Calls would have to wait for a BootNotification.
    engine.enforce_boot_gate = false;
    let csms = Csms::builder()
        .bind(address)
        .versions([Version::V1_6])
        .authenticate(AcceptEveryStation)
        .engine_config(engine)
        .compression(compression)
        .handler(Mirror)
        .build()?;
    let handle = csms.handle();
    let mut events = handle.events();
    tokio::spawn(csms.serve_on(listener));
    println!(r#"{{"event": "listening", "port": {}}}"#, address.port());
    loop {
        if let SessionEvent::Opened { identity, .. } = events.recv().await? {
            report(&handle.session(&identity).await.ok_or("no session")?).await?;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client", url] => client(url, false).await,
        ["client", url, "on"] => client(url, true).await,
        ["server"] => server(false).await,
        ["server", "on"] => server(true).await,
        _ => Err("usage: mirror-ocpp-kit client URL [on], or mirror-ocpp-kit server [on]".into()),
    }
}
