//! `plyfs logout`

use clap::Args;

use super::access::Access;
use super::failure::Failure;
use super::{Result, output};
use crate::oci::RegistryName;
use crate::registry::Keeper;

/// Log out from a registry
///
/// What plyfs would log in with, to docker.io if no registry is named, is removed from every file
/// and credential helper that it is read from; those of Docker and podman among them.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs logout
  plyfs logout registry.example
  plyfs logout --all --authfile auth.json")]
pub struct Logout {
    /// The registry
    #[arg(value_name = "HOST[:PORT]", conflicts_with = "all")]
    registry: Option<RegistryName>,
    /// Log out from all registries
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    access: Access,
}

impl Logout {
    pub fn run(self) -> Result<()> {
        let files = self.access.settings().auth;
        let registries = match self.all {
            true => files
                .registries()
                .map_err(|error| Failure::new("cannot log out", error))?,
            false => vec![self.registry.unwrap_or_default()],
        };
        for registry in &registries {
            let failed = |error| Failure::new(format!("cannot log out from {registry}"), error);
            let keepers = files.erase(registry).map_err(failed)?;
            if keepers.is_empty() {
                output::line(&format!("Not logged in to {registry}"))?;
            }
            for keeper in keepers {
                let from = match keeper {
                    Keeper::File(path) => path.display().to_string(),
                    Keeper::Helper(program) => program,
                };
                output::line(&format!(
                    "Removing login credentials for {registry} from {from}"
                ))?;
            }
        }
        Ok(())
    }
}
