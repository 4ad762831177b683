//! Other flags for a mount that is there: `mount -o remount,...`.

use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::error::{Error, Result};
use super::{attach, mountinfo, policy, unmount};
use crate::options::MountOptions;

/// Gives the plyfs mount at `path` the flags that `options` have (`ro`, `nosuid`, `noatime` and so on), and
/// tells whether it can be written to. All else stays as it was mounted: mount(8) repeats what stands in
/// fstab.
///
/// # Errors
/// [`Error::NotMounted`] when what is seen at `path` is not ours; what mount(2) reports, which is for root.
pub fn remount(path: &Path, options: &MountOptions) -> Result<bool> {
    let path = unmount::resolve(path)?;
    let seen = unmount::seen_at(&path)?.filter(mountinfo::is_ours);
    let Some(seen) = seen else {
        return Err(Error::NotMounted { path });
    };
    let writable = !seen.is_read_only;
    let flags = attach::flags(policy::attributes(options, writable));
    // The flags of this one mount; the file system itself has none that can change.
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    mount(None::<&str>, &path, None::<&str>, flags, None::<&str>)
        .map_err(|errno| Error::system("cannot change the mount")(errno.into()))?;
    Ok(writable)
}
