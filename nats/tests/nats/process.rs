//! Nodes as processes of their own.
//!
//! A process is this test binary. The test `process::node` runs a node there, and carries out commands: a line of JSON on
//! its input is one, and a line of JSON on its output the response.

use std::{
    env,
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ocpp_rpc::{Close, Error};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, stdin},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{
    broker::{TIMEOUT, send_signal},
    node::{connect, start},
};

/// The URL of NATS and the name of the node, for the process.
const VARIABLES: [&str; 2] = ["OCPP_RPC_NODE_URL", "OCPP_RPC_NODE_NAME"];

/// A process that runs a node.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    endpoint: String,
}

impl Process {
    pub(crate) async fn start(url: &str, name: &str) -> Self {
        let mut command = Command::new(env::current_exe().expect("this test"));
        command.args(["process::node", "--exact", "--ignored", "--nocapture"]);
        command.env(VARIABLES[0], url).env(VARIABLES[1], name).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this test runs");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut process = Self { child, input, output, endpoint: String::new() };
        let ready = process.response().await;
        process.endpoint = ready["endpoint"].as_str().expect("an endpoint").to_owned();
        process
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.endpoint.strip_prefix("ws://").and_then(|address| address.parse().ok()).expect("an address")
    }

    /// Stops or kills the process, or lets it continue.
    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.child.id().expect("running"), signal);
    }

    /// Calls `Echo` of a station, and returns the name of the error.
    pub(crate) async fn echo(&mut self, key: &str) -> Result<(), String> {
        let response = self.command(json!({"echo": key})).await;
        match response["error"].as_str() {
            None => Ok(()),
            Some(error) => Err(error.to_owned()),
        }
    }

    /// Closes the server, and waits until the process has ended.
    pub(crate) async fn close(mut self) {
        self.command(json!({"close": true})).await;
        drop(self.input);
        let ended = timeout(TIMEOUT, self.child.wait()).await;
        assert!(ended.expect("the process ends").expect("waited").success());
    }

    async fn command(&mut self, command: Value) -> Value {
        self.input.write_all(format!("{command}\n").as_bytes()).await.expect("the process reads");
        self.response().await
    }

    async fn response(&mut self) -> Value {
        loop {
            let line = timeout(TIMEOUT, self.output.next_line()).await.expect("a response").expect("a pipe");
            let line = line.expect("the process has ended");
            // The test harness writes lines of its own.
            if let Some(start) = line.find('{') {
                return serde_json::from_str(&line[start..]).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }
}

/// Runs a node until its input ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that other tests start"]
async fn node() {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let [url, name] = VARIABLES.map(|variable| env::var(variable).expect("set by the test that starts this"));
    let mut node = Some(start(connect(&url, &name).await).await);
    println!("\n{}", json!({"endpoint": node.as_ref().expect("started").endpoint()}));
    let mut commands = BufReader::new(stdin()).lines();
    while let Some(command) = commands.next_line().await.expect("a pipe") {
        let command: Value = serde_json::from_str(&command).expect("JSON");
        let response = match (&mut node, command["echo"].as_str()) {
            (Some(node), Some(key)) => {
                let number = CALLS.fetch_add(1, Ordering::Relaxed);
                let call = node.server.station(key).call::<Value>("Echo", &json!({"n": number}));
                match call.await {
                    Ok(_) => json!({}),
                    Err(error) => json!({"error": name_of(&error)}),
                }
            }
            (node, _) => {
                if let Some(node) = node.take() {
                    let close = Close::restart().drain(Duration::from_secs(5)).spread(Duration::from_millis(300));
                    node.close(close).await;
                }
                json!({})
            }
        };
        println!("\n{response}");
    }
}

fn name_of(error: &Error) -> String {
    format!("{error:?}")
}
