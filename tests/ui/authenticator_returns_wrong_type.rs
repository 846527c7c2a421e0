//~ error[E0271]
//~ resolves to `bool`
//~ to implement `Authenticate`

use ocpp_rpc::{Handshake, RpcRouter, RpcServer};

async fn judge(handshake: Handshake) -> bool {
    handshake.password().is_some()
}

fn main() {
    let _ = RpcServer::builder(RpcRouter::new()).auth(judge);
}
