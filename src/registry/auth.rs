//! Credentials: found in the configuration files of Docker and of podman, or in their helpers.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Files with credentials, and how to run the helpers that they name.
#[derive(Debug, Clone, Default)]
pub struct AuthFiles {
    /// `auth.json` and `config.json` files; the first that has something for a registry decides.
    ///
    /// Files that do not exist are passed over.
    pub paths: Vec<PathBuf>,
    /// The search path for `docker-credential-*` helpers; `None` for that of this process.
    pub helper_path: Option<OsString>,
}

/// What proves to a registry who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Basic {
        /// The name.
        username: String,
        /// The password, or an access token that serves as one.
        password: String,
    },
    /// A refresh token that the registry's token server gave at login.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    /// Without the secret, which must not come into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, ...)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(...)"),
        }
    }
}
