"""A section of bench: writing as root of a user namespace, where nothing is passed through.

Each contender mounts one lower directory and an upper of its own in the namespace. "requests" are what its daemon
has read from the kernel: writes that are collected need few.
"""
import os
import shutil
import subprocess
import time

import user_namespace

# What is written, in blocks of 4 KiB.
TOTAL = 256 << 20
WORKLOADS = ("write 4k", "rewrite 4k")


class Place:
    """Directories of one contender, empty each time, and the commands that enter the namespace."""

    def __init__(self, work, holder):
        self.path, self.prefix = os.path.join(work, "rootless"), user_namespace.enter(holder)
        self.mnt = os.path.join(self.path, "mnt")

    def clear(self):
        shutil.rmtree(self.path, ignore_errors=True)
        for part in ("", "lower", "upper", "work", "mnt"):
            os.makedirs(os.path.join(self.path, part), exist_ok=True)
            os.chown(os.path.join(self.path, part), user_namespace.FIRST_ID, user_namespace.FIRST_ID)

    def options(self):
        return ",".join(f"{part}dir={self.path}/{part}" for part in ("lower", "upper", "work"))


def contenders(args, place):
    """Name -> what mounts it."""
    found = {"kernel": ["mount", "-t", "overlay", "overlay", "-o", place.options() + ",userxattr", place.mnt]}
    if shutil.which("fuse-overlayfs"):
        found["fuse-overlayfs"] = ["fuse-overlayfs", "-o", place.options(), place.mnt]
    found["plyfs"] = ["env", f"HOME={place.path}", args.plyfs, "mount", "-o", place.options(), place.mnt]
    if args.only:
        wanted = tuple(args.only.split(","))
        found = {name: argv for name, argv in found.items() if name.startswith(wanted) or name == "plyfs"}
    return found


def reads(pids):
    """How often the processes have read something."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/io") as f:
            total += int(dict(line.split(": ") for line in f)["syscr"])
    return total


def once(place, mount, run, serving, writer):
    """Workload -> figures."""
    place.clear()
    run([*place.prefix, *mount])
    daemons = [] if mount[0] == "mount" else serving(place.mnt)
    found, new = {}, os.path.join(place.mnt, "new")
    try:
        for workload in WORKLOADS:
            before = reads(daemons)
            figures = run([*place.prefix, writer, "write", new, "4096", str(TOTAL)], daemons)
            found[workload] = {**figures, "requests": reads(daemons) - before}
    finally:
        subprocess.run([*place.prefix, "umount", place.mnt], check=True)
        while any(os.path.exists(f"/proc/{pid}") for pid in daemons):
            time.sleep(0.005)
    return found


def measure(args, run, serving, writer, table):
    holder = user_namespace.hold()
    try:
        place, collected = Place(args.work, holder), {}
        mounts = contenders(args, place)
        for _ in range(args.reps):
            for name, mount in mounts.items():
                for workload, figures in once(place, mount, run, serving, writer).items():
                    collected.setdefault(workload, {}).setdefault(name, []).append(figures)
        for workload, figures in collected.items():
            table.show("rootless", f"{TOTAL >> 20} MiB", workload, figures, metrics=("wall", "cpu", "requests"))
        shutil.rmtree(place.path, ignore_errors=True)
    finally:
        os.kill(holder, 9)
        os.waitpid(holder, 0)
