//~ the router's state `App` contains no `Database`
//~ implement `FromRef<App> for Database`

use std::convert::Infallible;

use ocpp_rpc::{RpcRouter, extract::State};

#[derive(Clone)]
struct App;

#[derive(Clone)]
struct Database;

async fn heartbeat(State(_): State<Database>) -> Result<(), Infallible> {
    Ok(())
}

fn main() {
    let _ = RpcRouter::with_state(App).on("Heartbeat", heartbeat);
}
