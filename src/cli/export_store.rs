//! `plyfs export-store`

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::{Global, Result, complete, environment, mount::helper, output, rootless};
use crate::image::{self, Exportable};
use crate::mount;
use crate::options::MountOptions;
use crate::store::Store;

/// What tells that a directory is one of ours.
const MARK: &str = "plyfs-export";

/// Let podman, buildah and CRI-O use the images of the store, without a copy
///
/// DIR becomes an additional image store, which storage.conf names in additionalimagestores. The layers of each
/// image are mounted in it. It is to be written again when images came or went, and after a restart of the machine;
/// what is there is kept, so that nothing is disturbed that runs. Images in it are in use: they are not removed
/// from the store of plyfs before that.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs export-store /var/lib/plyfs-export
  plyfs export-store --remove /var/lib/plyfs-export

In /etc/containers/storage.conf, or ~/.config/containers/storage.conf:
  [storage.options]
  additionalimagestores = [\"/var/lib/plyfs-export\"]")]
pub struct ExportStore {
    /// The directory, made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The images; all of the store if none is named
    #[arg(value_name = "IMAGE", add = complete::images())]
    images: Vec<String>,
    /// Take the directory away, and all mounts in it
    #[arg(long, conflicts_with = "images")]
    remove: bool,
}

impl ExportStore {
    pub fn run(self, global: &Global) -> Result<()> {
        let shown = self.directory.display();
        if self.remove {
            return remove(&self.directory)
                .map_err(|error| Failure::new(format!("cannot remove {shown}"), error));
        }
        let store = environment::open_store(global)?;
        let tried = format!("cannot export to {shown}");
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .and_then(|()| self.directory.canonicalize());
        let directory = made.map_err(|error| Failure::new(&tried, error))?;
        let _lock = claim(&directory, &store).map_err(|error| Failure::new(&tried, error))?;
        let images = self.chosen(&store)?;
        let mut exported = Vec::new();
        for image in images {
            match mount_layers(&store, &directory, &image) {
                Ok(()) => exported.push(image),
                Err(error) => {
                    let name = name(&image);
                    log::warn!("{name} is left out: {}", error.chain());
                }
            }
        }
        image::write_additional(&store, &directory, &exported)
            .map_err(|error| Failure::new(&tried, error))?;
        let kept: Vec<PathBuf> = exported
            .iter()
            .map(|it| directory.join(it.place()))
            .collect();
        unmount_all(&directory, &kept).map_err(|error| Failure::new(&tried, error))?;
        let count = exported.len();
        output::line(&format!("{count} images in {}", directory.display()))
    }

    fn chosen(&self, store: &Store) -> Result<Vec<Exportable>> {
        let failed = |error| Failure::new("cannot list the images", error);
        let mut all = image::exportable(store).map_err(failed)?;
        if self.images.is_empty() {
            return Ok(all);
        }
        let mut chosen = Vec::new();
        for name in &self.images {
            let found = image::find(store, name, None)
                .map_err(|error| Failure::of_image("export", name, error))?;
            chosen.push(found.id());
        }
        all.retain(|image| chosen.contains(&image.found.id()));
        Ok(all)
    }
}

fn name(image: &Exportable) -> String {
    let first = image.names.first().cloned();
    first.unwrap_or_else(|| image.found.id().to_string())
}

/// Takes a directory for this store, and keeps others from it: one that is empty, or was taken before.
fn claim(directory: &Path, store: &Store) -> io::Result<File> {
    let path = directory.join(MARK);
    let own = mount::path_text(store.root());
    if !path.exists() {
        if fs::read_dir(directory)?.next().is_some() {
            return Err(io::Error::other("the directory is not empty"));
        }
        fs::write(&path, &own)?;
    }
    let mark = File::open(&path)?;
    mark.lock()?;
    let theirs = fs::read_to_string(&path)?;
    if theirs != own {
        return Err(io::Error::other(format!("it is of the store at {theirs}")));
    }
    Ok(mark)
}

fn mount_layers(store: &Store, directory: &Path, image: &Exportable) -> mount::Result<()> {
    let place = directory.join(image.place());
    let options = MountOptions {
        root: Some(store.root().to_owned()),
        manifest: Some(image.found.manifest_descriptor.digest.to_string()),
        layers: true,
        // podman's containers of an ordinary user have the users of a user namespace.
        ids: rootless::shown_ids(),
        ..MountOptions::default()
    };
    mount::make_mount_point(&place)?;
    mount::mount_shared(&place, &name(image), options, helper())
}

/// Unmounts what is mounted for other images than those of `kept`. Who uses it goes on.
fn unmount_all(directory: &Path, kept: &[PathBuf]) -> io::Result<()> {
    let mounts = directory.join(image::EXPORT_MOUNTS);
    let entries = match fs::read_dir(&mounts) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if kept.contains(&path) {
            continue;
        }
        match mount::unmount(&path, true) {
            Ok(()) | Err(mount::Error::NotMounted { .. }) => {}
            Err(error) => return Err(io::Error::other(error.chain())),
        }
        // Never the tree below a mount: what is not empty stays.
        fs::remove_dir(&path)?;
    }
    Ok(())
}

fn remove(directory: &Path) -> io::Result<()> {
    let directory = directory.canonicalize()?;
    let path = directory.join(MARK);
    let mark = File::open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("plyfs export-store did not make it"),
        _ => error,
    })?;
    mark.lock()?;
    for name in ["overlay-images", "overlay-layers", "overlay"] {
        match fs::remove_dir_all(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    unmount_all(&directory, &[])?;
    match fs::remove_dir(directory.join(image::EXPORT_MOUNTS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_file(&path)?;
    fs::remove_dir(&directory)
}
