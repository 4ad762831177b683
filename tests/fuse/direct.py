"""Reads and writes with O_DIRECT and without, in turn, on the file that is named; all must agree with a plain copy in
memory. What cannot be done must answer EINVAL and change nothing."""
import errno
import mmap
import os
import sys

PAGE = 4096
path = sys.argv[1]
with open(path, "rb") as file:
    model = bytearray(file.read())


def buffer(data):
    """Memory that begins at a page."""
    area = mmap.mmap(-1, max(PAGE, len(data) + PAGE))
    area[:len(data)] = data
    return area, memoryview(area)


def check(what, seen):
    if seen != model:
        at = next((n for n, pair in enumerate(zip(seen, model)) if pair[0] != pair[1]), min(len(seen), len(model)))
        sys.exit(f"{what}: {len(seen)} bytes where {len(model)} were written; they differ from byte {at} on")


def read(fd):
    length = (os.fstat(fd).st_size + PAGE) // PAGE * PAGE
    area, view = buffer(b"\0" * length)
    done = os.preadv(fd, [view[:length]], 0)
    return bytes(area[:done])


def write(fd, data, offset, may_refuse=False):
    _, view = buffer(data)
    try:
        done = os.pwritev(fd, [view[:len(data)]], offset)
    except OSError as error:
        if may_refuse and error.errno == errno.EINVAL:
            return
        raise
    if done != len(data):
        sys.exit(f"{done} of {len(data)} bytes were written")
    if len(model) < offset:
        model.extend(b"\0" * (offset - len(model)))
    model[offset:offset + done] = data


reader = os.open(path, os.O_RDONLY)
try:
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
except OSError as error:
    print("no O_DIRECT")
    sys.exit(0 if error.errno == errno.EINVAL else repr(error))
buffered = os.open(path, os.O_RDWR)
for round in range(4):
    for fd, mark in ((direct, b"D"), (buffered, b"B")):
        write(fd, mark * PAGE * 2, PAGE * (round * 3 + 1))
        check("read directly", read(direct))
        check("read through the page cache", read(buffered))
    write(buffered, b"odd" * 100, PAGE * round + 17)
    check("read directly after an odd write", read(direct))
    write(direct, b"unaligned", PAGE * round + 3, may_refuse=True)
    check("read after an unaligned direct write", read(buffered))
    write(direct, b"E" * PAGE, (len(model) + PAGE) // PAGE * PAGE)
    check("read after a write beyond the end", read(buffered))
    os.truncate(path, len(model) // 2 // PAGE * PAGE + 5)
    del model[len(model) // 2 // PAGE * PAGE + 5:]
    check("read directly after truncation", read(direct))
os.fsync(direct)
with open(path, "rb") as file:
    check("read by another descriptor", file.read())
with open(sys.argv[2], "rb") as file:
    check("the file of the upper", file.read())
