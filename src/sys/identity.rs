//! Making things that are as they shall be from the first moment: a thread takes on an owner for a
//! while, and puts its umask aside.
//!
//! # Invariants
//! * Only the calling thread is changed, and only while the value lives.
//! * Directories that are opened are reached by descriptor, so what the owner may not search does
//!   not matter; what he may not write to makes the call fail.

use std::cell::OnceCell;
use std::marker::PhantomData;

use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

thread_local! {
    /// Whether this thread has a umask of its own.
    static HAS_OWN_UMASK: OnceCell<bool> = const { OnceCell::new() };
}

/// While this lives, what the thread makes has the mode that it is given, and this owner.
#[derive(Debug)]
pub struct Identity {
    umask: Mode,
    /// File system user and group, as they were.
    before: Option<(Uid, Gid)>,
    /// It belongs to one thread.
    _thread: PhantomData<*const ()>,
}

impl Identity {
    /// Puts the umask aside, and takes on `owner`. None where the process may not do that.
    #[must_use]
    pub fn take(owner: Option<(u32, u32)>) -> Option<Identity> {
        let own =
            HAS_OWN_UMASK.with(|own| *own.get_or_init(|| unshare(CloneFlags::CLONE_FS).is_ok()));
        if !own {
            return None;
        }
        let mut identity = Identity {
            umask: umask(Mode::empty()),
            before: None,
            _thread: PhantomData,
        };
        if let Some((uid, gid)) = owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            // Each answers what was before, whether it did anything or not.
            let old_gid = setfsgid(gid);
            let old_uid = setfsuid(uid);
            identity.before = Some((old_uid, old_gid));
            if setfsgid(gid) != gid || setfsuid(uid) != uid {
                return None;
            }
        }
        Some(identity)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.before {
            setfsuid(uid);
            setfsgid(gid);
        }
        umask(self.umask);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    use super::*;

    #[test]
    fn what_is_made_has_mode_and_owner_at_once_and_only_here() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let owner = nix::unistd::geteuid().is_root().then_some((1234, 4321));
        if owner.is_some() {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(directory.path(), open)?;
        }
        let make = |name: &str| {
            let path = directory.path().join(name);
            let made = std::fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o666)
                .open(path);
            made?.metadata()
        };
        let before = make("before")?;
        let Some(identity) = Identity::take(owner) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "a umask of one's own is needed"
            );
            println!("SKIP: no umask of one's own here");
            return Ok(());
        };
        let made = make("made")?;
        drop(identity);
        let after = make("after")?;
        assert_eq!(made.mode() & 0o7777, 0o666);
        if let Some(owner) = owner {
            assert_eq!((made.uid(), made.gid()), owner);
        }
        let looks = |made: &std::fs::Metadata| (made.mode(), made.uid(), made.gid());
        assert_eq!(looks(&before), looks(&after));
        Ok(())
    }
}
