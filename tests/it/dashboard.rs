//! The documentation of the metrics, and the backend's dashboard for Grafana: both name the metrics that exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Mutex,
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use ocpp_rpc::{RpcRouter, RpcServer};
use serde_json::Value;

const DASHBOARD: &str = include_str!("../../examples/backend/grafana.json");

/// The labels that Prometheus adds to every metric.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

/// A metric as the guide describes it.
#[derive(Debug)]
pub struct Documented {
    pub kind: String,
    pub labels: BTreeSet<String>,
}

/// Returns the metrics of the table in the guide.
pub fn documented() -> BTreeMap<String, Documented> {
    let page = include_str!("../../src/docs/observing.md");
    let rows = page.lines().filter(|line| line.starts_with("| `ocpp_rpc_"));
    let metrics = rows.flat_map(|row| {
        let [names, kind, labels] = row.trim_matches('|').splitn(3, '|').collect::<Vec<_>>()[..] else {
            panic!("no row of three columns: {row}");
        };
        let kind = kind.split(',').next().expect("one part").trim().to_owned();
        // A label is the first word of a part: `direction`; `outcome`: one of…
        let labels: BTreeSet<String> = labels
            .split(';')
            .filter_map(|part| Some(part.trim().strip_prefix('`')?.split('`').next()?.to_owned()))
            .collect();
        let names: Vec<_> = names.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        names.into_iter().map(move |name| (name, Documented { kind: kind.clone(), labels: labels.clone() }))
    });
    metrics.collect()
}

/// A recorder that keeps the descriptions of metrics by name.
#[derive(Default)]
struct Descriptions(Mutex<BTreeMap<String, Description>>);

struct Description {
    kind: &'static str,
    unit: Option<Unit>,
    text: String,
}

impl Descriptions {
    fn add(&self, name: &KeyName, kind: &'static str, unit: Option<Unit>, text: &str) {
        self.0
            .lock()
            .expect("no panic")
            .insert(name.as_str().to_owned(), Description { kind, unit, text: text.to_owned() });
    }
}

impl Recorder for Descriptions {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.add(&name, "counter", unit, &text);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.add(&name, "gauge", unit, &text);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.add(&name, "histogram", unit, &text);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn b61_every_metric_is_described_to_the_recorder_and_in_the_guide() {
    let recorder = Descriptions::default();
    metrics::with_local_recorder(&recorder, || RpcServer::builder(RpcRouter::new()).build().expect("valid settings"));
    let described = recorder.0.into_inner().expect("no panic");
    let documented = documented();
    // The names that the library reports, as it spells them.
    let mut reported = BTreeSet::new();
    for file in ["src/telemetry/metrics.rs", "src/cluster/metrics.rs"] {
        let text = fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).expect("a file");
        reported.extend(text.split('"').filter(|text| text.starts_with("ocpp_rpc_")).map(str::to_owned));
    }
    assert!(reported.len() > 20, "{reported:?}");
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), reported);
    assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), reported);
    for (name, Description { kind, unit, text }) in described {
        assert_eq!(documented[&name].kind, kind, "{name}");
        assert!(text.ends_with('.') && text.len() > 10, "{name}: {text}");
        let suffix = name.trim_end_matches("_total").rsplit('_').next();
        let expected = match suffix {
            Some("seconds") => Unit::Seconds,
            Some("bytes") => Unit::Bytes,
            _ => Unit::Count,
        };
        assert_eq!(unit, Some(expected), "{name}");
    }
}

/// The metrics and labels of a query.
#[derive(Debug, Default)]
struct Query {
    metrics: Vec<String>,
    labels: Vec<String>,
}

impl Query {
    /// Reads the names in a query of Prometheus, or in a `label_values` of Grafana. Panics if it has other names than
    /// metrics, labels and the functions that the dashboard uses.
    fn read(text: &str) -> Self {
        const WORDS: [&str; 4] = ["sum", "rate", "by", "histogram_quantile"];
        let mut query = Self::default();
        let mut rest = text;
        let (mut in_selector, mut in_labels, mut awaits_labels) = (false, text.starts_with("label_values("), false);
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || c == '.';
            let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
            rest = &rest[word.len().max(first.len_utf8())..];
            match first {
                '"' => rest = rest.split_once('"').expect("the end of a text").1,
                '{' => in_selector = true,
                '}' => in_selector = false,
                '(' => in_labels |= std::mem::take(&mut awaits_labels),
                ')' => in_labels = false,
                _ if word.is_empty() || word.starts_with(|c: char| c == '$' || c.is_ascii_digit()) => {}
                _ if word.starts_with("ocpp_rpc_") => query.metrics.push(word.to_owned()),
                _ if word == "label_values" => {}
                _ if in_selector || in_labels => query.labels.push(word.to_owned()),
                _ => {
                    assert!(WORDS.contains(&word), "{word} is neither a metric nor a known function: {text}");
                    awaits_labels = word == "by";
                }
            }
        }
        query
    }
}

/// Returns the targets of all panels, and the queries of the variables.
fn queries(dashboard: &Value) -> Vec<(Query, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("a query");
            let mut query = Query::read(expression);
            let legend = target["legendFormat"].as_str().expect("a legend");
            query
                .labels
                .extend(legend.split("{{").skip(1).filter_map(|label| Some(label.split_once("}}")?.0.to_owned())));
            found.push((query, expression.to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        if let Some(definition) = variable["definition"].as_str() {
            found.push((Query::read(definition), definition.to_owned()));
        }
    }
    found
}

#[test]
fn b61_dashboard_has_all_metrics_and_no_others() {
    let documented = documented();
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut shown = BTreeSet::new();
    for (query, text) in queries(&dashboard) {
        assert!(!query.metrics.is_empty(), "{text}");
        for metric in &query.metrics {
            // Prometheus has a counter for each bucket of a histogram.
            let (name, is_bucket) = metric.strip_suffix("_bucket").map_or((&**metric, false), |name| (name, true));
            let known = documented.get(name).unwrap_or_else(|| panic!("{name} does not exist: {text}"));
            assert_eq!(is_bucket, known.kind == "histogram", "{text}");
            for label in &query.labels {
                let is_known = known.labels.contains(label) || TARGET_LABELS.contains(&&**label);
                assert!(is_known || (is_bucket && label == "le"), "{metric} has no label {label}: {text}");
            }
            shown.insert(name.to_owned());
        }
    }
    assert_eq!(shown, documented.into_keys().collect());
}

#[test]
fn names_in_queries_are_found() {
    let query = Query::read(r#"sum by (le, a) (rate(ocpp_rpc_x_bucket{b=~"$c", d="e{f}"}[$__rate_interval])) / 0.5"#);
    assert_eq!(
        (query.metrics, query.labels),
        (vec!["ocpp_rpc_x_bucket".to_owned()], ["le", "a", "b", "d"].map(str::to_owned).to_vec())
    );
    let query = Query::read(r#"label_values(ocpp_rpc_y{a="b"}, c)"#);
    assert_eq!((query.metrics, query.labels), (vec!["ocpp_rpc_y".to_owned()], ["a", "c"].map(str::to_owned).to_vec()));
}
