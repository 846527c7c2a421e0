//! Flags and the settings file.

use std::fs;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::support::{Backend, directory, failure};

#[tokio::test]
async fn settings_file_holds_flags_and_flags_take_precedence() {
    let directory = directory("settings");
    fs::write(directory.join("passwords"), "CP-1:secret\n").expect("a file");
    let settings = r#"
        listen = "127.0.0.1:1"
        database = "sqlite:named.db"
        journal-days = 7
        password-file = "passwords"
        trusted-proxy = ["127.0.0.1", "10.0.0.0/8"]
        strict = false
    "#;
    fs::write(directory.join("backend.toml"), settings).expect("a file");
    let backend = Backend::start_in(&directory, &["--settings", "backend.toml", "--listen", "127.0.0.1:0"]);
    assert!(directory.join("named.db").exists());
    let client = ocpp_rpc::RpcClient::builder(format!("ws://{}/ocpp", backend.address()), "CP-1")
        .protocols(["ocpp1.6"])
        .password("secret")
        .header("x-forwarded-for".parse().expect("a name"), "203.0.113.9".parse().expect("a value"))
        .build()
        .expect("settings");
    client.connect().await.expect("a connection");
    client.call::<Value>("Heartbeat", &json!({})).await.expect("a response");
    let listed = backend.get("/api/stations").await;
    assert_eq!(listed[0]["remote_address"], "203.0.113.9:0");
}

#[test]
fn wrong_settings_are_named() {
    let directory = directory("wrong-settings");
    for (settings, error) in [
        ("listn = \"127.0.0.1:0\"", "backend.toml: unknown setting: listn"),
        ("demo = true", "backend.toml: wrong type of demo: boolean"),
        ("metrics = 1", "backend.toml: wrong type of metrics: integer"),
        ("demo = ", "backend.toml: TOML parse error"),
        ("settings = \"other.toml\"", "backend.toml: unknown setting: settings"),
        ("demo = -1", "invalid value '-1' for '--demo"),
        ("demo = 1\npassword-file = \"x\"", "cannot be used with"),
        ("password-file = \"missing\"", "cannot read the password file: missing: "),
        ("database = \"mysql://localhost\"", "the URL must begin with sqlite: or postgres:"),
        ("database = \"sqlite:missing/backend.db\"", "cannot open the database sqlite:missing/backend.db: "),
        ("trusted-proxy = \"nowhere\"", "nowhere"),
        ("proxy-protocol = \"nowhere\"", "nowhere"),
        ("listen = \"127.0.0.1\"", "cannot listen on 127.0.0.1: "),
    ] {
        fs::write(directory.join("backend.toml"), settings).expect("a file");
        let output = failure(&["--settings", "backend.toml"], &directory);
        assert!(output.contains(error), "{settings}: {output}");
    }
    assert!(failure(&["--settings", "missing.toml"], &directory).contains("missing.toml: "));
}

#[test]
fn flag_without_its_feature_names_the_feature() {
    let directory = directory("features");
    for (arguments, feature, is_enabled) in [
        (&["--metrics"][..], "metrics", cfg!(feature = "metrics")),
        (&["--strict"], "ocpp-schemas", cfg!(feature = "ocpp-schemas")),
        (&["--tls-cert", "a.pem", "--tls-key", "a.key"], "tls", cfg!(feature = "tls")),
        (&["--database", "postgres://localhost/x"], "postgres", cfg!(feature = "postgres")),
        (&["--database", "sqlite::memory:"], "sqlite", cfg!(feature = "sqlite")),
    ] {
        if !is_enabled {
            let output = failure(&[&["--listen", "127.0.0.1:0"], arguments].concat(), &directory);
            assert!(output.contains(&format!("build with `--features {feature}`")), "{arguments:?}: {output}");
        }
    }
}

#[test]
fn password_of_a_database_is_not_printed() {
    for url in [
        "postgres://user:hush@127.0.0.1:1/x",
        "postgres://user:a?hush@127.0.0.1:1/x",
        "postgres://127.0.0.1:1/x?user=u&password=hush",
        "postgres://127.0.0.1:1/x?user=u&password=a@hush",
    ] {
        let output = failure(&["--database", url, "--listen", "127.0.0.1:0"], &directory("secret"));
        assert!(!output.contains("hush"), "{output}");
    }
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn metrics_are_served_only_with_their_flag() {
    let without = Backend::start(&[]);
    assert_eq!(without.request(hyper::Method::GET, "/metrics", &Value::Null).await.0, StatusCode::NOT_FOUND);
    let with = Backend::start(&["--metrics"]);
    let page = with.get("/metrics").await;
    assert!(page.as_str().is_some_and(|page| page.contains("ocpp_rpc_calls_total")), "{page}");
}

#[tokio::test]
async fn proxy_protocol_gives_the_address_and_refuses_other_clients() {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    let backend = Backend::start(&["--proxy-protocol", "127.0.0.1"]);
    let get = async |head: &str| {
        let mut stream = TcpStream::connect(backend.address()).await.expect("the backend listens");
        let request = format!("{head}GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut response = String::new();
        // A refused connection is reset.
        let _ = stream.read_to_string(&mut response).await;
        response.split(' ').nth(1).map(str::to_owned)
    };
    assert_eq!(get("PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\n").await.as_deref(), Some(StatusCode::OK.as_str()));
    assert_eq!(get("").await, None);
}
