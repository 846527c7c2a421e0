//! The authenticator: passwords of stations, from a file.

use std::{collections::HashMap, fs, path::Path};

use axum::http::StatusCode;
use ocpp_rpc::{Accept, Authenticate, Handshake, Reject};
use tokio_util::sync::CancellationToken;

/// Passwords by identity. Without a file, every station is accepted.
pub(crate) struct Passwords {
    passwords: Option<HashMap<String, String>>,
    stopping: CancellationToken,
}

impl Passwords {
    /// Reads lines of `identity:password`. A password is plain text, or the forty hexadecimal digits of OCPP 1.6. No
    /// station is accepted after `stopping`.
    pub(crate) fn new(file: Option<&Path>, stopping: CancellationToken) -> Result<Self, String> {
        let Some(file) = file else { return Ok(Self { passwords: None, stopping }) };
        let text = fs::read_to_string(file)
            .map_err(|error| format!("cannot read the password file: {}: {error}", file.display()))?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let passwords = lines.map(|(identity, password)| (identity.to_owned(), password.to_owned())).collect();
        Ok(Self { passwords: Some(passwords), stopping })
    }
}

impl Authenticate for Passwords {
    async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
        if self.stopping.is_cancelled() {
            return Err(Reject::new(StatusCode::SERVICE_UNAVAILABLE).body("the backend stops"));
        }
        let Some(passwords) = &self.passwords else { return Ok(Accept::new()) };
        let password = passwords.get(handshake.identity()).ok_or_else(Reject::not_found)?;
        if handshake.password_is(password.as_bytes()) { Ok(Accept::new()) } else { Err(Reject::unauthorized()) }
    }
}
