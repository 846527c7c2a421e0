//! Who may come in: the passwords of stations, out of a file.

use std::{collections::HashMap, fs, io, path::Path};

use ocpp_rpc::{Accept, Authenticate, Handshake, Reject};

/// Passwords by identity. Without any, everybody may come in.
pub(crate) struct Gate(Option<HashMap<String, String>>);

impl Gate {
    /// Reads lines of `identity:password`; the password is as it is, or the forty hexadecimal digits of 1.6.
    pub(crate) fn new(file: Option<&Path>) -> io::Result<Self> {
        let Some(file) = file else { return Ok(Self(None)) };
        let text = fs::read_to_string(file)?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        Ok(Self(Some(lines.map(|(identity, password)| (identity.to_owned(), password.to_owned())).collect())))
    }
}

impl Authenticate for Gate {
    async fn authenticate(&self, handshake: Handshake) -> Result<Accept, Reject> {
        let Self(Some(passwords)) = self else { return Ok(Accept::new()) };
        let password = passwords.get(handshake.identity()).ok_or_else(Reject::not_found)?;
        match handshake.password_is(password.as_bytes()) {
            true => Ok(Accept::new()),
            false => Err(Reject::unauthorized()),
        }
    }
}
