//! Silent connections in large numbers, and a process that runs out of files.

use std::net::{SocketAddr, TcpStream};

use crate::harness::{Fleet, Server};

fn address(server: &Server) -> SocketAddr {
    server.url.trim_start_matches("ws://").parse().expect("an address")
}

#[test]
fn listener_out_of_files_recovers_when_files_are_free() {
    let server = Server::with_files("40", "examples/server", &["127.0.0.1:0"]);
    // More than the server can accept: the rest wait in the backlog until the first connections reach their deadline.
    let silent: Vec<_> =
        (0..50).map(|_| TcpStream::connect(address(&server)).expect("a connection in the backlog")).collect();
    let fleet = Fleet::start(&server.url, 3);
    fleet.wait_for("3 of 3 connected");
    drop(silent);
    Fleet::start(&server.url, 1).wait_for("1 of 1 connected");
}

#[test]
fn ten_thousand_silent_connections_do_not_block_stations() {
    const CONNECTIONS: u64 = 10_000;
    // This process and the server need one file per connection. A lower hard limit reduces the number of connections.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.maximum.map_or(CONNECTIONS + 200, |most| most.min(CONNECTIONS + 200));
    // macOS rejects an unlimited soft limit, so raise it only as far as the test needs.
    let raised = rustix::process::Rlimit { current: limit.current.map(|now| now.max(files)), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)
        .expect("cannot raise the soft limit up to the hard limit");
    let connections = files.saturating_sub(200);
    let server = Server::with_files(&files.to_string(), "load_target", &["--port", "0"]);
    let address = address(&server);
    let silent: Vec<_> = (0..connections)
        .map(|_| TcpStream::connect(address).expect("an accepted connection, or one in the backlog"))
        .collect();
    Fleet::start(&server.url, 3).wait_for("3 of 3 connected");
    drop(silent);
}
