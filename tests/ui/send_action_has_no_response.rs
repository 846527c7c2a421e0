//~ `Stream` is not the request of an action with a response
//~ the request of a SEND has no response

use ocpp_rpc::Session;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Stream;

ocpp_rpc::send_action!("NotifyPeriodicEventStream": Stream);

async fn stream(peer: Session) {
    let _answer = peer.request(Stream).await;
}

fn main() {}
