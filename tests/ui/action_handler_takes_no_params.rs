//~ the handler of this action takes `Params<Reset>` first, not `()`
//~ does not take the request of its action
//~ after its request, a handler may take any extractors, see `ocpp_rpc::extract`

use std::convert::Infallible;

use ocpp_rpc::RpcRouter;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reset;

#[derive(Serialize, Deserialize)]
struct ResetAnswer;

ocpp_rpc::action!("Reset": Reset => ResetAnswer);

async fn reset() -> Result<ResetAnswer, Infallible> {
    Ok(ResetAnswer)
}

fn main() {
    let _ = RpcRouter::new().on_action::<Reset, _>(reset);
}
