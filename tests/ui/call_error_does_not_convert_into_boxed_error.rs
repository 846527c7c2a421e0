//~ error[E0277]
//~ `?` couldn't convert the error
//~ Box<dyn

use std::error::Error;

use ocpp_rpc::{CallError, ErrorCode};

fn check(tag: &str) -> Result<(), CallError> {
    match tag {
        "A1" => Ok(()),
        _ => Err(CallError::new(ErrorCode::SECURITY_ERROR, "unknown tag")),
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    check("A2")?;
    Ok(())
}

fn main() {
    let _ = start();
}
