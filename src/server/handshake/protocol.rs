//! Negotiates the subprotocol of a session.

use std::sync::Arc;

use http::StatusCode;

use crate::{
    error::BuildError,
    options::Options,
    server::handshake::auth::{ProtocolChoice, Reject},
};

/// The response to a client that offers none of the server's subprotocols.
///
/// The [authenticator](crate::Authenticate) always runs first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoCommonProtocol {
    /// Completes the handshake without a protocol, then closes the connection with 1002.
    ///
    /// The standards require this (OCPP-J 1.6 §3.2, OCPP 2.0.1 part 4 §3.2).
    #[default]
    Close,
    /// Refuses the handshake with 400.
    Refuse,
    /// Opens a session without a protocol. Its dialect is that of
    /// [`Dialect::for_protocol`](crate::message::Dialect::for_protocol) with `None`.
    Serve,
}

/// The settings of the negotiation.
#[derive(Debug)]
pub(crate) struct Negotiation {
    /// The server's protocols, the preferred one first.
    pub(crate) protocols: Vec<Arc<str>>,
    pub(crate) preference: Preference,
    pub(crate) no_common: NoCommonProtocol,
    /// The protocol of clients that offer none.
    pub(crate) default: Option<Arc<str>>,
}

/// The order of protocols that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preference {
    Client,
    Server,
}

/// The result of a negotiation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// A protocol that the client offered. The response names it.
    Offered(Arc<str>),
    /// A protocol that the client did not offer, or none. The response names no protocol.
    Unnamed(Option<Arc<str>>),
    /// No common protocol. The connection is closed after the handshake.
    NoCommon,
}

impl Selection {
    /// Returns the protocol of the session, which is optional. Returns `None` if no session opens.
    pub(crate) fn protocol(&self) -> Option<Option<&str>> {
        match self {
            Self::Offered(protocol) => Some(Some(protocol)),
            Self::Unnamed(protocol) => Some(protocol.as_deref()),
            Self::NoCommon => None,
        }
    }
}

impl Negotiation {
    /// Returns an error if sessions without a protocol are served that must be validated.
    pub(crate) fn check_validation(&self, options: &Options) -> Result<(), BuildError> {
        if self.no_common == NoCommonProtocol::Serve && !options.covers(None) {
            return Err(BuildError::settings(
                "sessions without a protocol cannot be validated: limit the validation to the protocols, or do not serve \
                 clients without a common protocol",
            ));
        }
        Ok(())
    }

    /// Selects the protocol that the authenticator chose, or else a protocol that both ends speak.
    pub(crate) fn negotiate(&self, offered: &[String], choice: ProtocolChoice) -> Result<Selection, Reject> {
        let is_offered = |protocol: &str| offered.iter().any(|offer| offer == protocol);
        match choice {
            ProtocolChoice::Negotiated => {}
            ProtocolChoice::Without => return Ok(Selection::Unnamed(None)),
            ProtocolChoice::Chosen(chosen) => {
                return match &self.default {
                    _ if is_offered(&chosen) => Ok(Selection::Offered(chosen)),
                    Some(default) if offered.is_empty() && *default == chosen => Ok(Selection::Unnamed(Some(chosen))),
                    _ => Err(Reject::new(StatusCode::BAD_REQUEST).body("the accepted protocol was not offered")),
                };
            }
        }
        if self.protocols.is_empty() {
            return Ok(Selection::Unnamed(None));
        }
        let common = match self.preference {
            Preference::Client => {
                offered.iter().find_map(|offer| self.protocols.iter().find(|mine| ***mine == **offer))
            }
            Preference::Server => self.protocols.iter().find(|mine| is_offered(mine)),
        };
        match (common, &self.default, self.no_common) {
            (Some(common), _, _) => Ok(Selection::Offered(common.clone())),
            (None, Some(default), _) if offered.is_empty() => Ok(Selection::Unnamed(Some(default.clone()))),
            (None, _, NoCommonProtocol::Close) => Ok(Selection::NoCommon),
            (None, _, NoCommonProtocol::Refuse) => Err(Reject::new(StatusCode::BAD_REQUEST).body(NO_COMMON_PROTOCOL)),
            (None, _, NoCommonProtocol::Serve) => Ok(Selection::Unnamed(None)),
        }
    }
}

/// The reason of a refusal or close when there is no common protocol.
pub(crate) const NO_COMMON_PROTOCOL: &str = "no common subprotocol";
