//! What the end-to-end tests share: what a test needs, directories and stores that go away, mounts that
//! are always unmounted, a registry of one's own, odd images, and the comparison of trees.
//!
//! A test that needs something begins with `if !require(&[Need::Fuse]) { return; }`. What is missing
//! leaves it out on a laptop, and fails it where `CI` is set.

// Each test program uses its own part of this.
#![allow(dead_code, unused_imports)]

mod registry;
mod store;

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use registry::{Registry, Setup, free_port};
pub use store::{MountGuard, Store, is_mounted};

/// What a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Root in the first user namespace.
    Root,
    /// A usable /dev/fuse.
    Fuse,
    /// A way to act as an ordinary user: being one, or being root and becoming one.
    PlainUser,
    /// A kernel that reads and writes the files below a FUSE file system by itself, since Linux 6.9.
    Passthrough,
    /// The mount helper; `cargo build -p mount-helper` makes it.
    Helper,
    /// A program in `PATH`.
    Program(&'static str),
    /// A file or directory.
    File(&'static str),
    /// A program that `scripts/install-packages test` installs into `target/tools`.
    Tool(&'static str),
}

/// Whether everything in `needs` is there. Says what is not; panics about it where `CI` is set.
pub fn require(needs: &[Need]) -> bool {
    let missing: Vec<&Need> = needs.iter().filter(|need| !is_there(need)).collect();
    if missing.is_empty() {
        return true;
    }
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    assert!(
        std::env::var_os("CI").is_none(),
        "{name} lacks {missing:?}, and CI is set"
    );
    eprintln!("SKIP {name}: lacks {missing:?}");
    false
}

fn is_there(need: &Need) -> bool {
    match need {
        Need::Root => is_root(),
        Need::Fuse => {
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")
                .is_ok()
                && program("fusermount3").is_some()
        }
        Need::PlainUser => !is_root() || program("setpriv").is_some() && others_reach_our_files(),
        // Of CONFIG_FUSE_PASSTHROUGH; readable by everybody, without the addresses.
        Need::Passthrough => fs::read_to_string("/proc/kallsyms")
            .is_ok_and(|symbols| symbols.contains(" fuse_backing_open")),
        Need::Helper => built_helper().is_file(),
        Need::Program(name) => program(name).is_some(),
        Need::File(path) => Path::new(path).exists(),
        Need::Tool(name) => {
            let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
            tools.join(name).exists() || program(name).is_some()
        }
    }
}

/// Whether another user comes to where the tests put their files.
fn others_reach_our_files() -> bool {
    let directory = std::env::temp_dir();
    let is_closed = |path: &&Path| {
        let found = fs::metadata(path);
        found.is_ok_and(|found| found.permissions().mode() & 0o001 == 0)
    };
    let closed = directory.ancestors().find(is_closed);
    if let Some(closed) = closed {
        eprintln!("{} is closed to others", closed.display());
    }
    closed.is_none()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(str::to_owned);
    let mut places = path.split(':').map(str::to_owned).chain(more);
    places.find_map(|place| Some(Path::new(&place).join(name)).filter(|found| found.exists()))
}

/// Who runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever runs the tests.
    Same,
    /// An ordinary user: `nobody` when the tests run as root.
    Plain,
}

/// An ordinary user who may have further users: somebody else, if the tests run as root.
pub fn user_with_a_range() -> Option<nix::unistd::User> {
    let table = fs::read_to_string("/etc/subuid").ok()?;
    let names = table.lines().filter_map(|line| line.split(':').next());
    let mut users = names.filter_map(|name| nix::unistd::User::from_name(name).ok().flatten());
    users.find(|user| !user.uid.is_root() && (is_root() || user.uid == nix::unistd::getuid()))
}

/// `program` as `user`, with a home that is not ours and without our settings.
pub fn command_as(user: User, program: impl AsRef<OsStr>) -> Command {
    let mut command = if user == User::Plain && is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--",
        ]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    let home = shared_dir();
    command
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    for name in [
        "PLYFS_ROOT",
        "XDG_RUNTIME_DIR",
        "DOCKER_CONFIG",
        "REGISTRY_AUTH_FILE",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    command.process_group(0);
    command
}

/// `command` in a mount namespace of its own, without the mounts of other tests. As long as a copy of a mount is
/// somewhere its server lives, and has its directories, its image or its container in use.
pub fn alone(command: &Command) -> Command {
    const LEAVE: &str = r#"
        awk 'index($5, "/plyfs-") { print $5 }' /proc/self/mountinfo | tac |
            while read -r point; do umount -l "$point" || true; done
        exec "$@""#;
    let program = command.get_program();
    let mut alone = if is_root() {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private"]);
        unshare.args(["sh", "-c", LEAVE, "sh"]).arg(program);
        unshare
    } else {
        Command::new(program)
    };
    alone.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => alone.env(name, value),
            None => alone.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        alone.current_dir(directory);
    }
    alone
}

/// A directory that goes away with its value, open to every user.
pub fn temp_dir() -> TempDir {
    set_umask();
    let directory = tempfile::Builder::new()
        .prefix("plyfs-test-")
        .tempdir()
        .unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// What tests make is for other users too, whatever the umask of whoever runs them.
fn set_umask() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    });
}

/// A directory for the whole test program: made once, swept by the next run.
fn shared_dir() -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        set_umask();
        let user = nix::unistd::geteuid();
        let all = std::env::temp_dir().join(format!("plyfs-tests-{user}"));
        fs::create_dir_all(&all).unwrap();
        for old in fs::read_dir(&all).unwrap().flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            // Where processes are few their numbers come again.
            let is_own = name == std::process::id().to_string();
            let ended = is_own || !Path::new("/proc").join(name).exists();
            if ended && let Err(error) = fs::remove_dir_all(old.path()) {
                eprintln!("{} stays: {error}", old.path().display());
            }
        }
        let own = all.join(std::process::id().to_string());
        fs::create_dir_all(&own).unwrap();
        for directory in [&all, &own] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        own
    })
}

/// The program under test, where every user can run it (the build directory may lie in a closed home).
pub fn plyfs_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let copy = shared_dir().join("plyfs");
        copy_program(Path::new(env!("CARGO_BIN_EXE_plyfs")), &copy);
        copy
    })
}

/// The mount helper, likewise, under the name that it is installed by.
pub fn helper_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let copy = shared_dir().join("mount.plyfs");
        copy_program(&built_helper(), &copy);
        copy
    })
}

/// Copies a program or script that is run next. A process of its own does it: what another thread starts
/// meanwhile would hold the copy open for writing, and nobody could run it ("text file busy").
pub fn copy_program(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg(from).arg(to));
}

/// Writes a script that is run next, likewise.
pub fn write_program(path: &Path, text: &str) {
    let draft = tempfile::NamedTempFile::new().unwrap();
    fs::write(draft.path(), text).unwrap();
    let mut install = Command::new("install");
    succeed(install.args(["-m", "755"]).arg(draft.path()).arg(path));
}

fn built_helper() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_plyfs")).with_file_name("mount-plyfs")
}

/// A file of `scripts/`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(name)
}

/// An image with every lawful oddity, and what it must look like.
#[derive(Debug)]
pub struct OddImage {
    /// The OCI layout; its one image has the tag `odd`.
    pub layout: PathBuf,
    /// A manifest for [`compare_tree`].
    pub expected: PathBuf,
}

/// Makes the odd image, once for the whole test program.
pub fn odd_image() -> &'static OddImage {
    static ODD: OnceLock<OddImage> = OnceLock::new();
    ODD.get_or_init(|| make_odd_image("odd", &[]))
}

/// Makes an odd image with further arguments of `scripts/odd-image`, in a directory called `name`.
pub fn make_odd_image(name: &str, args: &[&str]) -> OddImage {
    let directory = shared_dir().join(name);
    succeed(Command::new(script("odd-image")).arg(&directory).args(args));
    OddImage {
        layout: directory.join("oci"),
        expected: directory.join("expected.json"),
    }
}

/// Compares two trees (directories or manifests) and panics with their differences.
pub fn compare_tree(user: User, args: &[&str], a: &Path, b: &Path) {
    // The scripts may lie in a closed home as well.
    let scripts = shared_dir().join("scripts");
    static COPIED: OnceLock<()> = OnceLock::new();
    COPIED.get_or_init(|| {
        fs::create_dir_all(&scripts).unwrap();
        for name in ["compare-tree", "tree_manifest.py"] {
            copy_program(&script(name), &scripts.join(name));
        }
    });
    let mut command = command_as(user, scripts.join("compare-tree"));
    let output = command
        .args(["--limit", "40"])
        .args(args)
        .args([a, b])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{} and {} differ:\n{}",
        a.display(),
        b.display(),
        text(&output)
    );
}

/// Runs a command to its end; panics with all it said unless it succeeds.
pub fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        text(&output)
    );
    output
}

/// Runs a command that must fail with `status`, and returns what it said on stderr.
pub fn fail(command: &mut Command, status: i32) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert_eq!(
        output.status.code(),
        Some(status),
        "{command:?}:\n{}",
        text(&output)
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Both outputs, for messages.
pub fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

/// Copies an image with skopeo.
pub fn skopeo_copy(args: &[&str], from: &str, to: &str) {
    let mut command = Command::new("skopeo");
    command
        .args(["--insecure-policy", "copy", "--quiet"])
        .args(args)
        .args([from, to]);
    succeed(&mut command);
}

/// The living children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    children.filter(|&pid| alive(pid)).collect()
}

/// Whether a process lives (one that nobody has waited for does not).
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Waits until `done` or panics, after a time that no busy machine needs.
pub fn wait_for(what: impl Debug, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        let elapsed = began.elapsed();
        assert!(
            elapsed < Duration::from_secs(60),
            "waited in vain for {what:?}"
        );
        std::thread::sleep(Duration::from_millis(25));
    }
}
