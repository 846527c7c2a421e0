//! The parts that the programs of this crate share: handlers of a server, stations, and measurements.

mod handlers;
mod latency;
pub mod process;
pub mod stations;

pub use self::{handlers::router, latency::Latency};

/// Completes on Ctrl-C, and on the SIGTERM of a container or a service manager.
pub async fn shutdown_signal() {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).expect("a handler of SIGTERM").recv().await
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}
