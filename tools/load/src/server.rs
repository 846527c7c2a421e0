//! The server as a process of its own, seen from both sides.

use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use ocpp_rpc::{Close, RpcServer};

/// Files that either process needs besides a socket for each station.
const OTHER_FILES: u64 = 64;

/// Is the server: says where it listens, and ends with its stdin, which is closed when the other process is gone,
/// however it went.
pub(crate) async fn serve() -> Result<(), Box<dyn Error>> {
    // As many as --stations can be.
    let server = RpcServer::builder(load::router()).max_connections(u32::MAX as usize).protocols(["ocpp1.6"]);
    let listener = server.build()?.listen("127.0.0.1:0").await?;
    println!("ws://{}", listener.local_addr());
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    listener.close(Close::going_away().drain(Duration::ZERO)).await;
    Ok(())
}

/// The server, from outside. It ends with this value.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(env::current_exe()?);
        let mut process = command.arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take();
        let mut server = Self { process, url: String::new() };
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut server.url)?;
        }
        server.url.truncate(server.url.trim_end().len());
        if server.url.is_empty() {
            return Err("the server does not start".into());
        }
        Ok(server)
    }

    /// What it has in memory, in KiB, where that is known.
    pub(crate) fn memory(&self) -> Option<u64> {
        proc::memory(self.process.id())
    }

    /// The processor time that it has had, where that is known.
    pub(crate) fn processor_time(&self) -> Option<Duration> {
        proc::processor_time(self.process.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails where it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lets this process, and the server after it, have as many sockets as there are stations.
#[cfg(unix)]
pub(crate) fn make_room_for(stations: u32) -> Result<(), Box<dyn Error>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let files = u64::from(stations) + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|most| files <= most) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(files), ..limit };
    if limit.maximum.is_none_or(|most| files <= most) && setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    let most = limit.maximum.or(limit.current).unwrap_or_default();
    Err(format!(
        "{stations} stations take {files} open files, and the limit on open files here is {most}: raise it, for \
         instance by `ulimit -n {files}` as root or in /etc/security/limits.conf, or take fewer --stations"
    )
    .into())
}

/// There is no such limit.
#[cfg(not(unix))]
pub(crate) fn make_room_for(_stations: u32) -> Result<(), Box<dyn Error>> {
    Ok(())
}

/// What Linux tells of a process (proc_pid_status(5), proc_pid_stat(5)).
#[cfg(target_os = "linux")]
mod proc {
    use std::{fs, time::Duration};

    pub(super) fn memory(process: u32) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        resident.trim().strip_suffix("kB")?.trim_end().parse().ok()
    }

    pub(super) fn processor_time(process: u32) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The second field is the program's name in parentheses, in which anything may be; utime is the 14th.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }
}

/// Nothing is known of a process elsewhere.
#[cfg(not(target_os = "linux"))]
mod proc {
    use std::time::Duration;

    pub(super) fn memory(_process: u32) -> Option<u64> {
        None
    }

    pub(super) fn processor_time(_process: u32) -> Option<Duration> {
        None
    }
}
