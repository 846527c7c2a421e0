//~ error[E0277]
//~ consider adding `#[derive(serde::Deserialize)]` to your `Boot` type
//~ for `Params<Boot>` to implement `FromCall<()>`

use std::convert::Infallible;

use ocpp_rpc::{RpcRouter, extract::Params};

struct Boot;

async fn boot(Params(Boot): Params<Boot>) -> Result<(), Infallible> {
    Ok(())
}

fn main() {
    let _ = RpcRouter::new().on("BootNotification", boot);
}
