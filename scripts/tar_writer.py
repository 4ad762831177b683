"""Writes tar archives and OCI image layouts byte by byte: every dialect, on purpose. For odd-image and demo-image."""
import base64
import gzip
import hashlib
import json
import os
import platform
import subprocess
from dataclasses import dataclass, field

BLOCK = 512
REGULAR, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO, CONTIGUOUS = b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"
TYPES = {"file": REGULAR, "link": LINK, "symlink": SYMLINK, "char": CHAR, "block": BLOCK_DEVICE, "dir": DIRECTORY,
         "fifo": FIFO}


@dataclass
class Entry:
    """One archive member. `form` chooses how it is written: v7, ustar, gnu or pax (None: what fits)."""
    name: bytes
    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0                       # nanoseconds
    data: bytes = b""
    target: bytes = b""
    device: tuple = (0, 0)
    xattrs: dict = field(default_factory=dict)
    form: str = None
    type: bytes = None                   # another type flag than the kind's own
    pax: dict = field(default_factory=dict)     # further PAX records, or other values of the usual ones
    sparse: tuple = None                 # (dialect, [(offset, length), ...]); data is the expanded content
    field_size: int = None               # what the size field says, when PAX says otherwise


def octal(value, width):
    text = b"%0*o" % (width - 1, value) if value >= 0 else b""
    if not text or len(text) > width - 1:
        raise OverflowError
    return text + b"\0"


def number(value, width):
    """Octal, or base-256 as GNU tar writes what octal cannot say."""
    try:
        return octal(value, width)
    except OverflowError:
        raw = bytearray(value.to_bytes(width, "big", signed=True))
        raw[0] |= 0x80
        return bytes(raw)


def header(e, name, target, size, numeric, magic, prefix=b"", tail=b""):
    major, minor = e.device
    parts = [name.ljust(100, b"\0")[:100], numeric(e.mode, 8), numeric(e.uid, 8), numeric(e.gid, 8), numeric(size, 12),
             numeric(e.mtime // 10**9, 12), b" " * 8, e.type or TYPES[e.kind], target.ljust(100, b"\0")[:100], magic]
    if magic.strip(b"\0"):
        parts += [b"\0" * 64, numeric(major, 8), numeric(minor, 8)]
        parts.append(tail if tail else prefix.ljust(155, b"\0"))
    raw = b"".join(parts).ljust(BLOCK, b"\0")
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]


def padded(data):
    return data + b"\0" * (-len(data) % BLOCK)


def pax_block(records, kind=b"x"):
    body = b""
    for key, value in records:
        size = len(key) + len(value) + 3
        length = size + len(str(size))
        length = size + len(str(length))
        body += b"%d %s=%s\n" % (length, key, value)
    h = Entry(b"", "file", type=kind)
    return header(h, b"pax_global_header" if kind == b"g" else b"PaxHeaders/x", b"", len(body), octal, b"ustar\x0000") + padded(body)


def pax_time(ns):
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    seconds, rest = divmod(ns, 10**9)
    return (f"{sign}{seconds}" + (f".{rest:09}".rstrip("0") if rest else "")).encode()


def split_prefix(name):
    """The ustar way of names of up to 255 bytes, or None."""
    if len(name) <= 100:
        return b"", name
    for cut in range(min(155, len(name) - 1), 0, -1):
        if name[cut:cut + 1] == b"/" and 0 < len(name) - cut - 1 <= 100:
            return name[:cut], name[cut + 1:]
    return None


def member(e):
    """The bytes of one entry."""
    form = e.form or ("ustar" if fits_ustar(e) else "pax")
    data = e.data if e.kind == "file" else b""
    if e.sparse:
        return sparse(e)
    size = len(data) if e.field_size is None else e.field_size
    if form == "v7":
        return header(e, e.name, e.target, size, octal, b"\0" * 8) + padded(data)
    if form == "ustar":
        prefix, name = split_prefix(e.name)
        return header(e, name, e.target, size, octal, b"ustar\x0000", prefix) + padded(data)
    if form == "gnu":
        out = b""
        for flag, long in ((b"K", e.target), (b"L", e.name)):
            if len(long) > 100:
                h = Entry(b"", "file", type=flag)
                out += header(h, b"././@LongLink", b"", len(long) + 1, octal, b"ustar  \0") + padded(long + b"\0")
        return out + header(e, e.name, e.target, size, number, b"ustar  \0") + padded(data)
    return pax(e, size) + padded(data)


def fits_ustar(e):
    numbers = 0 <= e.uid < 8**7 and 0 <= e.gid < 8**7 and 0 <= e.mtime < 8**11 * 10**9 and e.mtime % 10**9 == 0
    return numbers and len(e.target) <= 100 and split_prefix(e.name) and not e.xattrs and not e.pax and not e.sparse


def pax(e, size, more=()):
    """A PAX header with what the plain one cannot say, then the plain one with what fits."""
    records = {}
    if any(b > 0x7f for b in e.name + e.target):
        try:
            (e.name + e.target).decode()
        except UnicodeDecodeError:
            records[b"hdrcharset"] = b"BINARY"
    if not split_prefix(e.name) or any(b > 0x7f for b in e.name):
        records[b"path"] = e.name
    if len(e.target) > 100 or any(b > 0x7f for b in e.target):
        records[b"linkpath"] = e.target
    for key, value in ((b"uid", e.uid), (b"gid", e.gid)):
        if value >= 8**7:
            records[key] = b"%d" % value
    if e.mtime % 10**9 or not 0 <= e.mtime < 8**11 * 10**9:
        records[b"mtime"] = pax_time(e.mtime)
    if e.field_size is not None:
        records[b"size"] = b"%d" % len(e.data)
    for key, value in e.xattrs.items():
        records[b"SCHILY.xattr." + key] = value
    records.update(e.pax)
    prefix, name = (split_prefix(e.name) or (b"", e.name[:100]))
    plain = Entry(name, e.kind, e.mode, e.uid if e.uid < 8**7 else 0, e.gid if e.gid < 8**7 else 0,
                  e.mtime if 0 <= e.mtime < 8**11 * 10**9 else 0, device=e.device, type=e.type)
    block = pax_block(list(records.items()) + list(more)) if records or more else b""
    return block + header(plain, name, e.target[:100], size, octal, b"ustar\x0000", prefix)


def sparse(e):
    """A sparse file in the dialect asked for; the segments leave holes that read as zeros."""
    dialect, segments = e.sparse
    stored = b"".join(e.data[o:o + n] for o, n in segments)
    if dialect == "old":
        def pairs(some, room):
            return b"".join(number(o, 12) + number(n, 12) for o, n in some).ljust(24 * room, b"\0")
        rest = segments[4:]
        tail = b"\0" * 41 + pairs(segments[:4], 4) + (b"\1" if rest else b"\0") + number(len(e.data), 12)
        h = Entry(e.name, "file", e.mode, e.uid, e.gid, e.mtime, type=b"S")
        out = header(h, e.name, b"", len(stored), number, b"ustar  \0", tail=tail)
        while rest:
            some, rest = rest[:21], rest[21:]
            out += (pairs(some, 21) + (b"\1" if rest else b"\0")).ljust(BLOCK, b"\0")
        return out + padded(stored)
    hidden = Entry(b"GNUSparseFile.0/" + os.path.basename(e.name)[:60], "file", e.mode, e.uid, e.gid, e.mtime)
    if dialect == "0.0":
        more = [(b"GNU.sparse.size", b"%d" % len(e.data)), (b"GNU.sparse.numblocks", b"%d" % len(segments))]
        for o, n in segments:
            more += [(b"GNU.sparse.offset", b"%d" % o), (b"GNU.sparse.numbytes", b"%d" % n)]
        hidden.name = e.name
    elif dialect == "0.1":
        flat = b",".join(b"%d,%d" % pair for pair in segments)
        more = [(b"GNU.sparse.name", e.name), (b"GNU.sparse.size", b"%d" % len(e.data)),
                (b"GNU.sparse.numblocks", b"%d" % len(segments)), (b"GNU.sparse.map", flat)]
    else:
        lines = [len(segments)] + [n for pair in segments for n in pair]
        stored = padded(b"".join(b"%d\n" % n for n in lines)) + stored
        more = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", e.name),
                (b"GNU.sparse.realsize", b"%d" % len(e.data))]
    return pax(hidden, len(stored), more) + padded(stored)


def archive(entries, trailer=True):
    body = b"".join(e if isinstance(e, bytes) else member(e) for e in entries)
    return body + (b"\0" * (2 * BLOCK) if trailer else b"")


def gzipped(data):
    return gzip.compress(data, 6, mtime=0)


def gzip_members(data, size=1 << 16):
    return b"".join(gzipped(data[i:i + size]) for i in range(0, max(len(data), 1), size))


def zstd_frames(data, size=1 << 17):
    """Several frames with a skippable one between them."""
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    frames = [subprocess.run(["zstd", "-q", "-c"], input=data[i:i + size], stdout=subprocess.PIPE, check=True).stdout
              for i in range(0, max(len(data), 1), size)]
    return skippable.join(frames)


def libarchive(xattrs):
    """The same attributes as bsdtar writes them beside the usual ones."""
    return {b"LIBARCHIVE.xattr." + name: base64.b64encode(value).rstrip(b"=") for name, value in xattrs.items()}


def architecture():
    return {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x",
            "armv7l": "arm", "i686": "386"}.get(platform.machine(), platform.machine())


class Layout:
    """An OCI image layout directory."""

    def __init__(self, path):
        self.path, self.manifests = path, []
        os.makedirs(os.path.join(path, "blobs", "sha256"), exist_ok=True)
        with open(os.path.join(path, "oci-layout"), "w") as f:
            f.write('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data, media_type, **more):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.path, "blobs", "sha256", digest), "wb") as f:
            f.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data), **more}

    def layer(self, tar, blob, media_type):
        """A layer for `image`, from its archive and that as it is stored."""
        return self.blob(blob, media_type), "sha256:" + hashlib.sha256(tar).hexdigest()

    def layer_file(self, tar, blob, media_type):
        """The same from files; `blob` is moved into the layout."""
        digest, size = file_digest(blob), os.path.getsize(blob)
        os.replace(blob, os.path.join(self.path, "blobs", "sha256", digest))
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": size}, "sha256:" + file_digest(tar)

    def image(self, tag, layers, config, history=None):
        """`layers`: what `layer` gave, the lowest first."""
        config = {"architecture": architecture(), "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
                  "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
                  "history": history or [{"created_by": f"layer {n}"} for n in range(len(layers))]}
        config = self.blob(dump(config), "application/vnd.oci.image.config.v1+json")
        manifest = dump({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                         "config": config, "layers": [descriptor for descriptor, _ in layers]})
        self.manifests.append(self.blob(manifest, "application/vnd.oci.image.manifest.v1+json",
                                        annotations={"org.opencontainers.image.ref.name": tag}))
        with open(os.path.join(self.path, "index.json"), "wb") as f:
            f.write(dump({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                          "manifests": self.manifests}))


def file_digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def dump(value):
    return json.dumps(value, sort_keys=True).encode()
