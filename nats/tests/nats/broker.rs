//! Servers of NATS as processes, and proxies in front of them.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep},
};

/// The longest time that a test waits for an event. It allows for a machine that is busy with other tests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A server of NATS.
pub(crate) struct Broker {
    program: PathBuf,
    config: PathBuf,
    port: u16,
    process: Option<Child>,
}

/// Returns the version of NATS that the tests are pinned to.
pub(crate) fn pinned() -> PathBuf {
    let peers = env::var("OCPP_RPC_PEERS").expect("tests/run sets OCPP_RPC_PEERS");
    Path::new(&peers).join("python/bin/nats-server")
}

/// Returns the version of NATS that Debian has, if it is installed.
pub(crate) fn packaged() -> Option<PathBuf> {
    Some(PathBuf::from("/usr/sbin/nats-server")).filter(|program| program.exists())
}

impl Broker {
    pub(crate) async fn start() -> Self {
        Self::start_with(pinned(), "").await
    }

    /// Starts a server with this configuration beside the address.
    pub(crate) async fn start_with(program: PathBuf, config: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let file = env::temp_dir().join(format!("ocpp-rpc-nats-{port}.conf"));
        fs::write(&file, config).expect("a configuration");
        let mut broker = Self { program, config: file, port, process: None };
        broker.restart().await;
        broker
    }

    /// Starts the server again, on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new(&self.program);
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string(), "--config"]).arg(&self.config);
        let log = if env::var_os("NATS_LOG").is_some() { Stdio::inherit() } else { Stdio::null() };
        let process = command.stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.unwrap_or_else(|error| panic!("{}: {error}", self.program.display())));
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(self.address()).await.is_err() {
            assert!(Instant::now() < deadline, "NATS does not listen");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops the process of the server, or lets it continue.
    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.process.as_ref().expect("running").id(), signal);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Returns the URL with the name of a user, whose password is the same.
    pub(crate) fn url_of(&self, user: &str) -> String {
        format!("nats://{user}:{user}@{}", self.address())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_file(&self.config);
    }
}

pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let process = Pid::from_raw(pid.cast_signed()).expect("a process");
    kill_process(process, signal).expect("a process that runs");
    // The threads of a process stop one after the other.
    while signal == Signal::STOP && !is_stopped(pid) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns `true` if no thread of a process runs. On systems that do not tell, returns `true`.
fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let stats = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    // The state follows the name, which is in parentheses.
    stats.into_iter().all(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(['T', 'Z'])))
}

/// Forwards connections, until it is cut.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    connections: Vec<AbortHandle>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::<Mutex<State>>::default();
        let accepting = tokio::spawn(forward(listener, target, state.clone()));
        Self { address, state, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Closes all connections, and closes new ones at once.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().expect("no panic");
        state.is_cut = true;
        state.connections.drain(..).for_each(|connection| connection.abort());
    }

    pub(crate) fn mend(&self) {
        self.state.lock().expect("no panic").is_cut = false;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn forward(listener: TcpListener, target: SocketAddr, state: Arc<Mutex<State>>) {
    loop {
        let Ok((mut downstream, _)) = listener.accept().await else { continue };
        let mut state = state.lock().expect("no panic");
        if state.is_cut {
            continue;
        }
        let connection = tokio::spawn(async move {
            if let Ok(mut upstream) = TcpStream::connect(target).await {
                let _ = copy_bidirectional(&mut downstream, &mut upstream).await;
            }
        });
        state.connections.push(connection.abort_handle());
    }
}
