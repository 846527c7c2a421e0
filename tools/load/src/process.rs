//! Limits of this process, and measurements of any.

use std::{error::Error, time::Duration};

/// The open files of a process besides those of its connections.
const OTHER_FILES: u64 = 64;

/// Raises the limit of open files for this many connections. Child processes inherit the limit.
#[cfg(unix)]
pub fn raise_file_limit(connections: u32) -> Result<(), Box<dyn Error>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let files = u64::from(connections) + OTHER_FILES;
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
        "{connections} connections need {files} open files, and the limit on open files here is {most}: raise it, for \
         example with `ulimit -n {files}` as root or in /etc/security/limits.conf, or use fewer --stations"
    )
    .into())
}

/// Does nothing, because the platform has no such limit.
#[cfg(not(unix))]
pub fn raise_file_limit(_connections: u32) -> Result<(), Box<dyn Error>> {
    Ok(())
}

/// Returns the resident memory of a process in KiB, if the platform supports it.
#[cfg(target_os = "linux")]
pub fn memory(process: u32) -> Option<u64> {
    kib(&format!("/proc/{process}/status"), "VmRSS:")
}

/// Returns the memory of a process in KiB, with its share of the pages that several processes use, if the platform
/// supports it.
#[cfg(target_os = "linux")]
pub fn proportional_memory(process: u32) -> Option<u64> {
    kib(&format!("/proc/{process}/smaps_rollup"), "Pss:")
}

/// Returns the memory in KiB that is available on this machine, if the platform supports it.
#[cfg(target_os = "linux")]
pub fn available_memory() -> Option<u64> {
    kib("/proc/meminfo", "MemAvailable:")
}

/// Returns the number of TCP sockets of this machine, and the memory of their buffers in KiB, if the platform supports it.
#[cfg(target_os = "linux")]
pub fn tcp_sockets() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/net/sockstat").ok()?;
    let fields = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let value = |name| {
        let mut fields = fields.split_whitespace().skip_while(|field| *field != name).skip(1);
        fields.next()?.parse::<u64>().ok()
    };
    Some((value("inuse")?, value("mem")? * rustix::param::page_size() as u64 / 1024))
}

/// Returns the CPU time of a process so far, if the platform supports it. See proc_pid_stat(5).
#[cfg(target_os = "linux")]
pub fn cpu_time(process: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain any character. utime is the 14th field.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Returns the value of a line such as `VmRSS:  1234 kB`.
#[cfg(target_os = "linux")]
fn kib(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim_end().parse().ok()
}

/// Other platforms: no measurements.
#[cfg(not(target_os = "linux"))]
pub fn memory(_process: u32) -> Option<u64> {
    None
}

/// Other platforms: no measurements.
#[cfg(not(target_os = "linux"))]
pub fn cpu_time(_process: u32) -> Option<Duration> {
    None
}

/// Other platforms: no measurements.
#[cfg(not(target_os = "linux"))]
pub fn proportional_memory(_process: u32) -> Option<u64> {
    None
}

/// Other platforms: no measurements.
#[cfg(not(target_os = "linux"))]
pub fn available_memory() -> Option<u64> {
    None
}

/// Other platforms: no measurements.
#[cfg(not(target_os = "linux"))]
pub fn tcp_sockets() -> Option<(u64, u64)> {
    None
}
