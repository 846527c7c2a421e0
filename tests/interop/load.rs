//! Tests of the report that the application `load` prints.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ocpp_rpc::{Close, RpcRouter, RpcServer, server::Listener};
use serde_json::{Value, json};

use crate::harness::{Process, Server, TIMEOUT, program, run, run_with_too_few_files};

/// Runs `load` and returns its JSON report.
fn report(arguments: &[&str]) -> Value {
    let lines = run("load", &[arguments, &["--json"]].concat());
    let [line] = &lines[..] else { panic!("expected one line: {lines:#?}") };
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} of {report}"))
}

#[test]
fn load_report_contains_calls_latencies_and_memory() {
    let report = report(&["--stations", "20", "--secs", "1"]);
    assert_eq!((&report["stations"], &report["busy"], &report["failed"]), (&20.into(), &20.into(), &0.into()));
    let (calls, seconds) = (number(&report, "/calls"), number(&report, "/seconds"));
    assert!(calls >= 20.0 && seconds >= 1.0, "{report}");
    assert!((number(&report, "/calls_per_second") - calls / seconds).abs() < 1.0, "{report}");
    let latencies = ["p50", "p90", "p99", "p99.9", "max"].map(|name| number(&report, &format!("/latency_us/{name}")));
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{report}");
    // Each station has one call in flight at a time, so half of the calls took at most twice the mean.
    assert!(latencies[0] <= 2.0 * 20.0 * seconds * 1e6 / calls, "{report}");
    if cfg!(target_os = "linux") {
        let [before, connected] =
            ["before", "connected"].map(|at| number(&report, &format!("/server_memory_kib/{at}")));
        assert!(before > 0.0 && connected > before, "{report}");
        assert!((number(&report, "/kib_per_connection") - (connected - before) / 20.0).abs() < 0.1, "{report}");
        assert!(number(&report, "/server_cpu_us_per_call") > 0.0, "{report}");
    }
}

#[test]
fn load_at_rate_is_sent_by_busy_stations() {
    let report = report(&["--stations", "5", "--busy", "2", "--rate", "50", "--secs", "1"]);
    assert_eq!((&report["stations"], &report["busy"]), (&5.into(), &2.into()));
    let calls = number(&report, "/calls");
    assert!(calls > 1.0 && calls <= 50.0, "{report}");
}

#[test]
fn load_with_deflate_reports_what_compression_saves() {
    let report = report(&["--stations", "5", "--secs", "1", "--deflate"]);
    for direction in ["up", "down"] {
        let ratio = number(&report, &format!("/compressed_over_plain/{direction}"));
        assert!(ratio > 0.0 && ratio < 0.9, "{report}");
    }
}

#[test]
fn load_without_json_prints_table() {
    let lines = run("load", &["--stations", "2", "--secs", "1"]);
    for name in ["throughput", "latency p99.9", "server: CPU per call", "server: memory per connection"] {
        assert!(lines.iter().any(|line| line.starts_with(name)), "{name:?} is not in {lines:#?}");
    }
}

#[test]
fn load_above_file_limit_fails_with_required_limit() {
    let lines = run_with_too_few_files("256", "load", &["--stations", "10000000"]);
    let [line] = &lines[..] else { panic!("expected one line: {lines:#?}") };
    assert!(line.contains("the limit on open files here is 256") && line.contains("ulimit -n 10000064"), "{line}");
}

#[test]
fn load_measures_a_server_that_runs_already() {
    let server = Server::start("load_target", &["--port", "0"]);
    let pid = server.id().to_string();
    let report = report(&["--url", &server.url, "--pid", &pid, "--stations", "5", "--secs", "1"]);
    assert!(number(&report, "/calls") >= 5.0, "{report}");
    if cfg!(target_os = "linux") {
        assert!(number(&report, "/server_memory_kib/before") > 0.0, "{report}");
        assert!(number(&report, "/server_cpu_us_per_call") > 0.0, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_stations_spread_over_servers_and_move_when_one_stops() {
    /// Starts a server. Returns it with its listener and the number of boots that it has accepted.
    async fn listening() -> (RpcServer, Listener, Arc<AtomicUsize>) {
        let boots = Arc::<AtomicUsize>::default();
        let router = RpcRouter::new().on("BootNotification", {
            let boots = boots.clone();
            move || {
                boots.fetch_add(1, Ordering::Relaxed);
                ready(Ok::<_, Infallible>(
                    json!({"status": "Accepted", "currentTime": "2026-01-01T00:00:00Z", "interval": 300}),
                ))
            }
        });
        let server = RpcServer::builder(router).protocols(["ocpp1.6"]).build().expect("valid settings");
        let listener = server.listen("127.0.0.1:0").await.expect("a port");
        (server, listener, boots)
    }
    async fn have_booted(boots: &AtomicUsize, count: usize) {
        let deadline = Instant::now() + TIMEOUT;
        while boots.load(Ordering::Relaxed) != count {
            assert!(Instant::now() < deadline, "expected {count} boots, found {boots:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    let ((_first, closing, leaving), (second, listener, staying)) = (listening().await, listening().await);
    let urls = [&closing, &listener].map(|listener| format!("ws://{}", listener.local_addr()));
    let mut command = program("load");
    command.args(["--url", &urls[0], "--url", &urls[1], "--first", "11", "--stations", "10"]);
    let _load = Process::start("load", command.args(["--busy", "0", "--secs", "60"]));
    // The program ends if a first boot fails, so the server closes only after all of them.
    have_booted(&leaving, 5).await;
    have_booted(&staying, 5).await;
    closing.close(Close::going_away()).await;
    have_booted(&staying, 10).await;
    for number in 11..21 {
        let station = second.station(format!("LOAD-{number}"));
        let reset: Value = station.call("Reset", &json!({"type": "Soft"})).await.expect("a response");
        assert_eq!(reset["status"], "Accepted");
    }
}
