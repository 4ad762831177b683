//! `plyfs run` and `plyfs bundle` below a real OCI runtime, as root and as an ordinary user.

#[path = "../support/mod.rs"]
mod support;

mod image;
mod mount_points;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{
    MountGuard, Need, Registry, Store, User, command_as, fail, is_mounted, is_root, require,
    skopeo_copy, succeed, text,
};

const NEEDS: [Need; 3] = [Need::Fuse, Need::Program("runc"), Need::Program("busybox")];

/// A store with the image `app`, and a directory for bundles.
struct Fixture {
    store: Store,
    bundles: PathBuf,
    user: User,
}

impl Fixture {
    fn new(user: User) -> Fixture {
        let store = Store::of(user);
        let bundles = store.mountpoint();
        let layout = image::layout(store.root().parent().unwrap());
        let from = format!("oci:{}", layout.display());
        store.run(["pull", "-q", &from, "--name", "app"]);
        Fixture {
            store,
            bundles,
            user,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.store.command(args);
        command.env("TMPDIR", &self.bundles);
        command
    }

    /// `plyfs run --rm ARGS`, which must succeed.
    fn run(&self, args: &[&str]) -> String {
        let output = succeed(&mut self.command(&[&["run", "--rm"], args].concat()));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A shell in a container that goes away.
    fn shell(&self, options: &[&str], script: &str) -> String {
        self.run(&[options, &["--entrypoint", "sh", "app", "-c", script]].concat())
    }

    fn is_clean(&self) {
        let left: Vec<_> = fs::read_dir(&self.bundles).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let containers = self.store.stdout(["container", "ls"]);
        assert_eq!(containers.lines().count(), 1, "{containers}");
    }
}

/// What docker's introduction does with commit: the image that is made runs, and shows what was changed.
#[test]
fn what_was_committed_runs() {
    if !require(&[&NEEDS[..], &[Need::PlainUser]].concat()) {
        return;
    }
    for user in [User::Same, User::Plain] {
        let fixture = Fixture::new(user);
        let change = [
            "run",
            "--name",
            "web",
            "--user",
            "root",
            "--entrypoint",
            "sh",
            "app",
            "-c",
            "echo changed >/tmp-file",
        ];
        succeed(&mut fixture.command(&change));
        let changes = fixture.store.stdout(["container", "diff", "web"]);
        assert!(changes.contains("A /tmp-file\n"), "{changes}");
        fixture.store.run([
            "commit",
            "-c",
            "USER root",
            "-c",
            "ENTRYPOINT []",
            "web",
            "app:2",
        ]);
        fixture.store.run(["container", "rm", "web"]);
        assert_eq!(
            fixture.run(&["app:2", "sh", "-c", "read line </tmp-file; echo $line"]),
            "changed\n"
        );
        fixture.is_clean();
    }
}

#[test]
fn the_image_says_what_is_run_and_how() {
    if !require(&[&NEEDS[..], &[Need::Root]].concat()) {
        return;
    }
    let fixture = Fixture::new(User::Same);
    assert_eq!(fixture.run(&["app"]), "from the image\n");
    assert_eq!(fixture.run(&["app", "-v", "mine"]), "-v mine\n");
    // Names are the image's: no machine has this user.
    let told = "id -u; id -g; id -G; pwd; echo $HOME $COLOUR";
    assert_eq!(
        fixture.shell(&[], told),
        "1234\n77\n77 78\n/srv/work\n/home/plyfs-app red\n"
    );
    let options = ["-u", "0:plyfs-more", "-w", "/", "-e", "COLOUR=blue"];
    assert_eq!(fixture.shell(&options, told), "0\n78\n78\n/\n/root blue\n");
    fixture.is_clean();
}

#[test]
fn volumes_and_read_only_roots() {
    if !require(&[&NEEDS[..], &[Need::Root]].concat()) {
        return;
    }
    let fixture = Fixture::new(User::Same);
    let shared = support::temp_dir();
    let volume = format!("{}:/shared", shared.path().display());
    fixture.shell(&["-u", "0", "-v", &volume], "echo hello > /shared/file");
    assert_eq!(
        fs::read_to_string(shared.path().join("file")).unwrap(),
        "hello\n"
    );
    let read_only = format!("{volume}:ro");
    let refused = "touch /shared/x || touch /x || echo refused";
    let options = ["-u", "0", "--read-only", "-v", &read_only];
    assert_eq!(fixture.shell(&options, refused), "refused\n");
    fixture.is_clean();
}

#[test]
fn the_status_is_that_of_the_command() {
    if !require(&[&NEEDS[..], &[Need::Root]].concat()) {
        return;
    }
    let fixture = Fixture::new(User::Same);
    let entry = ["run", "--rm", "--entrypoint"];
    for (args, status) in [
        (&["sh", "app", "-c", "exit 7"][..], 7),
        (&["no-such-program", "app"], 127),
        (&["/etc", "app"], 126),
    ] {
        fail(&mut fixture.command(&[&entry, args].concat()), status);
    }
    let refused = [
        (
            &["run", "--rm", "-u", "no-such-user", "app"][..],
            125,
            "no such user",
        ),
        (
            &["run", "--rm", "-v", "/no/such:/x", "app"],
            125,
            "/no/such",
        ),
        // It is seen before the image is looked for: here, the word that was meant to be its command.
        (
            &["run", "--rm", "-v", "app", "127.0.0.1:1/true"],
            2,
            "cannot use the volume",
        ),
        (
            &["run", "--rm", "-e", "=x", "127.0.0.1:1/true"],
            2,
            "names no variable",
        ),
        (
            &["run", "--runtime", "no-such-runtime", "app"],
            125,
            "no runtime",
        ),
        (&["run", "--bogus", "app"], 2, "no option --bogus"),
        (&["run", "-t", "app"], 2, "terminal"),
    ];
    for (args, status, why) in refused {
        let said = fail(&mut fixture.command(args), status);
        assert!(said.contains(why), "{args:?}: {said}");
    }
    fixture.is_clean();
}

#[test]
fn signals_reach_the_command() {
    if !require(&[&NEEDS[..], &[Need::Root]].concat()) {
        return;
    }
    let fixture = Fixture::new(User::Same);
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = fixture.command(&["run", "--rm", "--entrypoint", "sh", "app", "-c", script]);
    let mut running = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 5];
    running
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(9));
    fixture.is_clean();
}

#[test]
fn a_named_container_keeps_its_changes() {
    if !require(&[&NEEDS[..], &[Need::Root]].concat()) {
        return;
    }
    let fixture = Fixture::new(User::Same);
    let run = |script: &str| {
        let args = [
            "run",
            "-u",
            "0",
            "--name",
            "kept",
            "--entrypoint",
            "sh",
            "app",
            "-c",
            script,
        ];
        String::from_utf8(succeed(&mut fixture.command(&args)).stdout).unwrap()
    };
    run("echo plyfs-new:x:4321:77::/new:/bin/sh >> /etc/passwd");
    // Users are those of the container, not only of its image.
    let args = [
        "run",
        "-u",
        "plyfs-new",
        "--name",
        "kept",
        "--entrypoint",
        "id",
        "app",
        "-u",
    ];
    let output = succeed(&mut fixture.command(&args));
    assert_eq!(text(&output), "4321\n");
    assert!(
        fixture
            .store
            .stdout(["container", "diff", "kept"])
            .contains("C /etc/passwd")
    );
    fixture.store.run(["container", "rm", "kept"]);
    fixture.is_clean();
}

#[test]
fn an_image_that_is_not_stored_is_pulled() {
    let more = [
        Need::Root,
        Need::Program("docker-registry"),
        Need::Program("skopeo"),
    ];
    if !require(&[&NEEDS[..], &more].concat()) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let layout = image::layout(store.root().parent().unwrap());
    let name = format!("{}/app:1", registry.address());
    let to = format!("docker://{name}");
    skopeo_copy(
        &["--dest-tls-verify=false"],
        &format!("oci:{}", layout.display()),
        &to,
    );
    let output = succeed(&mut store.command(["run", "--rm", &name]));
    // The output is the command's alone.
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "from the image\n"
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("Pulling from app"));
}

#[test]
fn a_bundle_runs_and_is_undone() {
    if !require(&[&NEEDS[..], &[Need::Root]].concat()) {
        return;
    }
    bundle(User::Same, &["app"], "from the image\n");
    bundle(
        User::Same,
        &["--name", "b", "--rm", "app"],
        "from the image\n",
    );
}

#[test]
fn an_ordinary_user_runs_a_bundle() {
    if !require(&[&NEEDS[..], &[Need::PlainUser]].concat()) {
        return;
    }
    // Nobody but the user is there, and to the container is root, whom everything belongs to.
    let all = ["-u", "0", "--entrypoint", "stat", "app"];
    bundle(User::Plain, &all, "0:0\n");
    bundle(
        User::Plain,
        &[&["--name", "b", "--rm"], &all[..]].concat(),
        "0:0\n",
    );
}

/// Makes a bundle, runs it, and takes it away again.
fn bundle(user: User, args: &[&str], expected: &str) {
    let fixture = Fixture::new(user);
    let place = fixture.bundles.join("bundle");
    let shown = place.to_str().unwrap();
    let command: &[&str] = match user {
        User::Same => &[shown],
        User::Plain => &[shown, "-c", "%u:%g", "/srv/work"],
    };
    let mut make = fixture.command(&[&["bundle"], args, command].concat());
    let said = text(&succeed(&mut make));
    let rootfs = place.join("rootfs");
    let guard = MountGuard::of(&fixture.store, &rootfs);
    assert!(
        said.contains("runc run --bundle") && said.contains("plyfs umount"),
        "{said}"
    );
    let config: Value =
        serde_json::from_slice(&fs::read(place.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["annotations"]["colour"], "red", "{config}");
    let mut runc = command_as(fixture.user, "runc");
    runc.args([
        "--root",
        &format!("{shown}/state"),
        "run",
        "--bundle",
        shown,
    ]);
    let id = format!("plyfs-test-{}-{}", std::process::id(), args.len());
    assert_eq!(text(&succeed(runc.arg(id))), expected);
    guard.unmount();
    assert!(!is_mounted(&rootfs));
    fs::remove_dir_all(&place).unwrap();
    fixture.is_clean();
}

/// In a read-only root the runtime can make no mount points.
#[test]
fn a_bundle_without_mount_points_says_what_helps() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    let empty = store.root().with_file_name("empty");
    fs::create_dir(&empty).unwrap();
    store.run(["import", empty.to_str().unwrap(), "empty"]);
    let place = store.mountpoint().join("bundle");
    let said = store.fails(1, ["bundle", "empty", place.to_str().unwrap(), "true"]);
    assert!(
        said.contains("no directory /proc") && said.contains("--name"),
        "{said}"
    );
    assert!(!place.exists());
}

#[test]
fn an_ordinary_user_runs_an_image() {
    if !require(&[&NEEDS[..], &[Need::PlainUser]].concat()) {
        return;
    }
    let fixture = Fixture::new(User::Plain);
    let script = "id -u; touch /srv/new && stat -c %u:%g /srv/new /etc/passwd; exit 0";
    assert_eq!(fixture.shell(&["-u", "0"], script), "0\n0:0\n0:0\n");
    if is_root() {
        // `nobody` has no range of further users.
        let said = fail(&mut fixture.command(&["run", "--rm", "app"]), 125);
        assert!(said.contains("/etc/subuid"), "{said}");
    }
    fixture.is_clean();
}
