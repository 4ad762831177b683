//! The `-o` language of mount(8), podman and fuse-overlayfs: parsed and printed, nothing more.
//!
//! Options come comma-separated and in several lists; later ones win. A comma belongs to a value
//! after a backslash or within double quotes that open the value (`context="a,b"`). Lower
//! directories are separated by colons, which a backslash escapes too; what follows a double colon
//! is data only. Values are bytes: paths need not be UTF-8.
//!
//! # Invariants
//! * What is parsed and printed again parses to the same.
//! * An option that nobody knows is a warning, or an error with `strict`: runtimes pass options of
//!   the kernel's overlay on without asking.

mod names;
mod print;
mod writable;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::idmap::{IdMap, IdRanges};
use names::{KNOWN, harmless};
pub use writable::WritableLayer;

/// How contents reach readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataMode {
    /// What suits the image and the rights of the user.
    #[default]
    Auto,
    /// The kernel reads the files of the store by itself.
    Passthrough,
    /// Through the page cache of the mount.
    Cached,
}

/// Something odd that does not prevent the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The option as given.
    pub option: OsString,
    /// What is odd.
    pub reason: &'static str,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "option '{}' {}", self.option.display(), self.reason)
    }
}

/// An option that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option '{}' {reason}", .option.display())]
pub struct OptionError {
    /// The option as given.
    pub option: OsString,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// What `-o` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `lowerdir=`, `lowerdir+=`: directory layers, topmost first.
    pub lowers: Vec<PathBuf>,
    /// `lowerdir=a::b`, `datadir+=`: layers of which only contents are used, by redirects.
    pub data_only: Vec<PathBuf>,
    /// `upperdir=`
    pub upper: Option<PathBuf>,
    /// `workdir=`
    pub work: Option<PathBuf>,
    /// `ro` (`true`) or `rw` (`false`).
    pub read_only: Option<bool>,
    /// `nosuid`
    pub nosuid: bool,
    /// `nodev`
    pub nodev: bool,
    /// `noexec`
    pub noexec: bool,
    /// `noatime`
    pub noatime: bool,
    /// `nodiratime`
    pub nodiratime: bool,
    /// `strictatime`
    pub strictatime: bool,
    /// `allow_other`: other users than the one who mounts may come in.
    pub allow_other: bool,
    /// `default_permissions`: the kernel checks permissions.
    pub default_permissions: bool,
    /// `fsname=`: what df and findmnt show as the source.
    pub source: Option<OsString>,
    /// `context=`: the SELinux label of everything.
    pub context: Option<OsString>,
    /// `data=auto|passthrough|cached`
    pub data: DataMode,
    /// `stack_depth=1|2`: 2 allows passthrough for a store that lies on an overlay.
    pub stack_depth: Option<u32>,
    /// `uidmapping=`, `gidmapping=`, `squash_to_uid=`, `squash_to_gid=`, `squash_to_root`
    pub ids: IdMap,
    /// `xattr_permissions=1|2`: owners and modes are kept in an attribute.
    pub xattr_permissions: u8,
    /// `noacl`
    pub noacl: bool,
    /// `noxattrs=1`: extended attributes are not shown.
    pub noxattrs: bool,
    /// `volatile`, `fsync=0`: nothing is made durable.
    pub volatile: bool,
    /// `userxattr`: overlay marks are `user.overlay.*` only.
    pub userxattr: bool,
    /// `metacopy=on|off`
    pub metacopy: Option<bool>,
    /// `redirect_dir=on|off` (`follow` and `nofollow` are about reading, which always follows).
    pub redirect_dir: Option<bool>,
    /// `strict`: what is not understood is an error.
    pub strict: bool,
    /// `remount`: a mount that is there gets other flags.
    pub remount: bool,
    /// `root=`: the directory of the store.
    pub root: Option<PathBuf>,
    /// `name=`: the container that keeps what is changed.
    pub name: Option<String>,
    /// `writable=fuse|kernel|auto`: what that container writes through.
    pub writable: WritableLayer,
    /// `manifest=`: the digest of the manifest that is mounted, whatever its image is called.
    pub manifest: Option<String>,
    /// `snapshot=`: the number of the snapshotter's snapshot whose image is mounted.
    pub snapshot: Option<u64>,
    /// `platform=os/arch[/variant]`: which platform's image, where the store has several.
    pub platform: Option<OsString>,
    /// `as_lower`: the mount will be a lower layer of the kernel's overlay, so that nothing in it shows
    /// which that would take for a mark of its own.
    pub as_lower: bool,
    /// `layers`: the layers of the image one beside another, in directories `0` (the lowest), `1` and so on.
    pub layers: bool,
    /// What was passed over.
    pub warnings: Vec<Warning>,
}

const UNKNOWN: &str = "is not known and has no effect";
const NO_EFFECT: &str = "has no effect in plyfs";

impl MountOptions {
    /// Reads lists of options, as many as there were `-o`.
    ///
    /// # Errors
    /// A value that cannot be read, or with `strict` an option that is not known.
    pub fn parse<I, S>(lists: I) -> Result<MountOptions, OptionError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut options = MountOptions::default();
        for list in lists {
            for option in split(list.as_ref().as_bytes()) {
                options.one(option)?;
            }
        }
        if options.strict
            && let Some(Warning { option, reason }) = options.warnings.first().cloned()
        {
            return Err(OptionError { option, reason });
        }
        Ok(options)
    }

    /// An option that is given and means something only where there is an upper directory.
    #[must_use]
    pub fn for_writing(&self) -> Option<&'static str> {
        [
            ("workdir", self.work.is_some()),
            ("volatile", self.volatile),
            ("metacopy", self.metacopy.is_some()),
            ("redirect_dir", self.redirect_dir.is_some()),
        ]
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
    }

    fn one(&mut self, option: &[u8]) -> Result<(), OptionError> {
        let (key, value) = match option.iter().position(|&byte| byte == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (option, None),
        };
        let wrong = |reason| OptionError {
            option: OsStr::from_bytes(option).into(),
            reason,
        };
        let Ok(name) = std::str::from_utf8(key) else {
            self.warn(option, UNKNOWN);
            return Ok(());
        };
        match (name, value) {
            ("", _) | ("defaults", None) => {}
            ("lowerdir", Some(value)) => {
                (self.lowers, self.data_only) = layers(value).map_err(wrong)?;
            }
            ("lowerdir+", Some(value)) => self.lowers.push(path(value).ok_or(wrong(EMPTY))?),
            ("datadir+", Some(value)) => self.data_only.push(path(value).ok_or(wrong(EMPTY))?),
            ("upperdir", Some(value)) => self.upper = Some(path(value).ok_or(wrong(EMPTY))?),
            ("workdir", Some(value)) => self.work = Some(path(value).ok_or(wrong(EMPTY))?),
            ("root", Some(value)) => self.root = Some(path(value).ok_or(wrong(EMPTY))?),
            ("snapshot", Some(value)) => {
                self.snapshot = Some(number(value).ok_or(wrong(NOT_A_NUMBER))?);
            }
            ("name", Some(value)) => self.name = Some(word(value).ok_or(wrong(NOT_UTF8))?),
            ("manifest", Some(value)) => self.manifest = Some(word(value).ok_or(wrong(NOT_UTF8))?),
            ("writable", Some(value)) => {
                let value = word(value).ok_or(wrong(NOT_UTF8))?;
                self.writable = value.parse().map_err(wrong)?;
            }
            ("platform", Some(value)) => self.platform = Some(text(value)),
            ("fsname" | "source", Some(value)) => self.source = Some(text(value)),
            ("context", Some(value)) => self.context = Some(text(value)),
            ("data", Some(value)) => {
                self.data = match value {
                    b"auto" => DataMode::Auto,
                    b"passthrough" => DataMode::Passthrough,
                    b"cached" => DataMode::Cached,
                    _ => return Err(wrong("must be auto, passthrough or cached")),
                }
            }
            ("stack_depth", Some(b"1")) => self.stack_depth = Some(1),
            ("stack_depth", Some(b"2")) => self.stack_depth = Some(2),
            ("stack_depth", _) => return Err(wrong("must be 1 or 2")),
            ("uidmapping" | "uidmap", Some(value)) => {
                self.ids.users = ranges(value).ok_or(wrong(RANGES))?;
            }
            ("gidmapping" | "gidmap", Some(value)) => {
                self.ids.groups = ranges(value).ok_or(wrong(RANGES))?;
            }
            ("squash_to_root", None) => self.ids.squash_to_root = true,
            ("squash_to_uid", Some(value)) => {
                self.ids.squash_to_uid = Some(number(value).ok_or(wrong(NOT_A_NUMBER))?);
            }
            ("squash_to_gid", Some(value)) => {
                self.ids.squash_to_gid = Some(number(value).ok_or(wrong(NOT_A_NUMBER))?);
            }
            ("xattr_permissions", Some(value)) => {
                self.xattr_permissions = match value {
                    b"0" => 0,
                    b"1" => 1,
                    b"2" => 2,
                    _ => return Err(wrong("must be 0, 1 or 2")),
                }
            }
            ("volatile", None) => self.volatile = true,
            ("metacopy", Some(value)) => self.metacopy = Some(switch(value).ok_or(wrong(SWITCH))?),
            ("redirect_dir", Some(b"follow" | b"nofollow")) => self.redirect_dir = Some(false),
            ("redirect_dir", Some(value)) => {
                self.redirect_dir = Some(switch(value).ok_or(wrong("must be on, off or follow"))?);
            }
            ("fsync", Some(value)) => self.volatile = !switch(value).ok_or(wrong(SWITCH))?,
            ("noxattrs", value) => self.noxattrs = flag(value).ok_or(wrong(SWITCH))?,
            _ if self.switch_on(name, value) || harmless(name) => {}
            _ if KNOWN.contains(&name) => self.warn(option, NO_EFFECT),
            _ => self.warn(option, UNKNOWN),
        }
        Ok(())
    }

    /// Options that are only there or not.
    fn switch_on(&mut self, name: &str, value: Option<&[u8]>) -> bool {
        if value.is_some() {
            return false;
        }
        let (field, on) = match name {
            "ro" | "rw" => {
                self.read_only = Some(name == "ro");
                return true;
            }
            "suid" | "nosuid" => (&mut self.nosuid, name == "nosuid"),
            "dev" | "nodev" => (&mut self.nodev, name == "nodev"),
            "exec" | "noexec" => (&mut self.noexec, name == "noexec"),
            "atime" | "noatime" => (&mut self.noatime, name == "noatime"),
            "diratime" | "nodiratime" => (&mut self.nodiratime, name == "nodiratime"),
            "strictatime" | "nostrictatime" => (&mut self.strictatime, name == "strictatime"),
            "allow_other" => (&mut self.allow_other, true),
            "default_permissions" => (&mut self.default_permissions, true),
            "noacl" => (&mut self.noacl, true),
            "userxattr" => (&mut self.userxattr, true),
            "as_lower" => (&mut self.as_lower, true),
            "layers" => (&mut self.layers, true),
            "strict" => (&mut self.strict, true),
            "remount" => (&mut self.remount, true),
            _ => return false,
        };
        *field = on;
        true
    }

    fn warn(&mut self, option: &[u8], reason: &'static str) {
        self.warnings.push(Warning {
            option: OsStr::from_bytes(option).into(),
            reason,
        });
    }
}

const EMPTY: &str = "needs a path";
const NOT_UTF8: &str = "needs UTF-8 text";
const NOT_A_NUMBER: &str = "needs a number";
const RANGES: &str = "must be made of ID:ID:LENGTH";
const SWITCH: &str = "must be on or off";

/// Cuts a list at its commas, except those that are escaped or quoted.
fn split(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let list = rest?;
        let (mut escaped, mut quoted) = (false, false);
        let mut previous = b',';
        for (at, &byte) in list.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' if quoted => quoted = false,
                b'"' if previous == b'=' => quoted = true,
                b',' if !quoted => {
                    rest = list.get(at + 1..);
                    return list.get(..at);
                }
                _ => {}
            }
            previous = byte;
        }
        rest = None;
        Some(list)
    })
}

/// What stands between the quotes around a whole value.
fn quoted(value: &[u8]) -> Option<&[u8]> {
    let inner = value.strip_prefix(b"\"")?;
    inner.strip_suffix(b"\"")
}

/// Removes the backslashes, or the quotes around a whole value.
fn plain(value: &[u8]) -> Vec<u8> {
    if let Some(inner) = quoted(value) {
        return inner.to_vec();
    }
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            _ => plain.push(byte),
        }
    }
    plain
}

fn text(value: &[u8]) -> OsString {
    OsString::from_vec(plain(value))
}

fn word(value: &[u8]) -> Option<String> {
    text(value).into_string().ok()
}

fn path(value: &[u8]) -> Option<PathBuf> {
    Some(value)
        .filter(|value| !value.is_empty())
        .map(|value| PathBuf::from(text(value)))
}

/// Reads `top:middle:bottom::data::more-data`.
fn layers(value: &[u8]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), &'static str> {
    // The quotes are for commas; colons are escaped there, too.
    let whole = quoted(value).filter(|inner| !inner.contains(&b'"'));
    let value = whole.unwrap_or(value);
    let (mut lowers, mut data_only) = (Vec::new(), Vec::new());
    let (mut data, mut escaped, mut start) = (false, false, 0);
    let mut pieces = Vec::new();
    for (at, &byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b':' => {
                pieces.push(&value[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&value[start..]);
    let mut after_gap = false;
    for piece in pieces {
        match path(piece) {
            None if after_gap || lowers.is_empty() => return Err("has an empty layer"),
            None => after_gap = true,
            Some(_) if data && !after_gap => return Err("has a layer below data-only layers"),
            Some(path) if after_gap => {
                (data, after_gap) = (true, false);
                data_only.push(path);
            }
            Some(path) => lowers.push(path),
        }
    }
    if after_gap {
        return Err("ends in an empty layer");
    }
    Ok((lowers, data_only))
}

fn number<N: std::str::FromStr>(value: &[u8]) -> Option<N> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn switch(value: &[u8]) -> Option<bool> {
    match value {
        b"on" | b"1" | b"yes" | b"true" => Some(true),
        b"off" | b"0" | b"no" | b"false" => Some(false),
        _ => None,
    }
}

fn flag(value: Option<&[u8]>) -> Option<bool> {
    value.map_or(Some(true), switch)
}

fn ranges(value: &[u8]) -> Option<IdRanges> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> MountOptions {
        MountOptions::parse([list]).unwrap_or_else(|error| panic!("{list}: {error}"))
    }

    fn paths(paths: &[PathBuf]) -> Vec<&[u8]> {
        paths
            .iter()
            .map(|path| path.as_os_str().as_bytes())
            .collect()
    }

    #[test]
    fn regression_a_list_of_lower_directories_may_stand_in_quotes() {
        let options = parse(r#"lowerdir="/a\:b:/c,d::/e,f",upperdir="/u,v",ro"#);
        let lowers: [&[u8]; 2] = [b"/a:b", b"/c,d"];
        assert_eq!(paths(&options.lowers), lowers);
        assert_eq!(paths(&options.data_only), [b"/e,f"]);
        assert_eq!(options.upper, Some("/u,v".into()));
        assert_eq!(options.read_only, Some(true));
        let each: [&[u8]; 2] = [b"/a", b"/b"];
        assert_eq!(paths(&parse(r#"lowerdir="/a":"/b",ro"#).lowers), each);
    }

    #[test]
    fn lower_directories_are_cut_at_colons_that_are_not_escaped() {
        let options = parse(r"lowerdir=/a:/b\:c:/d\,e:/f\\::/data::/more");
        let lowers: [&[u8]; 4] = [b"/a", b"/b:c", b"/d,e", b"/f\\"];
        assert_eq!(paths(&options.lowers), lowers);
        let data: [&[u8]; 2] = [b"/data", b"/more"];
        assert_eq!(paths(&options.data_only), data);
    }

    #[test]
    fn what_podman_passes_is_read() {
        let options = parse(
            "metacopy=on,lowerdir=/l/A:/l/B/../diff2,upperdir=/u,workdir=/w,volatile,\
             context=\"system_u:object_r:container_file_t:s0:c1,c2\",\
             uidmapping=0:1000:1:1:100000:65536,gidmapping=0:1000:1,xattr_permissions=2",
        );
        assert_eq!(options.warnings, []);
        let context = "system_u:object_r:container_file_t:s0:c1,c2";
        assert_eq!(options.context.as_deref(), Some(OsStr::new(context)));
        assert_eq!(options.ids.users.shown(3), 100_002);
        assert_eq!(options.xattr_permissions, 2);
        assert!(options.volatile && options.metacopy == Some(true));
        assert_eq!(options.upper, Some("/u".into()));
    }

    #[test]
    fn what_fstab_and_the_helpers_pass_is_quietly_taken() {
        let options = parse(
            "rw,dev,suid,defaults,user,noauto,nofail,_netdev,x-systemd.automount,comment=hi,\
             threaded=0,fast_ino=1,subtype=x,relatime",
        );
        assert_eq!(options.warnings, []);
        assert_eq!(options.read_only, Some(false));
    }

    #[test]
    fn later_options_win() {
        let options = MountOptions::parse(["ro,nosuid,nodev", "suid,rw,dev"]).unwrap();
        assert_eq!(options, parse("rw"));
    }

    #[test]
    fn unknown_options_warn_or_fail() {
        let options = parse("wobble=1,xino=auto,ro");
        assert_eq!(options.warnings.len(), 2);
        let error = MountOptions::parse(["wobble", "strict"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "option 'wobble' is not known and has no effect"
        );
    }

    #[test]
    fn wrong_values_are_errors() {
        for list in [
            "data=fast",
            "lowerdir=",
            "lowerdir=/a:",
            "lowerdir=:/a",
            "lowerdir=/a::/b:/c",
            "lowerdir=/a:::/b",
            "upperdir=",
            "uidmapping=1:2",
            "gidmapping=a:b:c",
            "squash_to_uid=root",
            "stack_depth=3",
            "metacopy=perhaps",
            "xattr_permissions=3",
            "snapshot=last",
            "writable=fast",
        ] {
            assert!(MountOptions::parse([list]).is_err(), "{list}");
        }
    }

    #[test]
    fn what_is_printed_is_read_the_same() {
        let odd = OsStr::from_bytes(b"/\xff,:\\\"=x");
        let options = MountOptions {
            lowers: vec![odd.into(), "/b".into()],
            data_only: vec!["/d:d".into()],
            upper: Some(odd.into()),
            work: Some("\"/w\"".into()),
            source: Some("\"quoted, twice\"".into()),
            context: Some("a,b".into()),
            data: DataMode::Cached,
            stack_depth: Some(2),
            ids: IdMap {
                users: "0:1:2:3:4:5".parse().unwrap(),
                squash_to_gid: Some(7),
                squash_to_root: true,
                ..IdMap::default()
            },
            read_only: Some(true),
            redirect_dir: Some(false),
            noxattrs: true,
            volatile: true,
            platform: Some("linux/arm64".into()),
            root: Some("/store".into()),
            name: Some("web".into()),
            writable: WritableLayer::Auto,
            manifest: Some("sha256:00".into()),
            snapshot: Some(1 << 40),
            ..MountOptions::default()
        };
        let printed = options.print();
        assert_eq!(
            MountOptions::parse([&printed]),
            Ok(options),
            "{}",
            printed.display()
        );
    }
}
