//! The same with PostgreSQL, whose server each test starts for itself.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    crash,
    support::{Backend, start},
    transactions,
};

#[tokio::test]
async fn nothing_answered_is_lost_or_doubled_on_postgres() {
    let postgres = Postgres::start("crash");
    crash::kill_and_restart(&postgres.url()).await;
}

#[tokio::test]
async fn repeated_starts_in_parallel_are_recorded_once_on_postgres() {
    let postgres = Postgres::start("parallel");
    transactions::repeat_in_parallel(&Backend::with_database(&postgres.url(), "127.0.0.1:0", &[])).await;
}

#[tokio::test]
async fn backend_without_its_database_is_not_ready() {
    let postgres = Postgres::start("gone");
    let backend = Backend::with_database(&postgres.url(), "127.0.0.1:0", &[]);
    let station = backend.station("CP-1", "ocpp1.6").await;
    assert_eq!(backend.get("/readyz").await, "ready");
    drop(postgres);
    // Its messages cannot be stored.
    station.call::<Value>("Heartbeat", &json!({})).await.expect("a response");
    let paths = ["/readyz", "/api/messages", "/api/transactions"];
    let responses = join_all(paths.map(|path| backend.request(Method::GET, path, &Value::Null))).await;
    for (status, body) in responses {
        assert_eq!((status.as_u16(), body), (503, json!({"error": "database"})));
    }
    assert!(station.call::<Value>("StartTransaction", &start(1)).await.is_err());
    assert_eq!(backend.get("/healthz").await, "ok");
}

/// A server of PostgreSQL that listens only on a socket in a directory of its own. Dropping this value ends it.
struct Postgres {
    server: Child,
    directory: PathBuf,
}

impl Postgres {
    fn start(name: &str) -> Self {
        // The path of a socket is short on every system.
        let directory = env::temp_dir().join(format!("backend-{name}-{}", std::process::id()));
        fs::create_dir(&directory).expect("a directory");
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(&directory).status();
            assert!(owned.is_ok_and(|status| status.success()), "no user postgres");
        }
        let data = directory.join("data");
        let mut initdb = program("initdb");
        initdb.args(["--auth=trust", "--username=backend", "--no-sync", "--encoding=UTF8", "--no-locale", "--pgdata"]);
        let created = initdb.arg(&data).current_dir("/").output().expect("initdb");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        let mut server = program("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&directory).args(["-c", "listen_addresses="]);
        let mut server = server.current_dir("/").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("postgres");
        let mut log = BufReader::new(server.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok);
        let ready = log.find(|line| line.contains("ready to accept connections"));
        assert!(ready.is_some(), "PostgreSQL did not start");
        // A full pipe would stop the server.
        thread::spawn(move || log.for_each(drop));
        Self { server, directory }
    }

    fn url(&self) -> String {
        let socket = self.directory.display().to_string().replace('/', "%2F");
        format!("postgres://backend@{socket}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT ends the server and its processes at once.
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Returns a command for a program of PostgreSQL, which refuses to run as root.
fn program(name: &str) -> Command {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let path = installed.map(|version| version.path().join("bin").join(name)).find(|path| path.exists());
    let path = path.unwrap_or_else(|| Path::new(name).to_owned());
    if is_root() {
        // Unlike `su` and `runuser`, it leaves no process between the test and the program.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(path);
        command
    } else {
        Command::new(path)
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    id.stdout.trim_ascii() == b"0"
}
