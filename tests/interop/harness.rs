//! The application `backend`, charging stations and curl as processes, with a deadline on every wait.

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

/// How long anything may take, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The application `backend`, on a port of its own.
pub(crate) struct Backend {
    process: Process,
    address: String,
}

impl Backend {
    pub(crate) fn start() -> Self {
        Self::listening_on("127.0.0.1:0", &[])
    }

    pub(crate) fn listening_on(address: &str, arguments: &[&str]) -> Self {
        let (process, address) = listening("backend", &[&["--listen", address], arguments].concat());
        Self { process, address }
    }

    /// The same in this directory.
    pub(crate) fn told(arguments: &[&str], directory: &Path) -> Self {
        let mut command = program("backend");
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).current_dir(directory);
        let (process, address) = listens(Process::start("backend", &mut command));
        Self { process, address }
    }

    /// Where it listens, as `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Starts a curl with these arguments, without waiting for its answer.
    pub(crate) fn begin(&self, path: &str, arguments: &[&str]) -> Request {
        Request(Process::start(
            format!("curl {path}"),
            self.curl(path).args(["--write-out", "\n%{http_code}"]).args(arguments),
        ))
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.begin(path, &[]).reply()
    }

    pub(crate) fn delete(&self, path: &str) -> Response {
        self.begin(path, &["--request", "DELETE"]).reply()
    }

    pub(crate) fn begin_post(&self, path: &str, body: &str) -> Request {
        self.begin(path, &["--header", "content-type: application/json", "--data", body])
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Response {
        self.begin_post(path, body).reply()
    }

    /// Asks for a WebSocket as a station would, by curl, which has no use for one: for handshakes that are refused.
    pub(crate) fn handshake(&self, path: &str) -> Response {
        let headers = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: ocpp1.6",
        ];
        self.begin(path, &headers.map(|header| ["--header", header]).concat()).reply()
    }

    /// All stations that are connected.
    pub(crate) fn stations(&self) -> Vec<Value> {
        let list = self.get("/api/stations").body;
        list.as_array().unwrap_or_else(|| panic!("not a list: {list}")).clone()
    }

    /// The entry of a station in the list of those connected.
    pub(crate) fn listed(&self, identity: &str) -> Option<Value> {
        self.stations().into_iter().find(|station| station["identity"] == identity)
    }

    pub(crate) fn wait_for_stations(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.stations().len() != count {
            assert!(Instant::now() < deadline, "not {count} stations, but {}", self.stations().len());
        }
    }

    pub(crate) fn wait_until_unlisted(&self, identity: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.listed(identity).is_some() {
            assert!(Instant::now() < deadline, "{identity} is gone, but still listed");
        }
    }

    /// Subscribes to the events; those that happen from here on will come.
    pub(crate) fn events(&self) -> Events {
        let curl = Process::start("the event stream", self.curl("/api/events").args(["--no-buffer", "--include"]));
        curl.wait_for("the head of a response", |line| line.starts_with("HTTP/1.1 200").then_some(()));
        Events(curl)
    }

    /// Starts a station, and waits for nothing.
    pub(crate) fn dial(&self, kind: Kind, identity: &str) -> Station {
        Station::start(kind, &format!("ws://{}/ocpp", self.address), identity)
    }

    /// A station that has booted.
    pub(crate) fn station(&self, kind: Kind, identity: &str) -> Station {
        let station = self.dial(kind, identity);
        assert_eq!(station.event("boot")["status"], "Accepted");
        station
    }

    pub(crate) fn press_ctrl_c(&self) {
        let killed = Command::new("kill").args(["-INT", &self.process.child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "cannot send SIGINT");
    }

    pub(crate) fn exit_status(self) -> ExitStatus {
        self.process.exit_status()
    }

    fn curl(&self, path: &str) -> Command {
        let mut curl = Command::new("curl");
        // Without the user's own settings, which only the first argument can leave out.
        curl.arg("--disable");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--globoff", "--path-as-is", "--max-time", "60"]);
        curl.arg(format!("http://{}{path}", self.address));
        curl
    }
}

/// A program that serves stations and nothing else, by its path in the build directory.
pub(crate) struct Server {
    _process: Process,
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        let (process, address) = listening(name, arguments);
        Self { _process: process, url: format!("ws://{address}") }
    }

    /// The same, when it may open no more than so many files.
    pub(crate) fn with_files(files: &str, name: &str, arguments: &[&str]) -> Self {
        let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).arg(program(name).get_program()).args(arguments);
        let (process, address) = listens(Process::start(name, &mut shell));
        Self { _process: process, url: format!("ws://{address}") }
    }
}

/// The application `charger`, as many stations in one process.
pub(crate) struct Fleet(Process);

impl Fleet {
    pub(crate) fn start(url: &str, stations: usize) -> Self {
        Self::told(&["--url", url, "--count", &stations.to_string(), "--interval", "5"], Path::new("."))
    }

    /// The application with these arguments, in this directory.
    pub(crate) fn told(arguments: &[&str], directory: &Path) -> Self {
        Self(Process::start("the fleet", program("charger").args(arguments).current_dir(directory)))
    }

    /// Waits for a line of progress that says so.
    pub(crate) fn wait_for(&self, progress: &str) {
        self.0.wait_for(progress, |line| line.contains(progress).then_some(()));
    }
}

/// A curl under way.
pub(crate) struct Request(Process);

impl Request {
    pub(crate) fn reply(self) -> Response {
        let mut lines = self.0.remaining_lines();
        let status = lines.pop().and_then(|code| code.parse().ok());
        let text = lines.join("\n");
        Response {
            status: status.unwrap_or_else(|| panic!("{}: no status in {text:?}", self.0.name)),
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }
}

/// What curl got; a body that is not JSON stands as text.
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
    /// The next event that `wanted` holds for.
    pub(crate) fn next(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.0.wait_for(what, |line| {
            let data = line.strip_prefix("data:")?;
            let event = serde_json::from_str(data).unwrap_or_else(|_| panic!("an event that is not JSON: {data}"));
            wanted(&event).then_some(event)
        })
    }
}

/// Which library a station is built on, and which protocol it offers.
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
    /// Runs one of the scripts beside this file, which come once for each library.
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

/// A charging station; station.js lists its commands and events.
pub(crate) struct Station(Process);

impl Station {
    /// Starts a station that dials `url`, and waits for nothing.
    pub(crate) fn start(kind: Kind, url: &str, identity: &str) -> Self {
        Self::with_files(kind, url, identity, &[])
    }

    /// The same with PEM files, by the names that the script has for them.
    pub(crate) fn with_files(kind: Kind, url: &str, identity: &str, files: &[(&str, PathBuf)]) -> Self {
        let mut command = kind.library.script("station");
        command.args([url, identity, kind.protocol]).envs(files.iter().map(|(name, path)| (name, path)));
        Self(Process::start(format!("station {identity}"), &mut command))
    }

    pub(crate) fn tell(&mut self, command: &str) {
        let stdin = self.0.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{command}").unwrap_or_else(|error| panic!("{} does not listen: {error}", self.0.name));
    }

    /// The next event of this name; others in between are skipped.
    pub(crate) fn event(&self, name: &str) -> Value {
        self.0.wait_for(&format!("event {name:?}"), |line| {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not an event: {line}"));
            (event["event"] == name).then_some(event)
        })
    }

    /// Tells a command, and waits for the event of this name.
    pub(crate) fn ask(&mut self, command: &str, event: &str) -> Value {
        self.tell(command);
        self.event(event)
    }

    pub(crate) fn exit_status(self) -> ExitStatus {
        self.0.exit_status()
    }
}

/// A script that takes commands and prints events, line by line, for tests that are async. It is killed with this
/// value.
pub(crate) struct Script {
    child: Child,
    lines: UnboundedReceiver<String>,
}

impl Script {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the script starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = unbounded_channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    pub(crate) fn tell(&mut self, command: &str) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{command}").expect("the script listens");
    }

    /// The next event of this name; others in between are skipped.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        let mut skipped = Vec::new();
        let found = timeout(PATIENCE, async {
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
        found.ok().flatten().unwrap_or_else(|| panic!("the script does not say {name:?}, but {skipped:#?}"))
    }

    /// The port that it says it listens on.
    pub(crate) async fn port(&mut self) -> u16 {
        let listening = self.event("listening").await;
        listening["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // By SIGKILL, so that it cannot say goodbye; fails where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process whose output is read line by line, and which ends with this value.
struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn start(name: impl Into<String>, command: &mut Command) -> Self {
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

    /// The first of the coming lines that `pick` makes something of.
    fn wait_for<T>(&self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
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
        let deadline = Instant::now() + PATIENCE;
        std::iter::from_fn(|| self.line(deadline)).collect()
    }

    /// The next line, or nothing at the end.
    fn line(&self, deadline: Instant) -> Option<String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{} says nothing more, and does not end", self.name),
        }
    }

    /// Waits for the end of its output, and with it of the process.
    fn exit_status(mut self) -> ExitStatus {
        self.remaining_lines();
        self.child.wait().unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails where the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output of a program that must succeed.
pub(crate) fn run(name: &str, arguments: &[&str]) -> Vec<String> {
    let mut process = Process::start(name, program(name).args(arguments));
    let lines = process.remaining_lines();
    assert!(process.child.wait().is_ok_and(|status| status.success()), "{name} failed: {lines:#?}");
    lines
}

/// The output, errors included, of a program that must fail because it may open no more than so many files.
pub(crate) fn run_in_vain(files: &str, name: &str, arguments: &[&str]) -> Vec<String> {
    let script = format!("ulimit -n {files} && exec \"$0\" \"$@\" 2>&1");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(program(name).get_program()).args(arguments);
    let mut process = Process::start(name, &mut shell);
    let lines = process.remaining_lines();
    assert!(process.child.wait().is_ok_and(|status| !status.success()), "{name} did not fail: {lines:#?}");
    lines
}

/// A program that has printed where it listens, and the address.
fn listening(name: &str, arguments: &[&str]) -> (Process, String) {
    listens(Process::start(name, program(name).args(arguments)))
}

fn listens(process: Process) -> (Process, String) {
    let port: u16 = process.wait_for("a line with its address", |line| {
        let (_, rest) = line.split_once("://127.0.0.1:")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    (process, format!("127.0.0.1:{port}"))
}

/// An application by its name, an example as `examples/<name>`.
fn program(name: &str) -> Command {
    let program = build_directory().join(name);
    assert!(program.exists(), "{} is not built: run tests/run", program.display());
    Command::new(program)
}

/// Where cargo puts what it builds: `target/debug`, from `target/debug/deps/interop-…`.
fn build_directory() -> PathBuf {
    let this = env::current_exe().expect("this test has a path");
    this.ancestors().nth(2).expect("cargo puts tests into target/debug/deps").to_owned()
}

/// Where `tests/run` has put a peer.
fn peer(name: &str) -> PathBuf {
    let peers = env::var_os("OCPP_RPC_PEERS").map_or_else(|| build_directory().with_file_name("peers"), PathBuf::from);
    let peer = peers.join(name);
    assert!(peer.join("fetched").exists(), "{} is not there: run tests/run", peer.display());
    peer
}
