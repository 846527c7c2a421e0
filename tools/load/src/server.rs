//! The server process: the code that runs in it, and the handle that the load generator has on it.

use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use ocpp_rpc::{Close, RpcServer};

/// The open files of either process besides one socket for each station.
const OTHER_FILES: u64 = 64;

/// Runs the server. Prints its address, and ends when stdin is closed: that happens even if the parent is killed.
pub(crate) async fn serve() -> Result<(), Box<dyn Error>> {
    // The largest possible value of --stations.
    let server = RpcServer::builder(load::router()).max_connections(u32::MAX as usize).protocols(["ocpp1.6"]);
    let listener = server.build()?.listen("127.0.0.1:0").await?;
    println!("ws://{}", listener.local_addr());
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    listener.close(Close::going_away().drain(Duration::ZERO)).await;
    Ok(())
}

/// A handle on the server process, which ends when the handle is dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
}

impl Server {
    /// Starts the process and waits for its address.
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
            return Err("the server process ended before it printed its address".into());
        }
        Ok(server)
    }

    /// Returns the resident memory in KiB, if the platform supports it.
    pub(crate) fn memory(&self) -> Option<u64> {
        proc::memory(self.process.id())
    }

    /// Returns the CPU time so far, if the platform supports it.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        proc::cpu_time(self.process.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Raises the limit of open files for the sockets of all stations. The server process inherits the limit.
#[cfg(unix)]
pub(crate) fn raise_file_limit(stations: u32) -> Result<(), Box<dyn Error>> {
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
        "{stations} stations need {files} open files, and the limit on open files here is {most}: raise it, for \
         example with `ulimit -n {files}` as root or in /etc/security/limits.conf, or use fewer --stations"
    )
    .into())
}

/// Does nothing, because the platform has no such limit.
#[cfg(not(unix))]
pub(crate) fn raise_file_limit(_stations: u32) -> Result<(), Box<dyn Error>> {
    Ok(())
}

/// Measurements of a process on Linux: proc_pid_status(5), proc_pid_stat(5).
#[cfg(target_os = "linux")]
mod proc {
    use std::{fs, time::Duration};

    pub(super) fn memory(process: u32) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        resident.trim().strip_suffix("kB")?.trim_end().parse().ok()
    }

    pub(super) fn cpu_time(process: u32) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The second field is the program's name in parentheses and may contain any character. utime is the 14th field.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }
}

/// Other platforms: no measurements.
#[cfg(not(target_os = "linux"))]
mod proc {
    use std::time::Duration;

    pub(super) fn memory(_process: u32) -> Option<u64> {
        None
    }

    pub(super) fn cpu_time(_process: u32) -> Option<Duration> {
        None
    }
}
