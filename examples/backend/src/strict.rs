//! `--strict`: validation by OCPP's own schemas.

use ocpp_rpc::Options;

#[derive(clap::Args)]
pub(crate) struct Checks {
    /// Validates every payload of OCPP 1.6, 2.0.1 and 2.1, and rejects actions that a version does not have. Requires
    /// the feature `ocpp-schemas`.
    #[arg(long)]
    strict: bool,
}

impl Checks {
    /// Adds the validation to the options if the flag is set.
    #[cfg(feature = "ocpp-schemas")]
    pub(crate) fn add_to(&self, options: Options) -> Result<Options, &'static str> {
        use ocpp_rpc::validate::{OcppSchemas, Validation};

        Ok(if self.strict { options.validation(Validation::new(OcppSchemas)) } else { options })
    }

    #[cfg(not(feature = "ocpp-schemas"))]
    pub(crate) fn add_to(&self, options: Options) -> Result<Options, &'static str> {
        if self.strict {
            return Err("--strict requires the feature `ocpp-schemas`: build with `--features ocpp-schemas`");
        }
        Ok(options)
    }
}
