//! Runs the examples that end by themselves.

use crate::harness::run;

#[test]
fn examples_run_to_their_end() {
    for (name, lines) in [
        (
            "auth",
            &["CP-1: connected", "CP-2: refused with HTTP status 401 ", "CP-3: refused with HTTP status 404 "][..],
        ),
        ("client", &["BootNotification: \"Accepted\"", "Reset: \"Accepted\"", "closed with 1000 local"]),
        ("events", &["CP-1 connected with ", "CP-1 > [2,", "CP-1 < [3,", "CP-1 disconnected: 1000 maintenance"]),
        ("extractor", &["acme-1: {", "stranger: refused with HTTP status 403 "]),
        (
            "tenants",
            &["acme/CP-1 is connected", "globex/CP-1 is connected", "acme/CP-1: refused with HTTP status 401 "],
        ),
        ("tls", &["CP-1 sent certificate ", "connected with ocpp1.6"]),
        (
            "typed",
            &[
                "OLD-1, a One, boots with OCPP 1.6",
                "OLD-1 is Accepted, heartbeat every 300 s",
                "NEW-1, a Two, boots with OCPP 2.0.1",
                "NEW-1 is Accepted, heartbeat every 60 s",
                "2 stations closed, 0 dropped",
            ],
        ),
        ("validation", &["the handler runs", "accepted: {", "not sent: "]),
    ] {
        let printed = run(&format!("examples/{name}"), &[]);
        for line in lines {
            assert!(printed.iter().any(|printed| printed.starts_with(line)), "{name}: {line:?} is not in {printed:#?}");
        }
    }
}
