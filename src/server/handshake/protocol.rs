//! Which subprotocol is spoken: what the client offers, what the server has, and what to do where that is nothing.

use std::sync::Arc;

use http::StatusCode;

use crate::server::handshake::auth::Reject;

/// What is done with a client that offers no subprotocol of the server's.
///
/// The [hook](super::Authenticate) is asked first, always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoCommonProtocol {
    /// The handshake is finished without a protocol, and the connection closed at once with 1002, as the standards
    /// want it (OCPP-J 1.6 §3.2, OCPP 2.0.1 part 4 §3.2).
    #[default]
    Close,
    /// The handshake is refused with 400.
    Refuse,
    /// It is served without a protocol, by the rules of [`Dialect::for_protocol`](crate::message::Dialect::for_protocol) for none.
    Serve,
}

/// How the subprotocol of a session is found.
#[derive(Debug)]
pub(crate) struct Negotiation {
    /// The server's, the preferred one first.
    pub(crate) protocols: Vec<Arc<str>>,
    pub(crate) preference: Preference,
    pub(crate) no_common: NoCommonProtocol,
    /// What is spoken with clients that offer nothing.
    pub(crate) default: Option<Arc<str>>,
}

/// Whose list is gone through first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preference {
    Client,
    Server,
}

/// What came of a negotiation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// A protocol that the client offered; the answer names it.
    Offered(Arc<str>),
    /// The answer names none, because the client offered none of the kind.
    Unnamed(Option<Arc<str>>),
    /// Nothing in common: the client is told in a close frame.
    NoCommon,
}

impl Selection {
    /// The protocol of the session, which may have none; none where there is to be no session.
    pub(crate) fn protocol(&self) -> Option<Option<&str>> {
        match self {
            Self::Offered(protocol) => Some(Some(protocol)),
            Self::Unnamed(protocol) => Some(protocol.as_deref()),
            Self::NoCommon => None,
        }
    }
}

impl Negotiation {
    /// The protocol that the hook has chosen, or else one that both have.
    pub(crate) fn negotiate(&self, offered: &[String], chosen: Option<Arc<str>>) -> Result<Selection, Reject> {
        let is_offered = |protocol: &str| offered.iter().any(|offer| offer == protocol);
        if let Some(chosen) = chosen {
            return match &self.default {
                _ if is_offered(&chosen) => Ok(Selection::Offered(chosen)),
                Some(default) if offered.is_empty() && *default == chosen => Ok(Selection::Unnamed(Some(chosen))),
                _ => Err(Reject::new(StatusCode::BAD_REQUEST).body("the accepted protocol was not offered")),
            };
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

/// What a client is told that offers no protocol of the server's.
pub(crate) const NO_COMMON_PROTOCOL: &str = "no common subprotocol";
