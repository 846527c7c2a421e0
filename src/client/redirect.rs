//! Where a redirect leads, if it may be followed.

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use crate::client::{connect::Plan, connector::Target};

impl Plan {
    /// The attempt that a redirect asks for; none where the response is none, or one that is not followed: to what is
    /// no WebSocket endpoint, or from `wss` to `ws`.
    ///
    /// Another host gets no header of the user's, for any may be a credential, but `User-Agent`.
    pub(super) fn redirected(&self, status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = headers.get(header::LOCATION)?.to_str().ok()?;
        let url: Uri = match location.strip_prefix('/') {
            Some(network_path) if network_path.starts_with('/') => format!("{}:{location}", self.scheme()).parse(),
            Some(_) => format!("{}://{}{location}", self.scheme(), self.authority.to_str().ok()?).parse(),
            None => location.parse(),
        }
        .ok()?;
        let (target, authority) = locate(&url).ok()?;
        if self.target.is_secure() && !target.is_secure() {
            return None;
        }
        let mut next = Self { path: url.path_and_query()?.as_str().parse().ok()?, authority, ..self.clone() };
        if !self.is_trusted_with_secrets(&target) {
            next.headers = HeaderMap::new();
            next.headers.extend(self.headers.get(header::USER_AGENT).map(|agent| (header::USER_AGENT, agent.clone())));
        }
        next.target = target;
        Some(next)
    }

    /// Whether it is the same host; also one that has moved from `ws` to `wss`.
    fn is_trusted_with_secrets(&self, target: &Target) -> bool {
        let has_become_secure = target.is_secure() && !self.target.is_secure();
        self.target.host.eq_ignore_ascii_case(&target.host) && (self.target.port == target.port || has_become_secure)
    }

    fn scheme(&self) -> &'static str {
        if self.target.is_secure() { "wss" } else { "ws" }
    }
}

/// Where a URL leads, and what its `Host` header says. HTTP and WebSocket schemes are the same here, as they are to
/// a server.
pub(super) fn locate(url: &Uri) -> Result<(Target, HeaderValue), &'static str> {
    let secure = match url.scheme_str() {
        Some("ws" | "http") => false,
        Some("wss" | "https") => true,
        _ => return Err("is neither ws:// nor wss://"),
    };
    const NO_HOST: &str = "names no host, or a user";
    let authority = url.authority().ok_or(NO_HOST)?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(NO_HOST);
    }
    let default_port = if secure { 443 } else { 80 };
    let target = Target { host: authority.host().to_owned(), port: url.port_u16().unwrap_or(default_port), secure };
    Ok((target, HeaderValue::from_str(authority.as_str()).map_err(|_| NO_HOST)?))
}
