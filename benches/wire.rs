//! Measures the reading and writing of a single message.
//!
//!     cargo bench --features unstable --bench wire

use std::hint::black_box;

use bytestring::ByteString;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ocpp_rpc::{Payload, unstable};
use serde_json::{Value, json};

const ID: &str = "6f1c1f0e-31a5-4a53-9f0b-0d6c4f6b8a11";

/// Returns the MeterValues of a station that charges on three phases. Each reading has about 600 bytes.
fn meter_values(readings: usize) -> Payload {
    let sample = |measurand: &str, phase: &str, value: &str| json!({"value": value, "context": "Sample.Periodic", "measurand": measurand, "phase": phase, "unit": "A"});
    let reading = json!({
        "timestamp": "2026-01-01T00:00:00.000Z",
        "sampledValue": [
            sample("Energy.Active.Import.Register", "L1-N", "1234567"),
            sample("Current.Import", "L1", "16.0"),
            sample("Current.Import", "L2", "15.9"),
            sample("Current.Import", "L3", "16.1"),
        ],
    });
    let readings: Vec<Value> = vec![reading; readings];
    Payload::encode(&json!({"connectorId": 1, "transactionId": 4711, "meterValue": readings})).expect("an object")
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for (name, text) in [
        ("Heartbeat", unstable::write_call(ID, "Heartbeat", &Payload::default())),
        ("MeterValues", unstable::write_call(ID, "MeterValues", &meter_values(1))),
        ("result", format!(r#"[3,"{ID}",{{"currentTime":"2026-01-01T00:00:00.000Z"}}]"#)),
        ("100 kB", unstable::write_call(ID, "MeterValues", &meter_values(220))),
        ("no JSON", format!(r#"[2,"{ID}","Heartbeat",{{}}"#)),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        let text = ByteString::from(text);
        group.bench_function(name, |bencher| bencher.iter(|| unstable::read(black_box(&text))));
    }
    group.finish();
}

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write");
    let result = Payload::encode(&json!({"currentTime": "2026-01-01T00:00:00.000Z"})).expect("an object");
    for (name, action, params) in
        [("Heartbeat", "Heartbeat", Payload::default()), ("MeterValues", "MeterValues", meter_values(1))]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| unstable::write_call(black_box(ID), action, black_box(&params)));
        });
    }
    group.bench_function("result", |bencher| {
        bencher.iter(|| unstable::write_call_result(black_box(ID), black_box(&result)));
    });
    group.finish();
}

criterion_group!(benches, read, write);
criterion_main!(benches);
