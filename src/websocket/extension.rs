//! The negotiation of permessage-deflate in the header `Sec-WebSocket-Extensions` (RFC 7692 §5 and §7.1).

use std::{borrow::Cow, mem};

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};

use crate::websocket::{
    compression::{CompressedMessages, Compression, CompressionInfo},
    head::Role,
};

/// The compression of one end's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Direction {
    /// The base-2 logarithm of the window, from 8 to 15. With 8, the end that sends does not compress, because zlib has
    /// no window below 9 bits. The end that receives can read it.
    pub(crate) window_bits: u8,
    /// Set if a message may refer to earlier ones.
    pub(crate) context_takeover: bool,
}

/// The parameters of permessage-deflate on which both ends agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeflateParams {
    /// The messages that the server sends.
    pub(crate) server: Direction,
    /// The messages that the client sends.
    pub(crate) client: Direction,
}

impl DeflateParams {
    pub(crate) fn sent_by(&self, role: Role) -> Direction {
        match role {
            Role::Server => self.server,
            Role::Client => self.client,
        }
    }

    pub(crate) fn received_by(&self, role: Role) -> Direction {
        match role {
            Role::Server => self.client,
            Role::Client => self.server,
        }
    }

    /// Returns the information on a connection without messages.
    pub(crate) fn info(&self, role: Role) -> CompressionInfo {
        let nothing = |direction: Direction| CompressedMessages {
            window_bits: direction.window_bits,
            context_takeover: direction.context_takeover,
            text_bytes: 0,
            payload_bytes: 0,
        };
        CompressionInfo { sent: nothing(self.sent_by(role)), received: nothing(self.received_by(role)) }
    }
}

/// The window of a peer that names none (RFC 7692 §7.1.2).
const MAX_WINDOW_BITS: u8 = 15;

/// Selects the first acceptable offer of a request. Returns its parameters and the header of the response.
///
/// Other offers, malformed ones included, are skipped: they must not fail the handshake.
pub(crate) fn accept(headers: &HeaderMap, settings: &Compression) -> Option<(DeflateParams, HeaderValue)> {
    elements(headers).flatten().find_map(|offer| accept_offer(&offer, settings))
}

/// Accepts an offer, unless it is not permessage-deflate, invalid, or demands the window of 8 bits, which zlib does not have.
fn accept_offer(offer: &Extension<'_>, settings: &Compression) -> Option<(DeflateParams, HeaderValue)> {
    if !offer.is_deflate() {
        return None;
    }
    let offer = Parameters::read(offer).ok().filter(|offer| offer.server_max_window_bits != Some(8))?;
    let &Compression { received_window_bits: received, sent_window_bits: sent, .. } = settings;
    let server_max_window_bits = offer.server_max_window_bits.map(|bits| bits.min(sent));
    let client_max_window_bits = offer.client_max_window_bits.map(|bits| bits.unwrap_or(MAX_WINDOW_BITS).min(received));
    // The client cannot be limited, and would make this end keep 32 KiB.
    let is_unlimited = client_max_window_bits.is_none() && received < MAX_WINDOW_BITS;
    let response = Parameters {
        server_no_context_takeover: offer.server_no_context_takeover || !settings.context_takeover,
        client_no_context_takeover: offer.client_no_context_takeover || !settings.context_takeover || is_unlimited,
        server_max_window_bits,
        client_max_window_bits: client_max_window_bits.map(Some),
    };
    let params = DeflateParams {
        server: Direction {
            // A window that is smaller than the offered one needs no word: the client can read it.
            window_bits: server_max_window_bits.unwrap_or(sent),
            context_takeover: !response.server_no_context_takeover,
        },
        client: Direction {
            window_bits: client_max_window_bits.unwrap_or(MAX_WINDOW_BITS),
            context_takeover: !response.client_no_context_takeover,
        },
    };
    Some((params, response.to_header()))
}

/// Returns the header of a request that offers permessage-deflate.
pub(crate) fn offer(settings: &Compression) -> HeaderValue {
    HeaderValue::from_static(if settings.context_takeover {
        "permessage-deflate; client_max_window_bits"
    } else {
        "permessage-deflate; client_max_window_bits; client_no_context_takeover; server_no_context_takeover"
    })
}

/// Checks the response to the [`offer`] with these settings, or to a request without an offer. Returns the parameters
/// if the server accepted it.
pub(crate) fn check_response(
    headers: &HeaderMap,
    settings: Option<&Compression>,
) -> Result<Option<DeflateParams>, Cow<'static, str>> {
    let mut elements = elements(headers);
    let Some(first) = elements.next() else { return Ok(None) };
    let Some(settings) = settings else { return Err(NOT_OFFERED.into()) };
    let extension = first.ok_or(MALFORMED)?;
    if !extension.is_deflate() {
        return Err(NOT_OFFERED.into());
    }
    let response = Parameters::read(&extension)?;
    match elements.next() {
        None => {}
        Some(None) => return Err(MALFORMED.into()),
        Some(Some(second)) if second.is_deflate() => return Err("the response has permessage-deflate twice".into()),
        Some(Some(_)) => return Err(NOT_OFFERED.into()),
    }
    if !settings.context_takeover && !response.server_no_context_takeover {
        return Err("the response lacks server_no_context_takeover, which was offered".into());
    }
    let client_max_window_bits = match response.client_max_window_bits {
        Some(None) => return Err("client_max_window_bits of the response has no value".into()),
        Some(Some(bits)) => bits,
        None => MAX_WINDOW_BITS,
    };
    Ok(Some(DeflateParams {
        server: Direction {
            window_bits: response.server_max_window_bits.unwrap_or(MAX_WINDOW_BITS),
            context_takeover: !response.server_no_context_takeover,
        },
        client: Direction {
            window_bits: client_max_window_bits.min(settings.sent_window_bits),
            context_takeover: settings.context_takeover && !response.client_no_context_takeover,
        },
    }))
}

const NOT_OFFERED: &str = "the response has an extension that was not offered";
const MALFORMED: &str = "the Sec-WebSocket-Extensions of the response is malformed";

/// The parameters of an offer or a response.
#[derive(Debug, Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// An offer may have it without value.
    client_max_window_bits: Option<Option<u8>>,
}

impl Parameters {
    /// Reads the parameters of permessage-deflate. The error is a text for the client, which reads a response.
    fn read(extension: &Extension<'_>) -> Result<Self, String> {
        let mut read = Self::default();
        for (name, value) in &extension.parameters {
            let bits = value.as_deref().map(window_bits);
            let outcome = match (&*name.to_ascii_lowercase(), bits) {
                (b"server_no_context_takeover", None) => Ok(mem::replace(&mut read.server_no_context_takeover, true)),
                (b"client_no_context_takeover", None) => Ok(mem::replace(&mut read.client_no_context_takeover, true)),
                (b"server_max_window_bits", Some(Some(bits))) => {
                    Ok(read.server_max_window_bits.replace(bits).is_some())
                }
                (b"client_max_window_bits", None) => Ok(read.client_max_window_bits.replace(None).is_some()),
                (b"client_max_window_bits", Some(Some(bits))) => {
                    Ok(read.client_max_window_bits.replace(Some(bits)).is_some())
                }
                (
                    b"server_no_context_takeover"
                    | b"client_no_context_takeover"
                    | b"server_max_window_bits"
                    | b"client_max_window_bits",
                    _,
                ) => Err("an invalid parameter"),
                _ => Err("an unknown parameter"),
            };
            let fault = match outcome {
                Ok(false) => continue,
                Ok(true) => "a repeated parameter",
                Err(fault) => fault,
            };
            let value = value.as_deref().map_or(String::new(), |value| format!("={}", value.escape_ascii()));
            return Err(format!("permessage-deflate of the response has {fault}: {}{value}", name.escape_ascii()));
        }
        Ok(read)
    }

    /// Returns the header of a response with these parameters.
    fn to_header(&self) -> HeaderValue {
        let mut text = "permessage-deflate".to_owned();
        let flags = [
            (self.server_no_context_takeover, "; server_no_context_takeover"),
            (self.client_no_context_takeover, "; client_no_context_takeover"),
        ];
        flags.into_iter().filter(|(is_set, _)| *is_set).for_each(|(_, flag)| text.push_str(flag));
        if let Some(bits) = self.server_max_window_bits {
            text.push_str(&format!("; server_max_window_bits={bits}"));
        }
        if let Some(bits) = self.client_max_window_bits.flatten() {
            text.push_str(&format!("; client_max_window_bits={bits}"));
        }
        HeaderValue::try_from(text).expect("names and numbers are visible ASCII")
    }
}

/// Reads a window size: 8 to 15, without leading zeros (RFC 7692 §7.1.2).
fn window_bits(value: &[u8]) -> Option<u8> {
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// An extension with its parameters, as an element of the header has it.
struct Extension<'a> {
    name: &'a [u8],
    parameters: Vec<Parameter<'a>>,
}

/// A name, and a value without its quotes.
type Parameter<'a> = (&'a [u8], Option<Cow<'a, [u8]>>);

impl Extension<'_> {
    fn is_deflate(&self) -> bool {
        self.name.eq_ignore_ascii_case(b"permessage-deflate")
    }
}

/// Returns the elements on all lines of the header. A malformed element is `None`.
fn elements(headers: &HeaderMap) -> impl Iterator<Item = Option<Extension<'_>>> {
    headers.get_all(SEC_WEBSOCKET_EXTENSIONS).into_iter().flat_map(|line| {
        let mut reader = Reader { rest: line.as_bytes() };
        std::iter::from_fn(move || reader.element())
    })
}

/// A reader of one line of the header (RFC 6455 §9.1). It reads each byte a bounded number of times.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads the next element. Empty elements are skipped (RFC 9110 §5.6.1).
    fn element(&mut self) -> Option<Option<Extension<'a>>> {
        while self.eat(b',') {}
        if self.rest.is_empty() {
            return None;
        }
        let extension = self.extension();
        if extension.is_none() {
            self.skip_element();
        }
        Some(extension)
    }

    fn extension(&mut self) -> Option<Extension<'a>> {
        let mut extension = Extension { name: self.token()?, parameters: Vec::new() };
        while self.eat(b';') {
            let name = self.token()?;
            let value = if self.eat(b'=') { Some(self.value()?) } else { None };
            extension.parameters.push((name, value));
        }
        matches!(self.rest, [] | [b',', ..]).then_some(extension)
    }

    fn value(&mut self) -> Option<Cow<'a, [u8]>> {
        if !self.eat(b'"') {
            return self.token().map(Cow::Borrowed);
        }
        let mut value = Vec::new();
        loop {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => break,
                b'\\' => {
                    let (escaped, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    value.push(*escaped);
                }
                _ => value.push(*byte),
            }
        }
        self.skip_spaces();
        (!value.is_empty() && value.iter().copied().all(is_token_byte)).then_some(Cow::Owned(value))
    }

    /// Reads a token, and the spaces around it.
    fn token(&mut self) -> Option<&'a [u8]> {
        self.skip_spaces();
        let end = self.rest.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_spaces();
        (!token.is_empty()).then_some(token)
    }

    /// Skips spaces, and then the separator if it is next.
    fn eat(&mut self, separator: u8) -> bool {
        self.skip_spaces();
        match self.rest {
            [first, rest @ ..] if *first == separator => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    /// Skips the rest of a malformed element, up to the next comma that is not quoted.
    fn skip_element(&mut self) {
        let (mut is_quoted, mut is_escaped) = (false, false);
        let end = self.rest.iter().position(|byte| {
            let is_end = *byte == b',' && !is_quoted;
            if *byte == b'"' && !is_escaped {
                is_quoted = !is_quoted;
            }
            is_escaped = *byte == b'\\' && is_quoted && !is_escaped;
            is_end
        });
        self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
    }
}

/// Returns `true` if a token may contain this byte (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

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
        for settings in
            [Compression::new(), Compression::new().context_takeover(false), Compression::new().window_bits(15)]
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
}
