//~ `Stream` is not the request of an action that is answered
//~ the request of a SEND has no answer

use ocpp_rpc::Session;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Stream;

ocpp_rpc::send_action!("NotifyPeriodicEventStream": Stream);

async fn stream(peer: Session) {
    let _answer = peer.request(Stream).await;
}

fn main() {}
