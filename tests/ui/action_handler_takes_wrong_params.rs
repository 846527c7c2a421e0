//~ Params<Reset>
//~ Params<ResetAnswer>

use std::convert::Infallible;

use ocpp_rpc::{RpcRouter, extract::Params};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reset;

#[derive(Serialize, Deserialize)]
struct ResetAnswer;

ocpp_rpc::action!("Reset": Reset => ResetAnswer);

async fn reset(_: Params<ResetAnswer>) -> Result<ResetAnswer, Infallible> {
    Ok(ResetAnswer)
}

fn main() {
    let _ = RpcRouter::new().on_action::<Reset, _>(reset);
}
