//! Handlers for the calls of the server.

use std::{convert::Infallible, sync::Arc};

use ocpp_rpc::{
    RpcRouter,
    extract::{Params, State},
};
use serde_json::{Value, json};

use crate::{Command, Shared, register::Trigger};

type SharedState = State<Arc<Shared>>;
type HandlerResult = Result<Value, Infallible>;

/// Returns the router of a station, for both versions.
pub(crate) fn router(shared: Arc<Shared>) -> RpcRouter<Arc<Shared>> {
    RpcRouter::with_state(shared)
        .on("Reset", reset)
        .on("TriggerMessage", trigger)
        .on("RemoteStartTransaction", start)
        .on("RequestStartTransaction", start)
        .on("RemoteStopTransaction", stop)
        .on("RequestStopTransaction", stop)
        .on("ChangeConfiguration", change_configuration)
        .on("GetConfiguration", get_configuration)
        .on("SetVariables", set_variables)
        .on("GetVariables", get_variables)
        .on("ChangeAvailability", accept)
        .on("ClearCache", accept)
}

async fn accept() -> HandlerResult {
    Ok(json!({"status": "Accepted"}))
}

async fn reset(State(shared): SharedState) -> HandlerResult {
    Ok(json!({"status": shared.send(Command::Reboot)}))
}

async fn trigger(Params(params): Params<Value>, State(shared): SharedState) -> HandlerResult {
    let status = match params["requestedMessage"].as_str() {
        Some("BootNotification") => shared.trigger(Trigger::Boot),
        Some("Heartbeat") => shared.trigger(Trigger::Heartbeat),
        Some(message @ ("StatusNotification" | "MeterValues")) => shared.send(Command::Report(message.to_owned())),
        _ => "NotImplemented",
    };
    Ok(json!({"status": status}))
}

/// Starts a transaction with an `idTag` (1.6) or an `idToken` (2.x).
async fn start(Params(params): Params<Value>, State(shared): SharedState) -> HandlerResult {
    let tag = params["idTag"].as_str().or(params["idToken"]["idToken"].as_str()).unwrap_or("unknown");
    let is_charging = shared.data().meter.transaction.is_some();
    let status = if is_charging { "Rejected" } else { shared.send(Command::Start(tag.to_owned())) };
    Ok(json!({"status": status}))
}

async fn stop(Params(params): Params<Value>, State(shared): SharedState) -> HandlerResult {
    let status = if shared.is_running(&params["transactionId"]) { shared.send(Command::Stop) } else { "Rejected" };
    Ok(json!({"status": status}))
}

async fn change_configuration(Params(params): Params<Value>, State(shared): SharedState) -> HandlerResult {
    let (Some(key), Some(value)) = (params["key"].as_str(), params["value"].as_str()) else {
        return Ok(json!({"status": "Rejected"}));
    };
    Ok(json!({"status": shared.set(key, value)}))
}

async fn get_configuration(Params(params): Params<Value>, State(shared): SharedState) -> HandlerResult {
    let data = shared.data();
    let requested: Vec<&str> = match params["key"].as_array() {
        Some(keys) if !keys.is_empty() => keys.iter().filter_map(Value::as_str).collect(),
        _ => data.variables.keys().map(String::as_str).collect(),
    };
    let (known, unknown): (Vec<_>, Vec<_>) = requested.into_iter().partition(|key| data.variables.contains_key(*key));
    let known = known.iter().map(|key| json!({"key": key, "readonly": false, "value": data.variables[*key]}));
    Ok(json!({"configurationKey": known.collect::<Vec<_>>(), "unknownKey": unknown}))
}

async fn set_variables(Params(params): Params<Value>, State(shared): SharedState) -> HandlerResult {
    let results = params["setVariableData"].as_array().into_iter().flatten().map(|entry| {
        let name = entry["variable"]["name"].as_str().unwrap_or_default();
        let status = shared.set(name, entry["attributeValue"].as_str().unwrap_or_default());
        let status = if status == "Accepted" { status } else { "UnknownVariable" };
        json!({"attributeStatus": status, "component": entry["component"], "variable": entry["variable"]})
    });
    Ok(json!({"setVariableResult": results.collect::<Vec<_>>()}))
}

async fn get_variables(Params(params): Params<Value>, State(shared): SharedState) -> HandlerResult {
    let data = shared.data();
    let results = params["getVariableData"].as_array().into_iter().flatten().map(|entry| {
        let (component, variable) = (&entry["component"], &entry["variable"]);
        match variable["name"].as_str().and_then(|name| data.variables.get(name)) {
            Some(value) => json!({
                "attributeStatus": "Accepted", "attributeValue": value, "component": component, "variable": variable
            }),
            None => json!({"attributeStatus": "UnknownVariable", "component": component, "variable": variable}),
        }
    });
    Ok(json!({"getVariableResult": results.collect::<Vec<_>>()}))
}
