//~ `u32` cannot be an argument of a handler
//~ not an extractor for a router with state `()`
//~ extractors are `Params<T>` where `T: DeserializeOwned`

use std::convert::Infallible;

use ocpp_rpc::{RpcRouter, extract::Params};
use serde_json::Value;

async fn boot(Params(_): Params<Value>, _retries: u32) -> Result<(), Infallible> {
    Ok(())
}

fn main() {
    let _ = RpcRouter::new().on("BootNotification", boot);
}
