//~ error[E0308]: mismatched types
//~ expected `Call<BootAnswer>`, found `Call<ResetAnswer>`

use ocpp_rpc::{Call, Session};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reset;

#[derive(Serialize, Deserialize)]
struct ResetAnswer;

ocpp_rpc::action!("Reset": Reset => ResetAnswer);

#[derive(Serialize, Deserialize)]
struct BootAnswer;

fn reset(peer: Session) -> Call<BootAnswer> {
    peer.request(Reset)
}

fn main() {}
