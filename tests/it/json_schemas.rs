//! Validation of a custom protocol by JSON Schemas, in both directions.

use ocpp_rpc::{
    Error, Options, RpcRouter, RpcServer,
    validate::{JsonSchemas, PayloadKind, Validation},
};
use serde_json::{Value, json};

use crate::support::{connected, echo};

#[tokio::test(start_paused = true)]
async fn b42_custom_protocols_are_checked_by_custom_schemas() {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-06/schema#",
        "type": "object",
        "properties": {"level": {"type": "integer", "maximum": 3}},
        "required": ["level"],
        "additionalProperties": false,
    });
    let schemas = JsonSchemas::new().schema("acme1", "Dim", PayloadKind::Request, schema).expect("a schema");
    let schemas = schemas.schema("acme1", "Dim", PayloadKind::Response, json!({"type": "object"})).expect("a schema");
    let server = RpcServer::builder(RpcRouter::new().on("Dim", echo)).protocols(["acme1"]);
    let server =
        server.options(Options::server().validation(Validation::new(schemas))).build().expect("valid settings");
    let (mut station, session) = connected(&server, "acme1").await;
    for (params, response) in [
        (r#"{"level":2}"#, r#"[3,"1",{"level":2}]"#),
        (r#"{"level":4}"#, r#"[4,"1","PropertyConstraintViolation","/level: "#),
        (r#"{"level":"2"}"#, r#"[4,"1","TypeConstraintViolation","/level: "#),
        ("{}", r#"[4,"1","OccurrenceConstraintViolation","/level: "#),
        (r#"{"level":1,"more":1}"#, r#"[4,"1","FormatViolation","/more: "#),
    ] {
        let seen = station.ask(format!(r#"[2,"1","Dim",{params}]"#)).await;
        assert!(seen.starts_with(response), "{params}: {seen}");
    }
    let failed = session.call::<Value>("Dim", &json!({"level": 9})).await;
    assert!(matches!(failed, Err(Error::Invalid(violation)) if violation.pointer() == "/level"));
    station.silent().await;
}
