//~ `Reset` is not the request of an action with a response
//~ `ocpp_rpc::action!` binds a request to its action and its response

use ocpp_rpc::{Call, Session};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reset;

fn reset(peer: Session) -> Call<()> {
    peer.request(Reset)
}

fn main() {}
