//! Tables of offers and responses.

use proptest::{collection::vec, prelude::*};

use crate::websocket::extension::*;

fn headers(lines: &[&[u8]]) -> HeaderMap {
    let lines = lines.iter().map(|line| HeaderValue::from_bytes(line).expect("a header"));
    lines.map(|line| (SEC_WEBSOCKET_EXTENSIONS, line)).collect()
}

fn accepted(line: &str, settings: Compression) -> Option<(DeflateParams, String)> {
    let (params, response) = accept(&headers(&[line.as_bytes()]), &settings)?;
    Some((params, response.to_str().expect("ASCII").to_owned()))
}

fn direction(window_bits: u8, context_takeover: bool) -> Direction {
    Direction { window_bits, context_takeover }
}

#[test]
fn offers_of_peers_are_accepted() {
    let (on, off) = (true, false);
    let table = [
        // Chromium, Firefox, npm `ws`.
        (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=11",
            (10, on),
            (11, on),
        ),
        // PyPI `websockets`.
        (
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=11",
            (10, on),
            (11, on),
        ),
        // Safari, and the minimal offer.
        ("permessage-deflate", "permessage-deflate; client_no_context_takeover", (10, on), (15, off)),
        // A constrained station.
        (
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover; server_max_window_bits=9",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
            (9, off),
            (15, off),
        ),
        (
            "permessage-deflate; client_max_window_bits=8",
            "permessage-deflate; client_max_window_bits=8",
            (10, on),
            (8, on),
        ),
        (
            "permessage-deflate; client_max_window_bits=15; client_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; client_max_window_bits=11",
            (10, on),
            (11, off),
        ),
        // Spelling: case, spaces, quotes, escapes.
        (
            "PerMessage-Deflate\t;Client_Max_Window_Bits = \"1\\0\" ;server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=10",
            (10, off),
            (10, on),
        ),
    ];
    for (offer, response, (server_bits, server_takeover), (client_bits, client_takeover)) in table {
        let params = DeflateParams {
            server: direction(server_bits, server_takeover),
            client: direction(client_bits, client_takeover),
        };
        assert_eq!(accepted(offer, Compression::new()), Some((params, response.to_owned())), "{offer}");
    }
}

#[test]
fn offer_is_accepted_with_other_settings() {
    let offer = "permessage-deflate; client_max_window_bits; server_max_window_bits=14";
    let table = [
        (
            offer,
            Compression::new().context_takeover(false),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=10; client_max_window_bits=11",
        ),
        (
            offer,
            Compression::new().sent_window_bits(12),
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=11",
        ),
        (
            offer,
            Compression::new().window_bits(15),
            "permessage-deflate; server_max_window_bits=14; client_max_window_bits=15",
        ),
        ("permessage-deflate", Compression::new().window_bits(15), "permessage-deflate"),
    ];
    for (offer, settings, response) in table {
        assert_eq!(accepted(offer, settings).expect(offer).1, response, "{offer}");
    }
}

#[test]
fn invalid_offers_are_skipped_in_favour_of_a_later_one() {
    let invalid = [
        "",
        ",",
        "x-webkit-deflate-frame",
        "permessage-deflate-2",
        "permessage-deflate; unknown",
        "permessage-deflate; unknown=\"a,b\"",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=10; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_no_context_takeover; Client_No_Context_Takeover",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=10",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=99",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=1000000000000000000000",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=\"\"",
        "permessage-deflate; client_max_window_bits=\"1 0\"",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; =10",
        "permessage-deflate;",
        "permessage-deflate; ; client_max_window_bits",
        "permessage-deflate client_max_window_bits",
        "permessage-deflate; client_max_window_bits=10 11",
        "permessage-deflate; client_max_window_bits=\"10\"0",
        "permessage-deflate = 1",
        "\"permessage-deflate\"",
        "; permessage-deflate",
        "foo; bar=\"permessage-deflate, permessage-deflate; \\\", permessage-deflate\"",
        "= \"a, permessage-deflate, b\"",
        "= \"\\\", permessage-deflate, b\"",
    ];
    let (valid, response) =
        ("permessage-deflate;client_max_window_bits=9", "permessage-deflate; client_max_window_bits=9");
    for offer in invalid {
        assert_eq!(accepted(offer, Compression::new()), None, "{offer}");
        let both = format!("{offer}, {valid}");
        assert_eq!(accepted(&both, Compression::new()).expect(&both).1, response, "{both}");
        let lines = headers(&[offer.as_bytes(), valid.as_bytes()]);
        assert_eq!(accept(&lines, &Compression::new()).expect("a later line").1, response, "{offer}");
    }
}

#[test]
fn unreadable_lines_end_at_the_line() {
    for offer in [&b"foo; bar=\"permessage-deflate, permessage-deflate"[..], b"foo; bar=\"\\", b"\xff\xfe, \x80"] {
        assert_eq!(accept(&headers(&[offer]), &Compression::new()), None);
        let lines = headers(&[offer, b"permessage-deflate; client_max_window_bits"]);
        assert!(accept(&lines, &Compression::new()).is_some());
    }
    assert_eq!(accept(&HeaderMap::new(), &Compression::new()), None);
}

#[test]
fn first_of_several_acceptable_offers_wins() {
    let offers = "permessage-deflate; server_max_window_bits=10; client_max_window_bits, permessage-deflate";
    let (_, response) = accepted(offers, Compression::new()).expect("acceptable");
    assert_eq!(response, "permessage-deflate; server_max_window_bits=10; client_max_window_bits=11");
}

#[test]
fn long_header_is_read_in_linear_time() {
    for part in ["permessage-deflate; a,", "\"", "a;", "a=\"\",", ", ", "a;b=\"", "="] {
        // Quadratic time would take minutes.
        assert_eq!(accepted(&part.repeat(1_000_000 / part.len()), Compression::new()), None);
    }
}

#[test]
fn responses_of_servers_are_accepted() {
    let table = [
        ("permessage-deflate", direction(15, true), direction(10, true)),
        ("permessage-deflate; client_max_window_bits=15", direction(15, true), direction(10, true)),
        ("Permessage-Deflate; client_max_window_bits=\"9\"", direction(15, true), direction(9, true)),
        ("permessage-deflate; client_max_window_bits=8", direction(15, true), direction(8, true)),
        (
            "permessage-deflate; server_max_window_bits=8; server_no_context_takeover",
            direction(8, false),
            direction(10, true),
        ),
        (", permessage-deflate; client_no_context_takeover ,", direction(15, true), direction(10, false)),
    ];
    for (response, server, client) in table {
        let checked = check_response(&headers(&[response.as_bytes()]), Some(&Compression::new()));
        assert_eq!(checked, Ok(Some(DeflateParams { server, client })), "{response}");
    }
}

#[test]
fn response_without_context_takeover_must_confirm_it() {
    let settings = Compression::new().context_takeover(false).window_bits(12);
    let confirmed = headers(&[b"permessage-deflate; server_no_context_takeover"]);
    let params = DeflateParams { server: direction(15, false), client: direction(12, false) };
    assert_eq!(check_response(&confirmed, Some(&settings)), Ok(Some(params)));
    let missing = headers(&[b"permessage-deflate; client_no_context_takeover"]);
    let error = "the response lacks server_no_context_takeover, which was offered";
    assert_eq!(check_response(&missing, Some(&settings)), Err(error.into()));
}

#[test]
fn invalid_responses_are_rejected_by_name() {
    let table: &[(&[&[u8]], &str)] = &[
        (&[b"foo"], NOT_OFFERED),
        (&[b"permessage-deflate, foo"], NOT_OFFERED),
        (&[b"permessage-deflate", b"foo"], NOT_OFFERED),
        (&[b"permessage-deflate, permessage-deflate"], "the response has permessage-deflate twice"),
        (&[b"permessage-deflate", b"permessage-deflate"], "the response has permessage-deflate twice"),
        (&[b"permessage-deflate; foo=1"], "permessage-deflate of the response has an unknown parameter: foo=1"),
        (
            &[b"permessage-deflate; client_max_window_bits=9; client_max_window_bits=9"],
            "permessage-deflate of the response has a repeated parameter: client_max_window_bits=9",
        ),
        (
            &[b"permessage-deflate; client_max_window_bits=16"],
            "permessage-deflate of the response has an invalid parameter: client_max_window_bits=16",
        ),
        (
            &[b"permessage-deflate; server_max_window_bits"],
            "permessage-deflate of the response has an invalid parameter: server_max_window_bits",
        ),
        (&[b"permessage-deflate; client_max_window_bits"], "client_max_window_bits of the response has no value"),
        (&[b"permessage-deflate; server_max_window_bits=\"9"], MALFORMED),
        (&[b"permessage-deflate; server_max_window_bits=\"1 0\""], MALFORMED),
        (&[b"permessage-deflate; server_max_window_bits=\"\""], MALFORMED),
        (&[b"permessage-deflate", b"\xff"], MALFORMED),
    ];
    for (lines, error) in table {
        assert_eq!(check_response(&headers(lines), Some(&Compression::new())), Err((*error).into()), "{lines:?}");
    }
}

#[test]
fn response_to_no_offer_must_have_no_extension() {
    for lines in [&[][..], &[&b""[..]], &[b" \t", b", ,"]] {
        assert_eq!(check_response(&headers(lines), None), Ok(None));
        assert_eq!(check_response(&headers(lines), Some(&Compression::new())), Ok(None));
    }
    for line in [&b"permessage-deflate"[..], b"foo", b"\xff"] {
        assert_eq!(check_response(&headers(&[line]), None), Err(NOT_OFFERED.into()));
    }
}

#[test]
fn offer_without_context_takeover_names_both_directions() {
    assert_eq!(offer(&Compression::new()), "permessage-deflate; client_max_window_bits");
    assert_eq!(
        offer(&Compression::new().context_takeover(false)),
        "permessage-deflate; client_max_window_bits; client_no_context_takeover; server_no_context_takeover"
    );
}

#[test]
fn offer_is_accepted_by_the_own_server() {
    for settings in [Compression::new(), Compression::new().context_takeover(false), Compression::new().window_bits(15)]
    {
        let request = HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, offer(&settings))]);
        let (params, header) = accept(&request, &settings).expect("acceptable");
        let response = HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, header)]);
        let checked = check_response(&response, Some(&settings)).expect("valid").expect("accepted");
        // Either end may use a smaller window than the other knows.
        assert!(checked.client.window_bits <= params.client.window_bits);
        assert_eq!(checked.client.context_takeover, params.client.context_takeover);
        assert_eq!(checked.server, Direction { window_bits: 15, ..params.server });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_headers_are_read_without_panic(lines in vec(
        "(permessage-deflate|; (client|server)_max_window_bits|=\"?(9|12)|; server_no_context_takeover|[;,=\"\\\\ ]|[ -~\u{80}-\u{ff}]){0,9}",
        1..4,
    )) {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let headers = headers(&lines);
        if let Some((params, header)) = accept(&headers, &Compression::new()) {
            prop_assert!((9..=11).contains(&params.server.window_bits));
            let response = HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, header)]);
            let client = check_response(&response, Some(&Compression::new())).expect("valid").expect("accepted").client;
            prop_assert!(client.window_bits <= params.client.window_bits);
        }
        _ = check_response(&headers, Some(&Compression::new()));
    }
}
