//! The application `load`, and its report.

use serde_json::Value;

use crate::harness::{run, run_in_vain};

/// What it prints as JSON.
fn report(arguments: &[&str]) -> Value {
    let lines = run("load", &[arguments, &["--json"]].concat());
    let [line] = &lines[..] else { panic!("not one line: {lines:#?}") };
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} of {report}"))
}

#[test]
fn a_load_is_measured_in_calls_times_and_memory() {
    let report = report(&["--stations", "20", "--secs", "1"]);
    assert_eq!((&report["stations"], &report["busy"], &report["failed"]), (&20.into(), &20.into(), &0.into()));
    let (calls, seconds) = (number(&report, "/calls"), number(&report, "/seconds"));
    assert!(calls >= 20.0 && seconds >= 1.0, "{report}");
    assert!((number(&report, "/calls_per_second") - calls / seconds).abs() < 1.0, "{report}");
    let latencies = ["p50", "p90", "p99", "p99.9", "max"].map(|name| number(&report, &format!("/latency_us/{name}")));
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{report}");
    // Each station has one call out at a time, so half of the calls took no longer than twice the mean.
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
fn a_load_at_a_rate_is_made_by_those_who_are_busy() {
    let report = report(&["--stations", "5", "--busy", "2", "--rate", "50", "--secs", "1"]);
    assert_eq!((&report["stations"], &report["busy"]), (&5.into(), &2.into()));
    let calls = number(&report, "/calls");
    assert!(calls > 1.0 && calls <= 50.0, "{report}");
}

#[test]
fn people_get_a_table() {
    let lines = run("load", &["--stations", "2", "--secs", "1"]);
    for name in ["throughput", "latency p99.9", "server: CPU per call", "server: memory per connection"] {
        assert!(lines.iter().any(|line| line.starts_with(name)), "{name:?} is not in {lines:#?}");
    }
}

#[test]
fn more_stations_than_files_are_refused_with_what_is_to_be_set() {
    let lines = run_in_vain("256", "load", &["--stations", "10000000"]);
    let [line] = &lines[..] else { panic!("not one line: {lines:#?}") };
    assert!(line.contains("the limit on open files here is 256") && line.contains("ulimit -n 10000064"), "{line}");
}
