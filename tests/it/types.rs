//! Typed actions: calls, handlers, and invalid parameters.

use std::convert::Infallible;

use ocpp_rpc::{
    Call, CallError, Error, ErrorCode, RpcRouter, Session,
    extract::{Params, State},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::{
    csms,
    support::{SECOND, Station, connected, echo, serve, server},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Start {
    connector_id: u8,
    id_tag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Mode {
    Fast,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Started {
    transaction: u32,
}

ocpp_rpc::action!("Start": Start => Started);

/// Types that an action does not own, as those of another crate.
type Tags = Vec<String>;
type Lists = std::collections::BTreeMap<String, Tags>;

ocpp_rpc::action!(
    /// Sends the lists.
    #[derive(Debug)]
    pub SendLists("SendLists"): Lists => Lists
);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    at: u32,
}

ocpp_rpc::send_action!("Sample": Sample);
ocpp_rpc::send_action!(Samples("Samples"): Lists);

fn start() -> Start {
    Start { connector_id: 1, id_tag: "tag".to_owned(), mode: None }
}

fn lists() -> Lists {
    Lists::from([("local".to_owned(), vec!["tag".to_owned()])])
}

#[tokio::test(start_paused = true)]
async fn typed_request_is_sent_by_name_and_returns_typed_response() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let request = start();
    let calls: [Call<Started>; 3] =
        [session.request(&request), session.request(&request), session.request(request.clone())];
    for call in calls {
        let responding = async {
            let (id, call) = station.receive_call().await;
            assert_eq!(call, json!(["Start", {"connectorId": 1, "idTag": "tag"}]));
            station.send(format!(r#"[3,"{id}",{{"transaction":7}}]"#)).await;
        };
        let (result, ()) = tokio::join!(call, responding);
        assert_eq!(result.expect("a response"), Started { transaction: 7 });
    }
    let responding = async {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["SendLists", {"local": ["tag"]}]));
        station.send(format!(r#"[3,"{id}",{{"theirs":[]}}]"#)).await;
    };
    let (result, ()) = tokio::join!(session.request(SendLists(lists())), responding);
    assert_eq!(result.expect("a response"), Lists::from([("theirs".to_owned(), vec![])]));
    // The settings of a call apply to a typed request as well.
    let late = session.request(start()).timeout(SECOND).await;
    assert!(matches!(late, Err(Error::Timeout)), "{late:?}");
}

#[tokio::test]
async fn typed_handlers_respond_to_typed_requests() {
    async fn start(Params(start): Params<Start>, session: Session) -> Result<Started, CallError> {
        match (&*start.id_tag, &*session.identity()) {
            ("tag", "CP-1") => Ok(Started { transaction: start.connector_id.into() }),
            _ => Err(ErrorCode::SECURITY_ERROR.into()),
        }
    }
    async fn lists(Params(lists): Params<Lists>) -> Result<Lists, Infallible> {
        Ok(lists)
    }
    let server = server(RpcRouter::new().on_action::<Start, _>(start).on_action::<SendLists, _>(lists));
    let (builder, mut dials) = csms::client();
    let (client, attempt) = csms::connecting(builder);
    serve(&server, dials.next().await);
    attempt.await.expect("no panic").expect("connected");

    assert_eq!(client.session().request(self::start()).await.expect("started"), Started { transaction: 1 });
    assert_eq!(client.session().request(SendLists(self::lists())).await.expect("sent"), self::lists());
    let refused = client.session().request(Start { id_tag: "stolen".to_owned(), ..self::start() }).await;
    assert!(matches!(refused, Err(Error::Rejected(error)) if *error.code() == ErrorCode::SECURITY_ERROR));
}

#[tokio::test]
async fn typed_send_reaches_handler_and_peer() {
    async fn seen(Params(sample): Params<Sample>, State(sender): State<UnboundedSender<u32>>) -> Result<(), CallError> {
        sender.send(sample.at).map_err(CallError::internal)
    }
    let (sender, mut receiver) = unbounded_channel();
    let server = server(RpcRouter::with_state(sender).on_send_action::<Sample, _>(seen).on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    station.send(r#"[6,"1","Sample",{"at":7}]"#).await;
    assert_eq!(receiver.recv().await, Some(7));
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#, "the SEND gets no response");

    session.send_action(&Sample { at: 8 }).await.expect("written");
    let text = station.receive().await;
    assert!(text.starts_with("[6,") && text.ends_with(r#","Sample",{"at":8}]"#), "{text}");
    session.send_action(Samples(lists())).await.expect("written");
    assert!(station.receive().await.ends_with(r#","Samples",{"local":["tag"]}]"#));

    let mut old = Station::connect(&server, "CP-2", "ocpp1.6").await;
    old.ask(r#"[2,"1","Echo",{}]"#).await;
    let refused = server.session("CP-2").expect("registered").send_action(Sample { at: 9 }).await;
    assert!(matches!(refused, Err(Error::SendNotSupported)), "{refused:?}");
}

#[test]
#[should_panic(expected = "the action \"Start\" has a handler already")]
fn second_handler_for_action_panics() {
    async fn start(_: Params<Start>) -> Result<Started, Infallible> {
        Ok(Started { transaction: 1 })
    }
    let _ = RpcRouter::new().on("Start", echo).on_action::<Start, _>(start);
}

#[tokio::test]
async fn b32_invalid_parameters_are_rejected_with_code_and_pointer() {
    async fn start(_: Params<Start>) -> Result<Started, Infallible> {
        Ok(Started { transaction: 1 })
    }
    let server = server(RpcRouter::new().on_action::<Start, _>(start));
    let mut old = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let mut new = Station::connect(&server, "CP-2", "ocpp2.1").await;
    for (params, v16, v21, pointer) in [
        (r#"{"connectorId":1}"#, "OccurenceConstraintViolation", "OccurrenceConstraintViolation", "/idTag"),
        (r#"{"connectorId":"hunter2"}"#, "TypeConstraintViolation", "TypeConstraintViolation", "/connectorId"),
        (r#"{"connectorId":300}"#, "PropertyConstraintViolation", "PropertyConstraintViolation", "/connectorId"),
        (r#"{"mode":"Slow"}"#, "PropertyConstraintViolation", "PropertyConstraintViolation", "/mode"),
        (r#"{"a/b":1}"#, "FormationViolation", "FormatViolation", "/a~1b"),
    ] {
        for (station, code) in [(&mut old, v16), (&mut new, v21)] {
            let response = station.ask(format!(r#"[2,"1","Start",{params}]"#)).await;
            let (_, _, actual, description, details): (u8, String, String, String, Value) =
                serde_json::from_str(&response).expect("a CALLERROR");
            assert_eq!((&*actual, &details), (code, &json!({"pointer": pointer})), "{response}");
            assert!(description.starts_with(pointer) && !description.contains("hunter2"), "{response}");
        }
    }
    // The server accepts everything that serde accepts, such as null for a missing member.
    let nothing = r#"[2,"2","Start",{"connectorId":1,"idTag":"tag","mode":null}]"#;
    assert_eq!(old.ask(nothing).await, r#"[3,"2",{"transaction":1}]"#);
}

#[tokio::test]
async fn protocol_router_takes_precedence_over_shared_handlers() {
    async fn old(_: Params<Start>) -> Result<Started, Infallible> {
        Ok(Started { transaction: 16 })
    }
    async fn new() -> Result<Value, Infallible> {
        Ok(json!({"version": "2.0.1"}))
    }
    async fn rest() -> Result<Value, Infallible> {
        Ok(json!({"rest": true}))
    }
    let router = RpcRouter::new()
        .protocol("ocpp1.6", RpcRouter::with_state("its own").on_action::<Start, _>(old))
        .protocol("ocpp2.1", RpcRouter::new().fallback(rest))
        .on("Start", new)
        .on("Echo", echo);
    let server = server(router.clone());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let mut newer = Station::connect(&server, "CP-2", "ocpp2.0.1").await;
    let mut newest = Station::connect(&server, "CP-3", "ocpp2.1").await;
    let call = r#"[2,"1","Start",{"connectorId":1,"idTag":"tag"}]"#;
    assert_eq!(station.ask(call).await, r#"[3,"1",{"transaction":16}]"#);
    assert_eq!(newer.ask(call).await, r#"[3,"1",{"version":"2.0.1"}]"#);
    assert_eq!(newest.ask(call).await, r#"[3,"1",{"rest":true}]"#);
    for (station, response) in
        [(&mut station, r#"[3,"2",{}]"#), (&mut newer, r#"[3,"2",{}]"#), (&mut newest, r#"[3,"2",{"rest":true}]"#)]
    {
        assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, response);
    }
    // A layer applies to all protocols, and `without` removes an action from all protocols.
    let full = tower::limit::ConcurrencyLimitLayer::new(1);
    session.set_router(router.layer(full).without("Start"));
    assert!(station.ask(call).await.contains("NotImplemented"));
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
}

#[cfg(feature = "ocpp-kit")]
mod kit {
    use ocpp_rpc::{
        Action, Close, RpcClient, RpcRouter, RpcServer, SendAction, Session,
        extract::{Params, State},
        ocpp_kit::{v1_6, v2_0_1, v2_1},
    };

    use super::*;

    #[tokio::test]
    async fn requests_of_each_ocpp_version_are_actions() {
        async fn boot_1_6(
            Params(boot): Params<v1_6::BootNotificationRequest>,
            session: Session,
        ) -> Result<v1_6::BootNotificationResponse, Infallible> {
            assert_eq!((&*boot.charge_point_model, session.protocol().as_deref()), ("1", Some("ocpp1.6")));
            let now = jiff::Timestamp::now();
            Ok(v1_6::BootNotificationResponse::new(v1_6::RegistrationStatus::Accepted, now, 300))
        }
        async fn boot_2_0_1(
            Params(boot): Params<v2_0_1::BootNotificationRequest>,
        ) -> Result<v2_0_1::BootNotificationResponse, Infallible> {
            assert_eq!(boot.charging_station.model, "2");
            let now = jiff::Timestamp::now();
            Ok(v2_0_1::BootNotificationResponse::new(now, 300, v2_0_1::RegistrationStatus::Pending))
        }
        let router = RpcRouter::new()
            .protocol("ocpp1.6", RpcRouter::new().on_action::<v1_6::BootNotificationRequest, _>(boot_1_6))
            .protocol("ocpp2.0.1", RpcRouter::new().on_action::<v2_0_1::BootNotificationRequest, _>(boot_2_0_1));
        let server = server(router);
        let (mut old, session) = connected(&server, "ocpp1.6").await;
        let boot = r#"[2,"1","BootNotification",{"chargePointVendor":"ACME","chargePointModel":"1"}]"#;
        assert!(old.ask(boot).await.contains(r#""status":"Accepted""#));
        let mut new = Station::connect(&server, "CP-2", "ocpp2.0.1").await;
        let station = r#"{"reason":"PowerUp","chargingStation":{"vendorName":"ACME","model":"2"}}"#;
        assert!(new.ask(format!(r#"[2,"1","BootNotification",{station}]"#)).await.contains(r#""status":"Pending""#));
        let refused = new.ask(r#"[2,"2","BootNotification",{"reason":"PowerUp","chargingStation":{"model":"2"}}]"#);
        assert!(
            refused.await.ends_with(r#"{"pointer":"/chargingStation/vendorName"}]"#),
            "the pointer leads to the missing nested member"
        );

        let responding = async {
            let (id, call) = old.receive_call().await;
            assert_eq!(call, json!(["Reset", {"type": "Soft"}]));
            old.send(format!(r#"[3,"{id}",{{"status":"Accepted"}}]"#)).await;
        };
        let reset = session.request(v1_6::ResetRequest::new(v1_6::ResetType::Soft));
        let (result, ()) = tokio::join!(reset, responding);
        assert_eq!(result.expect("a response"), v1_6::ResetResponse::new(v1_6::ResetStatus::Accepted));
    }

    /// State that the handlers of both versions share.
    #[derive(Clone)]
    struct App {
        token: &'static str,
    }

    async fn authorize_1_6(
        Params(authorize): Params<v1_6::AuthorizeRequest>,
        State(app): State<App>,
    ) -> Result<v1_6::AuthorizeResponse, Infallible> {
        let is_accepted = *authorize.id_tag == *app.token;
        let status = if is_accepted { v1_6::AuthorizationStatus::Accepted } else { v1_6::AuthorizationStatus::Invalid };
        Ok(v1_6::AuthorizeResponse::new(v1_6::IdTagInfo::new(status)))
    }

    async fn authorize_2_0_1(
        Params(authorize): Params<v2_0_1::AuthorizeRequest>,
        State(app): State<App>,
    ) -> Result<v2_0_1::AuthorizeResponse, Infallible> {
        let is_accepted = *authorize.id_token.id_token == *app.token;
        let status =
            if is_accepted { v2_0_1::AuthorizationStatus::Accepted } else { v2_0_1::AuthorizationStatus::Invalid };
        Ok(v2_0_1::AuthorizeResponse::new(v2_0_1::IdTokenInfo::new(status)))
    }

    async fn reset_1_6(Params(reset): Params<v1_6::ResetRequest>) -> Result<v1_6::ResetResponse, Infallible> {
        assert_eq!(reset.r#type, v1_6::ResetType::Soft);
        Ok(v1_6::ResetResponse::new(v1_6::ResetStatus::Accepted))
    }

    async fn reset_2_0_1(Params(reset): Params<v2_0_1::ResetRequest>) -> Result<v2_0_1::ResetResponse, Infallible> {
        assert_eq!(reset.r#type, v2_0_1::ResetEnum::Immediate);
        Ok(v2_0_1::ResetResponse::new(v2_0_1::ResetStatus::Accepted))
    }

    #[tokio::test]
    async fn two_ocpp_versions_make_typed_calls_in_both_directions() {
        let app = App { token: "A1B2" };
        let router = RpcRouter::with_state(app.clone())
            .protocol(
                "ocpp1.6",
                RpcRouter::with_state(app.clone()).on_action::<v1_6::AuthorizeRequest, _>(authorize_1_6),
            )
            .protocol(
                "ocpp2.0.1",
                RpcRouter::with_state(app).on_action::<v2_0_1::AuthorizeRequest, _>(authorize_2_0_1),
            );
        let server = RpcServer::builder(router).protocols(["ocpp2.0.1", "ocpp1.6"]).build().expect("valid settings");
        let listener = server.listen("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("ws://{}", listener.local_addr());

        let old = RpcClient::builder(&endpoint, "OLD-1")
            .protocols(["ocpp1.6"])
            .router(RpcRouter::new().on_action::<v1_6::ResetRequest, _>(reset_1_6));
        let old = old.connect().await.expect("connected");
        let authorized = old.session().request(v1_6::AuthorizeRequest::new("A1B2")).await.expect("a response");
        assert_eq!(authorized.id_tag_info.status, v1_6::AuthorizationStatus::Accepted);

        let new = RpcClient::builder(&endpoint, "NEW-1")
            .protocols(["ocpp2.0.1"])
            .router(RpcRouter::new().on_action::<v2_0_1::ResetRequest, _>(reset_2_0_1));
        let new = new.connect().await.expect("connected");
        let token = v2_0_1::IdToken::new("0000", v2_0_1::IdTokenEnum::Central);
        let authorized = new.session().request(v2_0_1::AuthorizeRequest::new(token)).await.expect("a response");
        assert_eq!(authorized.id_token_info.status, v2_0_1::AuthorizationStatus::Invalid);

        let session = server.session("OLD-1").expect("connected");
        let reset = session.request(v1_6::ResetRequest::new(v1_6::ResetType::Soft)).await.expect("a response");
        assert_eq!(reset.status, v1_6::ResetStatus::Accepted);
        let session = server.session("NEW-1").expect("connected");
        let reset = session.request(v2_0_1::ResetRequest::new(v2_0_1::ResetEnum::Immediate)).await.expect("a response");
        assert_eq!(reset.status, v2_0_1::ResetStatus::Accepted);

        let report = listener.close(Close::going_away()).await;
        assert_eq!((report.clean, report.forced), (2, 0));
    }

    #[test]
    fn action_names_follow_ocpp_version() {
        fn names<A: Action>() -> &'static str {
            A::NAME
        }
        assert_eq!(names::<v1_6::HeartbeatRequest>(), "Heartbeat");
        assert_eq!(names::<v2_0_1::TransactionEventRequest>(), "TransactionEvent");
        assert_eq!(names::<v2_1::BatterySwapRequest>(), "BatterySwap");
        assert_eq!(<v2_1::NotifyPeriodicEventStreamRequest as SendAction>::NAME, "NotifyPeriodicEventStream");
    }
}
