//! File handles, as an NFS server uses them: they outlive what the kernel keeps in memory.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::fixture::Lab;
use crate::writable::Writable;

/// `struct file_handle` with room for the largest.
#[repr(C)]
struct Handle {
    length: u32,
    kind: i32,
    bytes: [u8; 128],
}

#[allow(unsafe_code)]
fn handle_of(path: &Path) -> Handle {
    let mut handle = Handle {
        length: 128,
        kind: 0,
        bytes: [0; 128],
    };
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut mount = 0;
    // SAFETY: the path ends with NUL, and the handle has as much room as its length says.
    let result = unsafe {
        let handle = (&raw mut handle).cast::<libc::file_handle>();
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), handle, &raw mut mount, 0)
    };
    assert_eq!(result, 0, "{path:?}: {}", io::Error::last_os_error());
    handle
}

#[allow(unsafe_code)]
fn open(mount: &File, handle: &mut Handle) -> io::Result<File> {
    // SAFETY: the handle is one that the kernel made; the result is a new descriptor.
    unsafe {
        let handle = (&raw mut *handle).cast::<libc::file_handle>();
        match libc::open_by_handle_at(mount.as_raw_fd(), handle, libc::O_RDONLY) {
            -1 => Err(io::Error::last_os_error()),
            raw => Ok(File::from_raw_fd(raw)),
        }
    }
}

#[test]
fn a_handle_opens_its_file_after_everything_was_forgotten() {
    let Some(lab) = Lab::new() else { return };
    let mount = lab.mount(&[]);
    let root = File::open(mount.path()).unwrap();
    for name in ["hello", "many/0042", "deep/er", "large"] {
        let path = mount.path().join(name);
        let number = fs::metadata(&path).unwrap().ino();
        let mut handle = handle_of(&path);
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let opened = open(&root, &mut handle).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(opened.metadata().unwrap().ino(), number, "{name}");
    }
}

/// File systems give the inode number of what was removed to something new.
#[test]
fn regression_a_handle_of_a_removed_file_opens_nothing_else() {
    let Some(union) = Writable::new() else { return };
    let mount = union.mount(&[]);
    let root = File::open(mount.path()).unwrap();
    let make = |name: &str| {
        let path = mount.path().join(name);
        fs::write(&path, name).unwrap();
        path
    };
    let removed: Vec<_> = (0..20)
        .map(|number| {
            let path = make(&format!("old{number}"));
            let handle = handle_of(&path);
            fs::remove_file(path).unwrap();
            handle
        })
        .collect();
    // What is new is told from it by the time when it was made, which has ticks.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let kept: Vec<_> = (0..20)
        .map(|number| make(&format!("new{number}")))
        .collect();
    for mut handle in removed {
        let opened = open(&root, &mut handle);
        let errno = opened.map_err(|error| error.raw_os_error());
        assert_eq!(errno.expect_err("it is gone"), Some(libc::ESTALE));
    }
    for path in kept {
        let mut handle = handle_of(&path);
        open(&root, &mut handle).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }
    drop(root);
    mount.unmount();
}
