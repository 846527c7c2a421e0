//! Compile-fail tests: a mistake in the use of the crate does not compile, and the compiler explains it.
//!
//! A case in `tests/ui` begins with lines `//~ text`. Each text must appear in an error about the case, with any
//! compiler from the MSRV on. Prefer texts of the crate's own diagnostics; if there are none, take the error code and
//! names of types, without paths: compilers differ in how much of a path they print.
//!
//! The whole output differs between compilers. It is compared only if the compiler is the one in `tests/ui/compiler`.
//! After a change to a case or a diagnostic, write the outputs and the compiler's version again:
//!
//! ```sh
//! TRYBUILD=overwrite cargo test --test ui
//! ```

use std::{collections::BTreeMap, env, fmt::Write, fs, path::Path, process::Command};

use serde_json::Value;

/// The dependencies of the cases beside the crate, at the versions of `Cargo.lock`.
const DEPENDENCIES: &str = r#"
anyhow = "1"
serde = { version = "1", features = ["derive"] }
serde_json = "1"
"#;

#[test]
fn mistakes_are_explained_by_any_compiler() {
    let cases = cases();
    let errors = check(&cases);
    let mut failures = String::new();
    for (name, source) in &cases {
        let texts: Vec<_> = source.lines().map_while(|line| line.strip_prefix("//~ ")).collect();
        let printed = errors.get(name).map_or("", String::as_str);
        let missing: Vec<_> = texts.iter().filter(|text| !printed.contains(**text)).collect();
        if texts.is_empty() {
            let _ = writeln!(failures, "tests/ui/{name}.rs: the first line is not `//~ text`");
        } else if printed.is_empty() {
            let _ = writeln!(failures, "tests/ui/{name}.rs: compiles, but must not");
        } else if !missing.is_empty() {
            let _ = writeln!(failures, "tests/ui/{name}.rs: {missing:?} missing in:\n{printed}");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn whole_output_is_unchanged_with_the_recorded_compiler() {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc");
    let version = String::from_utf8(output.stdout).expect("UTF-8");
    let compiler = version.split(" (").next().expect("a first part").trim();

    let recorded = Path::new("tests/ui/compiler");
    if env::var("TRYBUILD").is_ok_and(|update| update == "overwrite") {
        fs::write(recorded, format!("{compiler}\n")).expect("a file to write to");
    }
    let recorded = fs::read_to_string(recorded).expect("the version that wrote the outputs");
    if compiler == recorded.trim() {
        trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
    } else {
        println!("not compared: the outputs are those of {}, and this is {compiler}", recorded.trim());
    }
}

/// Returns the names of the cases and their sources.
fn cases() -> BTreeMap<String, String> {
    let files = fs::read_dir("tests/ui").expect("the cases").map(|entry| entry.expect("an entry").path());
    let cases = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let case = |path: &Path| path.file_stem()?.to_str().map(str::to_owned).zip(fs::read_to_string(path).ok());
    cases.map(|path| case(&path).unwrap_or_else(|| panic!("cannot read {}", path.display()))).collect()
}

/// Compiles the cases as the binaries of one package, with the default features, and returns the errors about each.
fn check(cases: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui");
    let mut manifest = format!(
        "[package]\nname = \"ui\"\nedition = \"2024\"\nautobins = false\n\n[workspace]\n\n\
        [dependencies]\nocpp-rpc = {{ path = '{root}' }}{DEPENDENCIES}"
    );
    for name in cases.keys() {
        let _ = write!(manifest, "\n[[bin]]\nname = \"{name}\"\npath = '{root}/tests/ui/{name}.rs'\n");
    }
    fs::create_dir_all(&package).expect("a directory");
    fs::write(package.join("Cargo.toml"), manifest).expect("a manifest");
    fs::copy("Cargo.lock", package.join("Cargo.lock")).expect("a lock file");

    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--quiet", "--bins", "--keep-going", "--message-format", "json"])
        .current_dir(&package)
        .env("CARGO_TARGET_DIR", package.join("target"))
        .output()
        .expect("cargo");
    let mut errors: BTreeMap<String, String> = BTreeMap::new();
    let messages = output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    for message in messages.filter(|message: &Value| message["message"]["level"] == "error") {
        let name = message["target"]["name"].as_str().expect("a target");
        let rendered = message["message"]["rendered"].as_str().expect("a text");
        assert!(cases.contains_key(name), "{name} does not compile:\n{rendered}");
        errors.entry(name.to_owned()).or_default().push_str(rendered);
    }
    assert!(!errors.is_empty(), "no case was compiled:\n{}", String::from_utf8_lossy(&output.stderr));
    errors
}
