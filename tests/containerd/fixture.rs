//! A containerd of one's own with plyfs as its snapshotter, and small images to run.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::{
    Need, User, command_as, helper_program, plyfs_program, require, script, skopeo_copy, succeed,
    temp_dir, text, wait_for,
};

/// A containerd and a snapshotter; both end with the value, with all they have mounted.
#[derive(Debug)]
pub struct Containerd {
    directory: TempDir,
    daemon: Option<Child>,
    snapshotter: Option<Child>,
    /// What containers write through.
    writable: &'static str,
    /// In which namespace of containerd's.
    namespace: String,
}

/// Whether a containerd can be started here.
pub fn require_containerd(more: &[Need]) -> bool {
    let needs = [
        Need::Root,
        Need::Fuse,
        Need::Helper,
        Need::Program("containerd"),
        Need::Program("ctr"),
        Need::Program("runc"),
        Need::Program("mount.fuse3"),
        Need::Program("busybox"),
        Need::Program("skopeo"),
        Need::Program("umoci"),
    ];
    require(&[&needs[..], more].concat())
}

impl Containerd {
    /// Starts both.
    pub fn start() -> Containerd {
        Containerd::start_writing("fuse")
    }

    /// Starts both, with what containers shall write through.
    pub fn start_writing(writable: &'static str) -> Containerd {
        Containerd::start_with(writable, None)
    }

    /// Starts both, and containerd with what Kubernetes talks to. `pause` is the image of pods.
    pub fn start_for_kubernetes(writable: &'static str, pause: &str) -> Containerd {
        Containerd::start_with(writable, Some(pause))
    }

    fn start_with(writable: &'static str, pause: Option<&str>) -> Containerd {
        let directory = temp_dir();
        let root = directory.path();
        let bin = root.join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(helper_program(), bin.join("mount.plyfs")).unwrap();
        symlink(plyfs_program(), bin.join("plyfs-snapshotter")).unwrap();
        let here = root.display();
        let (left_out, more) = match pause {
            None => ("\"io.containerd.grpc.v1.cri\", ", String::new()),
            Some(pause) => ("", kubernetes(pause, root)),
        };
        let config = format!(
            "version = 2\nroot = \"{here}/root\"\nstate = \"{here}/state\"\n\
             disabled_plugins = [{left_out}\"io.containerd.internal.v1.opt\"]\n{more}\
             [debug]\n  level = \"warn\"\n\
             [grpc]\n  address = \"{here}/containerd.sock\"\n\
             [ttrpc]\n  address = \"{here}/containerd.sock.ttrpc\"\n\
             [proxy_plugins.plyfs]\n  type = \"snapshot\"\n  address = \"{here}/plyfs.sock\"\n"
        );
        fs::write(root.join("config.toml"), config).unwrap();
        // runc keeps the containers of a namespace at one place, whichever containerd they are of.
        let own = root.file_name().unwrap().to_string_lossy().into_owned();
        let mut it = Containerd {
            namespace: pause.map_or(own, |_| "k8s.io".to_owned()),
            directory,
            daemon: None,
            snapshotter: None,
            writable,
        };
        it.start_snapshotter();
        let config = it.path("config.toml");
        it.daemon = Some(it.spawn("containerd", &["-c", config.to_str().unwrap()]));
        wait_for("containerd", || {
            it.ctr(["version"]).output().unwrap().status.success()
        });
        it
    }

    /// A path below its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory of plyfs' store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Kills the snapshotter without a warning and starts another one.
    pub fn kill_snapshotter(&mut self) {
        let mut old = self.snapshotter.take().unwrap();
        old.kill().unwrap();
        old.wait().unwrap();
        self.start_snapshotter();
        // containerd tries again after up to three seconds.
        let list = ["snapshots", "--snapshotter", "plyfs", "ls"];
        wait_for("containerd to come back", || {
            self.ctr(list).output().unwrap().status.success()
        });
    }

    /// The same, with another way of writing.
    pub fn kill_snapshotter_and_write(&mut self, writable: &'static str) {
        self.writable = writable;
        self.kill_snapshotter();
    }

    fn start_snapshotter(&mut self) {
        let (socket, store) = (self.path("plyfs.sock"), self.store());
        let args = [
            "-v",
            "--writable",
            self.writable,
            "--root",
            store.to_str().unwrap(),
        ];
        let args = [&args[..], &["--address", socket.to_str().unwrap()]].concat();
        // By the name that needs no verb.
        let program = self.path("bin/plyfs-snapshotter");
        self.snapshotter = Some(self.spawn(program.to_str().unwrap(), &args));
        wait_for("the snapshotter", || UnixStream::connect(&socket).is_ok());
    }

    fn spawn(&self, program: &str, args: &[&str]) -> Child {
        let mut options = fs::File::options();
        options.create(true).append(true);
        let log = options.open(self.path("log")).unwrap();
        let mut command = command_as(User::Same, program);
        command.args(args).env("PATH", self.search_path());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// Programs are looked for in a directory of our own first.
    fn search_path(&self) -> String {
        let rest = std::env::var("PATH").unwrap_or_default();
        format!("{}:{rest}:/usr/sbin:/sbin", self.path("bin").display())
    }

    /// `ctr ARGS`, not yet started.
    pub fn ctr<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = command_as(User::Same, "ctr");
        let socket = self.path("containerd.sock");
        command
            .arg("-a")
            .arg(socket)
            .env("CONTAINERD_NAMESPACE", &self.namespace)
            .env("PATH", self.search_path());
        for arg in args {
            command.arg(arg.as_ref());
        }
        command
    }

    /// Runs `ctr ARGS`, which must succeed, and returns what it printed.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.ctr(args).output().unwrap();
        self.succeeded(args, &output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Panics with all that was said unless it succeeded.
    fn succeeded(&self, what: &[&str], output: &Output) {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(output.status.success(), "{what:?}: {}\n{log}", text(output));
    }

    /// Runs a shell in a new container that is removed afterwards, and returns what it printed.
    pub fn shell(&self, image: &str, name: &str, script: &str) -> String {
        self.run(&[
            "run",
            "--rm",
            "--snapshotter",
            "plyfs",
            image,
            name,
            "/bin/sh",
            "-c",
            script,
        ])
    }

    /// Starts a container that waits.
    pub fn start_container(&self, image: &str, name: &str) {
        let sleep = ["/bin/sleep", "1000"];
        let args = ["run", "--detach", "--snapshotter", "plyfs", image, name];
        self.run(&[&args[..], &sleep].concat());
    }

    /// Runs a shell in a container that is running.
    pub fn exec(&self, name: &str, script: &str) -> String {
        self.exec_beside("shell", name, script)
    }

    /// The same, beside another shell; `id` is what containerd calls it.
    pub fn exec_beside(&self, id: &str, name: &str, script: &str) -> String {
        let args = ["tasks", "exec", "--exec-id", id, name];
        self.run(&[&args[..], &["/bin/sh", "-c", script]].concat())
    }

    /// Ends a container, which can be started again.
    pub fn stop_container(&self, name: &str) {
        self.run(&["tasks", "kill", "--signal", "KILL", name]);
        wait_for("the end of the container", || {
            let removed = self.ctr(["tasks", "rm", name]).output().unwrap();
            removed.status.success() || text(&removed).contains("not found")
        });
    }

    /// Ends and removes a container.
    pub fn remove_container(&self, name: &str) {
        self.stop_container(name);
        self.run(&["containers", "rm", name]);
    }

    /// Pulls an image as clients do that describe its layers.
    pub fn pull_described(&self, reference: &str) {
        self.pull_described_as(reference, reference);
    }

    /// The same, with labels that call the image by another name.
    pub fn pull_described_as(&self, reference: &str, called: &str) {
        let mut pull = command_as(User::Same, self.client("pull"));
        pull.env("CONTAINERD_NAMESPACE", &self.namespace);
        pull.arg(self.path("containerd.sock"));
        let output = pull.args(["plyfs", reference, called]).output().unwrap();
        self.succeeded(&["pull", reference], &output);
    }

    /// A program of `go/`, which is built first.
    fn client(&self, name: &str) -> PathBuf {
        let program = self.path(name);
        if !program.exists() {
            let mut build = Command::new(script("containerd-go"));
            succeed(build.arg(name).arg(&program));
        }
        program
    }

    /// Asks for something as Kubernetes does, which must succeed, and returns what was printed.
    pub fn cri(&self, args: &[&str]) -> String {
        let mut cri = command_as(User::Same, self.client("cri"));
        let output = cri.arg(self.path("containerd.sock")).args(args).output();
        let output = output.unwrap();
        self.succeeded(args, &output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Removes all images, and waits until nothing of them is left on our side.
    pub fn remove_images(&self, images: &[&str]) {
        self.run(&[&["images", "rm", "--sync"][..], images].concat());
        wait_for("containerd's collector", || self.leftovers().is_empty());
    }

    /// Directories of snapshots, mounts, and objects of images that are there.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = self.mounts();
        let directories = [
            "snapshots",
            "layers/sha256",
            "chains/sha256",
            "blobs/sha256",
        ];
        for directory in directories.iter().chain(&["leases", "trash", "ingest"]) {
            let entries = fs::read_dir(self.store().join(directory)).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
        found.retain(|path| !path.ends_with("metadata.redb"));
        found
    }

    /// Where something is mounted below its directory.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let below = |point: &&str| Path::new(point).starts_with(self.directory.path());
        points.filter(below).map(PathBuf::from).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("{log}");
        }
        // Shims outlive containerd; they end with their tasks.
        let list = self.ctr(["tasks", "ls", "-q"]).output();
        let list = list.map(|output| text(&output)).unwrap_or_default();
        for name in list.lines() {
            let args = ["tasks", "rm", "--force", name];
            if let Err(error) = self.ctr(args).stderr(Stdio::null()).output() {
                eprintln!("{name} does not end: {error}");
            }
        }
        for child in [&mut self.daemon, &mut self.snapshotter] {
            let ended = child.iter_mut().try_for_each(|it| {
                it.kill()?;
                it.wait().map(drop)
            });
            if let Err(error) = ended {
                eprintln!("a daemon does not end: {error}");
            }
        }
        for point in self.mounts().iter().rev() {
            let unmounted = Command::new("umount").arg("-l").arg(point).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                eprintln!("{} stays mounted", point.display());
            }
        }
    }
}

/// The configuration of the part of containerd that Kubernetes talks to, on a machine that is a container itself.
fn kubernetes(pause: &str, root: &Path) -> String {
    let (part, here) = ("plugins.\"io.containerd.grpc.v1.cri\"", root.display());
    format!(
        "[{part}]\n  sandbox_image = \"{pause}\"\n  restrict_oom_score_adj = true\n  disable_apparmor = true\n\
         [{part}.cni]\n  bin_dir = \"{here}/cni\"\n  conf_dir = \"{here}/cni\"\n\
         [{part}.containerd]\n  snapshotter = \"plyfs\"\n  disable_snapshot_annotations = false\n"
    )
}

/// An archive, as `docker save` writes them, of a small image of two layers with a shell.
pub fn small_archive(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join("small.tar");
    let mut make = Command::new(script("demo-image"));
    succeed(make.arg("--busybox").arg(&path).arg(name));
    path
}

/// An OCI layout with the small image as `small`, and as `large` the same with two layers more: a
/// file that is changed, and a directory that is emptied.
pub fn layout(directory: &Path) -> PathBuf {
    let archive = small_archive(directory, "docker.io/library/small:latest");
    let path = directory.join("layout");
    let at = |tag: &str| format!("{}:{tag}", path.display());
    let from = format!("docker-archive:{}", archive.display());
    skopeo_copy(&[], &from, &format!("oci:{}", at("small")));
    let changed = directory.join("changed");
    // Whole blocks: umoci leaves out what should pad the last one.
    fs::write(&changed, "changed\n".repeat(64)).unwrap();
    let umoci = |args: &[&str]| {
        let mut command = Command::new("umoci");
        succeed(command.args(["insert", "--image", &at("large")]).args(args));
    };
    succeed(Command::new("umoci").args(["tag", "--image", &at("small"), "large"]));
    umoci(&[changed.to_str().unwrap(), "/etc/issue"]);
    let empty = directory.join("empty");
    fs::create_dir(&empty).unwrap();
    umoci(&["--opaque", empty.to_str().unwrap(), "/usr/share/demo"]);
    path
}
