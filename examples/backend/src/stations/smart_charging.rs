//! Charging profiles, distributed energy resources and battery swaps. The backend computes no profiles.

use ocpp_rpc::RpcRouter;

use super::{acknowledge, reject};

pub(super) fn router() -> RpcRouter {
    RpcRouter::new()
        .on("NotifyChargingLimit", acknowledge)
        .on("ClearedChargingLimit", acknowledge)
        .on("ReportChargingProfiles", acknowledge)
        .on("NotifyPriorityCharging", acknowledge)
        .on("NotifyDERAlarm", acknowledge)
        .on("NotifyDERStartStop", acknowledge)
        .on("ReportDERControl", acknowledge)
        .on("BatterySwap", acknowledge)
        .on("NotifyEVChargingNeeds", reject)
        .on("NotifyEVChargingSchedule", reject)
        .on("PullDynamicScheduleUpdate", reject)
}
