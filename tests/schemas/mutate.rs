//! Changes valid payloads so that they violate one rule of their schema in one place.

use ocpp_rpc::ErrorCode;
use serde_json::{Value, json};

use super::{
    Random,
    generate::{Generator, limit, resolve},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Missing,
    Extra,
    WrongType,
    TooLong,
    NotInEnumeration,
    TooLow,
    TooHigh,
    TooFewItems,
    TooManyItems,
    BadFormat,
    NotAMultiple,
}

/// A value inside a payload, and its schema.
struct Site<'a> {
    pointer: String,
    schema: &'a Value,
}

impl Rule {
    pub(crate) const ALL: [Self; 11] = [
        Self::Missing,
        Self::Extra,
        Self::WrongType,
        Self::TooLong,
        Self::NotInEnumeration,
        Self::TooLow,
        Self::TooHigh,
        Self::TooFewItems,
        Self::TooManyItems,
        Self::BadFormat,
        Self::NotAMultiple,
    ];

    /// Violates the rule in a random place, and returns the payload with the expected code and pointer.
    pub(crate) fn mutate(
        self,
        root: &Value,
        value: &Value,
        random: &mut Random,
    ) -> Option<(Value, (ErrorCode, String))> {
        let mut sites = Vec::new();
        collect(root, root, value, String::new(), &mut sites);
        sites.retain(|site| self.applies(site.schema));
        if sites.is_empty() {
            return None;
        }
        let Site { pointer, schema } = random.pick(&sites);
        let mut value = value.clone();
        let place = value.pointer_mut(pointer).expect("a site");
        let mut at = pointer.clone();
        match self {
            Self::Missing => {
                let required = schema["required"].as_array().expect("required members");
                let name = random.pick(required).as_str().expect("a name");
                place.as_object_mut().expect("an object").remove(name).expect("a required member");
                at = format!("{pointer}/{name}");
            }
            Self::Extra => {
                let name = *random.pick(&["vendorExtension", "", "a/b", "CustomData"]);
                let extra = Generator::some(root, random).anything();
                place.as_object_mut().expect("an object").insert(name.to_owned(), extra);
                at = format!("{pointer}/{}", name.replace('/', "~1"));
            }
            Self::WrongType => *place = other_type(schema, random),
            Self::TooLong => {
                let longer = limit(schema, "maxLength", 0) as usize + *random.pick(&[1, 1, 2, 100]);
                *place = Value::String(Generator::some(root, random).text(longer));
            }
            Self::NotInEnumeration => {
                let name = place.as_str().expect("a name");
                let others =
                    [format!("{name}s"), name.to_lowercase(), format!(" {name}"), String::new(), "2".to_owned()];
                let names = schema["enum"].as_array().expect("names");
                *place = match random.pick(&others) {
                    other if names.iter().any(|name| name == other) => json!("No such name"),
                    other => json!(other),
                };
            }
            Self::TooLow => *place = beyond(schema, limit(schema, "minimum", 0), -1, random),
            Self::TooHigh => *place = beyond(schema, limit(schema, "maximum", 0), 1, random),
            Self::TooFewItems => *place = json!([]),
            Self::TooManyItems => {
                let items = place.as_array_mut().expect("an array");
                let max = limit(schema, "maxItems", 0) as usize;
                let item =
                    items.first().cloned().unwrap_or_else(|| Generator::some(root, random).value(&schema["items"]));
                items.resize(max + *random.pick(&[1, 2]), item);
            }
            Self::BadFormat if schema["format"] == "uri" => {
                let wrong = ["", "example.com/a", "http://a b/", "http://[::1/", "http://a/%4", "<http://a>"];
                *place = json!(random.pick(&wrong));
            }
            Self::BadFormat => {
                let wrong = [
                    "",
                    "now",
                    "2026-01-01",
                    "2026-01-01T00:00:00",
                    "2026-01-01 00:00:00Z",
                    "2026-02-30T00:00:00Z",
                    "2026-01-01T00:00Z",
                    "2026-01-01T00:00:00+0100",
                    "2026-01-01T12:00:60Z",
                    "20260101T000000Z",
                    "+002026-01-01T00:00:00Z",
                    "2026-01-01T00:00:00Z[UTC]",
                ];
                *place = json!(random.pick(&wrong));
            }
            Self::NotAMultiple => *place = json!(*random.pick(&[0.15, 21.45, 0.01, 1_000_000.25, -3.333])),
        }
        let code = match self {
            // The payload itself is not an object.
            Self::WrongType if pointer.is_empty() => ErrorCode::FORMAT_VIOLATION,
            Self::Extra => ErrorCode::FORMAT_VIOLATION,
            Self::Missing | Self::TooFewItems | Self::TooManyItems => ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION,
            Self::WrongType => ErrorCode::TYPE_CONSTRAINT_VIOLATION,
            _ => ErrorCode::PROPERTY_CONSTRAINT_VIOLATION,
        };
        Some((value, (code, at)))
    }

    fn applies(self, schema: &Value) -> bool {
        let has = |keyword: &str| !schema[keyword].is_null();
        match self {
            Self::Missing => schema["required"].as_array().is_some_and(|required| !required.is_empty()),
            // The schemas of 1.6 set `additionalProperties` on strings as well.
            Self::Extra => schema["type"] == "object" && schema["additionalProperties"] == false,
            Self::WrongType => has("type"),
            Self::TooLong => has("maxLength") && !has("enum"),
            Self::NotInEnumeration => has("enum"),
            Self::TooLow => has("minimum"),
            Self::TooHigh => has("maximum"),
            Self::TooFewItems => has("minItems"),
            Self::TooManyItems => has("maxItems"),
            Self::BadFormat => has("format"),
            Self::NotAMultiple => has("multipleOf"),
        }
    }
}

/// Returns a value of another type than the schema requires.
fn other_type(schema: &Value, random: &mut Random) -> Value {
    let values = [
        ("null", json!(null)),
        ("boolean", json!(true)),
        ("integer", json!(7)),
        ("number", json!(7.5)),
        ("string", json!("text")),
        ("string", json!("7")),
        ("array", json!([])),
        ("array", json!(["text"])),
        ("object", json!({})),
    ];
    let required = schema["type"].as_str().expect("a type");
    let fits = |found: &str| found == required || (found, required) == ("integer", "number");
    let others: Vec<_> = values.iter().filter(|(found, _)| !fits(found)).collect();
    random.pick(&others).1.clone()
}

/// Returns a number beyond a limit, of the type that the schema requires.
fn beyond(schema: &Value, limit: i64, sign: i64, random: &mut Random) -> Value {
    if schema["type"] == "number" && random.one_in(2) {
        json!(limit as f64 + sign as f64 * *random.pick(&[0.1, 0.001, 1000.5]))
    } else {
        json!(limit + sign * random.between(1, 1000))
    }
}

fn collect<'a>(root: &'a Value, schema: &'a Value, value: &Value, pointer: String, sites: &mut Vec<Site<'a>>) {
    let schema = resolve(root, schema);
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                // Members that the schema does not define are always valid.
                if let Some(schema) = schema["properties"].get(name) {
                    collect(root, schema, member, format!("{pointer}/{name}"), sites);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if let Some(schema) = schema.get("items") {
                    collect(root, schema, item, format!("{pointer}/{index}"), sites);
                }
            }
        }
        _ => {}
    }
    sites.push(Site { pointer, schema });
}
