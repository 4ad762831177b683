//! Whether a registry knows the name and password that someone has given.

use super::access::{Access, Scope};
use super::client::Registry;
use super::message::Request;
use super::token::unauthorized;
use super::{Credentials, Error};
use crate::oci::RegistryName;

impl Registry {
    /// Shows the credentials of the settings to a registry, and returns what is worth keeping: them,
    /// or the identity token that its token server gives for them.
    ///
    /// A registry that lets everybody in does not say what it thinks of them.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] if they are refused, or if the settings have none; and whatever
    /// reaching the registry can bring.
    pub fn log_in(&self, name: &RegistryName) -> Result<Credentials, Error> {
        let access = Access::new(self, name.clone(), name.to_string());
        let Some(credentials) = access.credentials()? else {
            return Err(unauthorized(name.as_str(), None));
        };
        let url = access.address("")?;
        let what = format!("registry at {url}");
        let response = access.transport().send(&Request::get(&url, &[]))?;
        if response.status() != 401 {
            access.check(response, &what)?;
            return Ok(credentials);
        }
        let authorization = access.authorize(&url, &response, Scope::Login)?;
        let response = access.transport().send(&Request {
            authorization: Some(&authorization.header),
            ..Request::get(&url, &[])
        })?;
        if response.status() == 401 {
            return Err(unauthorized(name.as_str(), Some(&credentials)));
        }
        access.check(response, &what)?;
        Ok(match authorization.identity {
            Some(token) => Credentials::IdentityToken(token),
            None => credentials,
        })
    }
}
