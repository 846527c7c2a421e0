//~ error[E0277]
//~ is not a future
//~ to implement `Authenticate`

use ocpp_rpc::{Accept, Handshake, Reject, RpcRouter, RpcServer};

fn judge(_: Handshake) -> Result<Accept, Reject> {
    Ok(Accept::new())
}

fn main() {
    let _ = RpcServer::builder(RpcRouter::new()).auth(judge);
}
