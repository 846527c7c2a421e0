//! The server process: the code that runs in it, and the handle that the load generator has on it.

use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use ocpp_rpc::{Close, RpcServer};

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

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
