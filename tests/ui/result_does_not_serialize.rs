//~ error[E0277]
//~ consider adding `#[derive(serde::Serialize)]` to your `Responder` type
//~ for `Responder` to implement `IntoResponse`

use std::convert::Infallible;

use ocpp_rpc::RpcRouter;

struct Responder;

async fn heartbeat() -> Result<Responder, Infallible> {
    Ok(Responder)
}

fn main() {
    let _ = RpcRouter::new().on("Heartbeat", heartbeat);
}
