//! The layers of the library only look down.

use std::{collections::HashMap, fs, path::Path};

/// From the bottom up; modules of one line may know each other, but for those of the last.
const LAYERS: &[&[&str]] = &[
    &[
        "action",
        "backoff",
        "certificate",
        "close",
        "dialect",
        "error",
        "handshake",
        "options",
        "payload",
        "tolerance",
        "validate",
        "wire",
    ],
    &["event"],
    &["connection", "meter"],
    &["peer"],
    &["rpc"],
    &["client", "server", "unstable"],
];

/// Files that know neither runtime nor HTTP server.
const PURE: &[&str] = &[
    "action.rs",
    "action/kit.rs",
    "action/table.rs",
    "backoff.rs",
    "close.rs",
    "connection/exchange.rs",
    "connection/keepalive.rs",
    "dialect.rs",
    "error.rs",
    "handshake.rs",
    "options.rs",
    "payload.rs",
    "tolerance.rs",
    "validate.rs",
    "validate/fault.rs",
    "validate/misfit.rs",
    "validate/schema.rs",
    "validate/schema/error.rs",
    "validate/strict.rs",
    "validate/strict/formats.rs",
    "validate/strict/reader.rs",
    "wire.rs",
    "wire/read.rs",
];

#[test]
fn imports_point_downwards() {
    let layers: HashMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(layer, names)| names.iter().map(move |name| (*name, layer))).collect();
    let mut checked = 0;
    for (file, text) in sources(Path::new("src")) {
        let module = file.split(['/', '.']).next().expect("a module");
        if module == "lib" {
            continue;
        }
        let layer = *layers.get(module).unwrap_or_else(|| panic!("{file} has no layer"));
        for import in imports(&text) {
            let other = *layers.get(import).unwrap_or_else(|| panic!("{file} imports {import}, which has no layer"));
            let sideways = layer == other && module != import && layer == LAYERS.len() - 1;
            assert!(other <= layer && !sideways, "{file} imports {import}, which is not below it");
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} imports were found");
}

#[test]
fn pure_files_know_no_runtime() {
    let pure: Vec<_> = sources(Path::new("src")).into_iter().filter(|(file, _)| PURE.contains(&&**file)).collect();
    assert!(pure.len() >= 8);
    for (file, text) in pure {
        for runtime in ["tokio", "hyper", "tungstenite"] {
            assert!(!text.contains(&format!("{runtime}::")), "{file} knows {runtime}");
        }
    }
}

#[test]
fn one_file_knows_the_websocket_engine() {
    let knows: Vec<_> =
        sources(Path::new("src")).into_iter().filter(|(_, text)| text.contains("tungstenite::")).collect();
    assert_eq!(knows.iter().map(|(file, _)| &**file).collect::<Vec<_>>(), ["connection/socket.rs"]);
}

/// Every source file by its path below `root`.
fn sources(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned();
                found.push((name, fs::read_to_string(&path).expect("a file")));
            }
        }
    }
    found
}

/// The modules named by `use crate::…` in front of the tests, and by `crate::…::` in code.
fn imports(text: &str) -> Vec<&str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    for (at, line) in code.iter().enumerate() {
        if line.trim() == "use crate::{" {
            // One module a line, as rustfmt sets them, at the first level of indentation.
            let block = code[at + 1..].iter().take_while(|line| !line.starts_with("};"));
            found.extend(block.filter(|l| l.starts_with("    ") && !l.starts_with("     ")).filter_map(|line| {
                let name = line.trim().split(|c| !is_name(c)).next()?;
                (!name.is_empty()).then_some(name)
            }));
        } else if let Some(block) = line.trim().strip_prefix("use crate::{") {
            found.extend(block.trim_end_matches("};").split(", ").filter_map(|path| path.split("::").next()));
        } else {
            let paths = line.match_indices("crate::").map(|(at, found)| &line[at + found.len()..]);
            found.extend(
                paths
                    .filter_map(|path| path.split(|c| !is_name(c)).next())
                    .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase())),
            );
        }
    }
    found
}
