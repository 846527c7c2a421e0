//! Validation by JSON Schemas, for private protocols or instead of the built-in schemas.

pub(crate) mod error;

use std::{collections::HashMap, fmt, fs, io, path::Path, sync::OnceLock};

use jsonschema::{Draft, Keyword, ValidationError, error::ValidationErrorKind};
use serde_json::{Number, Value};

use crate::{
    error::{ErrorCode, Violation},
    validate::{
        json_schemas::error::SchemaError,
        multiple,
        validator::{PayloadContext, PayloadKind, Valid, Validator},
    },
};

/// A validator that checks payloads against JSON Schemas of draft 4, 6, 7 or later, by protocol and action.
///
/// A payload without a schema is rejected with [`ErrorCode::NOT_IMPLEMENTED`]. The `$schema` of a schema sets its draft.
/// Default draft 7. A `$ref` must point to a place in the same schema. The keyword `multipleOf` ignores the rounding
/// errors of doubles.
///
/// A valid payload is decoded as a [`Value`]. A handler that takes a [`Value`] gets it without decoding it again.
///
/// ```
/// use ocpp_rpc::{ErrorCode, Payload, validate::{JsonSchemas, PayloadContext, PayloadKind, Validator}};
/// use serde_json::json;
///
/// let schema = json!({
///     "type": "object",
///     "properties": {"level": {"type": "integer", "maximum": 7}},
///     "required": ["level"],
/// });
/// let schemas = JsonSchemas::new().schema("acme1", "SetLevel", PayloadKind::Request, schema)?;
///
/// let payload = Payload::encode(&json!({"level": 8}))?;
/// let context = PayloadContext::new("acme1", "SetLevel", PayloadKind::Request, &payload);
/// let violation = schemas.validate(&context).expect_err("too high");
/// assert_eq!(*violation.code(), ErrorCode::PROPERTY_CONSTRAINT_VIOLATION);
/// assert_eq!(violation.pointer(), "/level");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JsonSchemas {
    protocols: HashMap<String, HashMap<String, Action>>,
    formats: bool,
    codes: Box<CodeOf>,
}

type CodeOf = dyn Fn(&str) -> Option<ErrorCode> + Send + Sync;

impl JsonSchemas {
    /// Creates a validator without schemas.
    pub fn new() -> Self {
        Self { protocols: HashMap::new(), formats: true, codes: Box::new(|_| None) }
    }

    /// Sets the schema of one payload.
    ///
    /// # Errors
    ///
    /// Returns an error if the schema violates its draft. Other errors appear when the schema is
    /// [compiled](Self::compile).
    pub fn schema(
        mut self,
        protocol: impl Into<String>,
        action: impl Into<String>,
        kind: PayloadKind,
        schema: Value,
    ) -> Result<Self, SchemaError> {
        let (protocol, action) = (protocol.into(), action.into());
        let names_draft = schema.get("$schema").is_some();
        let validate = if names_draft { jsonschema::meta::validate } else { jsonschema::draft7::meta::validate };
        validate(&schema)
            .map_err(|error| SchemaError::invalid(&protocol, &action, kind, error.masked().to_string()))?;
        let action = self.protocols.entry(protocol).or_default().entry(action).or_default();
        *action.schema_mut(kind) = Some(Schema { source: schema, compiled: OnceLock::new() });
        Ok(self)
    }

    /// Adds the schema of a file.
    ///
    /// The name of the file determines the payload: `<Action>Request.json` or `<Action>.json` for a request, and
    /// `<Action>Response.json` for a response.
    ///
    /// # Errors
    ///
    /// Returns an error if reading the file fails, if its name does not end in `.json`, or if it is not a schema.
    pub fn file(self, protocol: impl Into<String>, path: impl AsRef<Path>) -> Result<Self, SchemaError> {
        let path = path.as_ref();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
        let name = name.ok_or_else(|| SchemaError::FileName(path.to_owned()))?;
        let (action, kind) = match (name.strip_suffix("Response"), name.strip_suffix("Request")) {
            (Some(action), _) => (action, PayloadKind::Response),
            (None, Some(action)) => (action, PayloadKind::Request),
            (None, None) => (name, PayloadKind::Request),
        };
        let text = fs::read_to_string(path).map_err(|error| SchemaError::Read(path.to_owned(), error))?;
        let schema = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| SchemaError::NotJson(path.to_owned(), error))?;
        self.schema(protocol, action, kind, schema)
    }

    /// Adds the schemas of a folder, as the Open Charge Alliance publishes them.
    ///
    /// The names of the files must be as in [`file`](Self::file). Names that do not end in `.json` and inner folders are
    /// ignored.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder contains no schema, or if adding one of its [files](Self::file) fails.
    pub fn folder(self, protocol: impl Into<String>, path: impl AsRef<Path>) -> Result<Self, SchemaError> {
        let (protocol, folder) = (protocol.into(), path.as_ref());
        let failed = |error| SchemaError::Read(folder.to_owned(), error);
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
        let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
        paths.retain(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "json"));
        if paths.is_empty() {
            return Err(SchemaError::EmptyFolder(folder.to_owned()));
        }
        paths.sort();
        paths.iter().try_fold(self, |schemas, path| schemas.file(protocol.as_str(), path))
    }

    /// Sets if the keyword `format` is checked, for dates, URIs and the like. Default `true`.
    #[must_use]
    pub fn check_formats(self, formats: bool) -> Self {
        Self { formats, ..self }
    }

    /// Sets the codes for violations of keywords, such as `maxLength`.
    ///
    /// If `codes` returns `None` for a keyword, the table in [`Validation`](crate::validate::Validation) determines the
    /// code.
    ///
    /// ```
    /// use ocpp_rpc::{ErrorCode, validate::JsonSchemas};
    ///
    /// let lenient = |keyword: &str| (keyword == "additionalProperties").then_some(ErrorCode::PROTOCOL_ERROR);
    /// let schemas = JsonSchemas::new().codes(lenient);
    /// ```
    #[must_use]
    pub fn codes(self, codes: impl Fn(&str) -> Option<ErrorCode> + Send + Sync + 'static) -> Self {
        Self { codes: Box::new(codes), ..self }
    }

    /// Compiles every schema now.
    ///
    /// Otherwise each schema is compiled when a connection needs it for the first time, which takes some milliseconds. A
    /// schema that does not compile rejects every payload then.
    ///
    /// # Errors
    ///
    /// Returns an error if a schema does not compile, for example because of a dangling `$ref` or an invalid pattern.
    pub fn compile(&self) -> Result<(), SchemaError> {
        for (protocol, actions) in &self.protocols {
            for (name, action) in actions {
                for (kind, schema) in
                    [(PayloadKind::Request, &action.request), (PayloadKind::Response, &action.response)]
                {
                    let Some(Err(reason)) = schema.as_ref().map(|schema| schema.compiled(self.formats)) else {
                        continue;
                    };
                    return Err(SchemaError::invalid(protocol, name, kind, reason.clone()));
                }
            }
        }
        Ok(())
    }

    fn violation(&self, error: &ValidationError<'_>, payload: &Value) -> Violation {
        let mut pointer = error.instance_path().as_str().to_owned();
        // The pointer should name the member, not the object around it.
        let (keyword, member) = match error.kind() {
            ValidationErrorKind::Required { property } => ("required", property.as_str()),
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                (error.kind().keyword(), unexpected.first().map(String::as_str))
            }
            // The object must not have members, so the first one is the violation.
            ValidationErrorKind::FalseSchema if error.schema_path().as_str().ends_with("/additionalProperties") => {
                let object = payload.pointer(&pointer).and_then(Value::as_object);
                ("additionalProperties", object.and_then(|object| object.keys().next().map(String::as_str)))
            }
            kind => (kind.keyword(), None),
        };
        let code = (self.codes)(keyword).unwrap_or_else(|| default_code(keyword, &pointer));
        if let Some(member) = member {
            pointer = format!("{pointer}/{}", member.replace('~', "~0").replace('/', "~1"));
        }
        // Masks the value, which may be long or a secret.
        Violation::new(code, pointer, error.masked().to_string())
    }
}

impl Default for JsonSchemas {
    fn default() -> Self {
        Self::new()
    }
}

impl Validator for JsonSchemas {
    fn supports(&self, protocol: &str) -> bool {
        self.protocols.contains_key(protocol)
    }

    fn validate(&self, context: &PayloadContext<'_>) -> Result<Valid, Violation> {
        let action = self.protocols.get(context.protocol).and_then(|actions| actions.get(context.action));
        let schema = action.and_then(|action| match context.kind {
            PayloadKind::Request => action.request.as_ref(),
            PayloadKind::Response => action.response.as_ref(),
        });
        let Some(schema) = schema else {
            return Err(Violation::new(ErrorCode::NOT_IMPLEMENTED, "", "has no schema"));
        };
        let validator = schema.compiled(self.formats).as_ref().map_err(|reason| {
            Violation::new(ErrorCode::INTERNAL_ERROR, "", format!("the schema does not compile: {reason}"))
        })?;
        let not_json = |error: serde_json::Error| Violation::new(ErrorCode::FORMAT_VIOLATION, "", error.to_string());
        let value: Value = context.payload.decode().map_err(not_json)?;
        validator.validate(&value).map_err(|error| self.violation(&error, &value))?;
        Ok(Valid::with_value(value))
    }
}

impl fmt::Debug for JsonSchemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocols: Vec<_> = self.protocols.keys().collect();
        f.debug_struct("JsonSchemas")
            .field("protocols", &protocols)
            .field("formats", &self.formats)
            .finish_non_exhaustive()
    }
}

/// The schemas of an action.
#[derive(Default)]
struct Action {
    request: Option<Schema>,
    response: Option<Schema>,
}

impl Action {
    fn schema_mut(&mut self, kind: PayloadKind) -> &mut Option<Schema> {
        match kind {
            PayloadKind::Request => &mut self.request,
            PayloadKind::Response => &mut self.response,
        }
    }
}

struct Schema {
    source: Value,
    compiled: OnceLock<Result<jsonschema::Validator, String>>,
}

impl Schema {
    fn compiled(&self, formats: bool) -> &Result<jsonschema::Validator, String> {
        self.compiled.get_or_init(|| {
            let options = jsonschema::options()
                .should_validate_formats(formats)
                .with_keyword("multipleOf", |_, divisor, _| MultipleOf::compile(divisor));
            let options = match self.source.get("$schema") {
                Some(_) => options,
                None => options.with_draft(Draft::Draft7),
            };
            options.build(&self.source).map_err(|error| error.masked().to_string())
        })
    }
}

/// The keyword `multipleOf`. That of `jsonschema` rejects numbers that a peer computed in doubles.
struct MultipleOf(Number);

impl MultipleOf {
    fn compile<'a>(divisor: &Value) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
        match divisor {
            Value::Number(divisor) => Ok(Box::new(Self(divisor.clone()))),
            _ => Err(ValidationError::schema("multipleOf is not a number")),
        }
    }
}

impl<'i> Keyword<'i> for MultipleOf {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) {
            return Ok(());
        }
        Err(ValidationError::custom(format!("value is not a multiple of {}", self.0)))
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        let Value::Number(number) = instance else { return true };
        if let (Some(number), Some(divisor)) = (number.as_i128(), self.0.as_i128()) {
            return number.checked_rem(divisor) == Some(0);
        }
        number.as_f64().zip(self.0.as_f64()).is_some_and(|(number, divisor)| multiple::is_multiple(number, divisor))
    }
}

/// Returns the code for a violation of a keyword.
fn default_code(keyword: &str, pointer: &str) -> ErrorCode {
    match keyword {
        // The payload itself is not an object.
        "type" if pointer.is_empty() => ErrorCode::FORMAT_VIOLATION,
        "type" => ErrorCode::TYPE_CONSTRAINT_VIOLATION,
        "additionalProperties" | "unevaluatedProperties" | "propertyNames" | "falseSchema" => {
            ErrorCode::FORMAT_VIOLATION
        }
        "required" | "minItems" | "maxItems" | "additionalItems" | "unevaluatedItems" | "contains"
        | "minProperties" | "maxProperties" => ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION,
        _ => ErrorCode::PROPERTY_CONSTRAINT_VIOLATION,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::payload::Payload;

    const FORMAT: ErrorCode = ErrorCode::FORMAT_VIOLATION;
    const OCCURRENCE: ErrorCode = ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION;
    const TYPE: ErrorCode = ErrorCode::TYPE_CONSTRAINT_VIOLATION;
    const PROPERTY: ErrorCode = ErrorCode::PROPERTY_CONSTRAINT_VIOLATION;

    /// The schema of one request.
    fn schemas(schema: Value) -> JsonSchemas {
        JsonSchemas::new().schema("acme1", "Set", PayloadKind::Request, schema).expect("a schema")
    }

    fn set(schemas: &JsonSchemas, json: &str) -> Result<Valid, Violation> {
        schemas.validate(&PayloadContext::new("acme1", "Set", PayloadKind::Request, &Payload(json.into())))
    }

    #[test]
    fn violation_has_its_code_and_pointer() {
        let schemas = schemas(json!({
            "type": "object",
            "properties": {
                "list": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "a/b": {"type": "string", "maxLength": 3},
                            "unit": {"enum": ["A", "W"]},
                            "level": {"type": "integer", "minimum": 1, "maximum": 7},
                            "date": {"type": "string", "format": "date-time"},
                        },
                        "required": ["a/b"],
                        "additionalProperties": false,
                    },
                    "minItems": 1,
                    "maxItems": 2,
                },
            },
            "additionalProperties": false,
        }));
        let item = |members: &str| format!(r#"{{"list":[{{"a/b":"x"}},{{{members}}}]}}"#);
        assert!(set(&schemas, &item(r#""a/b":"x","unit":"W","level":7,"date":"2026-01-01T00:00:00Z""#)).is_ok());
        for (json, code, pointer) in [
            ("[]".to_owned(), FORMAT, ""),
            ("{".to_owned(), FORMAT, ""),
            (r#"{"lists":[]}"#.to_owned(), FORMAT, "/lists"),
            (r#"{"list":{}}"#.to_owned(), TYPE, "/list"),
            (r#"{"list":[]}"#.to_owned(), OCCURRENCE, "/list"),
            (r#"{"list":[{"a/b":""},{"a/b":""},{"a/b":""}]}"#.to_owned(), OCCURRENCE, "/list"),
            (r#"{"list":[7]}"#.to_owned(), TYPE, "/list/0"),
            (item(""), OCCURRENCE, "/list/1/a~1b"),
            (item(r#""a/b":null"#), TYPE, "/list/1/a~1b"),
            (item(r#""a/b":"xxxx""#), PROPERTY, "/list/1/a~1b"),
            (item(r#""a/b":"x","c~d":1"#), FORMAT, "/list/1/c~0d"),
            (item(r#""a/b":"x","unit":"V""#), PROPERTY, "/list/1/unit"),
            (item(r#""a/b":"x","level":8"#), PROPERTY, "/list/1/level"),
            (item(r#""a/b":"x","level":0"#), PROPERTY, "/list/1/level"),
            (item(r#""a/b":"x","date":"tomorrow""#), PROPERTY, "/list/1/date"),
        ] {
            let violation = set(&schemas, &json).expect_err(&json);
            assert_eq!((violation.code(), violation.pointer()), (&code, pointer), "{violation}");
        }
    }

    #[test]
    fn member_of_an_object_without_members_is_the_violation() {
        let none = || json!({"type": "object", "additionalProperties": false});
        let schemas = schemas(json!({"properties": {"list": {"items": none()}}}));
        let violation = set(&schemas, r#"{"list":[{},{"a":1}]}"#).expect_err("a member");
        assert_eq!((violation.code(), violation.pointer()), (&FORMAT, "/list/1/a"));
    }

    #[test]
    fn multiple_of_a_tenth_is_exact_up_to_rounding() {
        let schemas = schemas(json!({"properties": {"limit": {"type": "number", "multipleOf": 0.1}}}));
        for number in [
            "0.1",
            "0.3",
            "21.4",
            "1e-1",
            "100000000.1",
            "-0.7",
            "16",
            "0",
            "0.30000000000000004",
            "21.700000000000003",
            "0.29999999999999716",
        ] {
            assert!(set(&schemas, &format!(r#"{{"limit":{number}}}"#)).is_ok(), "{number}");
        }
        for number in ["0.15", "0.31", "21.45", "1e-2", "0.1000000001"] {
            let violation = set(&schemas, &format!(r#"{{"limit":{number}}}"#)).expect_err(number);
            assert_eq!((violation.code(), violation.pointer()), (&PROPERTY, "/limit"));
            assert_eq!(violation.to_string(), "/limit: value is not a multiple of 0.1");
        }
    }

    #[test]
    fn multiple_of_an_integer_is_exact() {
        let schemas = schemas(json!({"properties": {"level": {"multipleOf": 3}}}));
        for level in ["0", "-6", "9.0", "3e2", "9007199254740993", "\"text\"", "null"] {
            assert!(set(&schemas, &format!(r#"{{"level":{level}}}"#)).is_ok(), "{level}");
        }
        for level in ["1", "3.5", "9007199254740994", "18446744073709551614"] {
            assert!(set(&schemas, &format!(r#"{{"level":{level}}}"#)).is_err(), "{level}");
        }
    }

    #[test]
    fn schema_keyword_sets_the_draft() {
        let draft = |number: &str, rule: &Value| {
            let name = format!("http://json-schema.org/draft-{number}/schema#");
            schemas(json!({"$schema": name, "properties": {"level": rule}}))
        };
        let level = |schemas: JsonSchemas, level: &str| set(&schemas, &format!(r#"{{"level":{level}}}"#)).is_ok();

        assert!(!level(draft("04", &json!({"minimum": 1, "exclusiveMinimum": true})), "1"));
        assert!(!level(draft("04", &json!({"type": "integer"})), "1.0"));
        for number in ["06", "07"] {
            assert!(!level(draft(number, &json!({"exclusiveMinimum": 1})), "1"));
            assert!(level(draft(number, &json!({"type": "integer"})), "1.0"));
        }
        let conditional = json!({"if": {"minimum": 5}, "then": {"maximum": 6}});
        assert!(level(draft("06", &conditional), "7"));
        assert!(!level(draft("07", &conditional), "7"));
        assert!(!level(schemas(json!({"properties": {"level": conditional}})), "7"));
    }

    #[test]
    fn format_keyword_is_ignored_if_disabled() {
        let dated = || schemas(json!({"properties": {"date": {"type": "string", "format": "date-time"}}}));
        assert!(set(&dated(), r#"{"date":"tomorrow"}"#).is_err());
        assert!(set(&dated().check_formats(false), r#"{"date":"tomorrow"}"#).is_ok());
    }

    #[test]
    fn codes_replace_the_default_codes() {
        let codes = |keyword: &str| (keyword == "required").then_some(ErrorCode::PROTOCOL_ERROR);
        let schemas = schemas(json!({"type": "object", "required": ["a"]})).codes(codes);
        assert_eq!(*set(&schemas, "{}").expect_err("missing").code(), ErrorCode::PROTOCOL_ERROR);
        assert_eq!(*set(&schemas, "[]").expect_err("an array").code(), FORMAT);
    }

    #[test]
    fn payload_without_a_schema_is_not_implemented() {
        let schemas = schemas(json!({}));
        assert!(schemas.supports("acme1") && !schemas.supports("acme2"));
        let payload = Payload::default();
        for (protocol, action, kind) in [
            ("acme2", "Set", PayloadKind::Request),
            ("acme1", "Get", PayloadKind::Request),
            ("acme1", "Set", PayloadKind::Response),
        ] {
            let violation =
                schemas.validate(&PayloadContext::new(protocol, action, kind, &payload)).expect_err("no schema");
            assert_eq!(*violation.code(), ErrorCode::NOT_IMPLEMENTED);
        }
    }

    #[test]
    fn invalid_schema_fails_when_added_or_compiled() {
        let schema = |schema| JsonSchemas::new().schema("acme1", "Set", PayloadKind::Response, schema);
        let error = schema(json!({"type": "text"})).expect_err("no type").to_string();
        assert!(error.starts_with("invalid schema of the response of Set (acme1): "), "{error}");

        for nowhere in ["#/definitions/a", "other.json", "http://127.0.0.1:9/schema.json"] {
            let schemas = schemas(json!({"$ref": nowhere}));
            assert!(matches!(schemas.compile(), Err(SchemaError::Invalid { .. })), "{nowhere}");
            assert_eq!(*set(&schemas, "{}").expect_err("not compiled").code(), ErrorCode::INTERNAL_ERROR);
        }
        assert!(schemas(json!({"$ref": "#"})).compile().is_ok());
    }

    #[test]
    fn file_name_determines_the_payload() {
        let folder = std::env::temp_dir().join(format!("ocpp-rpc-schemas-{}", std::process::id()));
        fs::create_dir_all(folder.join("inside.json")).expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("written");
        let read = || JsonSchemas::new().folder("acme1", &folder);

        assert!(matches!(read(), Err(SchemaError::EmptyFolder(path)) if path == folder));
        write("readme.txt", "no schema");
        write("Set.json", "\u{feff}{\"required\": [\"a\"]}");
        write("SetResponse.json", "{\"required\": [\"b\"]}");
        write("GetRequest.json", "{\"required\": [\"c\"]}");
        let (schemas, empty) = (read().expect("schemas"), Payload::default());
        for (action, kind, pointer) in [
            ("Set", PayloadKind::Request, "/a"),
            ("Set", PayloadKind::Response, "/b"),
            ("Get", PayloadKind::Request, "/c"),
        ] {
            let context = PayloadContext::new("acme1", action, kind, &empty);
            assert_eq!(schemas.validate(&context).expect_err("missing").pointer(), pointer);
        }

        write("Broken.json", "{");
        assert!(matches!(read(), Err(SchemaError::NotJson(path, _)) if path.ends_with("Broken.json")));
        fs::remove_dir_all(&folder).expect("removed");
        assert!(matches!(read(), Err(SchemaError::Read(path, _)) if path == folder));
        let file = |path: &str| JsonSchemas::new().file("acme1", path);
        assert!(matches!(file("Set.yaml"), Err(SchemaError::FileName(_))));
        assert!(matches!(file("Set.json"), Err(SchemaError::Read(..))));
    }

    #[test]
    fn valid_payload_has_its_value() {
        let valid = set(&schemas(json!({})), r#"{"a":1}"#).expect("valid");
        assert_eq!(valid.take::<Value>(), Some(json!({"a": 1})));
    }
}
