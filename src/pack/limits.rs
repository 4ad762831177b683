//! What an archive may ask for before it is taken for an attack.

/// Bounds on one layer; the defaults lie far beyond real images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the archive, extension headers not counted.
    pub entries: u64,
    /// Bytes of one PAX header or one GNU long name, and of the sparse map before a content.
    pub extension: u64,
    /// Bytes of one path or link target.
    pub path: usize,
    /// Components of one path.
    pub depth: usize,
    /// Data segments of one sparse file.
    pub sparse_segments: usize,
    /// Apparent size of one file.
    pub file_size: u64,
    /// Bytes of holes in all sparse files together: they are hashed, so they cost time.
    pub holes: u64,
    /// Extended attributes of one entry.
    pub xattrs: usize,
    /// Bytes of link targets, detached paths and distinct extended attributes in the layer.
    pub text: u64,
    /// Bytes of the decompressed archive.
    pub uncompressed: u64,
    /// Decompressed bytes from which on `expansion` counts.
    pub expansion_floor: u64,
    /// Decompressed bytes per compressed byte.
    pub expansion: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // Several times the largest real layers, and half a gigabyte of tree.
            entries: 4_000_000,
            extension: 1 << 20,
            // What the kernel takes; longer names could never be opened.
            path: 4096,
            depth: 2048,
            sparse_segments: 1 << 18,
            file_size: 1 << 43,
            holes: 1 << 36,
            xattrs: 1024,
            text: 1 << 28,
            uncompressed: 1 << 37,
            // The most that deflate can reach is 1032. zstd has no such bound, so that an honest image of a disk
            // full of zeros is only known by its size.
            expansion_floor: 1 << 33,
            expansion: 1100,
        }
    }
}
