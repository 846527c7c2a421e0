//! Redirects: the next attempt, if the client may follow.

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use crate::client::{
    connect::{ConnectPlan, Endpoint},
    connector::Target,
};

impl ConnectPlan {
    /// Returns the attempt that a redirect leads to.
    ///
    /// Returns `None` if the response is not a redirect, leads to no WebSocket endpoint, or leads from `wss` to `ws`.
    /// Another host receives none of the headers but `User-Agent`, because any of them may be a credential.
    pub(super) fn redirect(&self, status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = headers.get(header::LOCATION)?.to_str().ok()?;
        let url: Uri = match location.strip_prefix('/') {
            Some(network_path) if network_path.starts_with('/') => format!("{}:{location}", self.scheme()).parse(),
            Some(_) => format!("{}://{}{location}", self.scheme(), self.endpoint.authority.to_str().ok()?).parse(),
            None => location.parse(),
        }
        .ok()?;
        let (target, authority) = parse_target(&url).ok()?;
        if self.endpoint.target.is_secure() && !target.is_secure() {
            return None;
        }
        let path = url.path_and_query()?.as_str().parse().ok()?;
        let mut next = Self { endpoint: Endpoint { target, authority, path }, ..self.clone() };
        if !self.is_trusted_with_secrets(&next.endpoint.target) {
            next.headers = HeaderMap::new();
            next.headers.extend(self.headers.get(header::USER_AGENT).map(|agent| (header::USER_AGENT, agent.clone())));
        }
        Some(next)
    }

    /// Returns whether the target is the same host and port, or the same host with `wss` instead of `ws`.
    fn is_trusted_with_secrets(&self, target: &Target) -> bool {
        let has_become_secure = target.is_secure() && !self.endpoint.target.is_secure();
        self.endpoint.target.host.eq_ignore_ascii_case(&target.host)
            && (self.endpoint.target.port == target.port || has_become_secure)
    }

    fn scheme(&self) -> &'static str {
        if self.endpoint.target.is_secure() { "wss" } else { "ws" }
    }
}

/// Returns the target of a URL and the value of its `Host` header.
///
/// The schemes of HTTP are accepted like those of WebSocket, because servers use either in a redirect.
pub(super) fn parse_target(url: &Uri) -> Result<(Target, HeaderValue), &'static str> {
    let scheme = url.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let secure = match &*scheme {
        "ws" | "http" => false,
        "wss" | "https" => true,
        _ => return Err("the scheme is neither ws:// nor wss://"),
    };
    const NO_HOST: &str = "it has no host";
    let authority = url.authority().ok_or(NO_HOST)?;
    if authority.host().is_empty() {
        return Err(NO_HOST);
    }
    if authority.as_str().contains('@') {
        return Err("it has a user; set an identity and a password instead");
    }
    let default_port = if secure { 443 } else { 80 };
    let target = Target { host: authority.host().to_owned(), port: url.port_u16().unwrap_or(default_port), secure };
    Ok((target, HeaderValue::from_str(authority.as_str()).map_err(|_| NO_HOST)?))
}
