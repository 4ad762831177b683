//! `plyfs login`

use std::io::{self, IsTerminal, Read, Write};

use clap::Args;

use super::access::Access;
use super::failure::Failure;
use super::{Result, output, password};
use crate::cause;
use crate::oci::RegistryName;
use crate::registry::{Credentials, Error, Keeper, Mirrored, Settings};

/// Log in to a registry
///
/// The registry, docker.io if none is named, is asked whether it knows name and password; then they
/// are kept for pull and push: by the credential helper that is configured, or else in a file that
/// Docker and podman read too, which is $REGISTRY_AUTH_FILE or $DOCKER_CONFIG/config.json
/// (~/.docker/config.json). Those that are kept already are tried if no name is given.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs login
  plyfs login -u me registry.example
  plyfs login -u me --password-stdin registry.example:5000 <secret")]
pub struct Login {
    /// The registry
    #[arg(value_name = "HOST[:PORT]", default_value_t)]
    registry: RegistryName,
    /// The name
    #[arg(short, long)]
    username: Option<String>,
    /// The password, which other users of the machine can then see
    #[arg(short, long, requires = "username", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    access: Access,
}

impl Login {
    pub fn run(self) -> Result<()> {
        let settings = self.access.settings();
        if self.username.is_none() && self.is_known(&settings)? {
            return output::line("Login Succeeded");
        }
        let credentials = self.ask(&settings)?;
        let verified = verify(&settings, &self.registry, credentials);
        let kept = verified.map_err(|error| self.failure(error))?;
        let keeper = settings.auth.store(&self.registry, &kept);
        if let Keeper::File(file) = keeper.map_err(|error| self.failure(error))? {
            log::warn!(
                "the password is kept unencrypted in {}; a credential helper would encrypt it",
                file.display()
            );
        }
        output::line("Login Succeeded")
    }

    /// Whether the credentials that are kept already are good.
    fn is_known(&self, settings: &Settings) -> Result<bool> {
        let found = settings
            .auth
            .find(&self.registry, self.registry.as_str())
            .map_err(|error| self.failure(error))?;
        let Some(known) = found else {
            return Ok(false);
        };
        eprintln!(
            "Authenticating with existing credentials for {}",
            self.registry
        );
        match verify(settings, &self.registry, known) {
            Ok(_) => Ok(true),
            Err(error @ Error::Unauthorized { .. }) if io::stdin().is_terminal() => {
                eprintln!("{}", cause::chain(&error));
                Ok(false)
            }
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Name and password, asked for where they are not given.
    fn ask(&self, settings: &Settings) -> Result<Credentials> {
        let failed = |error| Failure::new(format!("cannot log in to {}", self.registry), error);
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            log::warn!("--password can be seen by other users; --password-stdin cannot");
            return self.pair(username.clone(), password.clone());
        }
        if self.password_stdin {
            let mut password = String::new();
            io::stdin().read_to_string(&mut password).map_err(failed)?;
            let password = password.strip_suffix('\n').unwrap_or(&password);
            let password = password.strip_suffix('\r').unwrap_or(password);
            return self.pair(
                self.username.clone().unwrap_or_default(),
                password.to_owned(),
            );
        }
        if !io::stdin().is_terminal() {
            let why = "there is no terminal to ask for the password on";
            let failure = Failure::usage(format!("cannot log in to {}: {why}", self.registry));
            return Err(failure.or_hint("-u NAME --password-stdin"));
        }
        let username = match &self.username {
            Some(username) => username.clone(),
            None => prompt_for_name(self.known_name(settings)).map_err(failed)?,
        };
        let password = password::ask("Password: ").map_err(failed)?;
        self.pair(username, password)
    }

    /// The name that was used last.
    fn known_name(&self, settings: &Settings) -> Option<String> {
        let registry = &self.registry;
        match settings.auth.find(registry, registry.as_str()) {
            Ok(Some(Credentials::Basic { username, .. })) => Some(username),
            _ => None,
        }
    }

    fn pair(&self, username: String, password: String) -> Result<Credentials> {
        let missing = match (username.as_str(), password.as_str()) {
            ("", _) => "name",
            (_, "") => "password",
            _ => return Ok(Credentials::Basic { username, password }),
        };
        Err(Failure::usage(format!(
            "cannot log in to {}: the {missing} is empty",
            self.registry
        )))
    }

    fn failure(&self, error: Error) -> Failure {
        let tried = format!("cannot log in to {}", self.registry);
        match error {
            // Its usual hint is to do just this.
            Error::Unauthorized { hint, .. } => Failure::plain(format!("{tried}: {hint}")),
            error => Failure::new(tried, error),
        }
    }
}

fn verify(
    settings: &Settings,
    registry: &RegistryName,
    credentials: Credentials,
) -> std::result::Result<Credentials, Error> {
    let settings = Settings {
        credentials: Some(credentials),
        ..settings.clone()
    };
    Mirrored::registry(&settings, registry)?.log_in(registry)
}

fn prompt_for_name(known: Option<String>) -> io::Result<String> {
    let mut out = io::stdout();
    match &known {
        Some(known) => write!(out, "Username ({known}): ")?,
        None => write!(out, "Username: ")?,
    }
    out.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let typed = line.trim();
    Ok(match (typed, known) {
        ("", Some(known)) => known,
        (typed, _) => typed.to_owned(),
    })
}
