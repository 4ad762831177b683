//! What every container has unless something else is said: file systems of the kernel, capabilities,
//! what is hidden. The mounts and paths are those that `runc spec` writes, the capabilities those of
//! Docker and containerd, which images rely on (`apt-get` as root needs `CAP_CHOWN` and `CAP_SETUID`).
//!
//! Nobody makes a network for the container: it uses that of the machine.

use std::collections::BTreeMap;

use super::runtime::VERSION;
use super::{
    Capabilities, DeviceRule, IdMapping, Linux, Mount, Namespace, Process, Resources, Root,
    RuntimeSpec, RuntimeUser,
};

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Destination, type, source and options.
const MOUNTS: [(&str, &str, &str, &str); 5] = [
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        "nosuid,strictatime,mode=755,size=65536k",
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620",
    ),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        "nosuid,noexec,nodev,mode=1777,size=65536k",
    ),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
];

/// With what rights a container is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Those of the machine's root.
    Root,
    /// Those of root in a user namespace that is there already.
    Namespace,
    /// Those of an ordinary user: the runtime makes a user namespace, in which this user and group are root.
    Plain {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

impl RuntimeSpec {
    /// A container that runs `process` on `rootfs`.
    #[must_use]
    pub fn new(process: Process, readonly: bool, rights: Rights) -> Self {
        let mut namespaces = ["pid", "ipc", "uts", "mount"]
            .map(|kind| Namespace { kind })
            .to_vec();
        let (mut uid_mappings, mut gid_mappings) = (Vec::new(), Vec::new());
        if let Rights::Plain { uid, gid } = rights {
            namespaces.push(Namespace { kind: "user" });
            let only = |host_id| IdMapping {
                container_id: 0,
                host_id,
                size: 1,
            };
            uid_mappings.push(only(uid));
            gid_mappings.push(only(gid));
        }
        // Nobody but root may set up groups of control, devices among them.
        let resources = (rights == Rights::Root).then(|| Resources {
            devices: vec![DeviceRule {
                allow: false,
                access: "rwm",
            }],
        });
        RuntimeSpec {
            oci_version: VERSION,
            process,
            root: Root {
                path: "rootfs",
                readonly,
            },
            mounts: mounts(rights),
            annotations: BTreeMap::new(),
            linux: Linux {
                namespaces,
                uid_mappings,
                gid_mappings,
                resources,
                masked_paths: MASKED.to_vec(),
                readonly_paths: READ_ONLY.to_vec(),
            },
        }
    }
}

impl Capabilities {
    /// Those of containers. Only root begins with them, others get them from programs that have them.
    #[must_use]
    pub fn of(user: &RuntimeUser) -> Self {
        let own = if user.uid == 0 {
            CAPABILITIES.to_vec()
        } else {
            Vec::new()
        };
        Capabilities {
            bounding: CAPABILITIES.to_vec(),
            effective: own.clone(),
            permitted: own,
        }
    }
}

impl Mount {
    /// A mount with options separated by commas.
    #[must_use]
    pub fn new(destination: &str, kind: &str, source: &str, options: &str) -> Self {
        Mount {
            destination: destination.to_owned(),
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
        }
    }
}

fn mounts(rights: Rights) -> Vec<Mount> {
    let all = MOUNTS.iter();
    let mut mounts: Vec<Mount> = all
        .map(|(to, kind, from, how)| Mount::new(to, kind, from, how))
        .collect();
    if rights == Rights::Root {
        if let Some(terminals) = mounts.iter_mut().find(|mount| mount.kind == "devpts") {
            // The group `tty`, everywhere. A user namespace may not have it.
            terminals.options.push("gid=5".to_owned());
        }
        mounts.push(Mount::new(
            "/sys",
            "sysfs",
            "sysfs",
            "nosuid,noexec,nodev,ro",
        ));
        mounts.push(Mount::new(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            "nosuid,noexec,nodev,relatime,ro",
        ));
    } else {
        // The kernel refuses a new sysfs to who does not own the network.
        mounts.push(Mount::new(
            "/sys",
            "none",
            "/sys",
            "rbind,nosuid,noexec,nodev,ro",
        ));
    }
    mounts
}
