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
