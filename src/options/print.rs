//! Printing options so that they are read back the same.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{DataMode, MountOptions, WritableLayer};
use crate::idmap::IdRanges;

impl MountOptions {
    /// The options as one list that [`MountOptions::parse`] reads back. Warnings are not printed.
    #[must_use]
    pub fn print(&self) -> OsString {
        let mut list = Printer(Vec::new());
        let ranges = |ranges: &IdRanges| Some(ranges.to_string()).filter(|text| !text.is_empty());
        list.paths("lowerdir+", &self.lowers);
        list.paths("datadir+", &self.data_only);
        list.paths("upperdir", self.upper.as_slice());
        list.paths("workdir", self.work.as_slice());
        list.paths("root", self.root.as_slice());
        list.word(
            "snapshot",
            self.snapshot.map(|it| it.to_string()).as_deref(),
        );
        list.word("name", self.name.as_deref());
        list.word("manifest", self.manifest.as_deref());
        let writable = Some(self.writable).filter(|&it| it != WritableLayer::default());
        list.word("writable", writable.map(WritableLayer::as_str));
        list.value("platform", self.platform.as_deref());
        list.value("fsname", self.source.as_deref());
        list.value("context", self.context.as_deref());
        list.word(
            "data",
            match self.data {
                DataMode::Auto => None,
                DataMode::Passthrough => Some("passthrough"),
                DataMode::Cached => Some("cached"),
            },
        );
        list.number("stack_depth", self.stack_depth);
        list.word("uidmapping", ranges(&self.ids.users).as_deref());
        list.word("gidmapping", ranges(&self.ids.groups).as_deref());
        list.number("squash_to_uid", self.ids.squash_to_uid);
        list.number("squash_to_gid", self.ids.squash_to_gid);
        let kept = Some(u32::from(self.xattr_permissions)).filter(|&kept| kept != 0);
        list.number("xattr_permissions", kept);
        let on_off = |on: bool| if on { "on" } else { "off" };
        list.word("metacopy", self.metacopy.map(on_off));
        list.word("redirect_dir", self.redirect_dir.map(on_off));
        for (name, on) in [
            ("ro", self.read_only == Some(true)),
            ("rw", self.read_only == Some(false)),
            ("nosuid", self.nosuid),
            ("nodev", self.nodev),
            ("noexec", self.noexec),
            ("noatime", self.noatime),
            ("nodiratime", self.nodiratime),
            ("strictatime", self.strictatime),
            ("allow_other", self.allow_other),
            ("default_permissions", self.default_permissions),
            ("squash_to_root", self.ids.squash_to_root),
            ("noacl", self.noacl),
            ("noxattrs", self.noxattrs),
            ("volatile", self.volatile),
            ("userxattr", self.userxattr),
            ("as_lower", self.as_lower),
            ("layers", self.layers),
            ("strict", self.strict),
            ("remount", self.remount),
        ] {
            if on {
                list.item(name.as_bytes());
            }
        }
        OsString::from_vec(list.0)
    }
}

struct Printer(Vec<u8>);

impl Printer {
    fn item(&mut self, item: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b',');
        }
        self.0.extend_from_slice(item);
    }

    fn value(&mut self, name: &str, value: Option<&OsStr>) {
        let Some(value) = value else { return };
        self.item(name.as_bytes());
        self.0.push(b'=');
        for &byte in value.as_bytes() {
            if matches!(byte, b',' | b'\\' | b'"') {
                self.0.push(b'\\');
            }
            self.0.push(byte);
        }
    }

    fn word(&mut self, name: &str, word: Option<&str>) {
        self.value(name, word.map(OsStr::new));
    }

    fn paths(&mut self, name: &str, paths: &[PathBuf]) {
        for path in paths {
            self.value(name, Some(path.as_os_str()));
        }
    }

    fn number(&mut self, name: &str, number: Option<u32>) {
        self.word(name, number.map(|number| number.to_string()).as_deref());
    }
}
