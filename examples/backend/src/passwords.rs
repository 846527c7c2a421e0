//! The passwords of stations, from a file.

use std::{collections::HashMap, fs, io, path::Path};

use ocpp_rpc::{Accept, Authenticate, Handshake, Reject};

/// Passwords by identity. Without a file, every station is accepted.
pub(crate) struct Passwords(Option<HashMap<String, String>>);

impl Passwords {
    /// Reads lines of `identity:password`. A password is plain text, or the forty hexadecimal digits of OCPP 1.6.
    pub(crate) fn new(file: Option<&Path>) -> io::Result<Self> {
        let Some(file) = file else { return Ok(Self(None)) };
        let text = fs::read_to_string(file)?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Ok(Self(Some(lines.map(|(identity, password)| (identity.to_owned(), password.to_owned())).collect())))
    }
}

impl Authenticate for Passwords {
    async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
        let Self(Some(passwords)) = self else { return Ok(Accept::new()) };
        let password = passwords.get(handshake.identity()).ok_or_else(Reject::not_found)?;
        if handshake.password_is(password.as_bytes()) { Ok(Accept::new()) } else { Err(Reject::unauthorized()) }
    }
}
