//! The actions of each version of OCPP, with the types of their requests and responses. A SEND has no response.
//!
//! Each table calls another macro with its rows:
//!
//! ```text
//! macro_rules! requests {
//!     ($version:ident; $($name:literal: $request:ident $(=> $response:ident)?;)*) => {
//!         $(impl Named for ocpp_kit::$version::$request { const NAME: &str = $name; })*
//!     };
//! }
//! table::ocpp1_6!(requests);
//! ```

/// The actions of OCPP 1.6, and of its security extensions, sorted by name.
macro_rules! ocpp1_6 {
    ($take:ident) => {
        $take! {
            v1_6;
            "Authorize": AuthorizeRequest => AuthorizeResponse;
            "BootNotification": BootNotificationRequest => BootNotificationResponse;
            "CancelReservation": CancelReservationRequest => CancelReservationResponse;
            "CertificateSigned": CertificateSignedRequest => CertificateSignedResponse;
            "ChangeAvailability": ChangeAvailabilityRequest => ChangeAvailabilityResponse;
            "ChangeConfiguration": ChangeConfigurationRequest => ChangeConfigurationResponse;
            "ClearCache": ClearCacheRequest => ClearCacheResponse;
            "ClearChargingProfile": ClearChargingProfileRequest => ClearChargingProfileResponse;
            "DataTransfer": DataTransferRequest => DataTransferResponse;
            "DeleteCertificate": DeleteCertificateRequest => DeleteCertificateResponse;
            "DiagnosticsStatusNotification": DiagnosticsStatusNotificationRequest => DiagnosticsStatusNotificationResponse;
            "ExtendedTriggerMessage": ExtendedTriggerMessageRequest => ExtendedTriggerMessageResponse;
            "FirmwareStatusNotification": FirmwareStatusNotificationRequest => FirmwareStatusNotificationResponse;
            "GetCompositeSchedule": GetCompositeScheduleRequest => GetCompositeScheduleResponse;
            "GetConfiguration": GetConfigurationRequest => GetConfigurationResponse;
            "GetDiagnostics": GetDiagnosticsRequest => GetDiagnosticsResponse;
            "GetInstalledCertificateIds": GetInstalledCertificateIdsRequest => GetInstalledCertificateIdsResponse;
            "GetLocalListVersion": GetLocalListVersionRequest => GetLocalListVersionResponse;
            "GetLog": GetLogRequest => GetLogResponse;
            "Heartbeat": HeartbeatRequest => HeartbeatResponse;
            "InstallCertificate": InstallCertificateRequest => InstallCertificateResponse;
            "LogStatusNotification": LogStatusNotificationRequest => LogStatusNotificationResponse;
            "MeterValues": MeterValuesRequest => MeterValuesResponse;
            "RemoteStartTransaction": RemoteStartTransactionRequest => RemoteStartTransactionResponse;
            "RemoteStopTransaction": RemoteStopTransactionRequest => RemoteStopTransactionResponse;
            "ReserveNow": ReserveNowRequest => ReserveNowResponse;
            "Reset": ResetRequest => ResetResponse;
            "SecurityEventNotification": SecurityEventNotificationRequest => SecurityEventNotificationResponse;
            "SendLocalList": SendLocalListRequest => SendLocalListResponse;
            "SetChargingProfile": SetChargingProfileRequest => SetChargingProfileResponse;
            "SignCertificate": SignCertificateRequest => SignCertificateResponse;
            "SignedFirmwareStatusNotification": SignedFirmwareStatusNotificationRequest => SignedFirmwareStatusNotificationResponse;
            "SignedUpdateFirmware": SignedUpdateFirmwareRequest => SignedUpdateFirmwareResponse;
            "StartTransaction": StartTransactionRequest => StartTransactionResponse;
            "StatusNotification": StatusNotificationRequest => StatusNotificationResponse;
            "StopTransaction": StopTransactionRequest => StopTransactionResponse;
            "TriggerMessage": TriggerMessageRequest => TriggerMessageResponse;
            "UnlockConnector": UnlockConnectorRequest => UnlockConnectorResponse;
            "UpdateFirmware": UpdateFirmwareRequest => UpdateFirmwareResponse;
        }
    };
}

/// The actions of OCPP 2.0.1, sorted by name.
macro_rules! ocpp2_0_1 {
    ($take:ident) => {
        $take! {
            v2_0_1;
            "Authorize": AuthorizeRequest => AuthorizeResponse;
            "BootNotification": BootNotificationRequest => BootNotificationResponse;
            "CancelReservation": CancelReservationRequest => CancelReservationResponse;
            "CertificateSigned": CertificateSignedRequest => CertificateSignedResponse;
            "ChangeAvailability": ChangeAvailabilityRequest => ChangeAvailabilityResponse;
            "ClearCache": ClearCacheRequest => ClearCacheResponse;
            "ClearChargingProfile": ClearChargingProfileRequest => ClearChargingProfileResponse;
            "ClearDisplayMessage": ClearDisplayMessageRequest => ClearDisplayMessageResponse;
            "ClearVariableMonitoring": ClearVariableMonitoringRequest => ClearVariableMonitoringResponse;
            "ClearedChargingLimit": ClearedChargingLimitRequest => ClearedChargingLimitResponse;
            "CostUpdated": CostUpdatedRequest => CostUpdatedResponse;
            "CustomerInformation": CustomerInformationRequest => CustomerInformationResponse;
            "DataTransfer": DataTransferRequest => DataTransferResponse;
            "DeleteCertificate": DeleteCertificateRequest => DeleteCertificateResponse;
            "FirmwareStatusNotification": FirmwareStatusNotificationRequest => FirmwareStatusNotificationResponse;
            "Get15118EVCertificate": Get15118EVCertificateRequest => Get15118EVCertificateResponse;
            "GetBaseReport": GetBaseReportRequest => GetBaseReportResponse;
            "GetCertificateStatus": GetCertificateStatusRequest => GetCertificateStatusResponse;
            "GetChargingProfiles": GetChargingProfilesRequest => GetChargingProfilesResponse;
            "GetCompositeSchedule": GetCompositeScheduleRequest => GetCompositeScheduleResponse;
            "GetDisplayMessages": GetDisplayMessagesRequest => GetDisplayMessagesResponse;
            "GetInstalledCertificateIds": GetInstalledCertificateIdsRequest => GetInstalledCertificateIdsResponse;
            "GetLocalListVersion": GetLocalListVersionRequest => GetLocalListVersionResponse;
            "GetLog": GetLogRequest => GetLogResponse;
            "GetMonitoringReport": GetMonitoringReportRequest => GetMonitoringReportResponse;
            "GetReport": GetReportRequest => GetReportResponse;
            "GetTransactionStatus": GetTransactionStatusRequest => GetTransactionStatusResponse;
            "GetVariables": GetVariablesRequest => GetVariablesResponse;
            "Heartbeat": HeartbeatRequest => HeartbeatResponse;
            "InstallCertificate": InstallCertificateRequest => InstallCertificateResponse;
            "LogStatusNotification": LogStatusNotificationRequest => LogStatusNotificationResponse;
            "MeterValues": MeterValuesRequest => MeterValuesResponse;
            "NotifyChargingLimit": NotifyChargingLimitRequest => NotifyChargingLimitResponse;
            "NotifyCustomerInformation": NotifyCustomerInformationRequest => NotifyCustomerInformationResponse;
            "NotifyDisplayMessages": NotifyDisplayMessagesRequest => NotifyDisplayMessagesResponse;
            "NotifyEVChargingNeeds": NotifyEVChargingNeedsRequest => NotifyEVChargingNeedsResponse;
            "NotifyEVChargingSchedule": NotifyEVChargingScheduleRequest => NotifyEVChargingScheduleResponse;
            "NotifyEvent": NotifyEventRequest => NotifyEventResponse;
            "NotifyMonitoringReport": NotifyMonitoringReportRequest => NotifyMonitoringReportResponse;
            "NotifyReport": NotifyReportRequest => NotifyReportResponse;
            "PublishFirmware": PublishFirmwareRequest => PublishFirmwareResponse;
            "PublishFirmwareStatusNotification": PublishFirmwareStatusNotificationRequest => PublishFirmwareStatusNotificationResponse;
            "ReportChargingProfiles": ReportChargingProfilesRequest => ReportChargingProfilesResponse;
            "RequestStartTransaction": RequestStartTransactionRequest => RequestStartTransactionResponse;
            "RequestStopTransaction": RequestStopTransactionRequest => RequestStopTransactionResponse;
            "ReservationStatusUpdate": ReservationStatusUpdateRequest => ReservationStatusUpdateResponse;
            "ReserveNow": ReserveNowRequest => ReserveNowResponse;
            "Reset": ResetRequest => ResetResponse;
            "SecurityEventNotification": SecurityEventNotificationRequest => SecurityEventNotificationResponse;
            "SendLocalList": SendLocalListRequest => SendLocalListResponse;
            "SetChargingProfile": SetChargingProfileRequest => SetChargingProfileResponse;
            "SetDisplayMessage": SetDisplayMessageRequest => SetDisplayMessageResponse;
            "SetMonitoringBase": SetMonitoringBaseRequest => SetMonitoringBaseResponse;
            "SetMonitoringLevel": SetMonitoringLevelRequest => SetMonitoringLevelResponse;
            "SetNetworkProfile": SetNetworkProfileRequest => SetNetworkProfileResponse;
            "SetVariableMonitoring": SetVariableMonitoringRequest => SetVariableMonitoringResponse;
            "SetVariables": SetVariablesRequest => SetVariablesResponse;
            "SignCertificate": SignCertificateRequest => SignCertificateResponse;
            "StatusNotification": StatusNotificationRequest => StatusNotificationResponse;
            "TransactionEvent": TransactionEventRequest => TransactionEventResponse;
            "TriggerMessage": TriggerMessageRequest => TriggerMessageResponse;
            "UnlockConnector": UnlockConnectorRequest => UnlockConnectorResponse;
            "UnpublishFirmware": UnpublishFirmwareRequest => UnpublishFirmwareResponse;
            "UpdateFirmware": UpdateFirmwareRequest => UpdateFirmwareResponse;
        }
    };
}

/// The actions of OCPP 2.1, sorted by name.
macro_rules! ocpp2_1 {
    ($take:ident) => {
        $take! {
            v2_1;
            "AFRRSignal": AFRRSignalRequest => AFRRSignalResponse;
            "AdjustPeriodicEventStream": AdjustPeriodicEventStreamRequest => AdjustPeriodicEventStreamResponse;
            "Authorize": AuthorizeRequest => AuthorizeResponse;
            "BatterySwap": BatterySwapRequest => BatterySwapResponse;
            "BootNotification": BootNotificationRequest => BootNotificationResponse;
            "CancelReservation": CancelReservationRequest => CancelReservationResponse;
            "CertificateSigned": CertificateSignedRequest => CertificateSignedResponse;
            "ChangeAvailability": ChangeAvailabilityRequest => ChangeAvailabilityResponse;
            "ChangeTransactionTariff": ChangeTransactionTariffRequest => ChangeTransactionTariffResponse;
            "ClearCache": ClearCacheRequest => ClearCacheResponse;
            "ClearChargingProfile": ClearChargingProfileRequest => ClearChargingProfileResponse;
            "ClearDERControl": ClearDERControlRequest => ClearDERControlResponse;
            "ClearDisplayMessage": ClearDisplayMessageRequest => ClearDisplayMessageResponse;
            "ClearTariffs": ClearTariffsRequest => ClearTariffsResponse;
            "ClearVariableMonitoring": ClearVariableMonitoringRequest => ClearVariableMonitoringResponse;
            "ClearedChargingLimit": ClearedChargingLimitRequest => ClearedChargingLimitResponse;
            "ClosePeriodicEventStream": ClosePeriodicEventStreamRequest => ClosePeriodicEventStreamResponse;
            "CostUpdated": CostUpdatedRequest => CostUpdatedResponse;
            "CustomerInformation": CustomerInformationRequest => CustomerInformationResponse;
            "DataTransfer": DataTransferRequest => DataTransferResponse;
            "DeleteCertificate": DeleteCertificateRequest => DeleteCertificateResponse;
            "FirmwareStatusNotification": FirmwareStatusNotificationRequest => FirmwareStatusNotificationResponse;
            "Get15118EVCertificate": Get15118EVCertificateRequest => Get15118EVCertificateResponse;
            "GetBaseReport": GetBaseReportRequest => GetBaseReportResponse;
            "GetCertificateChainStatus": GetCertificateChainStatusRequest => GetCertificateChainStatusResponse;
            "GetCertificateStatus": GetCertificateStatusRequest => GetCertificateStatusResponse;
            "GetChargingProfiles": GetChargingProfilesRequest => GetChargingProfilesResponse;
            "GetCompositeSchedule": GetCompositeScheduleRequest => GetCompositeScheduleResponse;
            "GetDERControl": GetDERControlRequest => GetDERControlResponse;
            "GetDisplayMessages": GetDisplayMessagesRequest => GetDisplayMessagesResponse;
            "GetInstalledCertificateIds": GetInstalledCertificateIdsRequest => GetInstalledCertificateIdsResponse;
            "GetLocalListVersion": GetLocalListVersionRequest => GetLocalListVersionResponse;
            "GetLog": GetLogRequest => GetLogResponse;
            "GetMonitoringReport": GetMonitoringReportRequest => GetMonitoringReportResponse;
            "GetPeriodicEventStream": GetPeriodicEventStreamRequest => GetPeriodicEventStreamResponse;
            "GetReport": GetReportRequest => GetReportResponse;
            "GetTariffs": GetTariffsRequest => GetTariffsResponse;
            "GetTransactionStatus": GetTransactionStatusRequest => GetTransactionStatusResponse;
            "GetVariables": GetVariablesRequest => GetVariablesResponse;
            "Heartbeat": HeartbeatRequest => HeartbeatResponse;
            "InstallCertificate": InstallCertificateRequest => InstallCertificateResponse;
            "LogStatusNotification": LogStatusNotificationRequest => LogStatusNotificationResponse;
            "MeterValues": MeterValuesRequest => MeterValuesResponse;
            "NotifyAllowedEnergyTransfer": NotifyAllowedEnergyTransferRequest => NotifyAllowedEnergyTransferResponse;
            "NotifyChargingLimit": NotifyChargingLimitRequest => NotifyChargingLimitResponse;
            "NotifyCustomerInformation": NotifyCustomerInformationRequest => NotifyCustomerInformationResponse;
            "NotifyDERAlarm": NotifyDERAlarmRequest => NotifyDERAlarmResponse;
            "NotifyDERStartStop": NotifyDERStartStopRequest => NotifyDERStartStopResponse;
            "NotifyDisplayMessages": NotifyDisplayMessagesRequest => NotifyDisplayMessagesResponse;
            "NotifyEVChargingNeeds": NotifyEVChargingNeedsRequest => NotifyEVChargingNeedsResponse;
            "NotifyEVChargingSchedule": NotifyEVChargingScheduleRequest => NotifyEVChargingScheduleResponse;
            "NotifyEvent": NotifyEventRequest => NotifyEventResponse;
            "NotifyMonitoringReport": NotifyMonitoringReportRequest => NotifyMonitoringReportResponse;
            "NotifyPeriodicEventStream": NotifyPeriodicEventStreamRequest;
            "NotifyPriorityCharging": NotifyPriorityChargingRequest => NotifyPriorityChargingResponse;
            "NotifyReport": NotifyReportRequest => NotifyReportResponse;
            "NotifySettlement": NotifySettlementRequest => NotifySettlementResponse;
            "NotifyWebPaymentStarted": NotifyWebPaymentStartedRequest => NotifyWebPaymentStartedResponse;
            "OpenPeriodicEventStream": OpenPeriodicEventStreamRequest => OpenPeriodicEventStreamResponse;
            "PublishFirmware": PublishFirmwareRequest => PublishFirmwareResponse;
            "PublishFirmwareStatusNotification": PublishFirmwareStatusNotificationRequest => PublishFirmwareStatusNotificationResponse;
            "PullDynamicScheduleUpdate": PullDynamicScheduleUpdateRequest => PullDynamicScheduleUpdateResponse;
            "ReportChargingProfiles": ReportChargingProfilesRequest => ReportChargingProfilesResponse;
            "ReportDERControl": ReportDERControlRequest => ReportDERControlResponse;
            "RequestBatterySwap": RequestBatterySwapRequest => RequestBatterySwapResponse;
            "RequestStartTransaction": RequestStartTransactionRequest => RequestStartTransactionResponse;
            "RequestStopTransaction": RequestStopTransactionRequest => RequestStopTransactionResponse;
            "ReservationStatusUpdate": ReservationStatusUpdateRequest => ReservationStatusUpdateResponse;
            "ReserveNow": ReserveNowRequest => ReserveNowResponse;
            "Reset": ResetRequest => ResetResponse;
            "SecurityEventNotification": SecurityEventNotificationRequest => SecurityEventNotificationResponse;
            "SendLocalList": SendLocalListRequest => SendLocalListResponse;
            "SetChargingProfile": SetChargingProfileRequest => SetChargingProfileResponse;
            "SetDERControl": SetDERControlRequest => SetDERControlResponse;
            "SetDefaultTariff": SetDefaultTariffRequest => SetDefaultTariffResponse;
            "SetDisplayMessage": SetDisplayMessageRequest => SetDisplayMessageResponse;
            "SetMonitoringBase": SetMonitoringBaseRequest => SetMonitoringBaseResponse;
            "SetMonitoringLevel": SetMonitoringLevelRequest => SetMonitoringLevelResponse;
            "SetNetworkProfile": SetNetworkProfileRequest => SetNetworkProfileResponse;
            "SetVariableMonitoring": SetVariableMonitoringRequest => SetVariableMonitoringResponse;
            "SetVariables": SetVariablesRequest => SetVariablesResponse;
            "SignCertificate": SignCertificateRequest => SignCertificateResponse;
            "StatusNotification": StatusNotificationRequest => StatusNotificationResponse;
            "TransactionEvent": TransactionEventRequest => TransactionEventResponse;
            "TriggerMessage": TriggerMessageRequest => TriggerMessageResponse;
            "UnlockConnector": UnlockConnectorRequest => UnlockConnectorResponse;
            "UnpublishFirmware": UnpublishFirmwareRequest => UnpublishFirmwareResponse;
            "UpdateDynamicSchedule": UpdateDynamicScheduleRequest => UpdateDynamicScheduleResponse;
            "UpdateFirmware": UpdateFirmwareRequest => UpdateFirmwareResponse;
            "UsePriorityCharging": UsePriorityChargingRequest => UsePriorityChargingResponse;
            "VatNumberValidation": VatNumberValidationRequest => VatNumberValidationResponse;
        }
    };
}

pub(crate) use {ocpp1_6, ocpp2_0_1, ocpp2_1};
