//~ error[E0631]: type mismatch in function arguments
//~ fn(String) -> _
//~ to implement `Authenticate`

use ocpp_rpc::{Accept, Reject, RpcRouter, RpcServer};

async fn judge(_identity: String) -> Result<Accept, Reject> {
    Ok(Accept::new())
}

fn main() {
    let _ = RpcServer::builder(RpcRouter::new()).auth(judge);
}
