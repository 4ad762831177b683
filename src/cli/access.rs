//! The flags of verbs that reach registries.

use std::path::PathBuf;

use clap::Args;

use super::environment;
use crate::registry::{AuthFiles, Settings};

/// How registries are reached.
#[derive(Args, Clone)]
pub struct Access {
    /// Do not verify certificates, and use plain HTTP where there is no TLS
    #[arg(long)]
    insecure: bool,
    /// The file with credentials, instead of those of podman and Docker
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// A directory with certificates for the registry: authorities *.crt, our own *.cert and *.key
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
}

impl Access {
    /// Whether any of these flags was given.
    pub fn is_given(&self) -> bool {
        self.insecure || self.authfile.is_some() || self.cert_dir.is_some()
    }

    /// What these flags and the environment say.
    pub fn settings(&self) -> Settings {
        let mut settings = environment::registry_settings(self.insecure);
        if let Some(file) = &self.authfile {
            settings.auth = AuthFiles {
                paths: vec![file.clone()],
                new_ones: Some(file.clone()),
                helper_path: None,
            };
        }
        settings.certificates.given = self.cert_dir.clone();
        settings
    }
}
