//! `plyfs take-over`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::Result;
use super::failure::Failure;
use crate::mount::{self, upgrade};
use crate::options::MountOptions;

/// Take a live mount over; the holder of the mount starts it and waits at its standard input
#[derive(Args)]
pub struct TakeOver {
    /// What is mounted, for whoever lists processes
    #[arg(value_name = "IMAGE")]
    _image: OsString,
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// How it was mounted
    #[arg(short, long = "options", value_name = "OPTIONS")]
    options: Vec<OsString>,
}

impl TakeOver {
    pub fn run(self) -> Result<()> {
        mount::close_inherited(&self.directory)
            .map_err(|error| Failure::new("cannot close what was inherited", error))?;
        let options = MountOptions::parse(&self.options)
            .map_err(|error| Failure::usage(format!("cannot read the options: {error}")))?;
        upgrade::take_over(&self.directory, options)
            .map_err(|error| Failure::new("cannot take the mount over", error))
    }
}
