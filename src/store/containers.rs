//! Containers: named writable layers over images.
//!
//! ```text
//! containers/<name>/  container.json, mount-points.json, lock, upper/, work/
//! ```
//!
//! # Invariants
//! * A container keeps its image: what it needs is no garbage while the container is there.
//! * Who holds the flock on `lock` uses the container; nobody else mounts or removes it meanwhile.
//! * The kernel uses it as long as it is the upper directory of an overlay, even if the process was
//!   killed that held the lock for that.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::garbage::names_if_there;
use super::{Error, Result, Store, files};
use crate::cause;
use crate::oci::Digest;
use crate::sys::writable::WritableDir;
use crate::sys::{lock, mountinfo};

/// How long a container that is in use is waited for: who looked at it has done by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is recorded of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    /// The image as people knew it when the container was made.
    pub image: String,
    /// What the image's name stood for: a manifest or an index.
    pub image_digest: Digest,
    /// The manifest of the platform that was chosen.
    pub manifest_digest: Digest,
    /// When it was made, RFC 3339.
    pub created: String,
    /// It is removed when it is unmounted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

/// A container that this process uses: nobody else can until it is dropped.
#[derive(Debug)]
pub struct Container {
    directory: PathBuf,
    /// Its name.
    pub name: String,
    /// What is recorded of it.
    pub record: ContainerRecord,
    /// Locked; inherited by a daemon that serves the container.
    lock: File,
}

impl Container {
    /// The directory that takes the changes.
    #[must_use]
    pub fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    /// The directory in which changes are prepared.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.directory.join("work")
    }
}

/// Whether a text can be the name of a container, as Docker has it: letters, digits, `_`, `.` and
/// `-`, and a letter or digit first.
#[must_use]
pub fn is_container_name(name: &str) -> bool {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    first && name.len() <= 200 && name.bytes().all(allowed)
}

impl Store {
    /// The names and records of all containers whose record can be read, in the order of their names.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn containers(&self) -> Result<Vec<(String, ContainerRecord)>> {
        let all = self.recorded_containers()?.into_iter();
        Ok(all
            .filter_map(|(name, record)| Some((name, record.ok()?)))
            .collect())
    }

    /// All containers in the order of their names, with what is recorded of each. One whose record
    /// cannot be read may need anything in the store.
    ///
    /// # Errors
    /// [`Error::Io`]; and [`Error::Json`] instead of a record that is damaged.
    pub fn recorded_containers(&self) -> Result<Vec<(String, Result<ContainerRecord>)>> {
        let directory = self.containers_path();
        let mut found = Vec::new();
        for name in names_if_there(&directory)? {
            match read_record(&directory.join(&name)).transpose() {
                Some(record @ (Ok(_) | Err(Error::Json { .. }))) => found.push((name, record)),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// What is recorded of a container; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn container_record(&self, name: &str) -> Result<Option<ContainerRecord>> {
        match is_container_name(name) {
            true => read_record(&self.containers_path().join(name)),
            false => Ok(None),
        }
    }

    /// Takes a container for use; `None` if there is none of that name. Who only looks whether it is
    /// used has it for a moment, so it is tried for a while.
    ///
    /// # Errors
    /// [`Error::ContainerInUse`], [`Error::Io`] or [`Error::Json`].
    pub fn container(&self, name: &str) -> Result<Option<Container>> {
        let started = Instant::now();
        loop {
            match self.try_container(name) {
                Err(Error::ContainerInUse { .. }) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(Error::ContainerInUse { name, .. }) => {
                    let pid = self.user_of_container(&name);
                    return Err(Error::ContainerInUse { name, pid });
                }
                result => return result,
            }
        }
    }

    /// As [`Store::container`], at once.
    fn try_container(&self, name: &str) -> Result<Option<Container>> {
        let directory = self.containers_path().join(name);
        let Some(lock) = self.lock_container(name)? else {
            return Ok(None);
        };
        // Only now it is certain whose record it is.
        Ok(read_record(&directory)?.map(|record| Container {
            directory,
            name: name.to_owned(),
            record,
            lock,
        }))
    }

    /// Locks a container for use, whatever its record says.
    fn lock_container(&self, name: &str) -> Result<Option<File>> {
        if !is_container_name(name) {
            return Ok(None);
        }
        let directory = self.containers_path().join(name);
        let path = directory.join("lock");
        loop {
            if matches!(read_record(&directory), Ok(None)) {
                return Ok(None);
            }
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path);
            let lock = match file {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io(error, "opening", &path)),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::ContainerInUse {
                        name: name.to_owned(),
                        pid: None,
                    });
                }
                Err(TryLockError::Error(error)) => return Err(Error::io(error, "locking", &path)),
            }
            let there = files::is_at(&lock, &path);
            if !there.map_err(|error| Error::io(error, "reading", &path))? {
                // It was removed meanwhile, and there may be another one.
                continue;
            }
            if is_written_by_the_kernel(&directory)? {
                return Err(Error::ContainerInUse {
                    name: name.to_owned(),
                    pid: None,
                });
            }
            return Ok(Some(lock));
        }
    }

    /// Whether a process uses a container. Who wants to use it is not kept from that.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_container_in_use(&self, name: &str) -> Result<bool> {
        let path = self.containers_path().join(name).join("lock");
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io(error, "opening", &path)),
        };
        match lock.try_lock_shared() {
            Ok(()) => is_written_by_the_kernel(&self.containers_path().join(name)),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(Error::io(error, "locking", &path)),
        }
    }

    /// The process that uses a container, if it may be looked at.
    fn user_of_container(&self, name: &str) -> Option<u32> {
        let path = self.containers_path().join(name).join("lock");
        let holder = File::open(path).and_then(|lock| lock::holder(&lock));
        holder.unwrap_or_else(|error| {
            log::debug!("the process that uses container {name} is not known: {error}");
            None
        })
    }

    /// Makes a container and takes it for use. The caller holds a lease on the image, so that it
    /// is there until the container itself keeps it.
    ///
    /// # Errors
    /// [`Error::ContainerExists`] or [`Error::Io`].
    pub fn create_container(&self, name: &str, record: ContainerRecord) -> Result<Container> {
        let parent = self.containers_path();
        files::make_directory(&parent, 0o700, true)?;
        let staging = self.staging()?;
        for part in ["upper", "work"] {
            files::make_directory(&staging.path().join(part), 0o700, false)?;
        }
        // The root of the upper is seen as the root of the container.
        let upper = staging.path().join("upper");
        // Nor do ACLs for what lies below the store belong to the container.
        WritableDir::open(&upper)
            .and_then(|directory| directory.at(b"").remove_acls())
            .map_err(|error| Error::io(error, "making", &upper))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&upper, mode).map_err(|e| Error::io(e, "making", &upper))?;
        let path = staging.path().join("container.json");
        let bytes = serde_json::to_vec(&record).map_err(|error| Error::json(error, &path))?;
        files::write_file(self.root(), &path, &bytes)?;
        // Locked before anybody can see it: who finds it unlocked may remove it.
        let path = staging.path().join("lock");
        let lock = File::create_new(&path).and_then(|lock| lock.lock().map(|()| lock));
        let lock = lock.map_err(|error| Error::io(error, "locking", &path))?;
        let target = parent.join(name);
        match std::fs::rename(staging.path(), &target) {
            Ok(()) => files::sync_parent(&target)?,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                return Err(Error::ContainerExists(name.to_owned()));
            }
            Err(error) => return Err(Error::io(error, "making", &target)),
        }
        Ok(Container {
            directory: target,
            name: name.to_owned(),
            record,
            lock,
        })
    }

    /// Removes a container with all its changes. What only it needed of the store is garbage then.
    ///
    /// # Errors
    /// [`Error::Io`]; then it is whole, but on a full disk.
    pub fn remove_container(&self, container: Container) -> Result<()> {
        let store = self.lock()?;
        // A mount that takes its container along has a lease, which tells of garbage, too.
        if container.record.ephemeral {
            self.trash(&container.directory)?;
        } else {
            self.expect_garbage()?;
            self.trash(&container.directory)?;
            files::sync_parent(&container.directory)?;
        }
        drop((container.lock, store));
        self.clear_trash();
        Ok(())
    }

    /// Removes a container whose record cannot be read, with all its changes; `false` if there is none of that name.
    ///
    /// # Errors
    /// [`Error::ContainerInUse`] or [`Error::Io`]; then it is whole, but on a full disk.
    pub fn remove_unreadable_container(&self, name: &str) -> Result<bool> {
        let Some(used) = self.lock_container(name)? else {
            return Ok(false);
        };
        let store = self.lock()?;
        let directory = self.containers_path().join(name);
        match read_record(&directory) {
            Err(Error::Json { .. }) => {}
            Ok(None) => return Ok(false),
            // Another one of that name has come meanwhile.
            Ok(Some(_)) => {
                let (name, pid) = (name.to_owned(), None);
                return Err(Error::ContainerInUse { name, pid });
            }
            Err(error) => return Err(error),
        }
        self.expect_garbage()?;
        self.trash(&directory)?;
        files::sync_parent(&directory)?;
        drop((used, store));
        self.clear_trash();
        Ok(true)
    }

    /// Removes containers that should have gone with their mounts, whose server was killed, and
    /// what only they needed.
    ///
    /// # Errors
    /// As [`Store::remove_container`].
    pub fn remove_abandoned_containers(&self) -> Result<()> {
        let mut removed = false;
        for (name, record) in self.containers()? {
            if !record.ephemeral {
                continue;
            }
            match self.try_container(&name) {
                // The one that was listed may have made room for another.
                Ok(Some(container)) if container.record.ephemeral => {
                    self.remove_container(container)?;
                    removed = true;
                }
                Ok(_) | Err(Error::ContainerInUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if removed && let Err(error) = self.sweep_but_interrupted(SystemTime::now()) {
            log::info!("nothing could be collected: {}", cause::chain(&error));
        }
        Ok(())
    }

    /// The directory with the changes of a container that is there; to read, since another process
    /// may use it.
    #[must_use]
    pub fn container_upper(&self, name: &str) -> PathBuf {
        self.containers_path().join(name).join("upper")
    }

    fn containers_path(&self) -> PathBuf {
        self.root().join("containers")
    }
}

fn read_record(directory: &Path) -> Result<Option<ContainerRecord>> {
    files::read_json(&directory.join("container.json"))
}

/// Whether the kernel's overlay writes to a container in a mount that can be seen from here.
fn is_written_by_the_kernel(directory: &Path) -> Result<bool> {
    let upper = directory.join("upper");
    let mounts = mountinfo::all()
        .map_err(|error| Error::io(error, "reading", Path::new("/proc/self/mountinfo")))?;
    Ok(mounts
        .iter()
        .any(|mount| mount.upper().as_ref() == Some(&upper)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ContainerRecord {
        let digest = Digest::of(b"image");
        ContainerRecord {
            image: "docker.io/library/a:b".to_owned(),
            image_digest: digest,
            manifest_digest: digest,
            created: "2026-01-01T00:00:00Z".to_owned(),
            ephemeral: false,
        }
    }

    #[test]
    fn names_are_those_of_docker() {
        for (name, valid) in [
            ("web", true),
            ("Web_1.2-3", true),
            ("", false),
            (".hidden", false),
            ("../up", false),
            ("a/b", false),
            ("-a", false),
        ] {
            assert_eq!(is_container_name(name), valid, "{name:?}");
        }
    }

    #[test]
    fn one_user_at_a_time_and_gone_when_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        assert!(store.container("web").unwrap().is_none());
        let web = store.create_container("web", record()).unwrap();
        assert!(matches!(
            store.container("web"),
            Err(Error::ContainerInUse { .. })
        ));
        assert!(matches!(
            store.create_container("web", record()),
            Err(Error::ContainerExists(_))
        ));
        assert!(web.upper().is_dir() && web.work().is_dir());
        drop(web);
        let web = store.container("web").unwrap().unwrap();
        assert_eq!(store.containers().unwrap(), [("web".to_owned(), record())]);
        store.remove_container(web).unwrap();
        assert!(store.containers().unwrap().is_empty());
        assert_eq!(
            std::fs::read_dir(directory.path().join("trash"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn regression_acls_for_what_lies_below_the_store_are_not_the_containers() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &Path| WritableDir::open(path).unwrap();
        let mut acl = vec![2, 0, 0, 0];
        for (tag, id) in [
            (1u16, u32::MAX),
            (2, 1234),
            (4, u32::MAX),
            (16, u32::MAX),
            (32, u32::MAX),
        ] {
            acl.extend(tag.to_le_bytes());
            acl.extend([7, 0]);
            acl.extend(id.to_le_bytes());
        }
        let set = at(directory.path())
            .at(b"")
            .set_xattr(b"system.posix_acl_default", &acl, 0);
        if let Err(error) = set {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            println!("SKIP: no ACLs here: {error}");
            return;
        }
        let store = Store::create(directory.path()).unwrap();
        let web = store.create_container("web", record()).unwrap();
        std::fs::create_dir(store.root().join("snapshots")).unwrap();
        let snapshot = store.create_snapshot(7).unwrap();
        for upper in [web.upper(), snapshot.upper()] {
            let names = at(&upper).at(b"").xattr_names().unwrap();
            assert_eq!(names.escape_ascii().to_string(), "");
            let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&upper).unwrap());
            assert_eq!(mode & 0o777, 0o755);
        }
    }

    #[test]
    fn regression_a_new_container_is_locked_when_it_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let ephemeral = ContainerRecord {
            ephemeral: true,
            ..record()
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    store.remove_abandoned_containers().unwrap();
                }
            });
            for n in 0..200 {
                let made = store.create_container("web", ephemeral.clone());
                let kept = made.as_ref().is_ok_and(|made| made.upper().is_dir());
                if !kept {
                    done.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                assert!(kept, "{n}: {made:?}");
                store.remove_container(made.unwrap()).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn regression_who_looks_at_a_container_does_not_keep_others_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let web = store.create_container("web", record()).unwrap();
        assert!(store.is_container_in_use("web").unwrap());
        drop(web);
        assert!(!store.is_container_in_use("web").unwrap());
        // Somebody is looking at this moment.
        let looking = File::open(directory.path().join("containers/web/lock")).unwrap();
        looking.lock_shared().unwrap();
        assert!(!store.is_container_in_use("web").unwrap());
        let taken = std::thread::scope(|scope| {
            let taken = scope.spawn(|| store.container("web"));
            std::thread::sleep(PATIENCE / 30);
            drop(looking);
            taken.join().unwrap()
        });
        assert!(taken.unwrap().is_some());
    }

    #[test]
    fn regression_a_lock_of_a_container_that_is_gone_locks_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::create(directory.path()).unwrap();
        let old = store.create_container("web", record()).unwrap();
        store.trash(&old.directory).unwrap();
        let new = store.create_container("web", record()).unwrap();
        drop(old);
        assert!(matches!(
            store.try_container("web"),
            Err(Error::ContainerInUse { .. })
        ));
        drop(new);
    }
}
