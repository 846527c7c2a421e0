use ocpp_rpc::{Call, Peer};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reset;

fn reset(peer: Peer) -> Call<()> {
    peer.request(Reset)
}

fn main() {}
