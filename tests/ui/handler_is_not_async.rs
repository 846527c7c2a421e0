//~ is not a handler
//~ not an async function of at most twelve arguments
//~ a handler is an `async fn` that returns `Result<R, E>`

use std::convert::Infallible;

use ocpp_rpc::{RpcRouter, extract::Params};
use serde_json::Value;

fn boot(Params(boot): Params<Value>) -> Result<Value, Infallible> {
    Ok(boot)
}

fn main() {
    let _ = RpcRouter::new().on("BootNotification", boot);
}
