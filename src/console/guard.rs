//! Refuses requests of other sites, and sets the headers that restrict what the page may do.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, uri::Authority};

use crate::console::api::error::ApiError;

/// Everything comes from this server, and no other site may show the page or receive its address.
const HEADERS: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// The bytes of a text that becomes an error of the API, at most.
const MAX_ERROR: usize = 4096;

/// The hosts that requests may name. `None` if all are accepted.
pub(crate) type Hosts = Option<Arc<[Box<str>]>>;

/// Returns a host as it is compared: without brackets, without the dot at the end, and in lower case.
pub(crate) fn normalize(host: &str) -> Box<str> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_string().into(),
        Err(_) => host.trim_end_matches('.').to_ascii_lowercase().into(),
    }
}

/// Refuses requests to other hosts, and sets the headers of all responses of the console.
pub(crate) async fn all(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match check_host(&hosts, request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(error) => ApiError::new(StatusCode::MISDIRECTED_REQUEST, error).into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Checks the host that a request names.
///
/// A site can let its own name point to the address of this server. For a browser, requests to that name come from the
/// same site, so only the name tells them apart.
fn check_host(hosts: &Hosts, headers: &HeaderMap, uri: &Uri) -> Result<(), String> {
    let Some(hosts) = hosts else { return Ok(()) };
    // HTTP/2 has the host in the URI. A request may have both.
    let in_headers = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let mut named = in_headers.chain(uri.authority().map(Authority::as_str)).peekable();
    if named.peek().is_none() {
        return Err("the request has no Host header".to_owned());
    }
    let is_allowed = |host: &str| {
        let host = host.parse::<Authority>().map(|authority| normalize(authority.host()));
        host.is_ok_and(|host| hosts.contains(&host))
    };
    named
        .find(|host| !is_allowed(host))
        .map_or(Ok(()), |host| Err(format!("the console does not serve this host: {host}: see Console::hosts")))
}

/// Refuses requests that another site has caused, and changes that are not JSON.
///
/// A browser sends a form or a text to another site without asking. It asks before it sends JSON, and no response of the
/// console permits that.
pub(crate) async fn api(request: Request, next: Next) -> Response {
    let mut response = if let Err(error) = check_site(request.headers(), request.uri()) {
        ApiError::new(StatusCode::FORBIDDEN, error).into_response()
    } else if !request.method().is_safe() && !is_json(request.headers()) {
        let error = "the content-type must be application/json";
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error).into_response()
    } else {
        error_as_json(next.run(request).await).await
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Checks that no page of another site has caused the request, as far as the browser says.
fn check_site(headers: &HeaderMap, uri: &Uri) -> Result<(), String> {
    if let Some(site) = headers.get("sec-fetch-site") {
        let is_same = site == "same-origin" || site == "none";
        return if is_same { Ok(()) } else { Err("the request comes from another site".to_owned()) };
    }
    // Older browsers, and pages without TLS.
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // HTTP/2 has the host in the URI.
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default();
    let origin = origin.to_str().unwrap_or_default();
    let (scheme, origin_host) = origin.split_once("://").unwrap_or_default();
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let without_port = |host: &str| host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
    if !origin_host.is_empty() && without_port(origin_host) == without_port(host) {
        return Ok(());
    }
    Err(format!(
        "the request comes from another site: its origin is {origin:?}, and its host is {host:?}: a proxy must pass on the \
         Host header with the port"
    ))
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split_once(';').map_or(content_type, |(media_type, _)| media_type);
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// Returns errors of axum, such as 405 without a body, as errors of the API.
async fn error_as_json(response: Response) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || is_json(response.headers()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, MAX_ERROR).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let reason = status.canonical_reason().unwrap_or("the request failed");
    let error = if text.is_empty() { reason.to_ascii_lowercase() } else { text.into_owned() };
    let (json, body) = ApiError::new(status, error).into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(json.headers);
    Response::from_parts(parts, Body::new(body))
}
