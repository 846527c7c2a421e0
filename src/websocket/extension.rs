//! The negotiation of permessage-deflate in the header `Sec-WebSocket-Extensions` (RFC 7692 §5 and §7.1).

use std::{borrow::Cow, mem};

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};

use crate::{
    text::is_token_byte,
    websocket::{
        compression::{CompressedMessages, Compression, CompressionInfo},
        head::Role,
    },
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

#[cfg(test)]
mod tests;
