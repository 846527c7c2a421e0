//! Generates payloads that are valid under a schema.

use serde_json::{Map, Value, json};

use super::Random;

pub(crate) struct Generator<'a> {
    root: &'a Value,
    random: &'a mut Random,
    /// On average, one of this number of optional members is missing.
    missing: usize,
}

impl<'a> Generator<'a> {
    /// Creates a generator of payloads with some of the optional members.
    pub(crate) fn some(root: &'a Value, random: &'a mut Random) -> Self {
        let missing = *random.pick(&[1, 2, 2, 3, 20]);
        Self { root, random, missing }
    }

    /// Creates a generator of payloads with most of the optional members.
    pub(crate) fn most(root: &'a Value, random: &'a mut Random) -> Self {
        Self { root, random, missing: 8 }
    }

    pub(crate) fn value(&mut self, schema: &Value) -> Value {
        let schema = resolve(self.root, schema);
        if let Some(names) = schema["enum"].as_array() {
            return self.random.pick(names).clone();
        }
        match schema["type"].as_str() {
            Some("object") => self.object(schema),
            Some("array") => self.array(schema),
            Some("string") => Value::String(self.string(schema)),
            Some("integer") => self.integer(schema),
            Some("number") => self.number(schema),
            Some("boolean") => Value::Bool(self.random.one_in(2)),
            None => self.anything(),
            Some(other) => panic!("unexpected {other}"),
        }
    }

    fn object(&mut self, schema: &Value) -> Value {
        let mut object = Map::new();
        if schema["additionalProperties"] != false {
            for _ in 0..self.random.below(3) {
                let name = self.random.pick(&["x", "with space", "a/b~c", "ünï", "type"]);
                object.insert((*name).to_owned(), self.anything());
            }
        }
        let none = Map::new();
        for (name, member) in schema["properties"].as_object().unwrap_or(&none) {
            if is_required(schema, name) || !self.random.one_in(self.missing) {
                object.insert(name.clone(), self.value(member));
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Value) -> Value {
        let (min, max) = (schema["minItems"].as_u64().unwrap_or(0), schema["maxItems"].as_u64().unwrap_or(u64::MAX));
        let count = match self.random.below(20) {
            0 if max <= 20 => max,
            1..4 => (min + 1).min(max),
            _ => min.max(1),
        };
        (0..count).map(|_| self.value(&schema["items"])).collect()
    }

    fn string(&mut self, schema: &Value) -> String {
        match schema["format"].as_str() {
            Some("date-time") => self.date_time(),
            Some("uri") => (*self.random.pick(&[
                "ftp://user:secret@example.com/in",
                "https://example.com:8443/firmware%20a.bin?version=1.2#top",
                "http://[2001:db8::1]/",
                "urn:a:b",
            ]))
            .to_owned(),
            None => {
                let max = schema["maxLength"].as_u64().map_or(60, |max| max as usize);
                let length = match self.random.below(10) {
                    0 => 0,
                    1 if max <= 1000 => max,
                    _ => self.random.below(max.min(20) + 1),
                };
                self.text(length)
            }
            Some(other) => panic!("unexpected {other}"),
        }
    }

    /// Returns a text of `length` characters.
    pub(crate) fn text(&mut self, length: usize) -> String {
        let letters = ['a', 'Z', '0', ' ', '-', '"', '\\', '/', '\n', '\u{7f}', 'é', '€', '🔌'];
        let letters = if self.random.one_in(2) { &letters[..] } else { &letters[..5] };
        (0..length).map(|_| *self.random.pick(letters)).collect()
    }

    fn date_time(&mut self) -> String {
        if self.random.one_in(20) {
            return (*self.random.pick(&["2016-12-31T23:59:60Z", "9999-12-31T23:59:59.9999999Z"])).to_owned();
        }
        let mut part = |low, high| self.random.between(low, high);
        let date = format!("{:04}-{:02}-{:02}", part(1970, 2099), part(1, 12), part(1, 28));
        let time = format!("{:02}:{:02}:{:02}", part(0, 23), part(0, 59), part(0, 59));
        let zone = match part(0, 4) {
            0 => format!("+{:02}:{:02}", part(0, 14), part(0, 59)),
            1 => format!("-{:02}:{:02}", part(0, 11), part(0, 59)),
            2 => "z".to_owned(),
            _ => "Z".to_owned(),
        };
        let fraction: String = (0..part(0, 12)).map(|_| char::from(b'0' + part(0, 9) as u8)).collect();
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{date}{}{time}{point}{fraction}{zone}", if part(0, 9) == 0 { 't' } else { 'T' })
    }

    fn integer(&mut self, schema: &Value) -> Value {
        let (low, high) = (limit(schema, "minimum", i32::MIN.into()), limit(schema, "maximum", i32::MAX.into()));
        let integer = match self.random.below(10) {
            0 => low,
            1 => high,
            2..6 => self.random.between(low.max(-5).min(high), high.min(50).max(low)),
            _ => self.random.between(low, high),
        };
        // From draft 6 on, every number without a fraction is an integer, for example 1.0.
        let is_draft_6 = self.root["$schema"].as_str().is_some_and(|draft| draft.contains("draft-06"));
        if is_draft_6 && self.random.one_in(10) { json!(integer as f64) } else { json!(integer) }
    }

    fn number(&mut self, schema: &Value) -> Value {
        let (low, high) = (limit(schema, "minimum", -1_000_000_000), limit(schema, "maximum", 1_000_000_000));
        let digits = if schema["multipleOf"].is_null() { self.random.below(4) } else { self.random.below(2) };
        let scale = 10_i64.pow(digits as u32);
        let number = match self.random.below(10) {
            0 => low * scale,
            1 => high * scale,
            2..6 => self.random.between(low.max(-5).min(high) * scale, high.min(50).max(low) * scale),
            _ => self.random.between(low * scale, high * scale),
        };
        match digits {
            0 if self.random.one_in(2) => json!(number),
            _ => json!(number as f64 / scale as f64),
        }
    }

    pub(crate) fn anything(&mut self) -> Value {
        let values = [
            json!(null),
            json!(true),
            json!(-1.5),
            json!("text"),
            json!([]),
            json!({}),
            json!([1, null, {"a": [null]}]),
            json!({"a": {"b": null}, "": 1}),
        ];
        self.random.pick(&values).clone()
    }
}

/// Returns the schema that `$ref` refers to, or the schema itself if it has none.
pub(crate) fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(name) => {
            root.pointer(name.strip_prefix('#').expect("a reference within the schema")).expect("a definition")
        }
        None => schema,
    }
}

fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|required| required.iter().any(|required| required == name))
}

/// Returns a limit, which the schemas write as `100` or as `100.0`, or `default` if there is none.
pub(crate) fn limit(schema: &Value, keyword: &str, default: i64) -> i64 {
    schema[keyword].as_f64().map_or(default, |limit| limit as i64)
}
