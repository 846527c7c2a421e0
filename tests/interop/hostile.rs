//! Crowds that say nothing, and a system that has no more sockets to give.

use std::net::{SocketAddr, TcpStream};

use crate::harness::{Fleet, Server};

fn address(server: &Server) -> SocketAddr {
    server.url.trim_start_matches("ws://").parse().expect("an address")
}

#[test]
fn a_listener_that_ran_out_of_files_goes_on_when_there_are_some_again() {
    let server = Server::with_files("40", "examples/server", &["127.0.0.1:0"]);
    // More than it can accept: the others wait in the backlog until the first ones have come to their deadline.
    let silent: Vec<_> =
        (0..50).map(|_| TcpStream::connect(address(&server)).expect("a place in the backlog")).collect();
    let fleet = Fleet::start(&server.url, 3);
    fleet.wait_for("3 of 3 connected");
    drop(silent);
    Fleet::start(&server.url, 1).wait_for("1 of 1 connected");
}

#[test]
fn ten_thousand_connections_that_say_nothing_keep_nobody_out() {
    const CROWD: u64 = 10_000;
    // This process and the server need a file for each connection. A hard limit that is lower makes the crowd smaller.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.maximum.map_or(CROWD + 200, |most| most.min(CROWD + 200));
    // macOS rejects an unlimited soft limit, so it is never raised to more than is needed.
    let raised = rustix::process::Rlimit { current: limit.current.map(|now| now.max(files)), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("up to the hard limit");
    let crowd = files.saturating_sub(200);
    let server = Server::with_files(&files.to_string(), "load_target", &["--port", "0"]);
    let address = address(&server);
    let silent: Vec<_> = (0..crowd).map(|_| TcpStream::connect(address).expect("accepted, or going to be")).collect();
    Fleet::start(&server.url, 3).wait_for("3 of 3 connected");
    drop(silent);
}
