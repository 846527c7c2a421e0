//! The example that serves two versions with the types of each, to its end.

use crate::harness::run;

#[test]
fn two_versions_are_served_with_their_own_types_by_one_application() {
    let lines = run("examples/typed", &[]);
    for line in [
        "OLD-1, a One, boots with OCPP 1.6",
        "OLD-1 is Accepted for 300 s",
        "NEW-1, a Two, boots with OCPP 2.0.1",
        "NEW-1 is Accepted for 60 s",
        "2 stations closed, 0 dropped",
    ] {
        assert!(lines.iter().any(|said| said == line), "{line:?} is not in {lines:#?}");
    }
}
