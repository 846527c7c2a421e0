//! Repair of messages that are not quite JSON.
//!
//! Charging stations print numbers as C does, leave commas behind, and send more of a buffer than they have filled. The
//! repair rewrites such a message as JSON in one pass. It never guesses: a message that was cut short stays unreadable.

use std::fmt::Write as _;

use bytestring::ByteString;

use crate::message::tolerance::{Deviation, Deviations};

/// The most arrays and objects within each other. `serde_json` would not decode a payload with more.
const MAX_DEPTH: usize = 128;

/// A message as JSON, and what had to change.
pub(super) struct Repaired {
    /// The whole message, or its start up to the first part that cannot be repaired.
    pub(super) json: ByteString,
    pub(super) is_whole: bool,
    pub(super) deviations: Deviations,
}

/// Rewrites a message as JSON without white space, as far as possible.
///
/// The result has at most six bytes for each byte of `text`.
pub(super) fn repair(text: &str) -> Repaired {
    let mut repair = Repair {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        json: String::with_capacity(text.len()),
        open: Vec::new(),
        deviations: Deviations::default(),
    };
    let is_whole = repair.message().is_some();
    Repaired { json: repair.json.into(), is_whole, deviations: repair.deviations }
}

struct Repair<'a> {
    rest: &'a str,
    json: String,
    /// The closing brackets of the arrays and objects around `rest`.
    open: Vec<u8>,
    deviations: Deviations,
}

/// The part of an array or object before the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Previous {
    OpeningBracket,
    /// An item of an array or a member of an object.
    Element,
    /// The comma behind an element. It is written only if another element follows.
    Comma,
}

/// Each method copies a part of `rest` to `json`. It returns `None` if the part cannot be repaired.
impl Repair<'_> {
    fn message(&mut self) -> Option<()> {
        self.skip_space();
        if !self.rest.starts_with('[') {
            return None;
        }
        let mut previous = Previous::OpeningBracket;
        loop {
            previous = match self.peek()? {
                b',' if previous == Previous::Element => {
                    self.skip(1);
                    Previous::Comma
                }
                b',' => {
                    self.deviations.add(Deviation::StrayComma);
                    self.skip(1);
                    previous
                }
                closing @ (b']' | b'}') => {
                    if self.open.pop() != Some(closing) {
                        return None;
                    }
                    if previous == Previous::Comma {
                        self.deviations.add(Deviation::StrayComma);
                    }
                    self.copy(1);
                    if self.open.is_empty() {
                        break;
                    }
                    Previous::Element
                }
                _ => {
                    match previous {
                        Previous::OpeningBracket => {}
                        Previous::Element => return None,
                        Previous::Comma => self.json.push(','),
                    }
                    if self.open.last() == Some(&b'}') {
                        self.string()?;
                        self.skip_space();
                        self.colon()?;
                        self.skip_space();
                    }
                    self.value()?
                }
            };
            self.skip_space();
        }
        self.skip_space();
        if !self.rest.is_empty() {
            self.deviations.add(Deviation::TrailingData);
        }
        Some(())
    }

    /// Copies a string, `true`, `false`, `null` or a number, or the opening bracket of an array or object.
    fn value(&mut self) -> Option<Previous> {
        let closing = match self.peek()? {
            b'[' => b']',
            b'{' => b'}',
            b'"' => {
                self.string()?;
                return Some(Previous::Element);
            }
            _ => {
                self.scalar()?;
                return Some(Previous::Element);
            }
        };
        if self.open.len() == MAX_DEPTH {
            return None;
        }
        self.open.push(closing);
        self.copy(1);
        Some(Previous::OpeningBracket)
    }

    fn string(&mut self) -> Option<()> {
        let bytes = self.rest.as_bytes();
        if bytes.first() != Some(&b'"') {
            return None;
        }
        let (mut at, mut copied) = (1, 0);
        loop {
            match *bytes.get(at)? {
                b'"' => break,
                b'\\' => at += escape_len(&bytes[at..])?,
                control @ ..b' ' => {
                    self.deviations.add(Deviation::ControlCharacters);
                    self.json.push_str(&self.rest[copied..at]);
                    _ = write!(self.json, "\\u{control:04x}");
                    at += 1;
                    copied = at;
                }
                _ => at += 1,
            }
        }
        self.skip(copied);
        self.copy(at + 1 - copied);
        Some(())
    }

    fn colon(&mut self) -> Option<()> {
        (self.peek()? == b':').then(|| self.copy(1))
    }

    fn scalar(&mut self) -> Option<()> {
        let is_end = |next: char| next <= ' ' || r#",:"[]{}"#.contains(next);
        let token = &self.rest[..self.rest.find(is_end).unwrap_or(self.rest.len())];
        if ["true", "false", "null"].contains(&token) {
            self.json.push_str(token);
        } else if is_nan_or_infinity(token) {
            self.deviations.add(Deviation::NotANumber);
            self.json.push_str("null");
        } else {
            let start = self.json.len();
            write_number(token, &mut self.json)?;
            if self.json[start..] != *token {
                self.deviations.add(Deviation::MalformedNumber);
            }
        }
        self.skip(token.len());
        Some(())
    }

    /// Skips white space, and the control characters that JSON does not allow in it.
    fn skip_space(&mut self) {
        let len = self.rest.find(|next| next > ' ').unwrap_or(self.rest.len());
        if self.rest[..len].contains(|space| !" \t\r\n".contains(space)) {
            self.deviations.add(Deviation::ControlCharacters);
        }
        self.skip(len);
    }

    fn peek(&self) -> Option<u8> {
        self.rest.bytes().next()
    }

    fn skip(&mut self, len: usize) {
        self.rest = &self.rest[len..];
    }

    fn copy(&mut self, len: usize) {
        self.json.push_str(&self.rest[..len]);
        self.skip(len);
    }
}

/// Returns the length of the escape at the start of `bytes`.
fn escape_len(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' if bytes.get(2..6)?.iter().all(u8::is_ascii_hexdigit) => Some(6),
        _ => None,
    }
}

/// Returns `true` for the texts that C, Java, Python and others print for a number that is none, or not finite.
fn is_nan_or_infinity(token: &str) -> bool {
    let unsigned = token.strip_prefix(['+', '-']).unwrap_or(token);
    ["nan", "inf", "infinity"].iter().any(|name| unsigned.eq_ignore_ascii_case(name))
}

/// Writes a number without a plus sign and leading zeros, and with digits on both sides of its point.
fn write_number(token: &str, json: &mut String) -> Option<()> {
    let unsigned = token.strip_prefix(['+', '-']).unwrap_or(token);
    let (decimal, exponent) = unsigned.split_at(unsigned.find(['e', 'E']).unwrap_or(unsigned.len()));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let power = exponent.get(1..).map_or("0", |power| power.strip_prefix(['+', '-']).unwrap_or(power));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let lacks_digits = whole.is_empty() && fraction.is_empty() || power.is_empty();
    if lacks_digits || ![whole, fraction, power].into_iter().all(is_digits) {
        return None;
    }
    if token.starts_with('-') {
        json.push('-');
    }
    let significant = whole.trim_start_matches('0');
    json.push_str(if significant.is_empty() { "0" } else { significant });
    if !fraction.is_empty() {
        json.push('.');
        json.push_str(fraction);
    }
    json.push_str(exponent);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::{Value, value::RawValue};

    use super::*;

    #[track_caller]
    fn assert_repaired(text: &str, json: &str, deviations: &[Deviation]) {
        let repaired = repair(text);
        assert_eq!((&*repaired.json, repaired.is_whole), (json, true), "{text:?}");
        assert_eq!(repaired.deviations.iter().collect::<Vec<_>>(), deviations, "{text:?}");
    }

    #[test]
    fn commas_without_an_element_are_dropped() {
        for (text, json) in [
            (r#"[2,"1","A",{},]"#, r#"[2,"1","A",{}]"#),
            (r#"[,2,"1","A",{}]"#, r#"[2,"1","A",{}]"#),
            (r#"[2,,"1" , ,"A",{} , , ]"#, r#"[2,"1","A",{}]"#),
            (r#"[{"a":1,},{,"b":2},{,},[,]]"#, r#"[{"a":1},{"b":2},{},[]]"#),
            (r#"[{"a":[1,,2,],,"b":{"c":"d",}}]"#, r#"[{"a":[1,2],"b":{"c":"d"}}]"#),
        ] {
            assert_repaired(text, json, &[Deviation::StrayComma]);
        }
        assert_repaired("[,]", "[]", &[Deviation::StrayComma]);
    }

    #[test]
    fn numbers_are_spelled_as_in_json() {
        for (number, json) in [
            ("007", "7"),
            ("+5", "5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-.5", "-0.5"),
            ("-007.50", "-7.50"),
            ("+00", "0"),
            ("-00", "-0"),
            ("5.e3", "5e3"),
            ("+.5E+03", "0.5E+03"),
        ] {
            assert_repaired(&format!("[{number}]"), &format!("[{json}]"), &[Deviation::MalformedNumber]);
        }
        for number in ["0", "-0", "0.10", "1e5", "-1.5E-07", "123456789012345678901234567890"] {
            assert_repaired(&format!("[{number}]"), &format!("[{number}]"), &[]);
        }
        for number in ["NaN", "nan", "-nan", "+NAN", "Infinity", "-Infinity", "inf", "-INF"] {
            assert_repaired(&format!(r#"[{{"a":{number}}}]"#), r#"[{"a":null}]"#, &[Deviation::NotANumber]);
        }
    }

    #[test]
    fn text_behind_the_message_is_dropped() {
        for text in [r#"[2,"1"][2,"2"]"#, r#"[2,"1"] "old":1}]"#, "[2,\"1\"]]", "[2,\"1\"],", "[2,\"1\"]é"] {
            assert_repaired(text, r#"[2,"1"]"#, &[Deviation::TrailingData]);
        }
        assert_repaired("[2,\"1\"]\0x", r#"[2,"1"]"#, &[Deviation::ControlCharacters, Deviation::TrailingData]);
    }

    #[test]
    fn control_characters_are_escaped_in_strings_and_skipped_between_them() {
        assert_repaired(
            "\0[\"a\0b\t\",\u{1}{\"\n\\\"\":1}]\0",
            r#"["a\u0000b\u0009",{"\u000a\"":1}]"#,
            &[Deviation::ControlCharacters],
        );
        assert_repaired("\u{feff}[ 1 ,\r\n\t\"é\u{7f}\" ]\n", "[1,\"é\u{7f}\"]", &[]);
    }

    #[test]
    fn other_faults_end_the_repair() {
        for (text, start) in [
            ("", ""),
            ("{}", ""),
            ("x[1]", ""),
            ("[", "["),
            ("[1", "[1"),
            (r#"[1,"cut"#, "[1,"),
            (r#"[1,{"a":[]"#, r#"[1,{"a":[]"#),
            (r#"[1,"a" "b"]"#, r#"[1,"a""#),
            (r#"[1,{"a" 1}]"#, r#"[1,{"a""#),
            (r#"[1,{"a":,}]"#, r#"[1,{"a":"#),
            ("[1,{a:1}]", "[1,{"),
            ("[1,{2:1}]", "[1,{"),
            ("[1,[}]", "[1,["),
            (r#"["\x"]"#, "["),
            (r#"["\u12"]"#, "["),
            ("[\"\\\n\"]", "["),
            ("[1,true1]", "[1,"),
            ("[1,True]", "[1,"),
            ("[1,'a']", "[1,"),
            ("[1,.]", "[1,"),
            ("[1,-]", "[1,"),
            ("[1,++1]", "[1,"),
            ("[1,1e]", "[1,"),
            ("[1,1.2.3]", "[1,"),
            ("[1,0x1F]", "[1,"),
            ("[1,nano]", "[1,"),
        ] {
            let repaired = repair(text);
            assert_eq!((&*repaired.json, repaired.is_whole), (start, false), "{text:?}");
        }
    }

    #[test]
    fn depth_is_limited_to_that_of_decoding() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(repair(&nested(MAX_DEPTH)).is_whole);
        assert!(!repair(&nested(MAX_DEPTH + 1)).is_whole);
        assert!(!repair(&"[".repeat(1_000_000)).is_whole);
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ -~]{0,8}".prop_map(Value::from),
        ];
        scalar.prop_recursive(6, 40, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::from),
                vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    /// Writes a value with stray commas and unusual numbers, which `spoil` yields at random.
    fn write_spoiled(value: &Value, spoil: &mut impl FnMut() -> usize, text: &mut String) {
        let comma = |text: &mut String, spoil: &mut dyn FnMut() -> usize| {
            text.push_str(["", "", "", "\0", ",", " , ,"][spoil() % 6]);
        };
        match value {
            Value::Array(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    text.push_str(if index > 0 { "," } else { "" });
                    comma(text, spoil);
                    write_spoiled(item, spoil, text);
                }
                comma(text, spoil);
                text.push(']');
            }
            Value::Object(members) => {
                text.push('{');
                for (index, (name, member)) in members.iter().enumerate() {
                    text.push_str(if index > 0 { "," } else { "" });
                    comma(text, spoil);
                    text.push_str(&format!("{}\0:\n", Value::from(name.as_str())));
                    write_spoiled(member, spoil, text);
                }
                comma(text, spoil);
                text.push('}');
            }
            Value::Null => text.push_str(["null", "NaN", "-Infinity"][spoil() % 3]),
            Value::Number(number) if number.is_u64() => {
                text.push_str(["", "+", "00", "+0"][spoil() % 4]);
                text.push_str(&number.to_string());
                text.push_str(["", "."][spoil() % 2]);
            }
            other => text.push_str(&other.to_string()),
        }
    }

    proptest! {
        #[test]
        fn json_is_copied_without_deviations(items in vec(value(), 0..6)) {
            let value = Value::from(items);
            for text in [value.to_string(), format!("{value:#}")] {
                assert_repaired(&text, &value.to_string(), &[]);
            }
        }

        #[test]
        fn spoiled_json_keeps_its_values(items in vec(value(), 0..6), spoils in vec(0_usize..12, 1..50), behind: String) {
            let (value, mut text) = (Value::from(items), String::new());
            let mut spoils = spoils.into_iter().cycle();
            write_spoiled(&value, &mut || spoils.next().unwrap_or_default(), &mut text);
            text.push_str(&behind);
            let repaired = repair(&text);
            prop_assert!(repaired.is_whole, "{text:?}");
            prop_assert_eq!(&*repaired.json, value.to_string());
        }

        #[test]
        fn repaired_text_is_json(text in r#"\[([\[\]{},:"\\/ \x00-\x1f0-9eE.+-]|nan|NaN|true|null|\\u00e9|"a"|"a":|\PC){0,40}"#) {
            let repaired = repair(&text);
            prop_assert!(repaired.json.len() <= 6 * text.len());
            prop_assert!(!repaired.is_whole || serde_json::from_str::<&RawValue>(&repaired.json).is_ok(), "{text:?}");
        }
    }
}
