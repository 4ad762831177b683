//! `plyfs bundle`

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::container_spec::{self, Circumstances, ContainerArguments};
use super::failure::Failure;
use super::{
    Global, Result, complete, container_image, environment, mount_points, output, rootless,
};
use crate::mount;
use crate::oci::Rights;

/// Write a bundle that OCI runtimes such as runc and crun run
///
/// DIR gets a config.json, made of the image's configuration, and a rootfs on which the image is
/// mounted: read-only, unless --name names a container that keeps what is changed. The container
/// shares the network of the machine. For an ordinary user all of the image belongs to root of the
/// container, which is that user.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs bundle alpine:3.20 web
  runc run --bundle web web1
  plyfs bundle --name web alpine:3.20 web sleep 600
  plyfs umount web/rootfs && rm -r web         what undoes it")]
pub struct Bundle {
    #[command(flatten)]
    arguments: ContainerArguments,
    /// Remove the container when it is unmounted
    #[arg(long, requires = "name")]
    rm: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    /// The image
    #[arg(value_name = "IMAGE", add = complete::images())]
    image: OsString,
    /// The directory, made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// What is run, instead of the image's command
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

impl Bundle {
    pub fn run(self, global: &Global) -> Result<()> {
        self.arguments.check()?;
        mount::close_inherited(Path::new(""))
            .map_err(|error| Failure::new("cannot close what was inherited", error))?;
        let directory = &self.directory;
        let rootfs = directory.join("rootfs");
        let cannot = |error: io::Error| {
            Failure::new(
                format!("cannot make the bundle {}", directory.display()),
                error,
            )
        };
        let known = container_image::find(global, &self.arguments, &self.image, false)?;
        fs::create_dir_all(directory).map_err(cannot)?;
        let mut entries = fs::read_dir(directory).map_err(cannot)?;
        if entries.next().transpose().map_err(cannot)?.is_some() {
            return Err(Failure::plain(format!(
                "cannot make the bundle {}: the directory is not empty",
                directory.display()
            )));
        }
        fs::create_dir(&rootfs).map_err(cannot)?;
        let rights = rootless::rights();
        let result = self.fill(global, &known.config, &rootfs, rights);
        if result.is_err() {
            undo(directory, &rootfs);
        }
        result?;
        let shown = shell_word(directory);
        let id = self.arguments.name.as_deref().unwrap_or("ID");
        output::line(&format!("run it with: runc run --bundle {shown} {id}"))?;
        output::line(&format!(
            "undo it with: plyfs umount {} && rm -r {shown}",
            shell_word(&rootfs)
        ))
    }

    fn fill(
        &self,
        global: &Global,
        image: &crate::oci::ImageConfig,
        rootfs: &Path,
        rights: Rights,
    ) -> Result<()> {
        let mut options = Vec::new();
        if let Rights::Plain { uid, gid } = rights {
            // Nobody else is mapped, and who is not mapped cannot be given anything.
            options.push(format!("squash_to_uid={uid},squash_to_gid={gid}").into());
        }
        let arguments = &self.arguments;
        let container = arguments.name.clone();
        container_image::mount(
            global,
            arguments,
            &self.image,
            container,
            self.rm,
            rootfs,
            options,
        )?;
        let around = Circumstances {
            rootfs,
            rights,
            terminal: self.tty,
            writable: arguments.name.is_some(),
        };
        let spec = arguments.spec(image, &self.command, &around)?;
        if let Some(name) = &arguments.name {
            let store = environment::open_store(global)?;
            mount_points::make(&store, name, rootfs, &spec.mounts)?;
        }
        container_spec::write(&spec, &self.directory)
    }
}

/// Takes away what was made of a bundle that did not come about.
fn undo(directory: &Path, rootfs: &Path) {
    if let Err(error) = mount::unmount(rootfs, true)
        && !matches!(error, mount::Error::NotMounted { .. })
    {
        log::warn!("{}", error.chain());
        return;
    }
    let _config = fs::remove_file(directory.join("config.json"));
    for left in [rootfs, directory] {
        if let Err(error) = fs::remove_dir(left) {
            log::warn!("{} stays: {error}", left.display());
        }
    }
}

/// A path as a shell takes it for one word.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |char: char| char.is_alphanumeric() || "/._-+:@%,=".contains(char);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_what_is_to_be_removed_is_one_word() {
        for (path, word) in [
            ("/tmp/web-1.0", "/tmp/web-1.0"),
            ("/tmp/my web", "'/tmp/my web'"),
            ("~", "'~'"),
            ("/a'b;c", r"'/a'\''b;c'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), word);
        }
    }
}
