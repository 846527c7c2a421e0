//! Validation by the official schemas of OCPP 1.6, 2.0.1 and 2.1, without schema files.
//!
//! A [reader] as strict as a schema decodes each payload once, as the type of its action. The type then checks lengths,
//! ranges and enumerations on the value, and the handler gets the same value.

mod formats;
mod reader;

use std::any::Any;

use ocpp_kit::{
    types::Decimal,
    v1_6,
    validate::{Validate, ViolationKind},
};
use serde::de::DeserializeOwned;

use crate::{
    action::table,
    error::{ErrorCode, Violation},
    message::payload::Payload,
    validate::{
        multiple,
        validator::{PayloadContext, PayloadKind, Valid, Validator},
    },
};

/// A validator with the official schemas of `ocpp1.6` (with its security extensions), `ocpp2.0.1` and `ocpp2.1`.
///
/// See [`Validation`](crate::validate::Validation) for its codes and limits. A valid payload is decoded as the type that
/// the crate `ocpp-kit` (0.3) has for it. If a handler or a call takes this type, it gets the value without decoding the
/// payload again.
///
/// ```
/// # #[cfg(feature = "server")] {
/// use ocpp_rpc::{Options, RpcRouter, RpcServer, validate::{OcppSchemas, Validation}};
///
/// let server = RpcServer::builder(RpcRouter::new())
///     .protocols(["ocpp2.0.1", "ocpp1.6"])
///     .options(Options::server().validation(Validation::new(OcppSchemas)))
///     .build()?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A validator can also check a single payload:
///
/// ```
/// use ocpp_rpc::{ErrorCode, Payload, validate::{OcppSchemas, PayloadContext, PayloadKind, Validator}};
/// use serde_json::json;
///
/// let payload = Payload::encode(&json!({"idTag": "a tag of more than twenty characters"}))?;
/// let context = PayloadContext::new("ocpp1.6", "Authorize", PayloadKind::Request, &payload);
/// let violation = OcppSchemas.validate(&context).expect_err("too long");
/// assert_eq!(*violation.code(), ErrorCode::PROPERTY_CONSTRAINT_VIOLATION);
/// assert_eq!(violation.pointer(), "/idTag");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OcppSchemas;

impl Validator for OcppSchemas {
    fn supports(&self, protocol: &str) -> bool {
        actions_for(protocol).is_some()
    }

    fn validate(&self, context: &PayloadContext<'_>) -> Result<Valid, Violation> {
        let not_implemented = |reason| Err(Violation::new(ErrorCode::NOT_IMPLEMENTED, "", reason));
        let Some(actions) = actions_for(context.protocol) else { return not_implemented("the protocol is unknown") };
        let Ok(index) = actions.binary_search_by_key(&context.action, |action| action.name) else {
            return not_implemented("the action is unknown");
        };
        match (context.kind, actions[index].response) {
            (PayloadKind::Request, _) => (actions[index].request)(context.payload),
            (PayloadKind::Response, Some(response)) => response(context.payload),
            (PayloadKind::Response, None) => not_implemented("the action has no response"),
        }
    }
}

/// The checks of the payloads of an action.
struct Action {
    name: &'static str,
    request: Check,
    /// `None` for a SEND.
    response: Option<Check>,
}

type Check = fn(&Payload) -> Result<Valid, Violation>;

macro_rules! checks {
    ($version:ident; $($name:literal: $request:ident $(=> $response:ident)?;)*) => {
        &[$(Action {
            name: $name,
            request: check::<ocpp_kit::$version::$request>,
            response: checks!(@optional $(check::<ocpp_kit::$version::$response>)?),
        }),*]
    };
    (@optional) => { None };
    (@optional $check:expr) => { Some($check) };
}

/// Returns the actions of a protocol, sorted by name.
fn actions_for(protocol: &str) -> Option<&'static [Action]> {
    const OCPP_1_6: &[Action] = table::ocpp1_6!(checks);
    const OCPP_2_0_1: &[Action] = table::ocpp2_0_1!(checks);
    const OCPP_2_1: &[Action] = table::ocpp2_1!(checks);
    match protocol {
        "ocpp1.6" => Some(OCPP_1_6),
        "ocpp2.0.1" => Some(OCPP_2_0_1),
        "ocpp2.1" => Some(OCPP_2_1),
        _ => None,
    }
}

fn check<T: DeserializeOwned + Validate + Send + 'static>(payload: &Payload) -> Result<Valid, Violation> {
    let value: T = reader::read(payload.as_str())?;
    if let Err(violations) = value.validate()
        && let Some(first) = violations.into_iter().next()
    {
        return Err(first.into());
    }
    match check_untyped_rules(&value) {
        Some(violation) => Err(violation),
        None => Ok(Valid::with_value(value)),
    }
}

impl From<ocpp_kit::validate::Violation> for Violation {
    fn from(violation: ocpp_kit::validate::Violation) -> Self {
        let code = match violation.kind {
            ViolationKind::Occurrence => ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION,
            ViolationKind::Type => ErrorCode::TYPE_CONSTRAINT_VIOLATION,
            ViolationKind::UnknownField => ErrorCode::FORMAT_VIOLATION,
            _ => ErrorCode::PROPERTY_CONSTRAINT_VIOLATION,
        };
        Self::new(code, violation.path, violation.reason)
    }
}

/// Checks the rules of the OCPP 1.6 schemas that the types do not have: numbers in tenths, and URIs.
fn check_untyped_rules(value: &dyn Any) -> Option<Violation> {
    if let Some(request) = value.downcast_ref::<v1_6::SetChargingProfileRequest>() {
        check_tenths(&request.cs_charging_profiles.charging_schedule, "/csChargingProfiles/chargingSchedule")
    } else if let Some(request) = value.downcast_ref::<v1_6::RemoteStartTransactionRequest>() {
        check_tenths(&request.charging_profile.as_ref()?.charging_schedule, "/chargingProfile/chargingSchedule")
    } else if let Some(response) = value.downcast_ref::<v1_6::GetCompositeScheduleResponse>() {
        check_tenths(response.charging_schedule.as_ref()?, "/chargingSchedule")
    } else if let Some(request) = value.downcast_ref::<v1_6::GetDiagnosticsRequest>() {
        check_uri(&request.location)
    } else if let Some(request) = value.downcast_ref::<v1_6::UpdateFirmwareRequest>() {
        check_uri(&request.location)
    } else {
        None
    }
}

fn check_tenths(schedule: &v1_6::ChargingSchedule, pointer: &str) -> Option<Violation> {
    let is_tenths = |number: &Decimal| multiple::is_multiple(number.to_f64_lossy(), 0.1);
    let violation =
        |pointer| Some(Violation::new(ErrorCode::PROPERTY_CONSTRAINT_VIOLATION, pointer, "is not a multiple of 0.1"));
    if schedule.min_charging_rate.is_some_and(|rate| !is_tenths(&rate)) {
        return violation(format!("{pointer}/minChargingRate"));
    }
    let period = schedule.charging_schedule_period.iter().position(|period| !is_tenths(&period.limit))?;
    violation(format!("{pointer}/chargingSchedulePeriod/{period}/limit"))
}

fn check_uri(location: &str) -> Option<Violation> {
    let violation = || Violation::new(ErrorCode::PROPERTY_CONSTRAINT_VIOLATION, "/location", "is not a URI (RFC 3986)");
    (!formats::is_uri(location)).then(violation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: ErrorCode = ErrorCode::FORMAT_VIOLATION;
    const OCCURRENCE: ErrorCode = ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION;
    const TYPE: ErrorCode = ErrorCode::TYPE_CONSTRAINT_VIOLATION;
    const PROPERTY: ErrorCode = ErrorCode::PROPERTY_CONSTRAINT_VIOLATION;

    fn validate(protocol: &str, action: &str, kind: PayloadKind, json: &str) -> Result<Valid, Violation> {
        let payload = Payload(json.into());
        OcppSchemas.validate(&PayloadContext::new(protocol, action, kind, &payload))
    }

    fn request(protocol: &str, action: &str, json: &str) -> Result<Valid, Violation> {
        validate(protocol, action, PayloadKind::Request, json)
    }

    #[track_caller]
    fn assert_rejected(result: Result<Valid, Violation>, code: &ErrorCode, pointer: &str) {
        let violation = result.expect_err("rejected");
        assert_eq!((violation.code(), violation.pointer()), (code, pointer), "{violation}");
    }

    /// Returns a MeterValues request of OCPP 1.6 with these members in its second sampled value.
    fn meter_values(sampled: &str) -> String {
        format!(
            r#"{{"connectorId":1,"meterValue":[{{"timestamp":"2026-01-01T00:00:00Z","sampledValue":[{{"value":"1"}},{{{sampled}}}]}}]}}"#
        )
    }

    #[test]
    fn violation_has_its_code_and_pointer() {
        for (json, code, pointer) in [
            ("[]", FORMAT, ""),
            (r#"["tag"]"#, FORMAT, ""),
            ("null", FORMAT, ""),
            ("7", FORMAT, ""),
            (r#"{"idTag":"tag"} {}"#, FORMAT, ""),
            ("{}", OCCURRENCE, "/idTag"),
            (r#"{"idTag":null}"#, TYPE, "/idTag"),
            (r#"{"idTag":7}"#, TYPE, "/idTag"),
            (r#"{"idTag":{}}"#, TYPE, "/idTag"),
            (r#"{"idTag":["tag"]}"#, TYPE, "/idTag"),
            (r#"{"idTag":"123456789012345678901"}"#, PROPERTY, "/idTag"),
            (r#"{"idTag":"tag","idTag":"tag"}"#, FORMAT, "/idTag"),
            (r#"{"idTag":"tag","vendor":{"a":1}}"#, FORMAT, "/vendor"),
            (r#"{"idTag":"tag","a/b~c":1}"#, FORMAT, "/a~1b~0c"),
            (r#"{"idTag":"tag","a\u0062":1}"#, FORMAT, "/ab"),
        ] {
            assert_rejected(request("ocpp1.6", "Authorize", json), &code, pointer);
        }
        // The limit is 20 characters, not bytes.
        assert!(request("ocpp1.6", "Authorize", r#"{"idTag":"ÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄ"}"#).is_ok());
        assert!(request("ocpp1.6", "Authorize", r#" { "\u0069dTag" : "t\u0061g" } "#).is_ok());
    }

    #[test]
    fn nested_violation_has_its_pointer() {
        let value = "/meterValue/0/sampledValue/1";
        for (sampled, code, member) in [
            ("", OCCURRENCE, "/value"),
            (r#""value":1"#, TYPE, "/value"),
            (r#""value":"1","unit":null"#, TYPE, "/unit"),
            (r#""value":"1","unit":"kwh""#, PROPERTY, "/unit"),
            (r#""value":"1","unit":["Wh"]"#, TYPE, "/unit"),
            (r#""value":"1","units":"Wh""#, FORMAT, "/units"),
        ] {
            let json = meter_values(sampled);
            assert_rejected(request("ocpp1.6", "MeterValues", &json), &code, &format!("{value}{member}"));
        }
        let array = r#"{"connectorId":1,"meterValue":[{"timestamp":"2026-01-01T00:00:00Z","sampledValue":[["1"]]}]}"#;
        assert_rejected(request("ocpp1.6", "MeterValues", array), &TYPE, "/meterValue/0/sampledValue/0");
        assert!(request("ocpp1.6", "MeterValues", &meter_values(r#""value":"1","unit":"kWh""#)).is_ok());
    }

    #[test]
    fn integer_with_a_fraction_or_over_32_bits_is_rejected() {
        let reset = |evse| request("ocpp2.0.1", "Reset", &format!(r#"{{"type":"Immediate","evseId":{evse}}}"#));
        for whole in ["0", "-1", "1.0", "1e2", "2147483647", "-2147483648"] {
            assert!(reset(whole).is_ok(), "{whole}");
        }
        for (number, code) in [
            ("1.5", TYPE),
            ("\"1\"", TYPE),
            ("true", TYPE),
            ("2147483648", PROPERTY),
            ("-2147483649.0", PROPERTY),
            ("1e300", PROPERTY),
        ] {
            assert_rejected(reset(number), &code, "/evseId");
        }
        assert_rejected(reset("1e999"), &FORMAT, "/evseId");
    }

    #[test]
    fn number_in_tenths_is_exact_up_to_rounding() {
        let profile = |limit: &str, rate: &str| {
            let schedule = format!(
                r#"{{"chargingRateUnit":"A","minChargingRate":{rate},"chargingSchedulePeriod":[{{"startPeriod":0,"limit":1}},{{"startPeriod":9,"limit":{limit}}}]}}"#
            );
            let profile = format!(
                r#"{{"chargingProfileId":1,"stackLevel":0,"chargingProfilePurpose":"TxProfile","chargingProfileKind":"Absolute","chargingSchedule":{schedule}}}"#
            );
            let set = format!(r#"{{"connectorId":1,"csChargingProfiles":{profile}}}"#);
            let start = format!(r#"{{"idTag":"tag","chargingProfile":{profile}}}"#);
            let composite = format!(r#"{{"status":"Accepted","chargingSchedule":{schedule}}}"#);
            [
                (request("ocpp1.6", "SetChargingProfile", &set), "/csChargingProfiles/chargingSchedule"),
                (request("ocpp1.6", "RemoteStartTransaction", &start), "/chargingProfile/chargingSchedule"),
                (validate("ocpp1.6", "GetCompositeSchedule", PayloadKind::Response, &composite), "/chargingSchedule"),
            ]
        };
        for number in [
            "0.1",
            "0.3",
            "21.4",
            "1e-1",
            "100000000.1",
            "-0.7",
            "16",
            "16.10",
            "0",
            "0.30000000000000004",
            "21.700000000000003",
            "0.29999999999999716",
            "0.3000000000000000444089209850062616169452667236328125",
        ] {
            for (result, _) in profile(number, number) {
                assert!(result.is_ok(), "{number}: {result:?}");
            }
        }
        for number in ["0.15", "0.31", "21.45", "1e-2", "0.1000000001"] {
            for (result, schedule) in profile(number, "1") {
                assert_rejected(result, &PROPERTY, &format!("{schedule}/chargingSchedulePeriod/1/limit"));
            }
            for (result, schedule) in profile("1", number) {
                assert_rejected(result, &PROPERTY, &format!("{schedule}/minChargingRate"));
            }
        }
        for (number, code) in [("\"16\"", TYPE), ("null", TYPE), ("[16]", TYPE), ("1e30", PROPERTY)] {
            for (result, schedule) in profile(number, "1") {
                assert_rejected(result, &code, &format!("{schedule}/chargingSchedulePeriod/1/limit"));
            }
        }
    }

    #[test]
    fn invalid_date_or_uri_is_rejected() {
        for action in ["GetDiagnostics", "UpdateFirmware"] {
            let json = |location, date| format!(r#"{{"location":"{location}","retrieveDate":"{date}"}}"#);
            let json = |location, date| match action {
                "GetDiagnostics" => json(location, date).replace("retrieveDate", "startTime"),
                _ => json(location, date),
            };
            let date = if action == "GetDiagnostics" { "/startTime" } else { "/retrieveDate" };
            assert!(request("ocpp1.6", action, &json("ftp://a/b", "2026-01-01T00:00:00.5+01:00")).is_ok());
            assert_rejected(request("ocpp1.6", action, &json("a b", "2026-01-01T00:00:00Z")), &PROPERTY, "/location");
            for wrong in ["tomorrow", "", "2026-01-01", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00"] {
                assert_rejected(request("ocpp1.6", action, &json("ftp://a/b", wrong)), &PROPERTY, date);
            }
        }
    }

    #[test]
    fn member_without_a_schema_takes_any_value() {
        for json in [
            r#"{"vendorId":"acme","data":null}"#,
            r#"{"vendorId":"acme","data":[1,{"a":null}]}"#,
            r#"{"vendorId":"acme","data":"text","customData":{"vendorId":"acme","x":null,"y":[{}]}}"#,
        ] {
            for protocol in ["ocpp2.0.1", "ocpp2.1"] {
                assert!(request(protocol, "DataTransfer", json).is_ok(), "{json}");
            }
        }
        let inside = |data| request("ocpp2.1", "Heartbeat", &format!(r#"{{"customData":{data}}}"#));
        assert_rejected(inside("{}"), &OCCURRENCE, "/customData/vendorId");
        assert_rejected(inside(r#"{"x":1,"vendorId":1}"#), &TYPE, "/customData/vendorId");
        assert_rejected(inside("[]"), &TYPE, "/customData");
        assert_rejected(inside("null"), &TYPE, "/customData");
        assert_rejected(
            request("ocpp1.6", "Heartbeat", r#"{"customData":{"vendorId":"acme"}}"#),
            &FORMAT,
            "/customData",
        );
    }

    #[test]
    fn unknown_action_of_a_version_is_not_implemented() {
        for (protocol, action) in [("ocpp1.6", "TransactionEvent"), ("ocpp2.0.1", "AFRRSignal"), ("ocpp1.5", "Reset")] {
            assert_rejected(request(protocol, action, "{}"), &ErrorCode::NOT_IMPLEMENTED, "");
        }
        let (stream, kind) = ("NotifyPeriodicEventStream", PayloadKind::Response);
        assert_rejected(validate("ocpp2.1", stream, kind, "{}"), &ErrorCode::NOT_IMPLEMENTED, "");
        assert_rejected(request("ocpp2.1", stream, "{}"), &OCCURRENCE, "/data");
        assert!(!OcppSchemas.supports("ocpp1.5"));
    }

    #[test]
    fn every_action_has_its_checks() {
        for (protocol, count) in [("ocpp1.6", 39), ("ocpp2.0.1", 64), ("ocpp2.1", 91)] {
            assert!(OcppSchemas.supports(protocol));
            let actions = actions_for(protocol).expect("known");
            assert_eq!(actions.len(), count);
            for action in actions {
                let result = request(protocol, action.name, "[]");
                assert_rejected(result, &FORMAT, "");
            }
        }
    }

    #[test]
    fn valid_payload_has_its_value() {
        let valid = request("ocpp1.6", "Authorize", r#"{"idTag":"tag"}"#).expect("valid");
        assert_eq!(valid.take::<v1_6::AuthorizeRequest>().expect("read").id_tag, "tag");
    }

    #[test]
    fn value_of_the_wrong_type_is_not_quoted() {
        let violation = request("ocpp2.0.1", "Reset", r#"{"type":"Immediate","evseId":"hunter2"}"#).expect_err("text");
        assert_eq!(violation.to_string(), "/evseId: is a string, not i32");
    }
}
