//! The image that a container is made of, pulled if it must be, and mounted for it.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;

use super::container_spec::ContainerArguments;
use super::failure::Failure;
use super::mount::Mount;
use super::{Global, Result, environment};
use crate::image::{self, Found};
use crate::store::{self, Store};

/// Finds the image of a container: what it was made of, if it is there. `pull` brings one that is not
/// stored, by a process of its own, since mounting wants a single thread.
pub fn find(
    global: &Global,
    arguments: &ContainerArguments,
    name: &OsStr,
    pull: bool,
) -> Result<Found> {
    let text = name
        .to_str()
        .ok_or_else(|| Failure::usage("the name of an image is UTF-8"))?;
    match look(global, arguments, text) {
        Err(
            image::Error::NotStored
            | image::Error::NotStoredFor { .. }
            | image::Error::Misspelt { .. },
        ) if pull => {}
        Err(image::Error::Store(store::Error::NoStore(_))) if pull => {}
        found => return found.map_err(|error| Failure::of_image("use", text, error)),
    }
    pull_image(global, arguments, text)?;
    look(global, arguments, text).map_err(|error| Failure::of_image("use", text, error))
}

fn look(
    global: &Global,
    arguments: &ContainerArguments,
    name: &str,
) -> std::result::Result<Found, image::Error> {
    let root = environment::store_root(global).map_err(|_| image::Error::NotStored)?;
    let store = Store::open(&root)?;
    let name_of_container = arguments.name.as_deref().unwrap_or_default();
    match store.container_record(name_of_container)? {
        Some(record) => image::find_recorded(&store, &record),
        None => image::find(&store, name, arguments.platform.as_ref()),
    }
}

fn pull_image(global: &Global, arguments: &ContainerArguments, name: &str) -> Result<()> {
    let cannot = |error| Failure::new(format!("cannot pull {name}"), error);
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.arg("--root").arg(environment::store_root(global)?);
    for _ in 0..global.verbose.max(arguments.verbose) {
        command.arg("--verbose");
    }
    command.arg("pull");
    if let Some(platform) = &arguments.platform {
        command.arg(format!("--platform={platform}"));
    }
    // The output belongs to the container.
    let shown = nix::unistd::dup(std::io::stderr()).map_err(|errno| cannot(errno.into()))?;
    command.arg("--").arg(name).stdout(shown);
    let status = command.status().map_err(cannot)?;
    if status.success() {
        return Ok(());
    }
    // It has said why.
    Err(Failure::told())
}

/// Mounts the image, or a container over it, on `rootfs`.
pub fn mount(
    global: &Global,
    arguments: &ContainerArguments,
    image: &OsStr,
    container: Option<String>,
    rm: bool,
    rootfs: &Path,
    options: Vec<OsString>,
) -> Result<()> {
    let platform = arguments.platform.clone();
    Mount::of(
        image.to_owned(),
        rootfs.to_owned(),
        container,
        rm,
        options,
        platform,
    )
    .serve(global)
}
