"""Sections of bench: images into archives and back, into registries, and images made of containers.

Each contender gets what it needs beforehand (the image in a storage of its own), and takes turns with the others.
Compared is processor time: an archive of a gigabyte keeps every disk busy.
"""
import os
import shutil
import socket
import statistics
import subprocess
import time

# The most of the better peer's processor time that each may take.
MOST = 0.7
IMAGE = "python"
# What a container gets: a copy of a directory of the image, which compresses as programs do.
COPIED = "usr/lib/python3"


class Place:
    """Directories for one image and all contenders."""

    def __init__(self, args, oci):
        self.args, self.oci = args, oci
        self.path = os.path.join(args.work, "archives")
        self.close()
        os.makedirs(self.path)
        self.store = os.path.join(self.path, "plyfs")
        self.reference = f"localhost/bench/{IMAGE}:latest"
        self.mounted, self.registry = [], None
        self.quietly(*self.plyfs("pull", "-q", f"oci:{oci}:{IMAGE}", "--name", self.reference))

    def at(self, name):
        return os.path.join(self.path, name)

    def plyfs(self, *args, store=None):
        return [self.args.plyfs, "--root", store or self.store, *args]

    def podman(self, *args, storage="podman"):
        return ["podman", "--root", self.at(storage), "--runroot", self.at(storage + "-run"), "--storage-driver",
                "overlay", *args]

    def buildah(self, *args):
        return ["buildah", "--root", self.at("podman"), "--runroot", self.at("podman-run"), "--storage-driver", "overlay",
                *args]

    def quietly(self, *argv):
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return done.stdout.strip()

    def fill_podman(self):
        self.quietly("skopeo", "--insecure-policy", "copy", "-q", f"oci:{self.oci}:{IMAGE}",
                     f"oci-archive:{self.at('peer.tar')}:{self.reference}")
        self.quietly(*self.podman("load", "-q", "-i", self.at("peer.tar")))

    def start_registry(self):
        """A registry with nothing in it."""
        self.stop_registry()
        config, data = self.at("registry.yml"), self.at("registry")
        shutil.rmtree(data, ignore_errors=True)
        with open(config, "w") as f:
            f.write("version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\n"
                    f"storage: {{filesystem: {{rootdirectory: {data}}}}}\n"
                    f'http: {{addr: "{self.address}", secret: bench}}\n')
        with open(self.at("registry.log"), "w") as log:
            self.registry = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
        for _ in range(200):
            try:
                socket.create_connection(self.address.split(":"), 1).close()
                return
            except OSError:
                time.sleep(0.05)

    def stop_registry(self):
        if self.registry:
            self.registry.kill()
            self.registry.wait()
            self.registry = None

    def remove(self, name):
        for storage in (name, name + "-run"):
            subprocess.run(["umount", "-l", self.at(storage) + "/overlay"], stderr=subprocess.DEVNULL)
            shutil.rmtree(self.at(storage), ignore_errors=True)

    def close(self):
        if getattr(self, "registry", None):
            self.stop_registry()
        for mounted in getattr(self, "mounted", []):
            subprocess.run(mounted, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", self.path + "/podman/overlay"], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.path, ignore_errors=True)


def save(place):
    """The image from the store into a file."""
    place.fill_podman()
    target = place.at("saved.tar")
    return {
        "plyfs": ([place.plyfs("save", "-o", target, place.reference)], target),
        "podman": ([place.podman("save", "-q", "--format", "oci-archive", "-o", target, place.reference)], target),
        "skopeo": ([["skopeo", "--insecure-policy", "copy", "-q", f"oci:{place.oci}:{IMAGE}", f"oci-archive:{target}"]],
                   target),
    }, {"plyfs": ["podman", "skopeo"]}


def load(place):
    """The file into an empty store, unpacked."""
    source = place.at("saved.tar")
    place.quietly(*place.plyfs("save", "-o", source, place.reference))
    oci = place.at("loaded/oci")
    return {
        "plyfs": ([place.plyfs("load", "-q", "-i", source, store=place.at("loaded"))], "loaded"),
        "podman": ([place.podman("load", "-q", "-i", source, storage="loaded")], "loaded"),
        "skopeo + umoci": ([["skopeo", "--insecure-policy", "copy", "-q", f"oci-archive:{source}", f"oci:{oci}:x"],
                            ["umoci", "unpack", "--image", oci + ":x", place.at("loaded/bundle")]], "loaded"),
    }, {"plyfs": ["podman", "skopeo + umoci"]}


def commit(place):
    """A container with new files, as it is stored: containers/storage keeps layers plain, plyfs compresses them."""
    place.fill_podman()
    mnt = place.at("mnt")
    os.makedirs(mnt)
    place.quietly(*place.plyfs("mount", "--name", "web", place.reference, mnt))
    place.mounted.append(place.plyfs("umount", mnt))
    container = place.quietly(*place.buildah("from", "--pull-never", place.reference))
    place.mounted.append(place.buildah("umount", container))
    for root in (mnt, place.quietly(*place.buildah("mount", container))):
        shutil.copytree(os.path.join(root, COPIED), os.path.join(root, "copied"), symlinks=True)
    place.quietly(*place.plyfs("umount", mnt))
    return {
        "plyfs gzip": ([place.plyfs("commit", "web", "made:1")], "rmi"),
        "plyfs plain": ([place.plyfs("commit", "--compression", "none", "web", "made:1")], "rmi"),
        "buildah": ([place.buildah("commit", "-q", container, "localhost/made:1")], "rmi"),
    }, {"plyfs gzip": ["buildah"], "plyfs plain": ["buildah"]}


def push(place):
    """The image as it is stored into an empty registry. (podman compresses it, since its storage does not.)"""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        place.address = f"127.0.0.1:{s.getsockname()[1]}"
    name = f"{place.address}/bench/{IMAGE}:latest"
    place.fill_podman()
    place.quietly(*place.plyfs("tag", place.reference, name))
    place.quietly(*place.podman("tag", place.reference, name))
    return {
        "plyfs": ([place.plyfs("push", "-q", name)], "registry"),
        "podman": ([place.podman("push", "-q", "--tls-verify=false", name)], "registry"),
        "skopeo": ([["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{place.oci}:{IMAGE}",
                     "docker://" + name]], "registry"),
    }, {"plyfs": ["podman", "skopeo"]}


SECTIONS = {"save": save, "load": load, "commit": commit, "push": push}


def clean(place, what):
    if what == "rmi":
        for command in (place.plyfs("rmi", "made:1"), place.buildah("rmi", "localhost/made:1")):
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    elif what == "registry":
        place.start_registry()
    elif what.endswith(".tar"):
        if os.path.exists(what):
            os.unlink(what)
    else:
        place.remove(what)


def measure(section, args, oci, run, failed, table):
    """Runs one section; prints medians, and whether the target is met."""
    place = Place(args, oci)
    try:
        contenders, pairs = SECTIONS[section](place)
        collected = {}
        for rep in range(args.reps):
            names = list(contenders)
            for name in names[rep % len(names):] + names[:rep % len(names)]:
                steps, leaves = contenders[name]
                clean(place, leaves)
                if leaves == "loaded":
                    os.makedirs(place.at("loaded"), exist_ok=True)
                os.sync()
                try:
                    done = [run(step) for step in steps]
                except failed as error:
                    print(f"  {name} is left out: {error}")
                    del contenders[name]
                    collected.pop(name, None)
                    continue
                finally:
                    clean(place, leaves)
                row = {key: sum(step[key] for step in done) for key in ("wall", "client")}
                collected.setdefault(name, []).append(row | {"peak": max(step["peak"] for step in done)})
    finally:
        place.close()
    print(f"\n{section}: {IMAGE}")
    medians = {}
    for name, rows in collected.items():
        medians[name] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        one = medians[name]
        print(f"  {name:22}  wall {one['wall']:7.2f} s  cpu {one['client']:7.2f} s  memory {one['peak'] / 2**20:6.0f} MiB")
        table.all.append({"section": section, "title": IMAGE, "contender": name, "runs": rows})
    for ours, peers in pairs.items():
        theirs = [medians[peer]["client"] for peer in peers if peer in medians]
        if ours in medians and theirs:
            ratio = medians[ours]["client"] / min(theirs)
            table.missed += ratio > MOST
            verdict = "PASS" if ratio <= MOST else "MISS"
            print(f"  {ours}: {ratio:.2f}x of the better peer's processor time, at most {MOST:.2f}x: {verdict}")
