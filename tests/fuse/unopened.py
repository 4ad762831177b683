# Writes and reads through files that the daemon has closed in between. Argument: the mount point.
import os
import sys

os.chdir(sys.argv[1])
MANY = 600


def displace(*descriptors):
    """Has the daemon close what it has open, and the kernel drop what it has read of some files."""
    os.makedirs("others", exist_ok=True)
    for number in range(MANY):
        with open(f"others/{number}", "w+") as file:
            file.write("other")
        with open(f"others/{number}") as file:
            assert file.read() == "other"
    for descriptor in descriptors:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def check(descriptor, expected):
    found = os.pread(descriptor, len(expected) + 10, 0)
    assert found == expected, (found[:50], expected[:50])


def changed(descriptor, before, links):
    displace(descriptor)
    check(descriptor, before)
    os.pwrite(descriptor, b"changed", 1)
    after = before[:1] + b"changed" + before[8:]
    displace(descriptor)
    check(descriptor, after)
    assert os.fstat(descriptor).st_nlink == links
    return after


# Nobody may write to it any more, but whoever has it open.
closed = os.open("closed-to-all", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
os.write(closed, b"0123456789")
kept = changed(closed, b"0123456789", 1)
os.fchmod(closed, 0)
kept = changed(closed, kept, 1)
os.ftruncate(closed, 5)
check(closed, kept[:5])

# Without a name: a new file, one of the layer, and one of the layer that was changed before.
new = os.open("new", os.O_RDWR | os.O_CREAT, 0o400)
os.write(new, b"a new file")
lower = os.open("dir/file", os.O_RDWR)
copied = os.open("dir/sub/deep", os.O_RDWR)
os.write(copied, b"copied up")
os.unlink("new")
os.unlink("dir/file")
with open("over", "w") as over:
    over.write("over")
os.rename("over", "dir/sub/deep")
changed(new, b"a new file", 0)
changed(lower, b"file\n", 0)
changed(copied, b"copied up", 0)
with open("dir/sub/deep") as over:
    assert over.read() == "over"
