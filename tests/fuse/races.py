"""What the tests in write_races.rs run as the user of a mount.

churn ROOT SEED COUNT   COUNT random operations that meet others of their kind on few names
survey ROOT             what every listed name is, looked up and opened; a line for each
"""
import ctypes
import errno
import os
import random
import stat
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
EXCHANGE = 2
# What may come of meeting others on one name.
RACES = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ELOOP,
         errno.ESTALE, errno.ENXIO, errno.EPERM, errno.EMLINK}
DIRECTORIES = ["a", "b", "a/sub", "b/sub", "c"]
NAMES = ["one", "two", "three", "four", "five", "sub", "lower0", "lower1", "linked0", "linked1"]


def exchange(old, new):
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def create(path, flags):
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK | flags, 0o644)
    try:
        os.write(fd, path.encode())
    finally:
        os.close(fd)


def look(directory):
    for name in os.listdir(directory):
        try:
            os.lstat(f"{directory}/{name}")
        except FileNotFoundError:
            pass


def churn(root, seed, count):
    os.chdir(root)
    rng, held = random.Random(seed), []

    def path():
        return f"{rng.choice(DIRECTORIES)}/{rng.choice(NAMES)}"

    def hold():
        held.append(os.open(path(), os.O_RDONLY | os.O_NONBLOCK))
        if len(held) > 6:
            os.close(held.pop(rng.randrange(len(held))))

    operations = [
        lambda: create(path(), 0),
        lambda: create(path(), os.O_EXCL),
        lambda: create(path(), os.O_TRUNC),
        lambda: os.unlink(path()),
        lambda: os.unlink(path()),
        lambda: os.rename(path(), path()),
        lambda: os.rename(path(), path()),
        lambda: os.rename(rng.choice(DIRECTORIES), path()),
        lambda: os.rename(path(), rng.choice(DIRECTORIES)),
        lambda: exchange(path(), path()),
        lambda: exchange(rng.choice(DIRECTORIES), rng.choice(DIRECTORIES)),
        lambda: os.link(path(), path(), follow_symlinks=False),
        lambda: os.link(path(), path(), follow_symlinks=False),
        lambda: os.mkdir(path()),
        lambda: os.mkdir(rng.choice(DIRECTORIES)),
        lambda: os.rmdir(path()),
        lambda: os.symlink("nowhere", path()),
        lambda: os.mkfifo(path()),
        lambda: os.chmod(path(), rng.choice([0o600, 0o755])),
        lambda: os.lstat(path()),
        lambda: os.lstat(path()),
        lambda: look(rng.choice(DIRECTORIES)),
        lambda: look(rng.choice(DIRECTORIES)),
        hold,
    ]
    for _ in range(count):
        try:
            rng.choice(operations)()
        except OSError as error:
            if error.errno not in RACES:
                raise


def reach(path):
    found = os.lstat(path)
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            file.read()
    elif stat.S_ISLNK(found.st_mode):
        os.readlink(path)
    return found


def survey(root):
    """First the names that are still known, without listing them; then all that are listed."""
    lost = []
    for path in [f"{root}/{directory}/{name}" for directory in DIRECTORIES for name in NAMES]:
        if os.path.lexists(path):
            try:
                reach(path)
            except OSError as error:
                lost.append(error)
    for directory, directories, names in os.walk(root, onerror=lost.append):
        for name in directories + names:
            path = os.path.join(directory, name)
            try:
                found = reach(path)
            except OSError as error:
                lost.append(error)
                continue
            size, nlink = found.st_size, found.st_nlink
            if stat.S_ISDIR(found.st_mode):
                size, nlink = 0, 0
            print(os.path.relpath(path, root), oct(found.st_mode), size, nlink)
    for error in lost:
        print("LOST", error, file=sys.stderr)
    return 1 if lost else 0


if sys.argv[1] == "churn":
    churn(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
else:
    sys.exit(survey(sys.argv[2]))
