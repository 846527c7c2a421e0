//! The commands of the guide's page on security profiles, run as they are written there. The same certificates are also
//! used by openssl, curl and a station of another author.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::harness::{Backend, Fleet, Kind, Library, Station};

/// Returns the commands of a section of the page.
fn recipe(section: &str) -> Vec<String> {
    let page = include_str!("../../src/docs/guide/security.md");
    let (_, rest) = page.split_once(&format!("# {section}")).unwrap_or_else(|| panic!("no section {section}"));
    let block = rest.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("commands");
    block.lines().map(str::to_owned).collect()
}

/// Creates a directory for one test, with the page's certificates in it.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    shell(&path, &recipe("Certificates for a trial").join("\n"));
    path
}

fn shell(directory: &Path, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(directory).stderr(Stdio::null()).status();
    assert!(done.expect("sh").success(), "{script}");
}

/// Runs the commands of a profile: the backend, a station, and those before them.
fn follow(profile: &str) {
    let directory = directory(&profile.replace(' ', "-"));
    let mut backend = None;
    let mut station = None;
    for line in recipe(profile) {
        let arguments = |program: &str| {
            let cargo = line.strip_prefix(&format!("cargo run -p {program}"))?;
            let arguments = cargo.split_once(" -- ").map_or("", |(_, arguments)| arguments);
            Some(arguments.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        if let Some(arguments) = arguments("backend") {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            backend = Some(Backend::told(&arguments, &directory));
        } else if let Some(arguments) = arguments("charger") {
            // The port of the page may be in use.
            let address = backend.as_ref().expect("the backend comes first").address().to_owned();
            let arguments: Vec<_> = arguments.iter().map(|word| word.replace("127.0.0.1:9220", &address)).collect();
            station = Some(Fleet::told(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &directory));
        } else {
            shell(&directory, &line);
        }
    }
    station.expect("a station").wait_for("1 of 1 connected");
}

#[test]
fn profile_0_works_as_written() {
    follow("Profile 0");
}

#[test]
fn profile_1_works_as_written() {
    follow("Profile 1");
}

#[test]
fn profile_2_works_as_written() {
    follow("Profile 2");
}

#[test]
fn profile_3_works_as_written() {
    follow("Profile 3");
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
fn openssl_is_shown_the_certificate_that_it_can_verify_and_gets_its_upgrade() {
    let directory = directory("openssl");
    let backend = Backend::told(&[&TLS[..], &["--client-ca", "ca.pem"]].concat(), &directory);
    let head = "GET /ocpp/CP-1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: ocpp1.6\r\n\r\n";
    let client = ["-cert", "station.pem", "-key", "station.key"];
    for (arguments, client, key) in [
        (&["-tls1_3"][..], &client[..], Some("id-ecPublicKey")),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], &client, Some("id-ecPublicKey")),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"], &client, Some("rsaEncryption")),
        // What rustls does not have, what is too old, and who has no certificate.
        (&["-tls1_2", "-cipher", "AES128-GCM-SHA256"], &client, None),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], &client, None),
        (&["-tls1_3"], &[], None),
    ] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", backend.address(), "-CAfile", "ca.pem", "-verify_return_error"]);
        openssl.args(["-ign_eof", "-showcerts"]).args(arguments).args(client).current_dir(&directory);
        openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = openssl.spawn().expect("openssl");
        // Behind the head a close frame, so that the server ends it.
        let close = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
        // Who is refused does not take it all.
        let _ = process.stdin.take().expect("piped").write_all(&[head.as_bytes(), &close].concat());
        let output = process.wait_with_output().expect("an end");
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
fn curl_gets_the_rest_side_over_tls_and_only_with_a_certificate() {
    let directory = directory("curl");
    let backend = Backend::told(&[&TLS[..], &["--client-ca", "ca.pem"]].concat(), &directory);
    let get = |path: &str, client: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--disable", "--silent", "--noproxy", "*", "--max-time", "60", "--cacert", "ca.pem"]);
        curl.args(["--write-out", " %{http_code}"]).args(client).current_dir(&directory);
        let output = curl.arg(format!("https://{}{path}", backend.address())).output().expect("curl");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let client = ["--cert", "station.pem", "--key", "station.key"];
    assert_eq!(get("/healthz", &client), (true, "ok 200".to_owned()));
    // A curl that is let would speak HTTP/2, where that is built in.
    let plain = [&client[..], &["--http1.1"]].concat();
    assert_eq!(get("/ocpp/CP-1", &plain).1, "this is a WebSocket endpoint 426");
    assert!(!get("/healthz", &[]).0);
}

/// Named as the tests that need a station by others, so that they can be left out.
mod peers {
    use super::*;

    const NPM: Kind = Kind { library: Library::Npm, protocol: "ocpp1.6" };

    #[test]
    fn a_station_on_the_npm_module_comes_with_its_certificate() {
        let directory = directory("npm");
        let backend = Backend::told(&[&TLS[..], &["--client-ca", "ca.pem"]].concat(), &directory);
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
        station.ask("heartbeat", "heartbeat");
        assert_eq!(station.ask("calls 100", "calls")["ok"], 100);
        assert_eq!(station.ask("close 1000 done", "closed")["code"], 1000);
        assert!(station.exit_status().success());

        let without = Station::with_files(NPM, &url, "CP-2", &files[..1]);
        assert!(!without.exit_status().success(), "without a certificate there is no way in");
    }
}
