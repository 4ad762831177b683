//! Names of options that change nothing here.

/// Options of mount(8), fstab and the fuse helpers that are for others, or say what is so anyway.
pub(super) fn harmless(name: &str, value: Option<&[u8]>) -> bool {
    const NAMES: [&str; 43] = [
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "nousers",
        "owner",
        "noowner",
        "group",
        "nogroup",
        "nofail",
        "_netdev",
        "_rnetdev",
        "async",
        "sync",
        "dirsync",
        "relatime",
        "norelatime",
        "nolazytime",
        "loud",
        "silent",
        "quiet",
        "mand",
        "nomand",
        "noiversion",
        "nonempty",
        "auto_unmount",
        "auto_cache",
        "noauto_cache",
        "kernel_cache",
        "big_writes",
        "fast_ino",
        "static_nlink",
        "threaded",
        "writeback",
        "comment",
        "subtype",
        "uhelper",
        "helper",
        // What the kernel's own FUSE mounts show, and the caller of mount(2) passes.
        "fd",
        "rootmode",
        "user_id",
        "group_id",
    ];
    // fuse-overlayfs writes `threaded=0`, `fast_ino=1` and so on.
    let _ = value;
    NAMES.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

/// Options that somebody may mean seriously, and that change nothing here.
pub(super) const KNOWN: [&str; 21] = [
    "allow_root",
    "attr_timeout",
    "direct_io",
    "entry_timeout",
    "max_read",
    "negative_timeout",
    "timeout",
    "xino",
    "ino32_t",
    "index",
    "nfs_export",
    "verity",
    "uuid",
    "plugins",
    "clone_fd",
    "max_threads",
    "max_idle_threads",
    "fscontext",
    "defcontext",
    "rootcontext",
    "lazytime",
];
