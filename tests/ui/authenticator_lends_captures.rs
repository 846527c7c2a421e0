//~ async closure does not implement `Fn` because it captures state from its environment
//~ to implement `Authenticate`

use ocpp_rpc::{Accept, Handshake, Reject, RpcRouter, RpcServer};

fn main() {
    let passwords = vec![b"secret".to_vec()];
    let _ = RpcServer::builder(RpcRouter::new()).auth(async move |handshake: Handshake| {
        match handshake.password().is_some_and(|password| passwords.contains(&password)) {
            true => Ok(Accept::new()),
            false => Err(Reject::unauthorized()),
        }
    });
}
