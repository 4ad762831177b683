//! `plyfs snapshotter`

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use clap::Args;
use nix::sys::stat::{Mode, umask};

use super::failure::Failure;
use super::{Global, Result, environment};
use crate::options::WritableLayer;
use crate::pack::Limits;
use crate::snapshotter::{Remote, Settings, Snapshotter, transport};

/// The name under which the program is this verb.
const PROGRAM: &str = "plyfs-snapshotter";

/// Layers received at the same time.
const PARALLEL: usize = 4;

/// Serve snapshots to containerd
///
/// Answers containerd on a socket until it is told to end (SIGTERM); running containers do not
/// notice. Called as plyfs-snapshotter the program does the same without the verb.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs snapshotter
  plyfs snapshotter --root /data/plyfs --address /run/plyfs/data.sock

In the configuration of containerd:
  [proxy_plugins.plyfs]
    type = \"snapshot\"
    address = \"/run/plyfs/snapshotter.sock\"")]
pub struct SnapshotterVerb {
    /// The socket to listen on; only its owner can use it
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/plyfs/snapshotter.sock"
    )]
    address: PathBuf,
    /// Do not verify certificates, and use plain HTTP where there is no TLS
    #[arg(long)]
    insecure: bool,
    /// What containers write through: a plyfs mount each, or the kernel's overlay over one plyfs mount
    /// of their image, or the latter where the kernel can
    #[arg(long, value_name = "fuse|kernel|auto", default_value = "fuse")]
    writable: WritableLayer,
}

impl SnapshotterVerb {
    pub fn run(self, global: &Global) -> Result<()> {
        let failed = |error| Failure::new("cannot serve snapshots", error);
        let store = environment::create_store(global)?;
        let remote = Remote {
            registry: environment::registry_settings(self.insecure),
            limits: Limits::default(),
            parallel: PARALLEL,
        };
        if environment::program("mount.plyfs").is_none() {
            log::warn!("mount.plyfs is not in PATH: containerd needs it to mount containers");
        }
        let snapshotter = Snapshotter::open(
            store,
            Settings {
                remote,
                writable: self.writable,
            },
        )
        .map_err(|error| Failure::new("cannot serve snapshots", error))?;
        let listening = listen(&self.address).and_then(|listener| {
            let own = socket(&self.address)?;
            Ok((listener, own))
        });
        let (listener, own) = listening.map_err(|error| {
            Failure::new(
                format!("cannot listen on {}", self.address.display()),
                error,
            )
        })?;
        log::info!("serving snapshots on {}", self.address.display());
        transport::serve(snapshotter, listener).map_err(failed)?;
        // The next one may listen there already.
        let removed = socket(&self.address).and_then(|there| match there == own {
            true => fs::remove_file(&self.address),
            false => Ok(()),
        });
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

/// Which file the socket is: its device and inode.
fn socket(address: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(address)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The arguments of the program, with the verb if its name stands for it. The version is that of the program.
pub fn with_verb(arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name != Some(OsStr::new(PROGRAM)) {
        return arguments;
    }
    let rest = arguments.into_iter().skip(1).collect::<Vec<_>>();
    let version = matches!(rest.as_slice(), [one] if one == "--version" || one == "-V");
    let verb = (!version).then(|| OsString::from("snapshotter"));
    [OsString::from("plyfs")]
        .into_iter()
        .chain(verb)
        .chain(rest)
        .collect()
}

/// Listens on a socket that nobody else can use. One that a killed process left is replaced.
fn listen(address: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = address.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(address) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other("there is a file that is no socket"));
        }
        Ok(_) if UnixStream::connect(address).is_ok() => {
            return Err(io::Error::other("another process listens there"));
        }
        Ok(_) => fs::remove_file(address)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // There is one thread yet, so that nothing else is made under this mask.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(address);
    umask(before);
    let listener = listener?;
    fs::set_permissions(address, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_the_name_of_the_program_stands_for_the_verb_and_has_a_version() {
        let with_verb = |line: &str| {
            let arguments = line.split(' ').map(OsString::from).collect();
            let words: Vec<_> = with_verb(arguments).into_iter().collect();
            words.join(OsStr::new(" "))
        };
        let cases = [
            ("/usr/bin/plyfs-snapshotter -v", "plyfs snapshotter -v"),
            ("plyfs-snapshotter", "plyfs snapshotter"),
            (
                "plyfs pull plyfs-snapshotter",
                "plyfs pull plyfs-snapshotter",
            ),
            // Once refused, as the verb has no version of its own.
            ("plyfs-snapshotter --version", "plyfs --version"),
            ("plyfs-snapshotter -V", "plyfs -V"),
        ];
        for (given, expected) in cases {
            assert_eq!(with_verb(given), expected);
        }
    }
}
