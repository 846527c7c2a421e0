//! Checks of the layers of the source files: a file imports only files of the layers below it.

use std::{collections::HashMap, fs, path::Path};

/// The layers from the bottom up. A file may import those of the layers below it, and those before it in its own layer.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "values",
        &[
            "backoff",
            "der",
            "unix_time",
            "mask",
            "mask/secrets",
            "info",
            "io",
            "random",
            "text",
            "message/payload",
            "error/code",
            "error/violation",
            "error/call_error",
            "error/build",
            "error",
            "error/axum",
            "message/tolerance",
        ],
    ),
    (
        "messages",
        &[
            "message/kinds",
            "message/write",
            "message/read/lenient",
            "message/read/repair",
            "message/read",
            "message/dialect",
            "message",
            "action",
            "action/table",
            "action/kit",
            "date",
        ],
    ),
    (
        "validation",
        &[
            "validate/payload_error",
            "validate/adapter",
            "validate/decode_error",
            "validate/validator",
            "validate/validation",
            "validate/multiple",
            "validate/json_schemas/error",
            "validate/json_schemas",
            "validate/ocpp_schemas/formats",
            "validate/ocpp_schemas/reader",
            "validate/ocpp_schemas",
            "validate",
        ],
    ),
    (
        "websocket",
        &[
            "websocket/compression",
            "websocket/head",
            "websocket/extension",
            "websocket/deflate",
            "websocket/reader",
            "websocket/writer",
            "websocket",
        ],
    ),
    (
        "options and info",
        &[
            "options",
            "close/info",
            "close/intent",
            "close",
            "response",
            "event/activity",
            "event/refused",
            "event/kind",
            "event/bus",
            "event",
            "telemetry/descriptions",
            "telemetry/metrics",
            "telemetry",
            "metrics",
        ],
    ),
    (
        "connection",
        &[
            "connection/negotiated",
            "connection/ordered",
            "connection/rare_list",
            "connection/call_ids",
            "connection/request",
            "connection/outbound",
            "connection/outliving",
            "connection/call_result",
            "connection/mailbox",
            "connection/calls_in",
            "connection/calls_out",
            "connection/responses",
            "connection/exchange",
            "connection/exchange/receive",
            "connection/keepalive",
            "connection/shared",
            "connection/handler_set",
            "connection/socket",
            "connection/driver",
            "connection/driver/turn",
            "connection",
        ],
    ),
    (
        "calls to other nodes",
        &["cluster/epoch", "cluster/filter", "cluster/moves", "cluster/members", "cluster/recent", "cluster/wire"],
    ),
    ("handles", &["route", "outgoing/deadline", "outgoing", "outgoing/function", "call", "session", "station"]),
    (
        "cluster",
        &[
            "openings",
            "cluster/wire",
            "cluster/metrics",
            "cluster/node",
            "cluster/transport",
            "cluster/local",
            "cluster/outbox",
            "cluster/home",
            "cluster/requests",
            "cluster/serving",
            "cluster/listing",
            "cluster/directory",
            "cluster/watching",
            "cluster/member",
            "cluster/member/sending",
            "cluster/member/calls",
            "cluster/member/directory",
            "cluster/member/serving",
            "cluster/member/lists",
            "cluster/member/watching",
            "cluster/observer",
            "cluster",
        ],
    ),
    (
        "handlers",
        &[
            "handler/incoming",
            "handler/function",
            "handler/extract",
            "handler/router",
            "middleware",
            "handler/typed",
            "handler",
        ],
    ),
    ("handshakes", &["handshake", "header_case", "tls_error", "certificate"]),
    (
        "client",
        &[
            "client/handshake",
            "client/retry_after",
            "client/error",
            "client/connector",
            "client/no_tls",
            "client/pin",
            "client/tls",
            "client/reconnect",
            "client/connect",
            "client/redirect",
            "client/settings",
            "client/life",
            "client/failover",
            "client/supervisor",
            "client/rpc_client",
            "client/builder",
            "client",
        ],
    ),
    (
        "server",
        &[
            "server/http/address",
            "server/http/settings",
            "server/http/activity",
            "server/http/body",
            "server/http/tracked",
            "server/http/places",
            "server/http/networks",
            "server/http/proxy_protocol",
            "server/http/first_bytes",
            "server/http/client_hello",
            "server/http/info",
            "server/http/preface",
            "server/http/http1",
            "server/http/http2",
            "server/http/proxies",
            "server/handshake/request",
            "server/handshake/credentials",
            "server/handshake/auth",
            "server/handshake/protocol",
            "server/handshake/upgrade",
            "server/handshake/axum",
            "server/session/replacements",
            "server/session/registry",
            "server/session/tasks",
            "server/history",
            "server/rpc_server",
            "server/session/task",
            "server/handshake/accept",
            "server/handshake/service",
            "server/http/app",
            "server/http/connection",
            "server/http/listener",
            "server/http/tls",
            "server/http/listen",
            "server/builder",
            "server",
        ],
    ),
    (
        "console",
        &[
            "console/record",
            "console/store",
            "console/statistics",
            "console/handshakes",
            "console/recorder",
            "console/history",
            "console/state",
            "console/api/json",
            "console/api/error",
            "console/guard",
            "console/api/overview",
            "console/api/live",
            "console/api/stations",
            "console/api/messages",
            "console/api/handshakes",
            "console/api/actions",
            "console/api/calls",
            "console/api",
            "console/page",
            "console",
        ],
    ),
    (
        "tests",
        &[
            "testing/link",
            "testing/received",
            "testing/events",
            "testing/request",
            "testing/station",
            "testing/csms",
            "testing",
        ],
    ),
    ("benches", &["unstable/websocket", "unstable"]),
    ("guide", &["guide"]),
];

/// The files and folders that must use neither a runtime nor an HTTP server.
const PURE: &[&str] = &[
    "action",
    "backoff",
    "client/handshake",
    "close",
    "cluster/epoch",
    "cluster/filter",
    "cluster/members",
    "cluster/moves",
    "cluster/recent",
    "cluster/wire",
    "connection/call_ids",
    "connection/calls_in",
    "connection/calls_out",
    "connection/exchange",
    "connection/keepalive",
    "connection/ordered",
    "connection/outliving",
    "connection/rare_list",
    "console/handshakes",
    "console/record",
    "console/statistics",
    "console/store",
    "der",
    "error",
    "handshake",
    "info",
    "message",
    "options",
    "response",
    "server/handshake/credentials",
    "server/handshake/request",
    "server/http/networks",
    "server/http/proxy_protocol",
    "server/session/replacements",
    "text",
    "validate",
    "websocket",
];

#[test]
fn imports_point_to_lower_layers_only() {
    let files = LAYERS.iter().flat_map(|(_, files)| *files);
    let places: HashMap<&str, usize> = files.enumerate().map(|(place, file)| (*file, place)).collect();
    let layer = |file: &str| LAYERS.iter().position(|(_, files)| files.contains(&file));
    let sides = [layer("client"), layer("server")];
    let mut checked = 0;
    for (file, text) in library() {
        let place = *places.get(&*file).unwrap_or_else(|| panic!("{file} is in no layer"));
        for path in imports(&text) {
            let import =
                file_of(&path, &places).unwrap_or_else(|| panic!("{file} imports {path}, which is not a source file"));
            assert!(import == file || places[import] < place, "{file} imports {import}, which is not below it");
            let is_across =
                layer(import) != layer(&file) && [layer(import), layer(&file)].iter().all(|l| sides.contains(l));
            assert!(!is_across, "{file} imports {import}: client and server must not import each other");
            checked += 1;
        }
    }
    assert!(checked > 400, "only {checked} imports were found");
}

#[test]
fn layers_list_only_existing_files() {
    let library: Vec<_> = library().into_iter().map(|(file, _)| file).collect();
    for file in LAYERS.iter().flat_map(|(_, files)| *files) {
        assert!(library.iter().any(|name| name == file), "{file} is not a source file");
    }
}

#[test]
fn imports_start_at_the_crate_root() {
    for (file, text) in library() {
        for line in code(&text).lines() {
            assert!(!line.trim_start().starts_with("use super::"), "{file}: `{line}` is relative");
            assert!(!line.contains("#[path"), "{file}: `#[path]` sets the file of a module");
        }
    }
}

#[test]
fn pure_files_use_no_runtime() {
    let is_pure = |file: &str| PURE.iter().any(|pure| file == *pure || file.starts_with(&format!("{pure}/")));
    let pure: Vec<_> = library().into_iter().filter(|(file, _)| is_pure(file)).collect();
    assert!(pure.len() > 20);
    for (file, text) in pure {
        for runtime in ["tokio", "hyper"] {
            assert!(!text.contains(&format!("{runtime}::")), "{file} uses {runtime}");
        }
    }
}

/// Returns the path without extension and the text of every source file, except the root and the files of tests.
fn library() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new("src").to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name =
                    path.with_extension("").strip_prefix("src").expect("below").to_str().expect("UTF-8").to_owned();
                if name != "lib" && !["tests", "laws"].contains(&name.rsplit('/').next().expect("a name")) {
                    found.push((name, fs::read_to_string(&path).expect("a file")));
                }
            }
        }
    }
    found
}

/// Returns the code of a file without comments and tests.
fn code(text: &str) -> String {
    let before_tests = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    let lines = before_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the paths in a file that start at the crate root: each branch of an import, and paths in code.
fn imports(text: &str) -> Vec<String> {
    let code = code(text);
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let tree = &code[at + prefix.len()..];
        if code[..at].ends_with('$') {
            continue;
        }
        if code[..at].ends_with("use ") {
            branches("", tree.split(';').next().unwrap_or_default(), &mut found);
        } else {
            let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            let path = tree.split(|c| !is_path(c)).next().unwrap_or_default();
            found.push(path.replace("::", "/"));
        }
    }
    found
}

/// Collects the paths of a `use` tree.
fn branches(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().replace("::", "/");
        return found.push(format!("{prefix}{path}"));
    };
    let prefix = format!("{prefix}{}", head.replace("::", "/"));
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start) = (0, 0);
    for (at, character) in inner.char_indices().chain([(inner.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    branches(&prefix, &inner[start..at], found);
                }
                start = (at + 1).min(inner.len());
            }
            _ => {}
        }
    }
}

/// Returns the file of the longest prefix of the path that is a source file.
fn file_of<'a>(path: &str, places: &HashMap<&'a str, usize>) -> Option<&'a str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    let mut parts: Vec<&str> = ends.map(|end| &path[..end]).collect();
    parts.reverse();
    parts.into_iter().find_map(|part| places.get_key_value(part).map(|(file, _)| *file))
}
