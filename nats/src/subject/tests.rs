use proptest::{collection::vec, prelude::*};

use super::*;

/// A word of a subject as permissions of NATS see it: no wildcard, and nothing that ends the subject.
fn is_plain(subject: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '=');
    subject.split('.').all(|word| !word.is_empty() && word.chars().all(is_safe))
}

fn encoded(key: &str) -> String {
    let mut subject = String::new();
    encode(&mut subject, key).expect("a short key");
    subject
}

#[test]
fn keys_are_encoded_as_documented() {
    for (key, expected) in [
        ("CP-1_a", "CP-1_a"),
        ("acme/CP-1", "acme.CP-1"),
        ("a/b/c", "a.b.c"),
        ("*", "=2A"),
        (">", "=3E"),
        ("a.b", "a=2Eb"),
        ("a b\tc", "a=20b=09c"),
        ("a\r\nPUB x", "a=0D=0APUB=20x"),
        ("/a", "=2Fa"),
        ("a/", "a=2F"),
        ("a//b", "a=2F=2Fb"),
        ("/", "=2F"),
        ("=", "=3D"),
        ("", "=="),
        ("Süd", "S=C3=BCd"),
    ] {
        assert_eq!(encoded(key), expected, "{key:?}");
        assert_eq!(decode(expected).as_deref(), Some(key), "{key:?}");
    }
}

#[test]
fn longest_identity_fits_and_longer_keys_are_refused() {
    let key = "*".repeat(255);
    assert_eq!(decode(&encoded(&key)), Some(key));
    assert_eq!(encode(&mut String::new(), &"*".repeat(501)), Err(TooLong));
    assert_eq!(encode(&mut String::new(), &"a".repeat(MAX_KEY)), Ok(()));
}

#[test]
fn encodings_of_no_key_are_refused() {
    for wrong in ["", "=", "=4", "=41", "=2a", "=+1", "a..b", ".a", "a.", "a b", "=2F.a", "=FF", "*", "a.>", "a=="] {
        assert_eq!(decode(wrong), None, "{wrong:?}");
    }
}

#[test]
fn namespace_is_encoded() {
    assert_eq!(Subjects::new("ocpp.v1").station("a"), Ok("ocpp.v1.s.a".to_owned()));
    for namespace in ["", "a.", "*", "a b.>", "ü"] {
        assert!(is_plain(&Subjects::new(namespace).station("a").expect("short")), "{namespace}");
    }
}

#[test]
fn foreign_subjects_mean_nothing() {
    let subjects = Subjects::new("ocpp.v1");
    let node: NodeId = "0123456789abcdef".parse().expect("an id");
    let own = "ocpp.v1.n.0123456789abcdef";
    for wrong in [
        "ocpp.v1",
        "ocpp.v1.",
        "ocpp.v1.s",
        "ocpp.v2.s.a",
        "ocpp.v1.x.a",
        "ocpp.v1.n",
        "ocpp.v1.n.fedcba9876543210.do",
        "ocpp.v1.n.0123456789ABCDEF.do",
        own,
        &format!("{own}.s"),
        &format!("{own}.s.=41"),
        &format!("{own}.re"),
        &format!("{own}.re.-1"),
        &format!("{own}.re.+1"),
        &format!("{own}.re.01"),
        &format!("{own}.x"),
    ] {
        assert_eq!(subjects.read(node, wrong), None, "{wrong}");
    }
    assert_eq!(subjects.read_reply("_INBOX.abc"), None);
    assert_eq!(subjects.read_reply("ocpp.v1.n.0123456789abcdef.do"), None);
}

#[test]
fn permissions_of_a_tenant_cover_its_stations_only() {
    let (subjects, node) = (Subjects::new("ns"), "0123456789abcdef".parse().expect("an id"));
    let covers = |pattern: &str, subject: &str| {
        let prefix = pattern.strip_suffix('>').expect("a pattern");
        subject.starts_with(prefix)
    };
    let [replies, control] = subjects.own_below(node, "acme").expect("short");
    assert_eq!(replies, "ns.n.0123456789abcdef.re.*.acme.>");
    assert_eq!(control, "ns.n.0123456789abcdef.do.acme.>");
    for (key, is_covered) in
        [("acme/1", true), ("acme/a/b", true), ("acmes/1", false), ("acme", false), ("acme//1", false)]
    {
        assert_eq!(covers("ns.s.acme.>", &subjects.station(key).expect("short")), is_covered, "{key}");
        assert_eq!(covers(&control, &subjects.node(node, Some(key)).expect("short")), is_covered, "{key}");
    }
}

proptest! {
    #[test]
    fn keys_are_read_back_and_plain(key in ".{0,80}", odd in "[ab/.=*> ]{0,12}", number: u64) {
        let (subjects, node) = (Subjects::new("ocpp.v1"), "0123456789abcdef".parse().expect("an id"));
        for key in [key, odd] {
            let station = subjects.station(&key).expect("short");
            prop_assert!(is_plain(&station), "{}", station);
            prop_assert_eq!(subjects.read(node, &station), Some(Meaning::Request { key: key.clone() }));
            let by_name = subjects.station_at(node, &key).expect("short");
            prop_assert_eq!(subjects.read(node, &by_name), Some(Meaning::Request { key: key.clone() }));
            for subject in [station, by_name] {
                prop_assert_eq!(subjects.read_station(&subject), Some(key.clone()));
            }
            let event = subjects.event(Some(&key), "opened").expect("short");
            prop_assert!(is_plain(&event));
            prop_assert_eq!(subjects.read(node, &event), Some(Meaning::Event));
            for key in [Some(key.as_str()), None] {
                let owned = || key.map(str::to_owned);
                let subject = subjects.node(node, key).expect("short");
                prop_assert_eq!(subjects.read(node, &subject), Some(Meaning::Control { key: owned() }));
                let subject = subjects.all(key).expect("short");
                prop_assert_eq!(subjects.read(node, &subject), Some(Meaning::Broadcast { key: owned() }));
                let subject = subjects.reply(node, number, key).expect("short");
                prop_assert_eq!(subjects.read(node, &subject), Some(Meaning::Reply { number }));
                prop_assert_eq!(subjects.read_reply(&subject), Some((node, number)));
            }
        }
    }

    #[test]
    fn different_keys_have_different_subjects(keys in vec("[ab/.=]{0,6}", 2..20)) {
        let mut keys = keys;
        keys.sort();
        keys.dedup();
        let mut subjects: Vec<_> = keys.iter().map(|key| encoded(key)).collect();
        subjects.sort();
        subjects.dedup();
        prop_assert_eq!(subjects.len(), keys.len());
        prop_assert!(!subjects.iter().any(|subject| subject == NO_KEY));
    }

    #[test]
    fn reading_never_panics(subject in ".{0,60}", odd in "[ns.re=0-9a-f>*]{0,40}") {
        let (subjects, node) = (Subjects::new("ns"), "0123456789abcdef".parse().expect("an id"));
        for subject in [&subject, &odd] {
            for subject in [subject.clone(), format!("ns.{subject}"), format!("ns.n.{node}.{subject}")] {
                let _ = (subjects.read(node, &subject), subjects.read_reply(&subject), subjects.read_station(&subject));
            }
        }
    }
}
