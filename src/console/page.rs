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

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The files besides the page itself: name, type and text.
const FILES: [(&str, &str, &str); 15] = [
    ("api.js", JAVASCRIPT, include_str!("page/api.js")),
    ("app.js", JAVASCRIPT, include_str!("page/app.js")),
    ("call.js", JAVASCRIPT, include_str!("page/call.js")),
    ("chart.js", JAVASCRIPT, include_str!("page/chart.js")),
    ("console.css", CSS, include_str!("page/console.css")),
    ("dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("favicon.svg", SVG, include_str!("page/favicon.svg")),
    ("format.js", JAVASCRIPT, include_str!("page/format.js")),
    ("handshakes.js", JAVASCRIPT, include_str!("page/handshakes.js")),
    ("json.js", JAVASCRIPT, include_str!("page/json.js")),
    ("live.js", JAVASCRIPT, include_str!("page/live.js")),
    ("overview.js", JAVASCRIPT, include_str!("page/overview.js")),
    ("sequence.js", JAVASCRIPT, include_str!("page/sequence.js")),
    ("station.js", JAVASCRIPT, include_str!("page/station.js")),
    ("stations.js", JAVASCRIPT, include_str!("page/stations.js")),
];

const INDEX: &str = include_str!("page/index.html");

/// Returns the routes of the page.
pub(crate) fn router() -> Router<Arc<ConsoleState>> {
    let router = Router::new()
        .route("/", get(index))
        .route("/index.html", get(async || file(HTML, INDEX)))
        .route("/{console_mount}/index.html", get(async || redirect(HeaderValue::from_static("../index.html"))));
    FILES.into_iter().fold(router, |router, (name, media_type, text)| {
        router.route(&format!("/{name}"), get(async move || file(media_type, text)))
    })
}

/// Returns the page, or redirects to it if the path has no slash at the end: the page has relative links.
///
/// axum's `Router::nest` does not pass on the path with a slash, so the target is another one. If a layer has removed the
/// slash that the browser sent, the target is one level too deep, and a second redirect leads back up.
async fn index(OriginalUri(uri): OriginalUri) -> Response {
    match uri.path().rsplit_once('/') {
        Some((_, last)) if !last.is_empty() => {
            let location = HeaderValue::try_from(format!("./{last}/index.html"));
            redirect(location.unwrap_or_else(|_| HeaderValue::from_static("/")))
        }
        _ => file(HTML, INDEX),
    }
}

fn redirect(location: HeaderValue) -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    // Without a version in its name, a file may change with the program.
    let headers = [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-cache")];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the texts between `before` and the next quotation mark.
    fn quoted<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split(['"', '\'']).next())
    }

    #[test]
    fn page_loads_only_files_that_are_served() {
        let linked = quoted(INDEX, "href=\"").chain(quoted(INDEX, "src=\"")).filter(|link| !link.starts_with('#'));
        let imported = FILES.iter().flat_map(|(_, _, text)| quoted(text, " from './"));
        let loaded: Vec<_> = linked.chain(imported).collect();
        assert!(loaded.len() > FILES.len());
        for name in loaded {
            assert!(FILES.iter().any(|(served, ..)| *served == name), "{name} is not served");
        }
    }

    #[test]
    fn page_takes_no_text_as_markup() {
        for (name, _, text) in FILES {
            for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval("] {
                assert!(!text.contains(markup), "{name} uses {markup}");
            }
        }
    }
}
