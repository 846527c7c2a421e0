//! Runs the application `backend`, charging stations and curl as processes, with a deadline on every wait.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// The longest time that a test waits for an event. It allows for a machine that is busy with other tests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A process of the application `backend` on its own port.
pub(crate) struct Backend {
    process: Process,
    address: String,
}

impl Backend {
    pub(crate) fn start() -> Self {
        Self::listening_on("127.0.0.1:0", &[])
    }

    pub(crate) fn listening_on(address: &str, arguments: &[&str]) -> Self {
        let arguments = [&["--listen", address, "--database", "sqlite::memory:"], arguments].concat();
        let (process, address) = start_listening("backend", &arguments);
        Self { process, address }
    }

    /// Starts the application with these arguments in this directory.
    pub(crate) fn start_in(arguments: &[&str], directory: &Path) -> Self {
        let mut command = program("backend");
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).current_dir(directory);
        let (process, address) = wait_for_address(Process::start("backend", &mut command));
        Self { process, address }
    }

    /// Returns the address of the listener as `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Starts curl with these arguments and does not wait for the response.
    pub(crate) fn begin(&self, path: &str, arguments: &[&str]) -> Request {
        Request(Process::start(
            format!("curl {path}"),
            self.curl(path).args(["--write-out", "\n%{http_code}"]).args(arguments),
        ))
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.begin(path, &[]).response()
    }

    pub(crate) fn delete(&self, path: &str) -> Response {
        self.begin(path, &["--request", "DELETE", "--header", "content-type: application/json"]).response()
    }

    pub(crate) fn begin_post(&self, path: &str, body: &str) -> Request {
        self.begin(path, &["--header", "content-type: application/json", "--data", body])
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Response {
        self.begin_post(path, body).response()
    }

    /// Sends a station's handshake by curl. Only for handshakes that must be refused, because curl does not speak OCPP.
    pub(crate) fn handshake(&self, path: &str) -> Response {
        let headers = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: ocpp1.6",
        ];
        self.begin(path, &headers.map(|header| ["--header", header]).concat()).response()
    }

    /// Returns all connected stations.
    pub(crate) fn stations(&self) -> Vec<Value> {
        let list = self.get("/api/stations").body;
        list.as_array().unwrap_or_else(|| panic!("not a list: {list}")).clone()
    }

    /// Returns a station's entry in the list of connected stations.
    pub(crate) fn listed(&self, identity: &str) -> Option<Value> {
        self.stations().into_iter().find(|station| station["identity"] == identity)
    }

    pub(crate) fn wait_for_stations(&self, count: usize) {
        let deadline = Instant::now() + TIMEOUT;
        while self.stations().len() != count {
            assert!(Instant::now() < deadline, "expected {count} stations, found {}", self.stations().len());
        }
    }

    pub(crate) fn wait_until_unlisted(&self, identity: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.listed(identity).is_some() {
            assert!(Instant::now() < deadline, "{identity} has disconnected but is still listed");
        }
    }

    /// Subscribes to the events that occur after this call.
    pub(crate) fn events(&self) -> Events {
        let curl = Process::start("the event stream", self.curl("/api/events").args(["--no-buffer", "--include"]));
        curl.wait_for("the head of a response", |line| line.starts_with("HTTP/1.1 200").then_some(()));
        Events(curl)
    }

    /// Starts a station and does not wait for the connection.
    pub(crate) fn start_station(&self, kind: Kind, identity: &str) -> Station {
        Station::start(kind, &format!("ws://{}/ocpp", self.address), identity)
    }

    /// Starts a station and waits until it has booted.
    pub(crate) fn station(&self, kind: Kind, identity: &str) -> Station {
        let station = self.start_station(kind, identity);
        assert_eq!(station.event("boot")["status"], "Accepted");
        station
    }

    /// Sends a signal, `-INT` or `-TERM`.
    pub(crate) fn send_signal(&self, signal: &str) {
        self.process.send_signal(signal);
    }

    pub(crate) fn exit_status(self) -> ExitStatus {
        self.process.exit_status()
    }

    fn curl(&self, path: &str) -> Command {
        let mut curl = Command::new("curl");
        // Ignores the user's configuration file. curl accepts this option only as the first argument.
        curl.arg("--disable");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--globoff", "--path-as-is", "--max-time", "60"]);
        curl.arg(format!("http://{}{path}", self.address));
        curl
    }
}

/// A process of a program that only serves stations, found by its path in the build directory.
pub(crate) struct Server {
    process: Process,
    pub(crate) url: String,
}

impl Server {
    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.child.id()
    }

    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        let (process, address) = start_listening(name, arguments);
        Self { process, url: format!("ws://{address}") }
    }

    /// Starts the program with a limit on open files.
    pub(crate) fn with_files(files: &str, name: &str, arguments: &[&str]) -> Self {
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(program(name).get_program()).args(arguments);
        let (process, address) = wait_for_address(Process::start(name, &mut shell));
        Self { process, url: format!("ws://{address}") }
    }
}

/// A process of the application `charger`, which runs many stations.
pub(crate) struct Fleet(Process);

impl Fleet {
    pub(crate) fn start(url: &str, stations: usize) -> Self {
        Self::start_in(&["--url", url, "--count", &stations.to_string(), "--interval", "5"], Path::new("."))
    }

    /// Starts the application with these arguments in this directory.
    pub(crate) fn start_in(arguments: &[&str], directory: &Path) -> Self {
        Self(Process::start("the fleet", program("charger").args(arguments).current_dir(directory)))
    }

    /// Waits for a line of output that contains `progress`.
    pub(crate) fn wait_for(&self, progress: &str) {
        self.0.wait_for(progress, |line| line.contains(progress).then_some(()));
    }

    /// Sends a signal, `-INT` or `-TERM`.
    pub(crate) fn send_signal(&self, signal: &str) {
        self.0.send_signal(signal);
    }

    pub(crate) fn exit_status(self) -> ExitStatus {
        self.0.exit_status()
    }
}

/// A curl process with a pending response.
pub(crate) struct Request(Process);

impl Request {
    pub(crate) fn response(self) -> Response {
        let mut lines = self.0.remaining_lines();
        let status = lines.pop().and_then(|code| code.parse().ok());
        let text = lines.join("\n");
        Response {
            status: status.unwrap_or_else(|| panic!("{}: no status in {text:?}", self.0.name)),
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }
}

/// A response that curl received. A body that is not JSON is kept as a string.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Response {
    #[track_caller]
    pub(crate) fn expect(&self, status: u16, body: &Value) {
        assert_eq!((self.status, &self.body), (status, body));
    }
}

/// The backend's server-sent events.
pub(crate) struct Events(Process);

impl Events {
    /// Waits for the next event that satisfies `wanted`.
    pub(crate) fn next(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.0.wait_for(what, |line| {
            let data = line.strip_prefix("data:")?;
            let event = serde_json::from_str(data).unwrap_or_else(|_| panic!("an event that is not JSON: {data}"));
            wanted(&event).then_some(event)
        })
    }
}

/// The library that a peer is built on, and the protocol that it offers.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) library: Library,
    pub(crate) protocol: &'static str,
}

#[derive(Clone, Copy)]
pub(crate) enum Library {
    Npm,
    Python,
}

impl Library {
    /// Returns a command for one of the scripts beside this file. Those of stations and servers exist once per library.
    pub(crate) fn script(self, name: &str) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name);
        match self {
            Self::Npm => {
                let mut node = Command::new("node");
                node.env("NODE_PATH", peer("npm").join("node_modules")).arg(script.with_extension("js"));
                node
            }
            Self::Python => {
                let mut python = Command::new(peer("python").join("bin/python"));
                python.arg(script.with_extension("py"));
                python
            }
        }
    }
}

/// A process of a charging station. station.js lists its commands and events.
pub(crate) struct Station(Process);

impl Station {
    /// Starts a station that connects to `url` and does not wait for the connection.
    pub(crate) fn start(kind: Kind, url: &str, identity: &str) -> Self {
        Self::with_files(kind, url, identity, &[])
    }

    /// Starts a station with PEM files, which the script reads from the environment variables of these names.
    pub(crate) fn with_files(kind: Kind, url: &str, identity: &str, files: &[(&str, PathBuf)]) -> Self {
        let mut command = kind.library.script("station");
        command.args([url, identity, kind.protocol]).envs(files.iter().map(|(name, path)| (name, path)));
        Self(Process::start(format!("station {identity}"), &mut command))
    }

    pub(crate) fn send(&mut self, command: &str) {
        let stdin = self.0.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{command}")
            .unwrap_or_else(|error| panic!("cannot send a command to {}: {error}", self.0.name));
    }

    /// Waits for the next event of this name and skips others.
    pub(crate) fn event(&self, name: &str) -> Value {
        self.0.wait_for(&format!("event {name:?}"), |line| {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not an event: {line}"));
            (event["event"] == name).then_some(event)
        })
    }

    /// Sends a command and waits for the event of this name.
    pub(crate) fn send_and_wait(&mut self, command: &str, event: &str) -> Value {
        self.send(command);
        self.event(event)
    }

    pub(crate) fn exit_status(self) -> ExitStatus {
        self.0.exit_status()
    }
}

/// A script that reads commands and prints events, one per line, for async tests. Dropping this value kills the
/// process.
pub(crate) struct Script {
    child: Child,
    lines: UnboundedReceiver<String>,
}

impl Script {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cannot start the script");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = unbounded_channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    pub(crate) fn send(&mut self, command: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{command}").expect("cannot send a command to the script");
    }

    /// Waits for the next event of this name and skips others.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        let mut skipped = Vec::new();
        let found = timeout(TIMEOUT, async {
            while let Some(line) = self.lines.recv().await {
                let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not an event: {line}"));
                if event["event"] == name {
                    return Some(event);
                }
                skipped.push(line);
            }
            None
        });
        let found = found.await;
        found.ok().flatten().unwrap_or_else(|| panic!("the script did not print event {name:?}, but {skipped:#?}"))
    }

    /// Waits for the end of the script, which must succeed.
    pub(crate) async fn succeeds(&mut self) {
        let end = timeout(TIMEOUT, async { while self.lines.recv().await.is_some() {} });
        end.await.expect("the script does not end");
        let status = self.child.wait().expect("the script was started");
        assert!(status.success(), "the script failed: {status}");
    }

    /// Waits until the script listens and returns its port.
    pub(crate) async fn port(&mut self) -> u16 {
        let listening = self.event("listening").await;
        listening["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port number in the event")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // SIGKILL prevents a close handshake. It fails if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process with output that is read line by line. Dropping this value kills the process.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn start(name: impl Into<String>, command: &mut Command) -> Self {
        let name = name.into();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { name, child, lines }
    }

    /// Returns the first `Some` that `pick` returns for a later line.
    fn wait_for<T>(&self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        let mut skipped = Vec::new();
        loop {
            let Some(line) = self.line(deadline) else { panic!("{} ended without {what}: {skipped:#?}", self.name) };
            if let Some(picked) = pick(&line) {
                return picked;
            }
            skipped.push(line);
        }
    }

    fn remaining_lines(&self) -> Vec<String> {
        let deadline = Instant::now() + TIMEOUT;
        std::iter::from_fn(|| self.line(deadline)).collect()
    }

    /// Returns the next line, or `None` at the end of the output.
    pub(crate) fn line(&self, deadline: Instant) -> Option<String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{} prints nothing and does not end", self.name),
        }
    }

    fn send_signal(&self, signal: &str) {
        let killed = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "cannot send {signal}");
    }

    /// Waits for the end of the output and of the process.
    fn exit_status(mut self) -> ExitStatus {
        self.remaining_lines();
        self.child.wait().unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program that must succeed and returns its output.
pub(crate) fn run(name: &str, arguments: &[&str]) -> Vec<String> {
    let mut process = Process::start(name, program(name).args(arguments));
    let lines = process.remaining_lines();
    assert!(process.child.wait().is_ok_and(|status| status.success()), "{name} failed: {lines:#?}");
    lines
}

/// Runs a program that must fail because of a limit on open files. Returns its output, errors included.
pub(crate) fn run_with_too_few_files(files: &str, name: &str, arguments: &[&str]) -> Vec<String> {
    let script = format!("ulimit -n {files} && exec \"$0\" \"$@\" 2>&1");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(program(name).get_program()).args(arguments);
    let mut process = Process::start(name, &mut shell);
    let lines = process.remaining_lines();
    assert!(process.child.wait().is_ok_and(|status| !status.success()), "{name} did not fail: {lines:#?}");
    lines
}

/// Starts a program and waits until it has printed its address.
fn start_listening(name: &str, arguments: &[&str]) -> (Process, String) {
    wait_for_address(Process::start(name, program(name).args(arguments)))
}

fn wait_for_address(process: Process) -> (Process, String) {
    let port: u16 = process.wait_for("a line with its address", |line| {
        let (_, rest) = line.split_once("://127.0.0.1:")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    (process, format!("127.0.0.1:{port}"))
}

/// Returns a command for an application by its name, or for an example by `examples/<name>`.
pub(crate) fn program(name: &str) -> Command {
    let program = build_directory().join(name);
    assert!(program.exists(), "{} is not built: run tests/run", program.display());
    Command::new(program)
}

/// Returns cargo's build directory: `target/debug`, derived from `target/debug/deps/interop-…`.
fn build_directory() -> PathBuf {
    let this = env::current_exe().expect("the path of this test");
    this.ancestors().nth(2).expect("tests are in target/debug/deps").to_owned()
}

/// Returns the directory of a peer that `tests/run` has fetched.
pub(crate) fn peer(name: &str) -> PathBuf {
    let peers = env::var_os("OCPP_RPC_PEERS").map_or_else(|| build_directory().with_file_name("peers"), PathBuf::from);
    let peer = peers.join(name);
    assert!(peer.join("fetched").exists(), "{} does not exist: run tests/run", peer.display());
    peer
}
