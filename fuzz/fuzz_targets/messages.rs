//! Reads texts with each tolerance. One that tolerates more reads at least the same, and what is written is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ocpp_rpc::{
    Tolerance,
    unstable::{ReadMessage, read_with},
};

const TOLERANCES: [Tolerance; 3] = [Tolerance::Strict, Tolerance::Lenient, Tolerance::Permissive];

fuzz_target!(|text: &str| {
    let read = TOLERANCES.map(|tolerance| read_with(&text.into(), tolerance));
    let written = read.each_ref().map(ReadMessage::write);
    for pair in written.windows(2) {
        assert!(pair[0].is_none() || pair[0] == pair[1], "{read:?}");
    }
    let Some(written) = written.into_iter().flatten().next() else { return };
    assert!(serde_json::from_str::<serde::de::IgnoredAny>(&written).is_ok(), "{written}");
    // The id may deviate from the standard, and is kept.
    let again = read_with(&written.as_str().into(), Tolerance::Permissive);
    assert_eq!(again.write().as_deref(), Some(&*written), "{read:?} became {again:?}");
});
