-- Dates are text in UTC with three decimals, so that they sort, and read the same in both databases.

CREATE TABLE stations (
    identity TEXT PRIMARY KEY,
    protocol TEXT NOT NULL,
    vendor TEXT,
    model TEXT,
    serial_number TEXT,
    firmware_version TEXT,
    booted_at TEXT NOT NULL
);

CREATE TABLE id_tokens (
    token TEXT PRIMARY KEY,
    status TEXT NOT NULL
);

-- OCPP compares tokens without regard to case.
CREATE UNIQUE INDEX id_tokens_by_token ON id_tokens (lower(token));

INSERT INTO id_tokens (token, status) VALUES ('DEMO-TAG', 'Accepted'), ('DEMO-BLOCKED', 'Blocked');

-- The transactions of all versions. In OCPP 1.6 the key is the id of the transaction, and `transaction_id` is null,
-- unless the station has stopped a transaction that the backend does not know. `evse_id` is the connector of 1.6.
CREATE TABLE transactions (
    id {key},
    station TEXT NOT NULL,
    protocol TEXT NOT NULL,
    transaction_id TEXT,
    evse_id BIGINT,
    id_token TEXT,
    id_token_status TEXT,
    started_at TEXT,
    meter_start BIGINT,
    stopped_at TEXT,
    meter_stop BIGINT,
    stop_reason TEXT
);

CREATE INDEX transactions_by_station ON transactions (station, id);

-- A repeated StartTransaction. Rows of other origin have no `meter_start`, and null equals nothing.
CREATE UNIQUE INDEX transactions_by_start ON transactions (station, evse_id, id_token, started_at, meter_start);

-- A repeated StopTransaction of an unknown transaction.
CREATE UNIQUE INDEX transactions_by_stop ON transactions (station, transaction_id, stopped_at, meter_stop)
    WHERE protocol = 'ocpp1.6';

-- A transaction of OCPP 2.x, of which any event can arrive first.
CREATE UNIQUE INDEX transactions_by_transaction_id ON transactions (station, transaction_id)
    WHERE protocol <> 'ocpp1.6';

-- The events of OCPP 2.x, each with its response.
CREATE TABLE transaction_events (
    station TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    seq_no BIGINT NOT NULL,
    event_type TEXT NOT NULL,
    trigger_reason TEXT NOT NULL,
    at TEXT NOT NULL,
    response TEXT NOT NULL,
    PRIMARY KEY (station, transaction_id, seq_no)
);

-- One row per sampled value. The columns of the key are never null, because null would equal nothing.
CREATE TABLE meter_values (
    station TEXT NOT NULL,
    evse_id BIGINT NOT NULL,
    transaction_id TEXT NOT NULL,
    at TEXT NOT NULL,
    measurand TEXT NOT NULL,
    phase TEXT NOT NULL,
    location TEXT NOT NULL,
    context TEXT NOT NULL,
    format TEXT NOT NULL,
    value TEXT NOT NULL,
    unit TEXT NOT NULL,
    multiplier BIGINT NOT NULL,
    PRIMARY KEY (station, transaction_id, at, evse_id, measurand, phase, location, context, format)
);

-- The journal.
CREATE TABLE messages (
    id {key},
    at TEXT NOT NULL,
    station TEXT NOT NULL,
    direction TEXT NOT NULL,
    text TEXT NOT NULL
);

CREATE INDEX messages_by_station ON messages (station, id);
CREATE INDEX messages_by_date ON messages (at);
