//! The values that a mask hides, to hide them in other texts.

use std::borrow::Cow;

use crate::mask::{Hidden, Mask, PART, Scanner, VALUE, string_len, unescape};

/// The values that a mask hides in some JSON, to hide them in other texts as well.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    values: Vec<Box<str>>,
}

/// The values that are looked for in other texts. With more, these texts are hidden as a whole.
const MAX_SECRETS: usize = 200;

impl Secrets {
    /// Adds the values that a mask hides in this JSON, and in JSON inside of its strings.
    pub(crate) fn find(&mut self, mask: &Mask, json: &str) {
        if mask.names.is_empty() {
            return;
        }
        for Hidden { range, .. } in Scanner::new(mask, json).scan() {
            let value = unescape(&json[range]);
            for Hidden { range, .. } in Scanner::new(mask, &value).scan() {
                self.add(&unescape(&value[range]));
            }
            self.add(&value);
        }
    }

    fn add(&mut self, value: &str) {
        let is_known = self.values.iter().any(|known| **known == *value);
        if self.values.len() <= MAX_SECRETS && !is_known && !["", "null", "true", "false"].contains(&value) {
            self.values.push(value.into());
        }
    }

    /// Returns a text without the values.
    pub(crate) fn hide_in_text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.values.len() > MAX_SECRETS {
            return Cow::Borrowed(PART);
        }
        let mut hidden = Cow::Borrowed(text);
        for value in &self.values {
            if hidden.contains(&**value) {
                hidden = Cow::Owned(hidden.replace(&**value, PART));
            }
        }
        hidden
    }

    /// Returns JSON whose strings and numbers do not have the values.
    pub(crate) fn hide_in_json<'a>(&self, json: &'a str) -> Cow<'a, str> {
        match self.values.len() {
            0 => return Cow::Borrowed(json),
            1..=MAX_SECRETS => {}
            _ => return Cow::Borrowed(VALUE),
        }
        let mut hidden = String::with_capacity(json.len());
        let mut rest = json;
        while let Some(first) = rest.chars().next() {
            let (token, behind) = rest.split_at(match first {
                '"' => string_len(rest.as_bytes()),
                first if first.is_ascii_alphanumeric() || "+-.".contains(first) => {
                    let ends = |character: char| !character.is_ascii_alphanumeric() && !"+-.".contains(character);
                    rest.find(ends).unwrap_or(rest.len())
                }
                first => first.len_utf8(),
            });
            let text = unescape(token);
            match self.hide_in_text(&text) {
                Cow::Owned(text) if token.len() > 1 || first.is_ascii_alphanumeric() => {
                    hidden.push_str(&serde_json::Value::from(text).to_string());
                }
                _ => hidden.push_str(token),
            }
            rest = behind;
        }
        Cow::Owned(hidden)
    }
}

impl Mask {
    /// Returns a text about some JSON, such as the description of an error, without the values that are hidden in the JSON.
    pub(crate) fn apply_to_text<'a>(&self, text: &'a str, json: &str) -> Cow<'a, str> {
        let mut secrets = Secrets::default();
        if !text.is_empty() {
            secrets.find(self, json);
        }
        secrets.hide_in_text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_values_are_hidden_in_texts_about_them() {
        let json = r#"{"idTag":"C0\u0046FEE","parentIdTag":null,"limit":7}"#;
        let text = "/idTag: \"C0FFEE\" is longer than 5, null and 7";
        assert_eq!(Mask::new().apply_to_text(text, json), "/idTag: \"***\" is longer than 5, null and 7");
        assert_eq!(Mask::none().apply_to_text(text, json), text);
        // The data of DataTransfer is hidden as a whole, and the text has a part of it.
        let nested = r#"{"data":"{\"idTag\":\"C0FFEE\"}"}"#;
        assert_eq!(Mask::new().apply_to_text("unknown tag C0FFEE", nested), "unknown tag ***");
    }

    #[test]
    fn hidden_values_are_hidden_in_other_json() {
        let mut secrets = Secrets::default();
        secrets.find(&Mask::new(), r#"{"idTag":"C0\"FFEE","parentIdTag":42}"#);
        for (json, hidden) in [
            (r#"{"message": "unknown tag \u00430\"FFEE", "a": 1.50}"#, r#"{"message": "unknown tag ***", "a": 1.50}"#),
            (r#"{"C0\"FFEE":[42,43,null]}"#, r#"{"***":["***",43,null]}"#),
            ("C0\"FFEE", "C0\"FFEE"),
        ] {
            assert_eq!(secrets.hide_in_json(json), hidden);
        }
        let many: Vec<_> = (0..1000).map(|number| format!(r#"{{"idTag":"TAG{number}"}}"#)).collect();
        secrets.find(&Mask::new(), &many.join(","));
        assert_eq!((&*secrets.hide_in_text("TAG999"), &*secrets.hide_in_json("[\"TAG999\"]")), (PART, VALUE));
    }
}
