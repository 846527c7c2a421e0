use ocpp_rpc::Session;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Stream;

ocpp_rpc::send_action!("NotifyPeriodicEventStream": Stream);

async fn stream(peer: Session) {
    let _answer = peer.request(Stream).await;
}

fn main() {}
