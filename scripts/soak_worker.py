"""The processes of scripts/soak: each does random operations until it is told to stop.

A Twin does each operation on the mount and on a plain directory, and whatever the two answer differently
ends the run. A Wild one shares a directory with others of its kind, may be killed at any moment, and only
reports answers that no race explains.
"""
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import signal
import stat

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2
KEEP_SIZE_PUNCH = 3
# What may come of two processes that meet on one name. ESTALE: the name was looked up again too often. EPERM: it has
# become a directory, which cannot be linked.
RACES = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ELOOP,
         errno.EMLINK, errno.ESTALE, errno.ENXIO, errno.ENODATA, errno.ESPIPE, errno.ENODEV, errno.EPERM}
LARGEST = 512 << 10


class Difference(Exception):
    pass


def rename2(old, new, flags):
    if LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def read_all(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return hashlib.sha1(os.read(fd, 4 * LARGEST)).hexdigest()
    finally:
        os.close(fd)


def about(path):
    st = os.lstat(path)
    links = st.st_nlink if not stat.S_ISDIR(st.st_mode) else None
    size = st.st_size if not stat.S_ISDIR(st.st_mode) else None
    return (st.st_mode, size, links, st.st_uid, st.st_gid)


def write_at(path, flags, offset, data):
    fd = os.open(path, flags | os.O_NONBLOCK, 0o644)
    try:
        return os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


def append_to(path, data):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    try:
        if os.fstat(fd).st_size > LARGEST:
            os.ftruncate(fd, 0)
        return os.write(fd, data)
    finally:
        os.close(fd)


def map_at(path, offset, data):
    """Writes through a mapping, and reads the page before it."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        size = os.fstat(fd).st_size
        if size < 2:
            return None
        with mmap.mmap(fd, size) as area:
            offset %= size
            data = data[:size - offset]
            area[offset:offset + len(data)] = data
            before = max(0, offset - 4096)
            return hashlib.sha1(area[before:offset + len(data)]).hexdigest()
    finally:
        os.close(fd)


def punch(path, offset, length, mode):
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fallocate(fd, mode, offset, length)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def unlinked(path, data):
    """A file that has no name any more is written and read."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.unlink(path)
        os.write(fd, data)
        os.ftruncate(fd, len(data) // 2)
        return hashlib.sha1(os.pread(fd, len(data), 0)).hexdigest(), os.fstat(fd).st_nlink
    finally:
        os.close(fd)


def package(path, seed):
    """What a package manager does: written beside, made durable, renamed into place."""
    rng = random.Random(seed)
    os.mkdir(path)
    for n in range(rng.randrange(3, 9)):
        directory = f"{path}/d{n}"
        os.mkdir(directory)
        for m in range(rng.randrange(1, 12)):
            final = f"{directory}/f{m}"
            fd = os.open(final + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                os.write(fd, rng.randbytes(int(min(rng.paretovariate(1.0) * 200, 40_000))))
                if m == 0:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(final + ".new", final)
        os.symlink("d0/f0", f"{directory}/link")


def remove_tree(path):
    for name in os.listdir(path):
        inner = f"{path}/{name}"
        if stat.S_ISDIR(os.lstat(inner).st_mode):
            remove_tree(inner)
        else:
            os.unlink(inner)
    os.rmdir(path)


def locked(path):
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


class Names:
    """The names below a directory, in order: of files (and links and the like), and of directories."""

    def __init__(self, root):
        self.files, self.directories = [], [""]
        for directory in self.directories:
            for entry in sorted(os.scandir(os.path.join(root, directory)), key=lambda entry: entry.name):
                path = f"{directory}/{entry.name}" if directory else entry.name
                (self.directories if entry.is_dir(follow_symlinks=False) else self.files).append(path)


class Worker:
    # One of these is drawn each time.
    OPERATIONS = """create create write write append append truncate mapped mapped read read read look look look list
        list rename rename rename_directory exchange link symlink unlink unlink mkdir rmdir tree remove chmod owner
        times attribute punch unlinked lock held held fifo""".split()

    def __init__(self, roots, seed, root, counts, slot):
        self.roots, self.rng, self.as_root = roots, random.Random(seed), root
        self.counts, self.slot = counts, slot
        self.open, self.stop = [], False
        self.refresh()

    def refresh(self):
        self.names = Names(self.roots[-1])

    def run(self):
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop", True))
        done = 0
        while not self.stop:
            getattr(self, self.rng.choice(self.OPERATIONS))()
            done += 1
            self.counts[self.slot] += 1
            if done % 40 == 0:
                self.refresh()
        while self.open:
            self.close_one()

    # What is chosen from.

    def file(self):
        return self.rng.choice(self.names.files) if self.names.files else "absent"

    def directory(self):
        return self.rng.choice(self.names.directories)

    def new(self):
        name = self.rng.choice(["a", "b", "tmp", "x" * 200, "n\udcff", "with space", ".hidden", ".wh.x", "y"])
        path = f"{self.directory()}/{name}{self.rng.randrange(12)}".lstrip("/")
        return path if len(path) < 2000 else name

    def any(self):
        return self.new() if self.rng.random() < 0.4 else self.file()

    def data(self):
        return self.rng.randbytes(int(min(self.rng.paretovariate(0.6) * 100, LARGEST // 2)))

    def offset(self):
        return self.rng.randrange(self.rng.choice([1, 5000, LARGEST // 2]))

    # What is done. self.each runs it on every root.

    def create(self):
        if len(self.names.files) > 1500:
            return self.remove()
        path, data = self.new(), self.data()
        self.each("create", lambda at: write_at(at(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0, data))

    def write(self):
        path, data, offset = self.file(), self.data(), self.offset()
        self.each("write", lambda at: write_at(at(path), os.O_WRONLY, offset, data))

    def append(self):
        path, data = self.file(), self.data()[:LARGEST // 8]
        self.each("append", lambda at: append_to(at(path), data))

    def truncate(self):
        path, size = self.file(), self.offset()
        self.each("truncate", lambda at: os.truncate(at(path), size))

    def mapped(self):
        path, offset, data = self.file(), self.offset(), self.data()
        self.each("mapped", lambda at: map_at(at(path), offset, data))

    def read(self):
        path = self.file()
        self.each("read", lambda at: read_all(at(path)))

    def look(self):
        path = self.any()
        self.each("look", lambda at: about(at(path)))

    def list(self):
        path = self.directory()
        self.each("list", lambda at: sorted(os.listdir(at(path))))

    def rename(self):
        old, new, flags = self.file(), self.any(), self.rng.choice([0, 0, NOREPLACE])
        self.each("rename", lambda at: rename2(at(old), at(new), flags))

    def rename_directory(self):
        old, new = self.directory(), self.rng.choice([self.new(), self.directory()])
        if old:
            self.each("rename_directory", lambda at: rename2(at(old), at(new), 0))
            self.refresh()

    def exchange(self):
        old, new = (self.rng.choice([self.file(), self.directory()]) for _ in range(2))
        if old and new:
            self.each("exchange", lambda at: rename2(at(old), at(new), EXCHANGE))
            self.refresh()

    def link(self):
        old, new = self.file(), self.new()
        self.each("link", lambda at: os.link(at(old), at(new), follow_symlinks=False))

    def symlink(self):
        target, new = self.rng.choice(["absent", self.file().rpartition("/")[2]]), self.new()
        self.each("symlink", lambda at: os.symlink(target, at(new)))

    def fifo(self):
        path = self.new()
        self.each("fifo", lambda at: os.mkfifo(at(path)))
        self.each("fifo", lambda at: os.unlink(at(path)))

    def unlink(self):
        path = self.file()
        self.each("unlink", lambda at: os.unlink(at(path)))

    def mkdir(self):
        path, mode = self.new(), self.rng.choice([0o755, 0o700, 0o2775])
        if path.count("/") < 12:
            self.each("mkdir", lambda at: os.mkdir(at(path), mode))

    def rmdir(self):
        path = self.directory()
        if path:
            self.each("rmdir", lambda at: os.rmdir(at(path)))

    def tree(self):
        if len(self.names.files) > 1500:
            return self.remove()
        path, seed = self.new(), self.rng.random()
        if path.count("/") < 10:
            self.each("tree", lambda at: package(at(path), seed))
            self.refresh()

    def remove(self):
        path = self.directory()
        few = len(self.names.files) < 300 and self.rng.random() < 0.8
        if path and not few:
            self.each("remove", lambda at: remove_tree(at(path)))
            self.refresh()

    def chmod(self):
        path, mode = self.rng.choice([self.file(), self.directory()]), self.rng.choice([0o600, 0o4755, 0o644, 0o777])
        if not os.path.islink(f"{self.roots[-1]}/{path}"):
            bits = 0o700 if os.path.isdir(f"{self.roots[-1]}/{path}") else 0o600
            self.each("chmod", lambda at: os.chmod(at(path), mode | bits))

    def owner(self):
        path, uid = self.rng.choice([self.file(), self.directory()]), self.rng.randrange(3)
        if self.as_root:
            self.each("owner", lambda at: os.lchown(at(path), uid, uid + 1))

    def times(self):
        path, time = self.any(), (self.rng.randrange(2**31), self.rng.randrange(10**18))

        def both(at):
            os.utime(at(path), ns=time, follow_symlinks=False)
            return os.lstat(at(path)).st_mtime_ns
        self.each("times", both)

    def attribute(self):
        path, name, value = self.file(), f"user.{self.rng.choice('abc')}", self.rng.randbytes(self.rng.randrange(60))
        which = self.rng.randrange(3)

        def one(at):
            if os.path.islink(at(path)):
                return None
            if which == 0:
                return os.setxattr(at(path), name, value)
            if which == 1:
                return os.removexattr(at(path), name)
            return {name: os.getxattr(at(path), name) for name in sorted(os.listxattr(at(path)))
                    if name.startswith("user.")}
        self.each("attribute", one)

    def punch(self):
        path, offset, length = self.file(), self.offset(), 1 + self.offset()
        mode = self.rng.choice([0, KEEP_SIZE_PUNCH])
        self.each("punch", lambda at: punch(at(path), offset, length, mode))

    def unlinked(self):
        path, data = self.new(), self.data()
        self.each("unlinked", lambda at: unlinked(at(path), data))

    def lock(self):
        path = self.file()
        self.each("lock", lambda at: locked(at(path)))

    # Descriptors that stay open while their names come and go.

    def close_one(self):
        for fd in self.open.pop(self.rng.randrange(len(self.open))):
            os.close(fd)

    def hold(self):
        path, opened = self.file(), []

        def take(at):
            opened.append(os.open(at(path), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW))
        self.each("hold", take)
        if len(opened) == len(self.roots):
            self.open.append(opened)

    def held(self):
        if len(self.open) < 8 and self.rng.random() < 0.5:
            return self.hold()
        if not self.open:
            return None
        if self.rng.random() < 0.2:
            return self.close_one()
        number, data, offset = self.rng.randrange(len(self.open)), self.data(), self.offset()
        which = self.rng.randrange(4)

        def use(fd):
            if which == 0:
                return os.pwrite(fd, data, offset)
            if which == 1:
                return os.ftruncate(fd, offset)
            if which == 2:
                return hashlib.sha1(os.pread(fd, len(data) * 4, offset)).hexdigest()
            return os.fstat(fd).st_size, os.fstat(fd).st_nlink
        return self.each_of("held", [lambda fd=fd: use(fd) for fd in self.open[number]])

    # The answers.

    def each(self, name, operation):
        # What it works on, for the message: the variables of the operation.
        given = [cell.cell_contents for cell in operation.__closure__ or ()]
        self.each_of(f"{name} {[value for value in given if isinstance(value, (str, int))]}", [lambda root=root: operation(lambda path: f"{root}/{path}") for root in self.roots])

    def each_of(self, name, operations):
        raise NotImplementedError


def answer(operation):
    try:
        return "ok", operation()
    except OSError as error:
        return "error", error.errno
    except RecursionError:
        return "error", errno.ELOOP


class Twin(Worker):
    """`roots` are a directory of the mount and a plain one that begins alike."""

    def each_of(self, name, operations):
        here, plain = [answer(operation) for operation in operations]
        if here != plain:
            raise Difference(f"{name}: {here} where a plain directory answers {plain}")


class Wild(Worker):
    """`roots` is one directory of the mount."""

    def each_of(self, name, operations):
        kind, value = answer(operations[0])
        if kind == "error" and value not in RACES:
            raise Difference(f"{name}: {os.strerror(value)}")

    def refresh(self):
        kind, value = answer(lambda: Names(self.roots[0]))
        if kind == "ok":
            self.names = value
        elif value not in RACES:
            raise Difference(f"walk: {os.strerror(value)}")
        elif not hasattr(self, "names"):
            self.refresh()
