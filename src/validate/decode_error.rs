//! Explains why serde rejected a payload, by reading it a second time.
//!
//! The second reading accepts what serde accepts. It only records the kind of the error and the path to it.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::{
    error::{ErrorCode, Violation},
    message::payload::Payload,
    validate::adapter::{self, Hint, Mode},
};

/// Returns the violation for a payload that did not decode as a `T` because of `error`.
#[cold]
pub(crate) fn explain_decode_error<T: DeserializeOwned>(payload: &Payload, error: &serde_json::Error) -> Violation {
    match adapter::read::<Lenient, T>(&mut serde_json::Deserializer::from_str(payload.as_str())) {
        Err(error) => error.into(),
        // The type decodes differently from one time to the next.
        Ok(_) => Violation::new(ErrorCode::FORMAT_VIOLATION, "", error.to_string()),
    }
}

/// Accepts what serde accepts.
struct Lenient;

impl Mode for Lenient {
    const IS_STRICT: bool = false;

    fn text(_: Hint, text: &str) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(text))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;

    const FORMAT: ErrorCode = ErrorCode::FORMAT_VIOLATION;
    const OCCURRENCE: ErrorCode = ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION;
    const TYPE: ErrorCode = ErrorCode::TYPE_CONSTRAINT_VIOLATION;
    const PROPERTY: ErrorCode = ErrorCode::PROPERTY_CONSTRAINT_VIOLATION;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct All {
        #[serde(default)]
        small: u8,
        #[serde(default)]
        text: Option<String>,
        #[serde(default)]
        list: Vec<Inner>,
        #[serde(default)]
        pair: (u8, u8),
        #[serde(default)]
        numbers: HashMap<u8, bool>,
        #[serde(default)]
        kind: Kinds,
        #[serde(default)]
        wide: u128,
        #[serde(default)]
        wrapped: Wrapped,
        #[serde(default)]
        either: Option<Either>,
        #[serde(default)]
        shape: Option<Shape>,
        #[serde(default)]
        raw: Option<Payload>,
        #[serde(default)]
        letter: Option<char>,
        #[serde(default)]
        nothing: (),
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        id: u32,
    }

    #[derive(Debug, Default, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    enum Kinds {
        #[default]
        Soft,
        Timed(u8),
        Both(u8, u8),
        Named {
            at: u8,
        },
    }

    #[derive(Debug, Default, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Wrapped(u8);

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only read")]
    enum Either {
        Number(u8),
        Flag { on: bool },
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "type")]
    #[expect(dead_code, reason = "only read")]
    enum Shape {
        Round { radius: u8 },
    }

    fn violation(json: &str) -> Violation {
        let payload = Payload(json.into());
        let error = payload.decode::<All>().expect_err(json);
        explain_decode_error::<All>(&payload, &error)
    }

    #[test]
    fn each_decode_error_has_its_code_and_pointer() {
        for (json, code, pointer) in [
            ("7", FORMAT, ""),
            (r#"{"small":"x"}"#, TYPE, "/small"),
            (r#"{"small":300}"#, PROPERTY, "/small"),
            (r#"{"small":-1}"#, PROPERTY, "/small"),
            (r#"{"small":1.5}"#, TYPE, "/small"),
            (r#"{"small":null}"#, TYPE, "/small"),
            (r#"{"small":1e999}"#, FORMAT, "/small"),
            (r#"{"small":1,"small":1}"#, FORMAT, "/small"),
            (r#"{"text":7}"#, TYPE, "/text"),
            (r#"{"te~xt/":7}"#, FORMAT, "/te~0xt~1"),
            (r#"{"list":{}}"#, TYPE, "/list"),
            (r#"{"list":[{"id":1},{}]}"#, OCCURRENCE, "/list/1/id"),
            (r#"{"list":[{"id":1},{"id":true}]}"#, TYPE, "/list/1/id"),
            (r#"{"list":[[]]}"#, OCCURRENCE, "/list/0"),
            (r#"{"pair":[1]}"#, OCCURRENCE, "/pair"),
            (r#"{"pair":[1,2,3]}"#, OCCURRENCE, "/pair"),
            (r#"{"pair":[1,"x"]}"#, TYPE, "/pair/1"),
            (r#"{"numbers":{"1":true,"2":7}}"#, TYPE, "/numbers/2"),
            (r#"{"kind":"Hard"}"#, PROPERTY, "/kind"),
            (r#"{"kind":7}"#, TYPE, "/kind"),
            (r#"{"kind":null}"#, TYPE, "/kind"),
            (r#"{"kind":"Timed"}"#, TYPE, "/kind/Timed"),
            (r#"{"kind":{"Hard":1}}"#, PROPERTY, "/kind"),
            (r#"{"kind":{"Timed":"x"}}"#, TYPE, "/kind/Timed"),
            (r#"{"kind":{"Both":[1,"x"]}}"#, TYPE, "/kind/Both/1"),
            (r#"{"kind":{"Named":{}}}"#, OCCURRENCE, "/kind/Named/at"),
            (r#"{"wide":"x"}"#, TYPE, "/wide"),
            (r#"{"wrapped":"x"}"#, TYPE, "/wrapped"),
            (r#"{"either":"x"}"#, PROPERTY, "/either"),
            (r#"{"shape":{"type":"Square"}}"#, PROPERTY, "/shape/type"),
            (r#"{"shape":{"type":"Round"}}"#, OCCURRENCE, "/shape/radius"),
            (r#"{"letter":"xy"}"#, PROPERTY, "/letter"),
            (r#"{"nothing":1}"#, TYPE, "/nothing"),
        ] {
            let violation = violation(json);
            assert_eq!((violation.code(), violation.pointer()), (&code, pointer), "{json}: {violation}");
        }
    }

    #[test]
    fn value_that_serde_accepts_is_accepted() {
        let taken = r#"{"small":1,"text":null,"list":[[1],{"id":1,"more":{}}],"pair":[1,2],"numbers":{"1":true},
            "kind":{"Named":{"at":1}},"wide":340282366920938463463374607431768211455,"wrapped":1,"either":{"on":true},
            "shape":{"type":"Round","radius":1},"raw":{"any":[]},"letter":"x","nothing":null"#;
        Payload(format!("{taken}}}").into()).decode::<All>().expect("serde takes it");
        let violation = violation(&format!("{taken},\"last\":1}}"));
        assert_eq!((violation.code(), violation.pointer()), (&FORMAT, "/last"), "{violation}");
    }

    #[test]
    fn value_of_the_wrong_type_is_not_quoted() {
        assert!(!violation(r#"{"small":"hunter2"}"#).to_string().contains("hunter2"));
    }
}
