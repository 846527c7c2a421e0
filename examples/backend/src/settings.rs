//! The settings: flags, and a file that may hold all of them.

use std::{error::Error, ffi::OsString, fs, net::IpAddr, path::PathBuf};

use clap::{ArgMatches, CommandFactory, Parser, parser::ValueSource};

use crate::{cluster, strict, tls};

#[derive(Parser)]
#[command(name = "backend")]
pub(crate) struct Settings {
    /// A file with settings (TOML). Its keys are the names of these flags, such as `trusted-proxy = ["10.0.7.1"]`. A
    /// flag takes precedence.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:9220")]
    pub(crate) listen: String,
    /// The database: `sqlite:FILE`, `sqlite::memory:`, or `postgres://USER:PASSWORD@HOST/NAME` with the feature
    /// `postgres`. By default `sqlite:backend.db` in the working directory, or in memory with `--demo`.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Deletes messages from the journal after this number of days.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(crate) journal_days: u32,
    /// Starts this number of simulated charging stations.
    #[arg(long, value_name = "STATIONS", default_value_t = 0)]
    pub(crate) demo: usize,
    /// Accepts only stations that are in this file of lines `identity:password` (security profiles 1 and 2).
    #[arg(long, value_name = "FILE", conflicts_with = "demo")]
    pub(crate) password_file: Option<PathBuf>,
    /// Expects a PROXY header from this address or network, and refuses other clients. Can be repeated.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "demo")]
    pub(crate) proxy_protocol: Vec<String>,
    /// Takes the addresses of clients from the `X-Forwarded-For` header of this address or network. Can be repeated.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) trusted_proxy: Vec<String>,
    /// Serves metrics for Prometheus at `/metrics`. Requires the feature `metrics`.
    #[arg(long)]
    pub(crate) metrics: bool,
    #[command(flatten)]
    pub(crate) checks: strict::Checks,
    #[command(flatten)]
    pub(crate) cluster: cluster::Cluster,
    #[command(flatten)]
    pub(crate) tls: tls::Tls,
}

impl Settings {
    /// Reads the flags and the settings file. Ends the program if the flags are wrong.
    pub(crate) fn parse() -> Result<Self, Box<dyn Error>> {
        let given: Vec<OsString> = std::env::args_os().collect();
        // A flag may need another one that is in the file, so these errors are not final.
        let flags =
            Self::command().ignore_errors(true).try_get_matches_from(&given).unwrap_or_else(|error| error.exit());
        let Some(path) = flags.get_one::<PathBuf>("settings") else { return Ok(<Self as Parser>::parse()) };
        let in_file = |error: String| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| in_file(error.to_string()))?;
        let from_file = to_flags(&text, &flags).map_err(in_file)?;
        let mut given = given.into_iter();
        Ok(Self::parse_from(given.next().into_iter().chain(from_file).chain(given)))
    }

    /// Returns the host that browsers know this backend by. `None` if the backend does not know it: behind a proxy, or
    /// if it listens on all addresses of the machine.
    pub(crate) fn known_host(&self) -> Option<&str> {
        let host = self.listen.rsplit_once(':').map_or(&*self.listen, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_unspecified = host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        let has_proxy = !self.trusted_proxy.is_empty() || !self.proxy_protocol.is_empty();
        (!is_unspecified && !has_proxy).then_some(host)
    }

    /// Returns the URL of the database.
    pub(crate) fn database(&self) -> String {
        let default = if self.demo > 0 { "sqlite::memory:" } else { "sqlite:backend.db" };
        self.database.clone().unwrap_or_else(|| default.to_owned())
    }
}

/// Turns the text of a settings file into flags, without those on the command line.
fn to_flags(text: &str, given: &ArgMatches) -> Result<Vec<OsString>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let command = Settings::command();
    let mut flags = Vec::new();
    for (key, value) in table {
        let is_flag = |argument: &&clap::Arg| argument.get_long() == Some(&key) && key != "settings";
        let Some(argument) = command.get_arguments().find(is_flag) else {
            return Err(format!("unknown setting: {key}: see `--help` for the names"));
        };
        if given.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let takes_value = argument.get_action().takes_values();
        let values = match value {
            toml::Value::Array(values) if takes_value => values,
            value => vec![value],
        };
        for value in values {
            flags.push(match value {
                toml::Value::Boolean(is_on) if !takes_value => {
                    if !is_on {
                        continue;
                    }
                    format!("--{key}")
                }
                toml::Value::String(text) if takes_value => format!("--{key}={text}"),
                toml::Value::Integer(number) if takes_value => format!("--{key}={number}"),
                value => {
                    return Err(format!("wrong type of {key}: {}: see `--help` for its value", value.type_str()));
                }
            });
        }
    }
    Ok(flags.into_iter().map(OsString::from).collect())
}
