//! `--strict`: validation by OCPP's own rules.

use ocpp_rpc::{Options, Strict, Validation};

#[derive(clap::Args)]
pub(crate) struct Checks {
    /// Validates every payload of OCPP 1.6, 2.0.1 and 2.1; what a version does not know is not implemented.
    #[arg(long)]
    strict: bool,
}

impl Checks {
    pub(crate) fn add_to(&self, options: Options) -> Options {
        match self.strict {
            true => options.validation(Validation::new(Strict)),
            false => options,
        }
    }
}
