//! nginx in front of the application, with TLS and its default buffering.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    console_of, run,
    support::{Backend, deadline, directory},
};

/// A process of nginx, which passes two paths on to the console. Dropping this value kills it.
struct Nginx {
    process: Child,
    port: u16,
}

impl Nginx {
    fn start(console: &str) -> Self {
        let directory = directory("nginx");
        let subject = ["-subj", "/CN=localhost", "-days", "2", "-nodes"];
        let key = ["req", "-x509", "-newkey", "rsa:2048", "-keyout", "key.pem", "-out", "cert.pem"];
        let created = Command::new("openssl").args(key).args(subject).current_dir(&directory).output();
        assert!(created.expect("openssl").status.success(), "openssl cannot create a certificate");
        let deadline = deadline();
        loop {
            // Another process may take the port before nginx does.
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let port = free.expect("a free port").port();
            fs::write(directory.join("nginx.conf"), configuration(console, port)).expect("a file");
            if let Some(process) = start_on(&directory, port, deadline) {
                return Self { process, port };
            }
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts nginx and waits until it listens. Returns `None` if it has ended.
fn start_on(directory: &Path, port: u16, deadline: Instant) -> Option<Child> {
    let mut nginx = Command::new("/usr/sbin/nginx");
    nginx.arg("-p").arg(directory).args(["-c", "nginx.conf", "-e", "error.log"]).stdin(Stdio::null());
    let mut process = nginx.spawn().expect("nginx: run tests/run");
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nginx does not listen: see {}/error.log", directory.display());
        if process.try_wait().expect("a process").is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(process)
}

/// Returns a configuration with the defaults of nginx, so that it buffers responses, and without worker processes.
fn configuration(console: &str, port: u16) -> String {
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;
        location /console/ {{ proxy_pass {console}; }}
        location /a/deep/prefix/ {{ proxy_pass {console}; }}
    }}
}}
"
    )
}

#[tokio::test]
async fn events_flow_through_nginx_with_tls_at_any_prefix() {
    let backend = Backend::start(&["--demo", "2"]);
    let nginx = Nginx::start(&console_of(&backend));
    let url = |path| format!("https://localhost:{}{path}", nginx.port);
    run("proxy.mjs", vec![url("/console/"), url("/a/deep/prefix/")]).await;
}
