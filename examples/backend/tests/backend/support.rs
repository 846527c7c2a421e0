//! A process of the application, a client of its REST API, and stations.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};
use hyper_util::rt::TokioIo;
use ocpp_rpc::{
    Options, RpcClient, RpcRouter,
    client::{Backoff, Reconnect},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};

/// The longest time that a test waits for an event. It allows for a machine that is busy with other tests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A process of the application. Dropping this value kills it.
pub(crate) struct Backend {
    process: Child,
    stdout: BufReader<ChildStdout>,
    first_url: String,
    address: String,
}

impl Backend {
    /// Starts the application with a database in memory.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::with_database("sqlite::memory:", "127.0.0.1:0", arguments)
    }

    pub(crate) fn with_database(database: &str, address: &str, arguments: &[&str]) -> Self {
        let arguments = [&["--database", database, "--listen", address], arguments].concat();
        Self::start_in(Path::new("."), &arguments)
    }

    /// Starts the application with these arguments in this directory, and waits for its address.
    pub(crate) fn start_in(directory: &Path, arguments: &[&str]) -> Self {
        let mut process =
            command(arguments).current_dir(directory).stdout(Stdio::piped()).spawn().expect("the backend");
        let mut stdout = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let first_url = line.find("http://").map(|start| line[start..].trim_end().to_owned());
        let first_url = first_url.unwrap_or_else(|| panic!("no address in the first line: {line:?}"));
        let address = first_url.split('/').nth(2).expect("an address").to_owned();
        Self { process, stdout, first_url, address }
    }

    /// Returns the URL that the first line names.
    pub(crate) fn first_url(&self) -> &str {
        &self.first_url
    }

    /// Returns the address of the listener as `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line
    }

    /// Kills the process by SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("the process runs");
        self.process.wait().expect("the process ends");
    }

    pub(crate) fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "cannot send SIGTERM");
    }

    /// Waits for the end of the process. The stations of the test go on meanwhile.
    pub(crate) async fn exit_status(mut self) -> ExitStatus {
        let ended = tokio::task::spawn_blocking(move || {
            while !self.next_line().is_empty() {}
            self.process.wait().expect("the process ends")
        });
        timeout(TIMEOUT, ended).await.expect("the process does not end").expect("no panic")
    }

    /// Sends a request and returns the response with an unread body.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = TcpStream::connect(&self.address).await.expect("the backend listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.expect("a response")
    }

    /// Sends a request with `content-type: application/json`.
    pub(crate) async fn request(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("host", &self.address);
        let request = request.header("content-type", "application/json").body(Full::new(body.into()));
        let response = self.send(request.expect("a request")).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| text()))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.request(Method::GET, path, &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.request(Method::POST, path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.request(Method::DELETE, path, &Value::Null).await
    }

    /// Returns all entries of a paged list.
    pub(crate) async fn all(&self, path: &str) -> Vec<Value> {
        let mut entries: Vec<Value> = Vec::new();
        loop {
            let before = entries.last().map_or_else(|| i64::MAX.to_string(), |entry| entry["id"].to_string());
            let page = self.get(&format!("{path}?before={before}&limit=300")).await;
            let page = page.as_array().expect("a list");
            if page.is_empty() {
                return entries;
            }
            entries.extend_from_slice(page);
        }
    }

    /// Connects a station that handles the calls of the backend by `router`.
    pub(crate) async fn station_with(&self, identity: &str, protocol: &str, router: RpcRouter) -> RpcClient {
        let backoff = Backoff::exponential().min(Duration::from_millis(100)).max(Duration::from_secs(1));
        let client = RpcClient::builder(format!("ws://{}/ocpp", self.address), identity)
            .protocols([protocol])
            .reconnect(Reconnect::always().backoff(backoff))
            .options(Options::client().call_concurrency(16))
            .router(router)
            .build()
            .expect("settings");
        client.connect().await.expect("a connection");
        // The client can be connected before the server has registered the session.
        let is_listed = |list: &Value| {
            let mut list = list.as_array().expect("a list").iter();
            list.any(|station| station["identity"] == identity && station["protocol"] == protocol)
        };
        let deadline = deadline();
        while !is_listed(&self.get("/api/stations").await) {
            assert!(Instant::now() < deadline, "{identity} is not listed");
        }
        client
    }

    pub(crate) async fn station(&self, identity: &str, protocol: &str) -> RpcClient {
        self.station_with(identity, protocol, RpcRouter::new()).await
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Fails if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns a command for the application.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backend"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the application, which must fail, and returns its errors.
pub(crate) fn failure(arguments: &[&str], directory: &Path) -> String {
    let output = command(arguments).current_dir(directory).output().expect("the backend");
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// Creates an empty directory for one test.
pub(crate) fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("backend").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    path
}

pub(crate) fn deadline() -> Instant {
    Instant::now() + TIMEOUT
}

/// Returns a StartTransaction of the n-th transaction of a station.
pub(crate) fn start(number: usize) -> Value {
    let timestamp = format!("2026-01-01T{:02}:{:02}:00Z", number / 60, number % 60);
    json!({"connectorId": 1, "idTag": "DEMO-TAG", "meterStart": 100 * number, "timestamp": timestamp})
}

/// Returns a TransactionEvent of the n-th transaction of a station.
pub(crate) fn event(number: usize, event_type: &str, seq_no: u32) -> Value {
    json!({
        "eventType": event_type,
        "triggerReason": "Authorized",
        "timestamp": format!("2026-01-01T{:02}:{:02}:00Z", number / 60, number % 60),
        "seqNo": seq_no,
        "transactionInfo": {"transactionId": format!("transaction-{number}")},
        "idToken": {"idToken": "DEMO-TAG", "type": "Central"},
        "evse": {"id": 1, "connectorId": 1},
    })
}
