//~ the handler of this action returns `Result<ResetAnswer, _>`
//~ does not return the response of its action
//~ the error is any that converts into a `CallError`

use std::convert::Infallible;

use ocpp_rpc::{RpcRouter, extract::Params};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reset;

#[derive(Serialize, Deserialize)]
struct ResetAnswer;

ocpp_rpc::action!("Reset": Reset => ResetAnswer);

async fn reset(_: Params<Reset>) -> Result<Reset, Infallible> {
    Ok(Reset)
}

fn main() {
    let _ = RpcRouter::new().on_action::<Reset, _>(reset);
}
