"""Sections of bench: what container runtimes do, with plyfs below them and with what they have of their own.

Each contender works in directories of its own below the work directory, with a containerd of its own or a storage of
its own for podman, and takes turns with the others. Processor time is that of the whole machine meanwhile: a runtime
has many processes, and so does what serves it. So nothing else may run.
"""
import os
import shutil
import signal
import statistics
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
HERE = os.path.dirname(os.path.realpath(__file__))
# What is installed and built with inside of containers.
PACKAGES = ("gcc", "libc6-dev", "make")
SOURCES = 150
CONTAINERS = 100
STACKED = 128
ENGINE = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]


def busy():
    """Seconds that all processors have worked."""
    with open("/proc/stat") as f:
        fields = f.readline().split()
    return sum(int(fields[i]) for i in (1, 2, 3, 6, 7)) / TICK


def used_memory():
    """Bytes that files, programs and the kernel have in memory, and how many of them are names and inodes that the
    kernel gives up when it wants."""
    with open("/proc/meminfo") as f:
        found = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in f)}
    kinds = ("Cached", "Buffers", "AnonPages", "Slab", "PageTables", "KernelStack", "Percpu")
    return sum(found[kind] for kind in kinds), found["SReclaimable"]


def settled_memory():
    """The same without caches. What was dropped is free only some time later."""
    least = None
    while True:
        drop_caches()
        time.sleep(1)
        found = used_memory()
        if least is not None and found[0] > least[0] - (1 << 20):
            return found
        least = found


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


def unmount_below(path):
    with open("/proc/self/mountinfo") as f:
        points = [line.split()[4] for line in f]
    for point in reversed([point for point in points if point.startswith(path + "/")]):
        subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)


class Timer:
    """Wall and processor seconds of a block."""

    def __enter__(self):
        self.cpu, self.wall = busy(), time.perf_counter()
        return self

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self.wall, busy() - self.cpu

    def row(self):
        return {"wall": self.wall, "cpu": self.cpu}


class Bench:
    """What sections need of bench."""

    def __init__(self, args, images, registry, failed, table):
        self.args, self.images, self.registry, self.failed, self.table = args, images, registry, failed, table
        self.path = os.path.join(args.work, "runtimes")
        self.helper = os.path.join(os.path.dirname(args.plyfs), "mount-plyfs")

    def at(self, *names):
        return os.path.join(self.path, *names)

    def do(self, argv, **more):
        """Runs a program to its end, and returns what it printed."""
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", **more)
        if done.returncode:
            tail = " / ".join(done.stdout.strip().splitlines()[-3:])
            raise self.failed(f"{' '.join(argv)[:160]}: status {done.returncode}: {tail[-400:]}")
        return done.stdout.strip()

    def clean(self):
        unmount_below(self.path)
        for attempt in range(100):
            shutil.rmtree(self.path, ignore_errors=True)
            if not os.path.exists(self.path):
                break
            time.sleep(0.1)
        os.makedirs(self.path)

    def turns(self, section, title, contenders, body, clean=None):
        """`body(contender)`, a dict of workload -> figures, for each in turn; prints medians beside the first one's."""
        collected, left = {}, list(contenders)
        for rep in range(self.args.reps):
            for contender in left[rep % len(left):] + left[:rep % len(left)]:
                (clean or self.clean)()
                try:
                    for workload, row in body(contender).items():
                        collected.setdefault(workload, {}).setdefault(contender, []).append(row)
                except self.failed as error:
                    print(f"  {contender} is left out: {error}")
                    left.remove(contender)
                    for workload in collected.values():
                        workload.pop(contender, None)
        (clean or self.clean)()
        for workload, rows in collected.items():
            self.show(section, title, workload, {name: rows[name] for name in contenders if name in rows})

    def show(self, section, title, workload, figures):
        print(f"\n{section}: {title}, {workload}")
        medians = {name: {metric: statistics.median(row[metric] for row in rows) for metric in rows[0]}
                   for name, rows in figures.items()}
        base = next(iter(medians.values()), None)
        for name, row in medians.items():
            line = f"  {name:22}"
            for metric, value in row.items():
                shown = f"{value / 2**20:.0f} MiB" if metric in ("memory", "names", "servers") else f"{value:.2f} s"
                line += f"  {metric} {shown:>9} {value / base[metric] if base[metric] else 1:6.2f}x"
            print(line, flush=True)
            self.table.all.append({"section": section, "title": title, "workload": workload, "contender": name,
                                   "runs": figures[name]})
        for ours, metric, theirs, most in TARGETS.get((section, workload), []):
            if ours in medians and theirs in medians:
                ratio = medians[ours][metric] / medians[theirs][metric]
                self.table.missed += ratio > most
                verdict = "PASS" if ratio <= most else "MISS"
                print(f"  {ours}: {metric} {ratio:.2f}x of {theirs}, at most {most:.2f}x: {verdict}")

    def packages(self):
        """A directory with packages that the debian image lacks, and the sources of a program."""
        kept = os.path.join(self.args.work, "runtime-input")
        if os.path.exists(kept + "/done"):
            return kept
        shutil.rmtree(kept, ignore_errors=True)
        for name in ("debs/partial", "src", "status"):
            os.makedirs(os.path.join(kept, name))
        with open(kept + "/status/status", "wb") as f:
            name = self.images.name("debian")
            store = self.images.stored("debian")
            f.write(subprocess.run([self.args.plyfs, "--root", store, "cat", name + ":/var/lib/dpkg/status"], check=True,
                                   stdout=subprocess.PIPE).stdout)
        self.do(["apt-get", "-o", f"Dir::State::status={kept}/status/status", "-o", f"Dir::Cache::archives={kept}/debs",
                 "-o", "APT::Sandbox::User=root", "install", "-y", "--no-install-recommends", "--download-only", *PACKAGES])
        for number in range(SOURCES):
            functions = "\n".join(f"int f{number}_{i}(int x) {{ char b[64]; snprintf(b, 64, \"%d\", x * {i}); return b[0]; }}"
                                  for i in range(60))
            with open(f"{kept}/src/part{number}.c", "w") as f:
                f.write(f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{functions}\n")
        with open(kept + "/src/Makefile", "w") as f:
            f.write("parts := $(patsubst %.c,%.o,$(wildcard *.c))\nall.a: $(parts)\n\tar rc $@ $^\n")
        open(kept + "/done", "w").close()
        return kept


class Containerd:
    """A containerd with two snapshotters of ours beside its own: `plyfs`, and `kernel`, which leaves writing to the
    kernel."""

    def __init__(self, bench):
        self.bench, self.processes = bench, []

    def __enter__(self):
        bench, here = self.bench, self.bench.path
        os.makedirs(here + "/bin", exist_ok=True)
        os.symlink(bench.helper, here + "/bin/mount.plyfs")
        self.environment = os.environ | {"PATH": f"{here}/bin:{os.environ['PATH']}", "CONTAINERD_NAMESPACE": "plyfs-bench"}
        proxies = "".join(f'[proxy_plugins.{name}]\n  type = "snapshot"\n  address = "{here}/{name}.sock"\n'
                          for name in ("plyfs", "kernel"))
        with open(here + "/config.toml", "w") as f:
            f.write(f'version = 2\nroot = "{here}/root"\nstate = "{here}/state"\n'
                    'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
                    f'[grpc]\n  address = "{here}/c.sock"\n[ttrpc]\n  address = "{here}/c.sock.ttrpc"\n{proxies}')
        for name, way in (("plyfs", "fuse"), ("kernel", "kernel")):
            self.start([bench.args.plyfs, "snapshotter", "--root", self.store(name), "--address", f"{here}/{name}.sock",
                        "--writable", way])
        self.wait_for(f"{here}/plyfs.sock")
        self.wait_for(f"{here}/kernel.sock")
        self.start(["containerd", "-c", here + "/config.toml"])
        for attempt in range(200):
            if subprocess.run([*self.client(), "version"], env=self.environment, capture_output=True).returncode == 0:
                return self
            time.sleep(0.05)
        raise bench.failed("containerd does not come up; see runtimes/log")

    def __exit__(self, *_):
        tasks = subprocess.run([*self.client(), "tasks", "ls", "-q"], env=self.environment, capture_output=True, text=True)
        for name in tasks.stdout.split():
            subprocess.run([*self.client(), "tasks", "rm", "--force", name], env=self.environment, capture_output=True)
        unmount_below(self.bench.path)
        for process in reversed(self.processes):
            process.send_signal(signal.SIGKILL)
            process.wait()
        unmount_below(self.bench.path)

    def store(self, snapshotter):
        return self.bench.at("store-" + snapshotter)

    def start(self, argv):
        with open(self.bench.at("log"), "a") as log:
            self.processes.append(subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log))

    def wait_for(self, path):
        for attempt in range(200):
            if os.path.exists(path):
                return
            time.sleep(0.05)
        raise self.bench.failed(f"{path} does not come up; see runtimes/log")

    def client(self):
        return ["ctr", "-a", self.bench.at("c.sock")]

    def ctr(self, *args):
        return self.bench.do([*self.client(), *args], env=self.environment)

    def pull(self, snapshotter, reference):
        self.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter, reference)

    def pull_whole(self, snapshotter, reference):
        """As clients do that tell a snapshotter the image of a layer."""
        client = os.path.join(self.bench.args.work, "pull-described")
        self.bench.do([client, self.bench.at("c.sock"), snapshotter, reference, reference], env=self.environment)


def build_client(bench):
    """A client of containerd that tells a snapshotter the image of a layer."""
    bench.do([os.path.join(HERE, "containerd-go"), "pull", os.path.join(bench.args.work, "pull-described")])


def containerd(bench):
    """An image from a registry into an empty containerd, and the first run of a program in it."""
    build_client(bench)
    programs = {"python": ["python3", "-c", "import numpy"],
                "node": ["find", "/", "-xdev", "-maxdepth", "3", "-name", "node_modules"]}
    with bench.registry() as registry:
        for image in bench.images.among(*programs):
            reference = registry.push(image)

            def body(contender):
                with Containerd(bench) as it:
                    snapshotter = contender.split()[0]
                    with Timer() as pulled:
                        (it.pull_whole if "whole" in contender else it.pull)(snapshotter, reference)
                    with Timer() as ran:
                        it.ctr("run", "--rm", "--snapshotter", snapshotter, reference, "first", *programs[image])
                    both = {key: pulled.row()[key] + ran.row()[key] for key in ("wall", "cpu")}
                    return {"pull": pulled.row(), "first run": ran.row(), "both": both}
            bench.turns("containerd", image, ["overlayfs", "plyfs", "plyfs whole image", "kernel whole image"], body)


def inside(bench):
    """Installing packages in a container, and a build with them."""
    kept = bench.packages()
    with bench.registry() as registry:
        reference = registry.push("debian")

        def body(snapshotter):
            with Containerd(bench) as it:
                it.pull(snapshotter, reference)
                it.ctr("run", "--detach", "--snapshotter", snapshotter, "--mount",
                       f"type=bind,src={kept},dst=/mnt,options=rbind:ro", reference, "work", "/bin/sleep", "3600")

                def shell(script):
                    os.sync()
                    with Timer() as timer:
                        it.ctr("tasks", "exec", "--exec-id", "shell", "work", "/bin/sh", "-ec", script)
                    return timer.row()
                return {"install": shell("dpkg --install --force-unsafe-io /mnt/debs/*.deb"),
                        "build": shell("cp -r /mnt/src /build; make -C /build -j2; rm -r /build")}
        bench.turns("inside", "debian", ["overlayfs", "plyfs", "kernel"], body)


def hundred(bench):
    """What containers of one image take of memory, caches of the kernel included: one, and a hundred."""
    build_client(bench)
    with bench.registry() as registry:
        reference = registry.push("python")
        with Containerd(bench) as it:
            it.pull("overlayfs", reference)
            it.pull_whole("plyfs", reference)
            it.pull_whole("kernel", reference)

            def body(contender):
                snapshotter, count = contender.split(" x ")
                snapshots = it.ctr("snapshots", "--snapshotter", snapshotter, "ls").splitlines()[1:]
                parents = {line.split()[1] for line in snapshots if len(line.split()) > 2}
                top = next(line.split()[0] for line in snapshots if line.split()[0] not in parents)
                # Once before: what containerd and the snapshotter keep is theirs.
                mount(it, snapshotter, top, "warm")
                unmount(it, snapshotter, "warm")
                before = settled_memory()
                for number in range(int(count)):
                    mount(it, snapshotter, top, str(number))
                    bench.do(["chroot", bench.at(f"mnt-{number}"), "python3", "-B", "-c", "import numpy"])
                os.sync()
                memory, names = (now - then for now, then in zip(used_memory(), before))
                figures = {"memory": memory, "names": names, "servers": servers(bench)}
                for number in range(int(count)):
                    unmount(it, snapshotter, str(number))
                return {"in use": figures}
            ways = [f"{name} x {count}" for name in ("kernel", "plyfs", "overlayfs") for count in (1, CONTAINERS)]
            bench.turns("hundred", "python", ways, body, clean=lambda: None)


def mount(it, snapshotter, top, name):
    where = it.bench.at("mnt-" + name)
    os.makedirs(where)
    it.ctr("snapshots", "--snapshotter", snapshotter, "prepare", name, top)
    command = it.ctr("snapshots", "--snapshotter", snapshotter, "mounts", where, name).split()
    if command[2].startswith("fuse3."):
        # As containerd does it.
        command = ["mount.fuse3", *command[3:], "-t", command[2].removeprefix("fuse3.")]
    it.bench.do(command, env=it.environment)


def unmount(it, snapshotter, name):
    where = it.bench.at("mnt-" + name)
    it.bench.do(["umount", where])
    os.rmdir(where)
    it.ctr("snapshots", "--snapshotter", snapshotter, "rm", name)


def servers(bench):
    """Bytes of the processes that serve mounts, shared pages by their part."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                argv = f.read().split(b"\0")
            ours = any(os.fsencode(bench.path) in arg for arg in argv)
            if ours and b"snapshotter" not in argv and b"plyfs" in os.path.basename(argv[0]):
                with open(f"/proc/{pid}/smaps_rollup") as f:
                    total += sum(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total


def stack(bench):
    """A mount of 128 layers: mounting, reading what each has added to ten directories, unmounting."""
    layers = os.path.join(bench.args.work, "stack")
    for directory in (f"{layers}/{number}/dir-{part}" for number in range(STACKED) for part in range(10)):
        os.makedirs(directory, exist_ok=True)
        for name in ("own-" + directory.split("/")[-2], "common"):
            with open(f"{directory}/{name}", "w") as f:
                f.write(f"{directory}\n" * 20)
    # Relative: a page holds the options of a mount.
    lowers = ":".join(str(number) for number in reversed(range(STACKED)))

    def body(contender):
        point = bench.at("mnt")
        for name in ("mnt", "upper", "work"):
            os.makedirs(bench.at(name))
        options = f"lowerdir={lowers},upperdir={bench.at('upper')},workdir={bench.at('work')}"
        command = {"kernel": ["mount", "-t", "overlay", "overlay", "-o", options, point],
                   "fuse-overlayfs": ["fuse-overlayfs", "-o", options, point],
                   "plyfs": [bench.helper, "overlay", point, "-o", options]}[contender]
        os.sync()
        with Timer() as timer:
            bench.do(command, cwd=layers)
            for directory, _, names in os.walk(point):
                for name in names:
                    # As programs do that are not written in Python, which asks each file whether it is a terminal.
                    file = os.open(os.path.join(directory, name), os.O_RDONLY)
                    os.read(file, 4096)
                    os.close(file)
            bench.do(["umount", point])
        return {"mount, read, unmount": timer.row()}
    bench.turns("stack", f"{STACKED} layers", ["kernel", "fuse-overlayfs", "plyfs"], body)


STEPS = """FROM localhost/bench/debian:latest
COPY src /build
RUN dpkg --install --force-unsafe-io /mnt/debs/*.deb
RUN make -C /build -j2
RUN rm -r /build && mkdir /build && echo new > /build/file
RUN rm -r /usr/share/doc /usr/share/man
RUN chmod -R go-w /usr/lib
RUN cp -a /usr/include /opt/include
RUN mv /opt/include /opt/headers && rm -r /opt/headers/linux
RUN find /usr/share -name '*.mo' -delete
RUN dpkg --remove --force-all gcc make
"""


def build(bench):
    """podman build of ten steps that install packages, build, and delete files."""
    kept = bench.packages()
    programs = {"fuse-overlayfs": shutil.which("fuse-overlayfs"), "plyfs": bench.helper, "overlay": None}

    def body(contender):
        storage = ["podman", "--root", bench.at("storage"), "--runroot", bench.at("run"), "--storage-driver", "overlay"]
        if programs[contender]:
            storage += ["--storage-opt", "overlay.mount_program=" + programs[contender]]
        bench.do(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{bench.images.oci}:debian",
                  f"oci-archive:{bench.at('image.tar')}:localhost/bench/debian:latest"])
        bench.do([*storage, *ENGINE, "load", "-q", "-i", bench.at("image.tar")])
        with open(bench.at("Containerfile"), "w") as f:
            f.write(STEPS)
        os.sync()
        with Timer() as timer:
            bench.do([*storage, *ENGINE, "build", "-q", "--layers", "--isolation", "chroot", "--network", "host", "-f",
                      bench.at("Containerfile"), "-v", f"{kept}:/mnt:ro", "-t", "localhost/built", kept])
        return {"ten steps": timer.row()}
    bench.turns("build", "debian", [name for name in programs if name == "overlay" or programs[name]], body)


SECTIONS = {"containerd": containerd, "inside": inside, "hundred": hundred, "stack": stack, "build": build}
NEEDS = {"containerd": ("containerd", "ctr", "runc", "go", "docker-registry"), "inside": ("containerd", "ctr", "runc",
         "docker-registry"), "hundred": ("containerd", "ctr", "go", "docker-registry"), "stack": (), "build": ("podman", "skopeo")}
IMAGE = {"containerd": "python", "inside": "debian", "hundred": "python", "build": "debian"}
# (section, workload) -> whose, of what, beside whom, and the most that the ratio may be
TARGETS = {
    ("containerd", "both"): [("plyfs whole image", "wall", "overlayfs", 0.5)],
    ("inside", "install"): [("kernel", "cpu", "overlayfs", 1.05)],
    ("inside", "build"): [("kernel", "cpu", "overlayfs", 1.05)],
    ("hundred", "in use"): [(f"kernel x {CONTAINERS}", "memory", "kernel x 1", 1.3)],
    ("stack", "mount, read, unmount"): [("plyfs", "wall", "kernel", 1.2), ("plyfs", "wall", "fuse-overlayfs", 0.5)],
    ("build", "ten steps"): [("plyfs", "cpu", "fuse-overlayfs", 0.8)],
}


def measure(section, args, images, registry, failed, table):
    """Runs one section; prints medians, and whether targets are met."""
    missing = [name for name in NEEDS[section] if not shutil.which(name)]
    if missing:
        raise failed(f"{', '.join(missing)} not installed")
    if section in IMAGE and not images.among(IMAGE[section]):
        return
    bench = Bench(args, images, registry, failed, table)
    bench.clean()
    try:
        SECTIONS[section](bench)
    finally:
        bench.clean()
