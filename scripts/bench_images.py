"""The images that scripts/bench measures with: built without any registry, and unpacked for the peers.

  debian   a minimal system by debootstrap, 1 layer
  python   the same with numpy, pandas and scipy from apt, and four small layers: 5 layers
  node     debian, and tens of thousands of small files in a tree like that of npm: 2 layers
  deep     debian, and 59 layers that change, delete and add some tens of files each: 60 layers
  big      one large file that does not compress, 1 layer
"""
import glob
import json
import os
import random
import re
import shutil
import stat
import subprocess

from tar_writer import Entry, Layout, archive, gzipped

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
NOW = 1_700_000_000 * 10**9
IMAGES = ("debian", "python", "node", "deep", "big")
PYTHON = "python3,python3-numpy,python3-pandas,python3-scipy"


class Unable(Exception):
    pass


def release_and_mirror():
    with open("/etc/os-release") as f:
        release = re.search(r'^VERSION_CODENAME="?(\w+)', f.read(), re.M)
    for path in ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/*"))]:
        if release and os.path.isfile(path):
            with open(path, errors="replace") as f:
                if found := re.search(r"^(?:deb (?:\[[^]]*\] )?|URIs:\s*)(https?://\S+)", f.read(), re.M):
                    return release[1], found[1]
    raise Unable("no release in /etc/os-release, or no mirror in apt's configuration")


def debootstrap(root, log, include=None):
    """Makes a minimal system in `root`."""
    if os.path.exists(root + ".done"):
        return
    shutil.rmtree(root, ignore_errors=True)
    release, mirror = release_and_mirror()
    options = ["--variant=minbase", "--components=main,universe" if "ubuntu" in mirror else "--components=main"]
    if include:
        options.append("--include=" + include)
    with open(log, "w+") as out:
        if subprocess.run(["debootstrap", *options, release, root, mirror], stdout=out, stderr=out).returncode:
            out.seek(0)
            raise Unable("debootstrap: " + (out.read().strip().splitlines() or ["failed silently"])[-1])
    for name in glob.glob(root + "/var/cache/apt/archives/*.deb") + glob.glob(root + "/var/lib/apt/lists/*_*"):
        os.unlink(name)
    open(root + ".done", "w").close()


def pack(layout, root, scratch):
    """A layer of everything in `root`."""
    tar = os.path.join(scratch, "layer.tar")
    subprocess.run(["tar", "-C", root, "--numeric-owner", "--sort=name", "--xattrs", "--xattrs-include=*",
                    "--exclude=./dev/*", "-cf", tar, "."], check=True)
    subprocess.run(["gzip", "-kfn", tar], check=True)
    layer = layout.layer_file(tar, tar + ".gz", GZIP)
    os.unlink(tar)
    return layer


def small(layout, entries):
    tar = archive(entries)
    return layout.layer(tar, gzipped(tar), GZIP)


def text(rng, size):
    words = b"alpha beta gamma delta lower upper inode index layer digest whiteout opaque".split()
    return b" ".join(rng.choice(words) for _ in range(size // 6))[:size]


def file(path, data):
    return Entry(path.encode(), "file", 0o644, mtime=NOW, data=data)


def changes(rng, names, n):
    """A small layer over a system: changed, deleted and added files."""
    changed = rng.sample(names, 35)
    entries = [file(path, text(rng, rng.randrange(200, 20_000))) for path in changed[:30]]
    for path in changed[30:]:
        head, _, tail = path.rpartition("/")
        entries.append(file(f"{head}/.wh.{tail}", b""))
        names.remove(path)
    return entries + [file(f"opt/added-{n}/{i}", text(rng, 3000)) for i in range(30)]


def documents(root):
    """Files that no program needs, to change and to delete: the same list at every run."""
    found = []
    for directory, _, files in os.walk(os.path.join(root, "usr/share")):
        if os.path.islink(directory):
            continue
        paths = [os.path.join(directory, name) for name in files]
        found += [os.path.relpath(path, root) for path in paths if stat.S_ISREG(os.lstat(path).st_mode)]
    return sorted(found)


def npm_tree(rng, files):
    entries = []
    for package in range(files // 15):
        base = f"srv/app/node_modules/pkg-{package:05}"
        entries.append(file(f"{base}/package.json", text(rng, 900)))
        for i in range(14):
            size = min(int(rng.paretovariate(1.1) * 600), 200_000)
            entries.append(file(f"{base}/{('lib', 'dist/esm', 'test')[i % 3]}/f{i}.js", text(rng, size)))
    return entries


def build(work, wanted, big_mib=1024, node_files=60_000, say=print):
    """Builds what is wanted into WORK/oci; returns the layout's path. Done once: an image made is kept."""
    oci = os.path.join(work, "oci")
    os.makedirs(work, exist_ok=True)
    if all(tag in tags(oci) for tag in wanted):
        return oci
    shutil.rmtree(oci, ignore_errors=True)
    layout, root, log = Layout(oci), os.path.join(work, "root"), os.path.join(work, "debootstrap.log")
    if set(wanted) - {"big"}:
        say("debootstrap")
        debootstrap(root, log)
        base, names = pack(layout, root, work), documents(root)
    for tag in wanted:
        say(f"building {tag}")
        rng = random.Random(tag)
        if tag == "debian":
            layers = [base]
        elif tag == "deep":
            rest = list(names)
            layers = [base] + [small(layout, changes(rng, rest, n)) for n in range(59)]
        elif tag == "node":
            layers = [base, small(layout, npm_tree(rng, node_files))]
        elif tag == "big":
            layers = [small(layout, [file("big", b"".join(rng.randbytes(1 << 20) for _ in range(big_mib)))])]
        else:
            try:
                debootstrap(root + "-python", log, PYTHON)
            except Unable as e:
                say(f"no python image: {e}")
                continue
            rest = documents(root + "-python")
            layers = [pack(layout, root + "-python", work)]
            layers += [small(layout, changes(rng, rest, n)) for n in range(4)]
        layout.image(tag, layers, {"Cmd": ["/bin/sh"]})
    return oci


def tags(oci):
    """Tag -> descriptor of the manifest."""
    try:
        with open(os.path.join(oci, "index.json")) as f:
            manifests = json.load(f)["manifests"]
    except FileNotFoundError:
        return {}
    name = "org.opencontainers.image.ref.name"
    return {m["annotations"][name]: m for m in manifests if name in m.get("annotations", {})}


def layers_of(oci, tag):
    with open(os.path.join(oci, "blobs", *tags(oci)[tag]["digest"].split(":"))) as f:
        return json.load(f)["layers"]


def lower_dirs(oci, tag, work):
    """Unpacks the layers of an image in overlayfs form; their directories, the topmost first."""
    found = []
    for layer in layers_of(oci, tag):
        algorithm, digest = layer["digest"].split(":")
        target = os.path.join(work, "l", digest[:6])      # mount(2) takes one page of options
        if not os.path.isdir(target):
            unpack(os.path.join(oci, "blobs", algorithm, digest), target)
        found.insert(0, target)
    return found


def unpack(blob, target):
    part = target + ".part"
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    with open(blob, "rb") as f:
        magic = f.read(4)
    program = {b"\x1f\x8b": ["gzip", "-dc"], b"\x28\xb5": ["zstd", "-dcq"]}.get(magic[:2], ["cat"])
    inflate = subprocess.Popen([*program, blob], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", part, "-xpf", "-", "--numeric-owner", "--same-owner", "--xattrs",
                    "--xattrs-include=*"], stdin=inflate.stdout, check=True, stderr=subprocess.DEVNULL)
    if inflate.wait():
        raise Unable(f"{blob} cannot be inflated")
    for directory, _, files in os.walk(os.fsencode(part), topdown=False):
        marks = [name for name in files if name.startswith(b".wh.")]
        if not marks:
            continue
        st = os.lstat(directory)
        for name in marks:
            os.unlink(os.path.join(directory, name))
            if name == b".wh..wh..opq":
                os.setxattr(directory, "trusted.overlay.opaque", b"y")
            elif not name.startswith(b".wh..wh."):
                os.mknod(os.path.join(directory, name[4:]), stat.S_IFCHR, os.makedev(0, 0))
        os.utime(directory, ns=(st.st_atime_ns, st.st_mtime_ns))
    os.rename(part, target)
