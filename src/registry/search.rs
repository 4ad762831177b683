//! Repositories of a registry by a word in their names.

use serde::Deserialize;

use super::Error;
use super::access::{Access, Scope};
use super::client::Registry;
use super::document::{List, MOST_PAGES};
use super::url::{Url, form};
use crate::oci::RegistryName;

/// The host that searches in Docker's registry, which is not the one that serves it.
const HUB: &str = "https://index.docker.io/";

/// A repository that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Hit {
    /// As the registry calls it.
    pub name: String,
    /// What its owner says of it.
    #[serde(default)]
    pub description: String,
    /// How many people like it.
    #[serde(default, rename = "star_count")]
    pub stars: u64,
    /// Whether it is one of Docker's own.
    #[serde(default)]
    pub is_official: bool,
    /// Whether it was built from its sources by the registry itself.
    #[serde(default)]
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Option<Vec<Hit>>,
}

#[derive(Deserialize)]
struct Catalog {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

impl Registry {
    /// Searches for repositories; the registry is asked for at most `limit` of them.
    ///
    /// A registry that knows no search has its catalog read instead: then there is nothing but names,
    /// in its order.
    ///
    /// # Errors
    /// [`Error::Denied`] or [`Error::NotFound`] where there is neither; and whatever reaching the
    /// registry can bring.
    pub fn search(&self, name: &RegistryName, term: &str, limit: usize) -> Result<Vec<Hit>, Error> {
        let access = Access::new(self, name.clone(), name.to_string());
        let base = match name.is_default() {
            true => Url::parse(HUB).map_err(|why| wrong(HUB, why))?,
            false => access.base()?,
        };
        let query = form(&[("q", term), ("n", &limit.to_string())]);
        let url = base.join(&format!("/v1/search?{query}"));
        let url = url.map_err(|why| wrong(name.as_str(), why))?;
        let what = format!("search in {name}");
        let answer = match access.document(&url, &[], &what, Scope::Usual("")) {
            Ok((bytes, _)) => serde_json::from_slice::<Answer>(&bytes),
            Err(Error::NotFound { .. }) if !name.is_default() => {
                return catalog(&access, term, limit);
            }
            Err(error) => return Err(error),
        };
        match answer {
            Ok(answer) => Ok(answer.results.unwrap_or_default()),
            // A page for people, for example.
            Err(error) if !name.is_default() => {
                log::info!("{url}: no search: {error}");
                catalog(&access, term, limit)
            }
            Err(error) => Err(wrong(
                &url.to_string(),
                format!("what it found is invalid: {error}"),
            )),
        }
    }
}

/// The repositories of the catalog that have `term` in their names.
fn catalog(access: &Access, term: &str, limit: usize) -> Result<Vec<Hit>, Error> {
    let first = access.address("_catalog?n=1000")?;
    let list = List {
        what: "the catalog",
        of: &format!("search in {}, nor a catalog", access.name()),
        pages: MOST_PAGES,
    };
    let term = term.to_lowercase();
    let mut hits = Vec::new();
    access.pages(
        first,
        &list,
        Scope::Usual("registry:catalog:*"),
        &mut |page: Catalog| {
            let names = page.repositories.unwrap_or_default().into_iter();
            let fit = names.filter(|name| name.contains(&term));
            hits.extend(fit.map(|name| Hit {
                name,
                ..Hit::default()
            }));
        },
    )?;
    hits.truncate(limit);
    Ok(hits)
}

fn wrong(url: &str, why: String) -> Error {
    Error::Protocol {
        url: url.to_owned(),
        why,
    }
}
