//~ a handler returns a `Result`, not `Value`
//~ if nothing can fail, the error is `std::convert::Infallible`

use ocpp_rpc::RpcRouter;
use serde_json::{Value, json};

async fn heartbeat() -> Value {
    json!({"currentTime": "2026-01-01T00:00:00Z"})
}

fn main() {
    let _ = RpcRouter::new().on("Heartbeat", heartbeat);
}
