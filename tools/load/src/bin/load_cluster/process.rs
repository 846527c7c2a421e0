//! The processes that the program starts.

use std::{
    env, io,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use crate::Result;

/// The longest time until a process is ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until stdin is closed: that happens even if the parent is killed.
pub(crate) async fn until_parent_ends() -> Result<()> {
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    Ok(())
}

/// A process that is killed when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts this program in a role.
    fn start(name: String, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments).stdout(Stdio::piped());
        Self::spawn(name, command)
    }

    fn spawn(name: String, mut command: Command) -> Result<Self> {
        let started = command.stdin(Stdio::piped()).kill_on_drop(true).spawn();
        let child = started.map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self { name, child })
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Returns an error if the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(format!("{} has ended: {status}; its own messages are above", self.name).into()),
            None => Ok(()),
        }
    }
}

/// A server of NATS.
pub(crate) struct Broker {
    pub(crate) process: Process,
    pub(crate) url: String,
}

impl Broker {
    pub(crate) async fn start(program: &Path) -> Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(program);
        command.args(["--addr", "127.0.0.1", "--port", &address.port().to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn(format!("the NATS server {}", program.display()), command)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).await.is_err() {
            process.check()?;
            if Instant::now() > deadline {
                return Err("the NATS server does not listen".into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { process, url: format!("nats://{address}") })
    }
}

/// A node.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Node {
    pub(crate) async fn start(number: u32, nats: &str, addresses: u8) -> Result<Self> {
        let name = format!("node-{number}");
        let addresses = addresses.to_string();
        let arguments = ["node", "--nats", nats, "--name", &name, "--addresses", &addresses];
        let mut process = Process::start(name.clone(), &arguments)?;
        let stdout = process.child.stdout.take().ok_or("no pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(START_TIMEOUT, lines.next_line()).await??;
        match line.and_then(|line| line.parse().ok()) {
            Some(address) => Ok(Self { process, address }),
            None => Err(format!("{name} has ended before it printed its address; its own messages are above").into()),
        }
    }

    /// Kills the process by SIGKILL, and waits for its end.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.process.child.kill().await?)
    }
}

/// A process with stations.
pub(crate) struct Fleet {
    pub(crate) process: Process,
    booted: Arc<AtomicU64>,
    _reading: AbortOnDropHandle<()>,
}

impl Fleet {
    pub(crate) fn start(number: u8, urls: &[String], first: u32, stations: u32) -> Result<Self> {
        let [first, stations] = [first, stations].map(|number| number.to_string());
        let mut arguments = vec!["stations", "--first", &first, "--stations", &stations];
        arguments.extend(urls.iter().flat_map(|url| ["--url", url]));
        let mut process = Process::start(format!("process {} of the stations", number + 1), &arguments)?;
        let stdout = process.child.stdout.take().ok_or("no pipe")?;
        let booted = Arc::<AtomicU64>::default();
        let reading = tokio::spawn({
            let booted = booted.clone();
            async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(count) = line.parse() {
                        booted.store(count, Ordering::Relaxed);
                    }
                }
            }
        });
        Ok(Self { process, booted, _reading: AbortOnDropHandle::new(reading) })
    }

    /// Returns the number of stations that have booted and have been connected since.
    pub(crate) fn booted(&self) -> u64 {
        self.booted.load(Ordering::Relaxed)
    }
}
