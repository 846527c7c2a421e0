//! Runs the commands of the guide's page on security profiles exactly as the page shows them. openssl, curl and a
//! station by another author use the same certificates.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::harness::{Backend, Fleet, Kind, Library, Station};

/// Returns the commands of a section of the page.
fn commands(section: &str) -> Vec<String> {
    let page = include_str!("../../src/docs/authentication.md");
    let (_, rest) = page.split_once(&format!("# {section}")).unwrap_or_else(|| panic!("no section {section}"));
    let block = rest.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("commands");
    block.lines().map(str::to_owned).collect()
}

/// Creates a directory for one test, with the page's certificates.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    shell(&path, &commands("Certificates for a trial").join("\n"));
    path
}

fn shell(directory: &Path, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(directory).stderr(Stdio::null()).status();
    assert!(done.expect("sh").success(), "{script}");
}

/// Runs the commands of a profile: its preparations, the backend and a station.
fn run_profile(profile: &str) {
    let directory = directory(&profile.replace(' ', "-"));
    let mut backend = None;
    let mut station = None;
    for line in commands(profile) {
        let arguments = |program: &str| {
            let cargo = line.strip_prefix(&format!("cargo run -p {program}"))?;
            let arguments = cargo.split_once(" -- ").map_or("", |(_, arguments)| arguments);
            Some(arguments.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        if let Some(arguments) = arguments("backend") {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            backend = Some(Backend::start_in(&arguments, &directory));
        } else if let Some(arguments) = arguments("charger") {
            // The page's port may be in use, so the backend has another one.
            let address = backend.as_ref().expect("the backend comes first").address().to_owned();
            let arguments: Vec<_> = arguments.iter().map(|word| word.replace("127.0.0.1:9220", &address)).collect();
            station = Some(Fleet::start_in(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &directory));
        } else {
            shell(&directory, &line);
        }
    }
    station.expect("a station").wait_for("1 of 1 connected");
}

#[test]
fn profile_0_commands_connect_station() {
    run_profile("Profile 0");
}

#[test]
fn profile_1_commands_connect_station() {
    run_profile("Profile 1");
}

#[test]
fn profile_2_commands_connect_station() {
    run_profile("Profile 2");
}

#[test]
fn profile_3_commands_connect_station() {
    run_profile("Profile 3");
}

const TLS: [&str; 8] = [
    "--tls-cert",
    "csms-ec.pem",
    "--tls-key",
    "csms-ec.key",
    "--tls-cert",
    "csms-rsa.pem",
    "--tls-key",
    "csms-rsa.key",
];

#[test]
fn openssl_with_supported_cipher_gets_matching_certificate() {
    let directory = directory("openssl");
    let backend = Backend::start_in(&[&TLS[..], &["--client-ca", "ca.pem"]].concat(), &directory);
    let head = "GET /ocpp/CP-1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: ocpp1.6\r\n\r\n";
    let client = ["-cert", "station.pem", "-key", "station.key"];
    for (arguments, client, key) in [
        (&["-tls1_3"][..], &client[..], Some("id-ecPublicKey")),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], &client, Some("id-ecPublicKey")),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"], &client, Some("rsaEncryption")),
        // A cipher that rustls lacks, a TLS version that is too old, and a client without a certificate.
        (&["-tls1_2", "-cipher", "AES128-GCM-SHA256"], &client, None),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], &client, None),
        (&["-tls1_3"], &[], None),
    ] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", backend.address(), "-CAfile", "ca.pem", "-verify_return_error"]);
        openssl.args(["-ign_eof", "-showcerts"]).args(arguments).args(client).current_dir(&directory);
        openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = openssl.spawn().expect("openssl");
        // A close frame after the head makes the server end the connection.
        let close = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
        // The write fails if the server refuses the connection early.
        let _ = process.stdin.take().expect("stdin is piped").write_all(&[head.as_bytes(), &close].concat());
        let output = process.wait_with_output().expect("the output of openssl");
        let output = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.contains("HTTP/1.1 101 Switching Protocols"), key.is_some(), "{arguments:?}: {output}");
        if let Some(key) = key {
            let certificate = output.split("-----END CERTIFICATE-----").next().expect("a certificate");
            let start = certificate.find("-----BEGIN CERTIFICATE-----").expect("a certificate");
            fs::write(directory.join("shown.pem"), format!("{}-----END CERTIFICATE-----\n", &certificate[start..]))
                .expect("a file");
            let shown = Command::new("openssl")
                .args(["x509", "-in", "shown.pem", "-noout", "-text"])
                .current_dir(&directory)
                .output()
                .expect("openssl");
            assert!(String::from_utf8_lossy(&shown.stdout).contains(key), "{arguments:?}");
        }
    }
}

#[test]
fn curl_over_tls_reaches_rest_only_with_certificate() {
    let directory = directory("curl");
    let backend = Backend::start_in(&[&TLS[..], &["--client-ca", "ca.pem"]].concat(), &directory);
    let get = |path: &str, client: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--disable", "--silent", "--noproxy", "*", "--max-time", "60", "--cacert", "ca.pem"]);
        curl.args(["--write-out", " %{http_code}"]).args(client).current_dir(&directory);
        let output = curl.arg(format!("https://{}{path}", backend.address())).output().expect("curl");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let client = ["--cert", "station.pem", "--key", "station.key"];
    assert_eq!(get("/healthz", &client), (true, "ok 200".to_owned()));
    // curl negotiates HTTP/2 by default if the backend supports it, but this handshake needs HTTP/1.1.
    let plain = [&client[..], &["--http1.1"]].concat();
    assert_eq!(get("/ocpp/CP-1", &plain).1, "this is a WebSocket endpoint 426");
    assert!(!get("/healthz", &[]).0);
}

/// Tests that need a station by another author. `tests/run --without-peers` skips them by the module's name.
mod peers {
    use super::*;

    const NPM: Kind = Kind { library: Library::Npm, protocol: "ocpp1.6" };

    #[test]
    fn npm_station_connects_only_with_client_certificate() {
        let directory = directory("npm");
        let backend = Backend::start_in(&[&TLS[..], &["--client-ca", "ca.pem"]].concat(), &directory);
        let url = format!("wss://{}/ocpp", backend.address());
        let file = |name: &str| directory.join(name);
        let files = [
            ("STATION_CA", file("ca.pem")),
            ("STATION_CERT", file("station.pem")),
            ("STATION_KEY", file("station.key")),
        ];
        let mut station = Station::with_files(NPM, &url, "CP-1", &files);
        assert_eq!(station.event("open")["protocol"], "ocpp1.6");
        assert_eq!(station.event("boot")["status"], "Accepted");
        station.send_and_wait("heartbeat", "heartbeat");
        assert_eq!(station.send_and_wait("calls 100", "calls")["ok"], 100);
        assert_eq!(station.send_and_wait("close 1000 done", "closed")["code"], 1000);
        assert!(station.exit_status().success());

        let without_certificate = Station::with_files(NPM, &url, "CP-2", &files[..1]);
        assert!(!without_certificate.exit_status().success(), "a station without a certificate must be refused");
    }
}
