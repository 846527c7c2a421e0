//! The console in a real browser: Chromium, driven by playwright-core.
//!
//! Each test starts the application and runs the script of its name, which is beside this file.
#![cfg(unix)]

mod many;
mod proxy;
#[path = "../backend/support.rs"]
#[allow(dead_code, reason = "the other tests of the application use the rest")]
mod support;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use ocpp_rpc::{Close, RpcClient};
use serde_json::{Value, json};
use support::Backend;

/// An identity and a payload that do harm in a page that takes them as markup.
const MARKUP: &str = "<img src=x onerror=alert(1)>";

/// A script in Node.js. Dropping this value kills it.
struct Script(Child);

impl Script {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser").join(name);
        let mut node = Command::new("node");
        node.arg(script).args(arguments).env("OCPP_RPC_PEERS", peers());
        Self(node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node"))
    }

    /// Runs the script to its end. `answer` gets each line that the script writes.
    fn finish(mut self, mut answer: impl FnMut(&str)) {
        let mut stdin = self.0.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(self.0.stdout.take().expect("stdout is piped"));
        for line in stdout.lines() {
            let line = line.expect("text");
            println!("{line}");
            answer(&line);
            // Fails if the script has ended.
            let _ = stdin.write_all(b"done\n");
        }
        let status = self.0.wait().expect("the script ends");
        assert!(status.success(), "the script failed: {status}");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the directory that `tests/run` has filled.
fn peers() -> PathBuf {
    let beside = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
    let peers = env::var_os("OCPP_RPC_PEERS").map_or_else(beside, PathBuf::from);
    assert!(peers.join("npm/fetched").exists(), "{}/npm does not exist: run tests/run", peers.display());
    peers
}

fn console_of(backend: &Backend) -> String {
    format!("http://{}/console/", backend.address())
}

/// Runs a script to its end, without blocking the stations of the test.
async fn run(name: &'static str, arguments: Vec<String>) {
    let script = move || {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Script::start(name, &arguments).finish(|_| {});
    };
    tokio::task::spawn_blocking(script).await.expect("the script");
}

#[tokio::test(flavor = "multi_thread")]
async fn engineer_watches_calls_and_closes_stations() {
    let backend = Backend::start(&["--demo", "10"]);
    let visitor: RpcClient = backend.station(MARKUP, "ocpp1.6").await;
    let status = json!({"connectorId": 0, "errorCode": "NoError", "status": "Available", "vendorId": MARKUP});
    visitor.call::<Value>("StatusNotification", &status).await.expect("a response");
    let url = console_of(&backend);
    let handle = tokio::runtime::Handle::current();
    let script = move || {
        Script::start("console.mjs", &[&url, MARKUP]).finish(|line| {
            if line == "leave" {
                handle.block_on(visitor.close(Close::normal()));
            }
        });
    };
    tokio::task::spawn_blocking(script).await.expect("the script");
}

#[test]
fn page_connects_again_after_a_restart() {
    let backend = Backend::start(&["--demo", "2"]);
    let (url, address) = (console_of(&backend), backend.address().to_owned());
    let mut running = Some(backend);
    Script::start("restart.mjs", &[&url]).finish(|line| match line {
        "kill" => running.take().expect("a backend").kill(),
        "start" => running = Some(Backend::with_database("sqlite::memory:", &address, &["--demo", "2"])),
        _ => {}
    });
}

#[tokio::test]
async fn page_of_another_site_cannot_call() {
    let backend = Backend::start(&["--demo", "1"]);
    run("cross_site.mjs", vec![console_of(&backend)]).await;
}

/// Takes pictures of all views. With `CONSOLE_PICTURE`, one of them is copied to that file, for the README:
///
///     CONSOLE_PICTURE=docs/console.png cargo test -p backend --test browser pictures
#[tokio::test]
async fn pictures_of_all_views_fit_their_width() {
    let backend = Backend::start(&["--demo", "10"]);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    fs::create_dir_all(&directory).expect("a directory");
    let mut arguments = vec![console_of(&backend), directory.display().to_string()];
    arguments.extend(env::var("CONSOLE_PICTURE"));
    run("pictures.mjs", arguments).await;
    println!("the pictures are in {}", directory.display());
}
