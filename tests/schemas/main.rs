//! Both validators against the official schemas: every action of every version, with valid payloads and payloads that
//! are invalid in one place.
//!
//! The schemas are those in the PyPI package `ocpp`, which `tests/run` fetches. The reference is a generic validator of
//! JSON Schema, which has neither error codes nor types.

mod generate;
mod mutate;
mod random;

use std::{env, fs, path::PathBuf, thread};

use ocpp_rpc::{
    ErrorCode, Payload,
    validate::{JsonSchemas, OcppSchemas, PayloadContext, PayloadKind, Valid, Validator, Violation},
};
use serde_json::Value;

use self::{generate::Generator, mutate::Rule, random::Random};

const VALID: usize = 200;
const INVALID: usize = 20;

#[test]
fn ocpp_1_6_validators_agree_with_official_schemas() {
    check("ocpp1.6", "v16", 39 + 39);
}

#[test]
fn ocpp_2_0_1_validators_agree_with_official_schemas() {
    check("ocpp2.0.1", "v201", 64 + 64);
}

#[test]
fn ocpp_2_1_validators_agree_with_official_schemas() {
    // A SEND has no response.
    check("ocpp2.1", "v21", 91 + 90);
}

fn check(protocol: &'static str, folder: &str, count: usize) {
    let folder = official(folder);
    let schemas = JsonSchemas::new().folder(protocol, &folder).expect("the official schemas");
    schemas.compile().expect("the official schemas compile");

    let mut paths: Vec<_> =
        fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert_eq!(paths.len(), count, "schemas in {}", folder.display());

    let threads = thread::available_parallelism().map_or(1, usize::from);
    let disagreements = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|first| {
                let (schemas, paths) = (&schemas, paths.iter().skip(first).step_by(threads));
                scope.spawn(move || {
                    paths.flat_map(|path| Comparison::new(protocol, path, schemas).run()).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect::<Vec<_>>()
    });
    let shown = disagreements.iter().take(50).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(disagreements.is_empty(), "{} disagreements:\n{shown}", disagreements.len());
}

/// Returns the folder of the official schemas of a version.
fn official(version: &str) -> PathBuf {
    let peers =
        env::var_os("OCPP_RPC_PEERS").expect("run tests/run, which fetches the schemas and sets OCPP_RPC_PEERS");
    let lib = PathBuf::from(peers).join("python/lib");
    let pythons = fs::read_dir(&lib).unwrap_or_else(|error| panic!("{}: {error}: run tests/run", lib.display()));
    let mut folders =
        pythons.map(|python| python.expect("a folder").path().join("site-packages/ocpp").join(version).join("schemas"));
    folders.find(|folder| folder.is_dir()).unwrap_or_else(|| panic!("no schemas in {}: run tests/run", lib.display()))
}

/// One schema, and the validators to compare on payloads of it.
struct Comparison<'a> {
    protocol: &'a str,
    action: String,
    kind: PayloadKind,
    schema: Value,
    plain: jsonschema::Validator,
    schemas: &'a JsonSchemas,
    disagreements: Vec<String>,
}

impl<'a> Comparison<'a> {
    fn new(protocol: &'a str, path: &std::path::Path, schemas: &'a JsonSchemas) -> Self {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let (action, kind) = match name.strip_suffix("Response") {
            Some(action) => (action, PayloadKind::Response),
            None => (name.strip_suffix("Request").unwrap_or(name), PayloadKind::Request),
        };
        let text = fs::read_to_string(path).expect("a schema");
        let schema = serde_json::from_str(text.trim_start_matches('\u{feff}')).expect("JSON");
        let plain = jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema");
        Self { protocol, action: action.to_owned(), kind, schema, plain, schemas, disagreements: Vec::new() }
    }

    fn run(mut self) -> Vec<String> {
        let schema = self.schema.clone();
        let mut random = Random::new(&format!("{} {} {:?}", self.protocol, self.action, self.kind));
        for _ in 0..VALID {
            let value = Generator::some(&schema, &mut random).value(&schema);
            self.check(&value, None);
        }
        for rule in Rule::ALL {
            // An optional member may be missing. If no payload has a place to break the rule, the rule does not apply.
            let (mut invalid, mut without) = (0, 0);
            while invalid < INVALID && (invalid > 0 || without < INVALID) {
                let value = Generator::most(&schema, &mut random).value(&schema);
                match rule.mutate(&schema, &value, &mut random) {
                    Some((value, place)) => {
                        self.check(&value, Some(&place));
                        invalid += 1;
                    }
                    None => without += 1,
                }
            }
        }
        self.disagreements
    }

    /// Compares the results of all validators for a payload that is valid, or invalid in this way at this place.
    fn check(&mut self, value: &Value, invalid: Option<&Place>) {
        let text = value.to_string();
        if self.plain.is_valid(value) != invalid.is_none() {
            self.disagree("the plain validator", &text, &format!("does not find {invalid:?}"));
        }
        // Unlike `Payload::encode`, this accepts payloads that are not objects.
        let payload: Payload = serde_json::from_str(&text).expect("JSON");
        let context = PayloadContext::new(self.protocol, &self.action, self.kind, &payload);
        let results =
            [("OcppSchemas", OcppSchemas.validate(&context)), ("JsonSchemas", self.schemas.validate(&context))];
        for (validator, result) in results {
            let found = found(result);
            if found.as_ref().map(|(place, _)| place) != invalid {
                self.disagree(validator, &text, &format!("found {found:?}, not {invalid:?}"));
            }
        }
    }

    fn disagree(&mut self, validator: &str, payload: &str, message: &str) {
        let Self { protocol, action, kind, .. } = self;
        let payload: String = payload.chars().take(2000).collect();
        self.disagreements
            .push(format!("{validator} on the {kind:?} of {action} ({protocol}): {message} in {payload}"));
    }
}

type Place = (ErrorCode, String);

fn found(result: Result<Valid, Violation>) -> Option<(Place, String)> {
    let violation = result.err()?;
    Some(((violation.code().clone(), violation.pointer().to_owned()), violation.reason().to_owned()))
}
