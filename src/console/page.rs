//! The files of the page, which are part of the program.

use std::sync::Arc;

use axum::{
    Router,
    extract::OriginalUri,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, header};

use crate::console::state::ConsoleState;

const HTML: &str = "text/html; charset=utf-8";

/// The files besides the page itself: name, type and text.
const FILES: [(&str, &str, &str); 0] = [];

const INDEX: &str = include_str!("page/index.html");

/// Returns the routes of the page.
pub(crate) fn router() -> Router<Arc<ConsoleState>> {
    let router = Router::new().route("/", get(index)).route("/index.html", get(async || file(HTML, INDEX)));
    FILES.into_iter().fold(router, |router, (name, media_type, text)| {
        router.route(&format!("/{name}"), get(async move || file(media_type, text)))
    })
}

/// Returns the page, or redirects to it if the path has no slash at the end: the page has relative links.
///
/// axum's `Router::nest` does not pass on the path with a slash, so the target is another one.
async fn index(OriginalUri(uri): OriginalUri) -> Response {
    match uri.path().rsplit_once('/') {
        Some((_, last)) if !last.is_empty() => {
            let location = HeaderValue::try_from(format!("./{last}/index.html"));
            let location = location.unwrap_or_else(|_| HeaderValue::from_static("/"));
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
        }
        _ => file(HTML, INDEX),
    }
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    // Without a version in its name, a file may change with the program.
    let headers = [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-cache")];
    (headers, text).into_response()
}
