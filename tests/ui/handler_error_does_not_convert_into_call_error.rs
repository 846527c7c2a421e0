//~ error[E0277]
//~ is not implemented for `Broken`

use ocpp_rpc::RpcRouter;

#[derive(Debug)]
struct Broken;

async fn heartbeat() -> Result<(), Broken> {
    Err(Broken)
}

fn main() {
    let _ = RpcRouter::new().on("Heartbeat", heartbeat);
}
