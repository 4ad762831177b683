//! Programs that keep credentials: `docker-credential-NAME`.
//!
//! # See
//!
//! <https://github.com/docker/docker-credential-helpers>

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::Credentials;
use crate::oci::quoted;

/// A helper.
pub(super) struct Helper<'a> {
    program: String,
    /// The search path; `None` for that of this process.
    path: Option<&'a OsStr>,
}

/// What a helper answers, and what it is told.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server: String,
    username: String,
    secret: String,
}

impl<'a> Helper<'a> {
    /// The helper of this name.
    ///
    /// # Errors
    /// A name that no helper can have.
    pub(super) fn new(name: &str, path: Option<&'a OsStr>) -> Result<Helper<'a>, String> {
        if name.is_empty() || name.contains(['/', '\0']) {
            let name = quoted(name);
            return Err(format!("{name} cannot be the name of a credential helper"));
        }
        let program = format!("docker-credential-{name}");
        Ok(Helper { program, path })
    }

    /// Its program, for messages.
    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// The credentials for a server; `None` if it has none.
    ///
    /// # Errors
    /// A helper that cannot be run, fails, or says something odd.
    pub(super) fn get(&self, server: &str) -> Result<Option<Credentials>, String> {
        let Some(output) = self.run("get", server.as_bytes())? else {
            return Ok(None);
        };
        let answer: Entry = serde_json::from_slice(&output).map_err(|e| {
            let program = &self.program;
            format!("the credential helper {program} gave an invalid answer: {e}")
        })?;
        Ok(Credentials::new(answer.username, answer.secret))
    }

    /// Has it keep credentials for a server.
    ///
    /// # Errors
    /// A helper that cannot be run, or fails.
    pub(super) fn store(&self, server: &str, credentials: &Credentials) -> Result<(), String> {
        let (username, secret) = credentials.pair();
        let entry = Entry {
            server: server.to_owned(),
            username: username.to_owned(),
            secret: secret.to_owned(),
        };
        let entry = serde_json::to_vec(&entry).map_err(|e| e.to_string())?;
        self.run("store", &entry).map(drop)
    }

    /// Has it forget those for a server, and tells whether it had any.
    ///
    /// # Errors
    /// As [`Helper::store`].
    pub(super) fn erase(&self, server: &str) -> Result<bool, String> {
        // Some helpers forget what they never knew without a word.
        if self.run("get", server.as_bytes())?.is_none() {
            return Ok(false);
        }
        Ok(self.run("erase", server.as_bytes())?.is_some())
    }

    /// Runs a verb; what the helper prints, or `None` where it has no such credentials.
    fn run(&self, verb: &str, input: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let program = &self.program;
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => format!("the credential helper {program} is not installed"),
            _ => format!("cannot run the credential helper {program}: {e}"),
        };
        let mut command = Command::new(program);
        command
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(path) = self.path {
            command.env("PATH", path);
        }
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input) {
                // A helper that knows its answer already need not read the question.
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                    child.kill().and_then(|()| child.wait()).map_err(failed)?;
                    return Err(failed(e));
                }
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(failed)?;
        if !output.status.success() {
            let said = [output.stdout.as_slice(), &output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            let said = said.trim();
            // The words that all helpers use for this: there is no other sign.
            if said.contains("credentials not found") {
                return Ok(None);
            }
            return Err(format!(
                "the credential helper {program} failed: {}",
                quoted(said)
            ));
        }
        Ok(Some(output.stdout))
    }
}
