//! A small measurement by `load_cluster`. `tests/run` fetches NATS and runs this test.

use std::{
    env,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn load_cluster(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load_cluster"));
    command.args(arguments).output().expect("the program runs")
}

fn nats() -> String {
    let peers = env::var("OCPP_RPC_PEERS").expect("tests/run sets OCPP_RPC_PEERS");
    Path::new(&peers).join("python/bin/nats-server").to_str().expect("text").to_owned()
}

#[test]
fn stations_of_a_killed_node_return_and_can_be_called() {
    let sizes =
        ["--nodes", "3", "--stations", "60", "--processes", "2", "--rate", "100", "--secs", "2", "--timeout", "60"];
    let output = load_cluster(&[&["--nats", &nats(), "--json"], &sizes[..]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    let number = |pointer: &str| {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no number at {pointer} of {report}"))
    };
    assert_eq!((number("/stations"), number("/recovery/lost")), (60.0, 20.0), "{report}");
    assert!(number("/recovery/listed_seconds") > 0.0 && number("/recovery/booted_seconds") > 0.0, "{report}");
    for phase in ["before", "during", "after"] {
        assert!(number(&format!("/calls/{phase}/calls")) > 100.0, "{report}");
        // Two of three calls are remote at three nodes, and one of two at the two that are left.
        for place in ["local", "remote"] {
            assert!(number(&format!("/calls/{phase}/{place}_us/p50")) > 0.0, "{report}");
        }
    }
    for phase in ["before", "after"] {
        assert_eq!(report["calls"][phase]["failed"], serde_json::json!({}), "{report}");
    }
    let away = ["disconnected", "disconnected, maybe delivered", "not connected", "the node ended before its response"];
    let failed = report["calls"]["during"]["failed"].as_object().expect("errors");
    assert!(failed.contains_key("not connected"), "{report}");
    assert!(failed.keys().all(|error| away.contains(&error.as_str())), "{report}");
    if cfg!(target_os = "linux") {
        assert!(number("/memory/connected") > number("/memory/without_stations"), "{report}");
        assert!(number("/memory/of_nats") > 0.0 && number("/processors/nodes") > 0.0, "{report}");
    }
}

#[test]
fn missing_nats_is_an_error() {
    let output = load_cluster(&["--nats", "/no/such/nats-server"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("cannot start the NATS server /no/such/nats-server"),
        "{errors}"
    );
}
