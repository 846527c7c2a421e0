use ocpp_rpc::{Call, Session};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reset;

fn reset(peer: Session) -> Call<()> {
    peer.request(Reset)
}

fn main() {}
