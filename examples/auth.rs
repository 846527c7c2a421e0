//! Passwords (OCPP's security profile 1): an authenticator sees each handshake before the upgrade, and accepts or
//! rejects the station. Three stations connect: one with its password, one with a wrong password, and an unknown one.
//!
//!     cargo run --example auth

use std::{collections::HashMap, error::Error};

use ocpp_rpc::{Accept, Authenticate, Close, Handshake, Reject, RpcClient, RpcRouter, RpcServer};

/// The passwords of stations, by identity.
struct Passwords(HashMap<&'static str, &'static str>);

impl Authenticate for Passwords {
    async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
        let password = self.0.get(handshake.identity()).ok_or_else(Reject::not_found)?;
        // Compares in constant time.
        if handshake.password_is(password.as_bytes()) { Ok(Accept::new()) } else { Err(Reject::unauthorized()) }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let passwords = Passwords([("CP-1", "secret"), ("CP-2", "hidden")].into());
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).auth(passwords).build()?;
    let listener = server.listen("127.0.0.1:0").await?;
    let endpoint = format!("ws://{}", listener.local_addr());

    for identity in ["CP-1", "CP-2", "CP-3"] {
        let client = RpcClient::builder(&endpoint, identity).protocols(["ocpp1.6"]).password("secret");
        match client.connect().await {
            Ok(_) => println!("{identity}: connected"),
            Err(error) => println!("{identity}: {error}"),
        }
    }
    listener.close(Close::going_away()).await;
    Ok(())
}
