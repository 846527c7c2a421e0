//~ future cannot be sent between threads safely
//~ `Rc<()>`

use std::{convert::Infallible, rc::Rc};

use ocpp_rpc::RpcRouter;

async fn heartbeat() -> Result<(), Infallible> {
    let local = Rc::new(());
    std::future::ready(()).await;
    drop(local);
    Ok(())
}

fn main() {
    let _ = RpcRouter::new().on("Heartbeat", heartbeat);
}
