//~ error[E0277]
//~ consider adding `#[derive(serde::Serialize)]` to your `Answer` type
//~ for `Answer` to implement `IntoReply`

use std::convert::Infallible;

use ocpp_rpc::RpcRouter;

struct Answer;

async fn heartbeat() -> Result<Answer, Infallible> {
    Ok(Answer)
}

fn main() {
    let _ = RpcRouter::new().on("Heartbeat", heartbeat);
}
