//! Hides tokens and secrets in the JSON that goes to logs and serialized events.
//!
//! The text may come from a peer that does not write valid JSON. A scanner of tokens, rather than a parser, finds the
//! secrets in it as well.

#[cfg(feature = "console")]
pub(crate) mod secrets;

use std::{borrow::Cow, ops::Range, sync::Arc};

use bytestring::ByteString;

/// The members whose values are hidden in the log and in serialized events.
///
/// OCPP forbids tokens in logs (2.0.1 part 2 C04.FR.04). By default, a mask hides the values of `idTag`, `parentIdTag`,
/// `idToken`, `additionalIdToken`, `AuthorizationKey`, `BasicAuthPassword`, `password`, `apnPassword` and `simPin`. It
/// also hides the `value` of a configuration key and the `attributeValue` of a variable with one of these names, the
/// `key` of a `vpn`, and the user and password in a URL.
///
/// ```
/// use ocpp_rpc::Mask;
///
/// let mask = Mask::new().name("vin");
/// let hidden = mask.apply(r#"{"idTag":"C0FFEE","vin":"W1","connectorId":1}"#);
/// assert_eq!(hidden, r#"{"idTag":"***","vin":"***","connectorId":1}"#);
/// let configuration = r#"{"key":"AuthorizationKey","value":"0123456789abcdef"}"#;
/// assert_eq!(mask.apply(configuration), r#"{"key":"AuthorizationKey","value":"***"}"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Mask {
    names: Arc<[Box<str>]>,
}

const NAMES: [&str; 9] = [
    "idTag",
    "parentIdTag",
    "idToken",
    "additionalIdToken",
    "AuthorizationKey",
    "BasicAuthPassword",
    "password",
    "apnPassword",
    "simPin",
];

/// The text in the place of a hidden value.
const VALUE: &str = "\"***\"";

/// The text in the place of a hidden part of a string.
const PART: &str = "***";

/// The nesting that is followed. Deeper values count as those of the object around them.
const MAX_DEPTH: usize = 128;

impl Mask {
    /// Creates a mask with the default names.
    pub fn new() -> Self {
        Self { names: NAMES.map(Into::into).into() }
    }

    /// Creates a mask that hides nothing.
    pub fn none() -> Self {
        Self { names: Arc::new([]) }
    }

    /// Hides the values of another name. Upper and lower case do not matter.
    pub fn name(self, name: &str) -> Self {
        Self { names: self.names.iter().cloned().chain([name.into()]).collect() }
    }

    /// Returns the text with hidden values.
    pub fn apply<'a>(&self, json: &'a str) -> Cow<'a, str> {
        if self.names.is_empty() {
            return Cow::Borrowed(json);
        }
        let mut hidden = Scanner::new(self, json).scan();
        if hidden.is_empty() {
            return Cow::Borrowed(json);
        }
        hidden.sort_unstable_by_key(|hidden| hidden.range.start);
        let mut masked = String::with_capacity(json.len());
        let mut end = 0;
        // A value that is hidden may have a part that is hidden.
        for Hidden { range, by } in hidden {
            if range.start >= end {
                masked.push_str(&json[end..range.start]);
                masked.push_str(by);
                end = range.end;
            }
        }
        masked.push_str(&json[end..]);
        Cow::Owned(masked)
    }

    /// Does the same for a counted text, which is not copied if nothing is hidden.
    pub(crate) fn apply_to(&self, json: &ByteString) -> ByteString {
        match self.apply(json) {
            Cow::Borrowed(_) => json.clone(),
            Cow::Owned(masked) => masked.into(),
        }
    }

    /// Returns true if the mask hides nothing.
    #[cfg(feature = "console")]
    pub(crate) fn is_none(&self) -> bool {
        self.names.is_empty()
    }

    /// Returns whether a JSON string contains JSON with one of the names, as the data of DataTransfer does.
    fn is_in_nested_json(&self, string: &str) -> bool {
        string.contains("\\\"") && {
            let string = string.to_ascii_lowercase();
            // With each level of nesting, the quote behind the name has more backslashes.
            let is_name_end = |text: &str| text.starts_with('\\') && text.trim_start_matches('\\').starts_with('"');
            self.names.iter().any(|name| {
                string
                    .match_indices(&name.to_ascii_lowercase())
                    .any(|(at, name)| is_name_end(&string[at + name.len()..]))
            })
        }
    }

    /// Returns whether a JSON string is one of the names.
    fn has(&self, string: &str) -> bool {
        let name = unescape(string);
        self.names.iter().any(|own| own.eq_ignore_ascii_case(&name))
    }
}

/// Returns the length of the string that a text begins with, with its quotes.
fn string_len(text: &[u8]) -> usize {
    let Some((quote, rest)) = text.split_first() else { return 0 };
    let mut is_escaped = false;
    let end = rest.iter().position(|byte| {
        let ends = byte == quote && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |end| 1 + end + 1)
}

impl Default for Mask {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the text of a JSON string.
fn unescape(string: &str) -> Cow<'_, str> {
    let quotes = ['"', '\''];
    let inside = string.strip_prefix(quotes).unwrap_or(string);
    let inside = inside.strip_suffix(quotes).unwrap_or(inside);
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    serde_json::from_str(string).map_or(Cow::Borrowed(inside), Cow::Owned)
}

/// An object or an array that is open.
#[derive(Default)]
struct Open {
    /// The role of the member that this is the value of.
    role: Role,
    /// The role of the member whose value comes next.
    next: Role,
    is_object: bool,
    /// Set if the object is about a secret configuration key or variable.
    is_secret: bool,
    /// The values to hide if it is.
    values: Vec<Range<usize>>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Role {
    #[default]
    Other,
    /// The value is hidden.
    Secret,
    /// The value is the name of a configuration key, or of a variable.
    Subject,
    /// The value is an object that has the name of a variable.
    Variable,
    /// The value is an object with a secret `key`.
    Vpn,
    /// The value is hidden if the subject of its object is secret.
    Value,
}

/// A part of the text, and the text that it is hidden by.
struct Hidden {
    range: Range<usize>,
    by: &'static str,
}

struct Scanner<'a> {
    mask: &'a Mask,
    json: &'a str,
    at: usize,
    open: Vec<Open>,
    hidden: Vec<Hidden>,
}

impl<'a> Scanner<'a> {
    fn new(mask: &'a Mask, json: &'a str) -> Self {
        Self { mask, json, at: 0, open: vec![Open::default()], hidden: Vec::new() }
    }

    /// Returns the parts to hide, in no particular order.
    fn scan(mut self) -> Vec<Hidden> {
        while let Some(byte) = self.json.as_bytes().get(self.at) {
            match byte {
                b'{' => self.enter(true),
                b'[' => self.enter(false),
                b'}' | b']' => self.leave(),
                b',' => {
                    let open = self.open();
                    // The strings of an array share its role.
                    open.next = if open.is_object { Role::Other } else { open.role };
                    self.at += 1;
                }
                b'"' => self.string(),
                // Some peers write single quotes.
                b'\'' if self.json[self.at + 1..].contains('\'') => self.string(),
                byte if byte.is_ascii_whitespace() || *byte == b':' => self.at += 1,
                _ => self.literal(),
            }
        }
        while self.open.len() > 1 {
            self.leave();
        }
        if let Some(last) = self.open.pop() {
            self.close(last);
        }
        self.hidden
    }

    fn open(&mut self) -> &mut Open {
        // There is always one.
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    fn enter(&mut self, is_object: bool) {
        self.at += 1;
        if self.open.len() < MAX_DEPTH {
            let role = std::mem::take(&mut self.open().next);
            let next = if is_object { Role::Other } else { role };
            self.open.push(Open { role, next, is_object, ..Open::default() });
        }
    }

    fn leave(&mut self) {
        self.at += 1;
        if self.open.len() > 1
            && let Some(closed) = self.open.pop()
        {
            self.close(closed);
        }
    }

    /// Handles the end of an object.
    fn close(&mut self, closed: Open) {
        let around = self.open.last_mut();
        if closed.is_secret {
            self.hidden.extend(closed.values.into_iter().map(|range| Hidden { range, by: VALUE }));
            if closed.role == Role::Variable
                && let Some(around) = around
            {
                around.is_secret = true;
            }
        } else if let Some(around) = around {
            // The name of a variable may be in the object around its attributes.
            around.values.extend(closed.values);
        }
    }

    /// Handles a string: the name of a member, if a colon follows, or a value.
    fn string(&mut self) {
        let start = self.at;
        self.at = start + string_len(&self.json.as_bytes()[start..]);
        let string = &self.json[start..self.at];
        if self.is_at_colon() {
            let role = self.role(string);
            self.open().next = role;
        } else {
            if self.open().next == Role::Subject && self.mask.has(string) {
                self.open().is_secret = true;
            }
            self.value(start);
        }
    }

    /// Handles a number, `true`, `null`, or text that is no JSON, such as a name without quotes.
    fn literal(&mut self) {
        let start = self.at;
        let ends = |byte: u8| byte.is_ascii_whitespace() || b"{}[],:\"".contains(&byte);
        let length = self.json.as_bytes()[start..].iter().position(|byte| ends(*byte));
        self.at = length.map_or(self.json.len(), |length| start + length);
        // In the place of a secret, a colon is a part of it.
        if self.open().next == Role::Other && self.is_at_colon() {
            let role = self.role(&self.json[start..self.at]);
            self.open().next = role;
        } else {
            self.value(start);
        }
    }

    fn is_at_colon(&self) -> bool {
        self.json[self.at..].trim_ascii_start().starts_with(':')
    }

    /// Handles the value from `start` to here.
    fn value(&mut self, start: usize) {
        let range = start..self.at;
        match self.open().next {
            Role::Secret => self.hidden.push(Hidden { range, by: VALUE }),
            Role::Value => {
                self.open().values.push(range);
                self.url(start);
            }
            Role::Other | Role::Subject | Role::Variable | Role::Vpn => {
                if self.mask.is_in_nested_json(&self.json[range.clone()]) {
                    self.hidden.push(Hidden { range, by: VALUE });
                } else {
                    self.url(start);
                }
            }
        }
    }

    /// Hides the user and password of each URL from `start` to here.
    fn url(&mut self, start: usize) {
        let mut start = start;
        while let Some(scheme) = self.json[start..self.at].find(":") {
            start += scheme + 1;
            let rest = &self.json[start..self.at];
            // Some peers escape slashes.
            let Some(authority) = rest.strip_prefix("//").or_else(|| rest.strip_prefix(r"\/\/")) else { continue };
            start = self.at - authority.len();
            let authority = authority.split(['/', '\\', '?', '#', '"']).next().unwrap_or_default();
            if let Some(length) = authority.rfind('@') {
                self.hidden.push(Hidden { range: start..start + length, by: PART });
            }
        }
    }

    /// Returns the role of the member with this name.
    fn role(&self, name: &str) -> Role {
        if self.mask.has(name) {
            return Role::Secret;
        }
        match &*unescape(name) {
            "key" if self.open.last().is_some_and(|open| open.role == Role::Vpn) => Role::Secret,
            "key" | "name" => Role::Subject,
            "variable" => Role::Variable,
            "vpn" => Role::Vpn,
            "value" | "attributeValue" | "actualValue" => Role::Value,
            _ => Role::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(json: &str) -> String {
        Mask::new().apply(json).into_owned()
    }

    #[test]
    fn tokens_are_hidden_wherever_they_are() {
        let cases = [
            (r#"[2,"1","Authorize",{"idTag":"C0FFEE"}]"#, r#"[2,"1","Authorize",{"idTag":"***"}]"#),
            (r#"{ "IDTAG" : "a\"b" , "x" : 1 }"#, r#"{ "IDTAG" : "***" , "x" : 1 }"#),
            (r#"{"id\u0054ag":"C0FFEE"}"#, r#"{"id\u0054ag":"***"}"#),
            (r#"{"idTag":123,"parentIdTag":null}"#, r#"{"idTag":"***","parentIdTag":"***"}"#),
            (
                r#"{"idToken":{"idToken":"C0","type":"ISO14443","additionalInfo":[{"additionalIdToken":"x","type":"y"}]}}"#,
                r#"{"idToken":{"idToken":"***","type":"ISO14443","additionalInfo":[{"additionalIdToken":"***","type":"y"}]}}"#,
            ),
            (r#"{"idTag":["a","b",{"c":"d"},"e"],"f":"g"}"#, r#"{"idTag":["***","***",{"c":"d"},"***"],"f":"g"}"#),
        ];
        for (json, masked) in cases {
            assert_eq!(apply(json), masked);
        }
    }

    #[test]
    fn secrets_are_hidden_by_the_name_of_their_key_or_variable() {
        let cases = [
            (r#"{"key":"AuthorizationKey","value":"s"}"#, r#"{"key":"AuthorizationKey","value":"***"}"#),
            (r#"{"value":"s","key":"AuthorizationKey"}"#, r#"{"value":"***","key":"AuthorizationKey"}"#),
            (
                r#"{"configurationKey":[{"key":"A","value":"1"},{"key":"AuthorizationKey","value":"s"},{"key":"B","value":"2"}]}"#,
                r#"{"configurationKey":[{"key":"A","value":"1"},{"key":"AuthorizationKey","value":"***"},{"key":"B","value":"2"}]}"#,
            ),
            (
                r#"{"attributeValue":"s","component":{"name":"SecurityCtrlr"},"variable":{"name":"BasicAuthPassword"}}"#,
                r#"{"attributeValue":"***","component":{"name":"SecurityCtrlr"},"variable":{"name":"BasicAuthPassword"}}"#,
            ),
        ];
        for (json, masked) in cases {
            assert_eq!(apply(json), masked);
        }
    }

    #[test]
    fn secrets_are_hidden_in_reports_and_in_nested_json() {
        let cases = [
            (
                r#"{"variable":{"name":"BasicAuthPassword"},"variableAttribute":[{"type":"Actual","value":"s"}]}"#,
                r#"{"variable":{"name":"BasicAuthPassword"},"variableAttribute":[{"type":"Actual","value":"***"}]}"#,
            ),
            (
                r#"[{"variable":{"name":"Other"},"actualValue":"1"},{"variable":{"name":"password"},"actualValue":"s"}]"#,
                r#"[{"variable":{"name":"Other"},"actualValue":"1"},{"variable":{"name":"password"},"actualValue":"***"}]"#,
            ),
            (r#"{"data":"{\"idToken\":\"C0FFEE\"}","x":"a \"b\""}"#, r#"{"data":"***","x":"a \"b\""}"#),
            (r#"{"data":"{\"d\":\"{\\\"idTag\\\":\\\"C0FFEE\\\"}\"}"}"#, r#"{"data":"***"}"#),
            (r#"{"data":"no idTag, \"or"}"#, r#"{"data":"no idTag, \"or"}"#),
        ];
        for (json, masked) in cases {
            assert_eq!(apply(json), masked);
        }
    }

    #[test]
    fn secrets_of_connections_and_users_in_urls_are_hidden() {
        let cases = [
            (r#"{"vpn":{"key":"s","user":"u"},"key":"k"}"#, r#"{"vpn":{"key":"***","user":"u"},"key":"k"}"#),
            (r#"{"location":"ftp://u:p@h/a@b","x":1}"#, r#"{"location":"ftp://***@h/a@b","x":1}"#),
            (r#"{"location":"ftps:\/\/u:p@q@h:21\/a"}"#, r#"{"location":"ftps:\/\/***@h:21\/a"}"#),
            (r#"["https://h/?a=b@c","see a://b@c d://e@f"]"#, r#"["https://h/?a=b@c","see a://***@c d://***@f"]"#),
            (r#"{"key":"Url","value":"ws://u@h"}"#, r#"{"key":"Url","value":"ws://***@h"}"#),
            (r#"{"key":"AuthorizationKey","value":"a://b@c"}"#, r#"{"key":"AuthorizationKey","value":"***"}"#),
        ];
        for (json, masked) in cases {
            assert_eq!(apply(json), masked);
        }
    }

    #[test]
    fn text_that_is_no_json_is_masked_as_well() {
        let cases = [
            ("{idTag:'A, B',x:'y'}", "{idTag:\"***\",x:'y'}"),
            ("{'idTag' : \"A\", x:1}", "{'idTag' : \"***\", x:1}"),
            ("{key:'AuthorizationKey',value:'s'}", "{key:'AuthorizationKey',value:\"***\"}"),
            ("{\"idTag\":A:B,\"x\":'}", "{\"idTag\":\"***\":\"***\",\"x\":'}"),
            (r#"{"idTag":"C0FFEE",}"#, r#"{"idTag":"***",}"#),
            (r#"{"idTag":"C0FF"#, r#"{"idTag":"***""#),
            (r#"{"idTag":"a" "x"#, r#"{"idTag":"***" "***""#),
            (r#"{"value":"s","key":"AuthorizationKey""#, r#"{"value":"***","key":"AuthorizationKey""#),
            (r#"}}]"idTag":"x""#, r#"}}]"idTag":"***""#),
            ("[2,\"1\"", "[2,\"1\""),
            ("\"\\", "\"\\"),
            ("é{\"idTag\":é}", "é{\"idTag\":\"***\"}"),
        ];
        for (json, masked) in cases {
            assert_eq!(apply(json), masked);
        }
        let deep = "[".repeat(1000) + r#"{"idTag":"x"}"#;
        assert!(!apply(&deep).contains('x'));
    }

    #[test]
    fn other_text_is_not_copied() {
        let json = r#"[3,"1",{"currentTime":"2026-01-01T00:00:00.000Z","interval":300}]"#;
        assert!(matches!(Mask::new().apply(json), Cow::Borrowed(_)));
        assert!(matches!(Mask::none().apply(r#"{"idTag":"x"}"#), Cow::Borrowed(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_masked_without_a_panic(text in ".*", json in r#"[\[\]{}:,"\\a ]{0,60}"#) {
            let _ = (apply(&text), apply(&json));
            let secret = format!(r#"{json}{{"idTag":"SECRET"}}"#);
            let is_inside_a_string = apply(&json).matches('"').count() % 2 == 1 || json.contains('\\');
            proptest::prop_assert!(is_inside_a_string || json.matches('"').count() % 2 == 1 || !apply(&secret).contains("SECRET"));
        }
    }
}
