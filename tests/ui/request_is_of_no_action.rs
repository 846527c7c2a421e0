//~ `Reset` is not the request of an action that is answered
//~ `ocpp_rpc::action!` binds a request to its action and its response

use ocpp_rpc::{Call, Peer};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reset;

fn reset(peer: Peer) -> Call<()> {
    peer.request(Reset)
}

fn main() {}
