//! OCPP 1.6, 2.0.1 and 2.1 to the letter of their schemas, without a schema file.
//!
//! A payload is read once, as the type of its action, by a [reader] that is as strict as a schema. What the types know
//! of lengths, ranges and enumerations is checked on the value, and the value goes along with the verdict.

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
    validate::validator::{PayloadContext, PayloadKind, Valid, Validator},
};

/// Checks the payloads of `ocpp1.6` (with its security extensions), `ocpp2.0.1` and `ocpp2.1` against their official
/// schemas, which are built in: see [`Validation`](crate::validate::Validation).
///
/// A payload that passes is read as the type that the crate `ocpp-kit` (0.3) has for it; a handler, or a call, that asks
/// for that type gets the value without a second reading.
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
/// It can be asked by itself as well:
///
/// ```
/// use ocpp_rpc::{ErrorCode, Payload, validate::{OcppSchemas, PayloadContext, PayloadKind, Validator}};
/// use serde_json::json;
///
/// let payload = Payload::encode(&json!({"idTag": "a tag of more than twenty characters"}))?;
/// let subject = PayloadContext::new("ocpp1.6", "Authorize", PayloadKind::Request, &payload);
/// let violation = OcppSchemas.validate(&subject).expect_err("too long");
/// assert_eq!(*violation.code(), ErrorCode::PROPERTY_CONSTRAINT_VIOLATION);
/// assert_eq!(violation.pointer(), "/idTag");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OcppSchemas;

impl Validator for OcppSchemas {
    fn supports(&self, protocol: &str) -> bool {
        actions_of(protocol).is_some()
    }

    fn validate(&self, subject: &PayloadContext<'_>) -> Result<Valid, Violation> {
        let unknown = |what| Err(Violation::new(ErrorCode::NOT_IMPLEMENTED, "", what));
        let Some(actions) = actions_of(subject.protocol) else { return unknown("the protocol is unknown") };
        let Ok(at) = actions.binary_search_by_key(&subject.action, |action| action.name) else {
            return unknown("the action is unknown");
        };
        match (subject.kind, actions[at].response) {
            (PayloadKind::Request, _) => (actions[at].request)(subject.payload),
            (PayloadKind::Response, Some(response)) => response(subject.payload),
            (PayloadKind::Response, None) => unknown("the action has no response"),
        }
    }
}

/// How the payloads of an action are checked.
struct Action {
    name: &'static str,
    request: Check,
    /// A SEND has none.
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

/// Sorted by name.
fn actions_of(protocol: &str) -> Option<&'static [Action]> {
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
    match beyond_the_types(&value) {
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

/// What the schemas of OCPP 1.6 ask for and the types do not know: limits in tenths, and URIs.
fn beyond_the_types(value: &dyn Any) -> Option<Violation> {
    if let Some(request) = value.downcast_ref::<v1_6::SetChargingProfileRequest>() {
        tenths(&request.cs_charging_profiles.charging_schedule, "/csChargingProfiles/chargingSchedule")
    } else if let Some(request) = value.downcast_ref::<v1_6::RemoteStartTransactionRequest>() {
        tenths(&request.charging_profile.as_ref()?.charging_schedule, "/chargingProfile/chargingSchedule")
    } else if let Some(response) = value.downcast_ref::<v1_6::GetCompositeScheduleResponse>() {
        tenths(response.charging_schedule.as_ref()?, "/chargingSchedule")
    } else if let Some(request) = value.downcast_ref::<v1_6::GetDiagnosticsRequest>() {
        uri(&request.location)
    } else if let Some(request) = value.downcast_ref::<v1_6::UpdateFirmwareRequest>() {
        uri(&request.location)
    } else {
        None
    }
}

fn tenths(schedule: &v1_6::ChargingSchedule, pointer: &str) -> Option<Violation> {
    let is_tenths = |number: &Decimal| number.rescale(1).is_some();
    let wrong = |pointer| {
        Some(Violation::new(
            ErrorCode::PROPERTY_CONSTRAINT_VIOLATION,
            pointer,
            "has more than one digit after the point",
        ))
    };
    if schedule.min_charging_rate.is_some_and(|rate| !is_tenths(&rate)) {
        return wrong(format!("{pointer}/minChargingRate"));
    }
    let period = schedule.charging_schedule_period.iter().position(|period| !is_tenths(&period.limit))?;
    wrong(format!("{pointer}/chargingSchedulePeriod/{period}/limit"))
}

fn uri(location: &str) -> Option<Violation> {
    let wrong = || Violation::new(ErrorCode::PROPERTY_CONSTRAINT_VIOLATION, "/location", "is not a URI (RFC 3986)");
    (!formats::is_uri(location)).then(wrong)
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
    fn refused(result: Result<Valid, Violation>, code: &ErrorCode, pointer: &str) {
        let violation = result.expect_err("refused");
        assert_eq!((violation.code(), violation.pointer()), (code, pointer), "{violation}");
    }

    /// OCPP 1.6's MeterValues, with these members of its second sampled value.
    fn meter_values(sampled: &str) -> String {
        format!(
            r#"{{"connectorId":1,"meterValue":[{{"timestamp":"2026-01-01T00:00:00Z","sampledValue":[{{"value":"1"}},{{{sampled}}}]}}]}}"#
        )
    }

    #[test]
    fn a_violation_names_its_code_and_its_place() {
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
            refused(request("ocpp1.6", "Authorize", json), &code, pointer);
        }
        // Characters are counted, not bytes.
        assert!(request("ocpp1.6", "Authorize", r#"{"idTag":"ÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄÄ"}"#).is_ok());
        assert!(request("ocpp1.6", "Authorize", r#" { "\u0069dTag" : "t\u0061g" } "#).is_ok());
    }

    #[test]
    fn a_violation_deep_inside_names_its_place() {
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
            refused(request("ocpp1.6", "MeterValues", &json), &code, &format!("{value}{member}"));
        }
        let array = r#"{"connectorId":1,"meterValue":[{"timestamp":"2026-01-01T00:00:00Z","sampledValue":[["1"]]}]}"#;
        refused(request("ocpp1.6", "MeterValues", array), &TYPE, "/meterValue/0/sampledValue/0");
        assert!(request("ocpp1.6", "MeterValues", &meter_values(r#""value":"1","unit":"kWh""#)).is_ok());
    }

    #[test]
    fn whole_numbers_are_whole_and_of_32_bits() {
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
            refused(reset(number), &code, "/evseId");
        }
        refused(reset("1e999"), &FORMAT, "/evseId");
    }

    #[test]
    fn tenths_are_not_fooled_by_floating_point() {
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
        for number in ["0.1", "0.3", "21.4", "1e-1", "100000000.1", "-0.7", "16", "16.10", "0"] {
            for (result, _) in profile(number, number) {
                assert!(result.is_ok(), "{number}: {result:?}");
            }
        }
        for number in ["0.15", "21.45", "1e-2", "0.1000000001"] {
            for (result, schedule) in profile(number, "1") {
                refused(result, &PROPERTY, &format!("{schedule}/chargingSchedulePeriod/1/limit"));
            }
            for (result, schedule) in profile("1", number) {
                refused(result, &PROPERTY, &format!("{schedule}/minChargingRate"));
            }
        }
        for (number, code) in [("\"16\"", TYPE), ("null", TYPE), ("[16]", TYPE), ("1e30", PROPERTY)] {
            for (result, schedule) in profile(number, "1") {
                refused(result, &code, &format!("{schedule}/chargingSchedulePeriod/1/limit"));
            }
        }
    }

    #[test]
    fn dates_and_uris_are_checked() {
        for action in ["GetDiagnostics", "UpdateFirmware"] {
            let json = |location, date| format!(r#"{{"location":"{location}","retrieveDate":"{date}"}}"#);
            let json = |location, date| match action {
                "GetDiagnostics" => json(location, date).replace("retrieveDate", "startTime"),
                _ => json(location, date),
            };
            let date = if action == "GetDiagnostics" { "/startTime" } else { "/retrieveDate" };
            assert!(request("ocpp1.6", action, &json("ftp://a/b", "2026-01-01T00:00:00.5+01:00")).is_ok());
            refused(request("ocpp1.6", action, &json("a b", "2026-01-01T00:00:00Z")), &PROPERTY, "/location");
            for wrong in ["tomorrow", "", "2026-01-01", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00"] {
                refused(request("ocpp1.6", action, &json("ftp://a/b", wrong)), &PROPERTY, date);
            }
        }
    }

    #[test]
    fn what_the_schemas_leave_open_is_open() {
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
        refused(inside("{}"), &OCCURRENCE, "/customData/vendorId");
        refused(inside(r#"{"x":1,"vendorId":1}"#), &TYPE, "/customData/vendorId");
        refused(inside("[]"), &TYPE, "/customData");
        refused(inside("null"), &TYPE, "/customData");
        refused(request("ocpp1.6", "Heartbeat", r#"{"customData":{"vendorId":"acme"}}"#), &FORMAT, "/customData");
    }

    #[test]
    fn an_action_that_the_version_lacks_is_not_implemented() {
        for (protocol, action) in [("ocpp1.6", "TransactionEvent"), ("ocpp2.0.1", "AFRRSignal"), ("ocpp1.5", "Reset")] {
            refused(request(protocol, action, "{}"), &ErrorCode::NOT_IMPLEMENTED, "");
        }
        let (stream, kind) = ("NotifyPeriodicEventStream", PayloadKind::Response);
        refused(validate("ocpp2.1", stream, kind, "{}"), &ErrorCode::NOT_IMPLEMENTED, "");
        refused(request("ocpp2.1", stream, "{}"), &OCCURRENCE, "/data");
        assert!(!OcppSchemas.supports("ocpp1.5"));
    }

    #[test]
    fn every_action_is_found_by_its_name() {
        for (protocol, count) in [("ocpp1.6", 39), ("ocpp2.0.1", 64), ("ocpp2.1", 91)] {
            assert!(OcppSchemas.supports(protocol));
            let actions = actions_of(protocol).expect("known");
            assert_eq!(actions.len(), count);
            for action in actions {
                let result = request(protocol, action.name, "[]");
                refused(result, &FORMAT, "");
            }
        }
    }

    #[test]
    fn the_value_goes_along() {
        let valid = request("ocpp1.6", "Authorize", r#"{"idTag":"tag"}"#).expect("valid");
        assert_eq!(valid.take::<v1_6::AuthorizeRequest>().expect("read").id_tag, "tag");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_not_told() {
        let violation = request("ocpp2.0.1", "Reset", r#"{"type":"Immediate","evseId":"hunter2"}"#).expect_err("text");
        assert_eq!(violation.to_string(), "/evseId: is a string, not i32");
    }
}
