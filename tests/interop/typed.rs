//! Runs the example that serves two versions, each with its own types, to its end.

use crate::harness::run;

#[test]
fn typed_example_serves_two_versions_with_own_types() {
    let lines = run("examples/typed", &[]);
    for line in [
        "OLD-1, a One, boots with OCPP 1.6",
        "OLD-1 is Accepted, heartbeat every 300 s",
        "NEW-1, a Two, boots with OCPP 2.0.1",
        "NEW-1 is Accepted, heartbeat every 60 s",
        "2 stations closed, 0 dropped",
    ] {
        assert!(lines.iter().any(|printed| printed == line), "{line:?} is not in {lines:#?}");
    }
}
