"""What a directory tree looks like, as data: shared by compare-tree and odd-image.

A manifest is JSON: {"format": "tree-1", "entries": [...]}, one entry per name, sorted by path:

  path    below the root ("." is the root); bytes outside printable ASCII, and the backslash, as \\xNN
  kind    file, dir, symlink, char, block, fifo, socket
  mode    permission bits (07777); absent for symlinks, which have none on Linux
  uid, gid, mtime (nanoseconds since 1970, may be negative), nlink (number of names; not for dirs)
  xattrs  name -> value, both escaped like the path
  size, sha256   of files
  target  of symlinks, escaped
  device  [major, minor] of char and block
  link    the first path of its hard-link group, where the file has several names
"""
import errno
import hashlib
import json
import os
import stat

FORMAT = "tree-1"
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
         stat.S_IFBLK: "block", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
PLAIN = {c: chr(c) for c in range(0x20, 0x7f) if c != 0x5c}


def escape(raw):
    """Bytes as printable text, reversibly."""
    return "".join(PLAIN.get(c) or f"\\x{c:02x}" for c in raw)


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while chunk := f.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def xattrs(path):
    found = {}
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as e:
        if e.errno in (errno.ENOTSUP, errno.ENOSYS):
            return found
        return {"(list)": f"unreadable: {errno.errorcode.get(e.errno, e.errno)}"}
    for name in names:
        try:
            value = escape(os.getxattr(path, name, follow_symlinks=False))
        except OSError as e:
            value = f"unreadable: {errno.errorcode.get(e.errno, e.errno)}"
        found[escape(os.fsencode(name))] = value
    return found


def describe(path, shown, st, content, digests):
    """One entry; `digests` remembers the digest of each inode."""
    kind = KINDS[stat.S_IFMT(st.st_mode)]
    entry = {"path": shown, "kind": kind}
    if kind != "symlink":
        entry["mode"] = stat.S_IMODE(st.st_mode)
    entry |= {"uid": st.st_uid, "gid": st.st_gid, "mtime": st.st_mtime_ns, "xattrs": xattrs(path)}
    if kind != "dir":
        entry["nlink"] = st.st_nlink
    if kind == "file":
        entry["size"] = st.st_size
        if content:
            key = (st.st_dev, st.st_ino)
            if key not in digests:
                try:
                    digests[key] = digest(path)
                except OSError as e:
                    digests[key] = f"unreadable: {errno.errorcode.get(e.errno, e.errno)}"
            entry["sha256"] = digests[key]
    elif kind == "symlink":
        entry["target"] = escape(os.readlink(path))
    elif kind in ("char", "block"):
        entry["device"] = [os.major(st.st_rdev), os.minor(st.st_rdev)]
    return entry


def scan(root, content=True):
    """The entries of the tree below `root`, by path. Nothing is followed out of it but `root` itself."""
    root = os.fsencode(root)
    entries, digests, inodes = {}, {}, {}
    st = os.stat(root)
    if not stat.S_ISDIR(st.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(root))
    entries["."] = describe(root + b"/.", ".", st, content, digests)
    waiting = [(root, "")]
    while waiting:
        directory, prefix = waiting.pop()
        try:
            with os.scandir(directory) as listing:
                found = sorted(listing, key=lambda e: e.name)
        except OSError as e:
            entries[prefix.rstrip("/") or "."]["list"] = f"unreadable: {errno.errorcode.get(e.errno, e.errno)}"
            continue
        for item in found:
            shown = prefix + escape(item.name)
            if shown in entries:
                entries[shown]["list"] = "listed twice"
                continue
            try:
                st = os.lstat(item.path)
            except OSError as e:
                entries[shown] = {"path": shown, "kind": f"listed, but {errno.errorcode.get(e.errno, e.errno)}"}
                continue
            entries[shown] = describe(item.path, shown, st, content, digests)
            if stat.S_ISDIR(st.st_mode):
                waiting.append((item.path, shown + "/"))
            else:
                inodes.setdefault((st.st_dev, st.st_ino), []).append(shown)
    for names in inodes.values():
        if len(names) > 1:
            first = min(names)
            for name in names:
                entries[name]["link"] = first
    return entries


def write(entries, out):
    """Writes a manifest, one entry per line."""
    lines = [json.dumps(entries[path], sort_keys=True) for path in sorted(entries)]
    with open(out, "w", encoding="ascii") as f:
        f.write('{"format": "%s", "entries": [\n%s\n]}\n' % (FORMAT, ",\n".join(lines)))


def read(path):
    with open(path, encoding="ascii") as f:
        manifest = json.load(f)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is not a tree manifest")
    return {entry["path"]: entry for entry in manifest["entries"]}
