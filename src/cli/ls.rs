//! `plyfs ls`

use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde::Serialize;

use super::failure::{Failure, each};
use super::path::ImagePath;
use super::{Global, Result, complete, output};
use crate::layer::FileKind;
use crate::oci::Platform;
use crate::union::{Attributes, Union};

/// List files of an image, without mounting it
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs ls alpine
  plyfs ls -lR alpine:/etc
  plyfs ls --json debian:/usr/bin")]
pub struct Ls {
    /// What to list; the root of the image without a path
    #[arg(required = true, value_name = "IMAGE[:/PATH]", add = complete::images())]
    paths: Vec<OsString>,
    /// Modes, links, owners, sizes, times (UTC) and link targets
    #[arg(short)]
    long: bool,
    /// Directories with all that is below them
    #[arg(short = 'R', long)]
    recursive: bool,
    /// A JSON object for each entry
    #[arg(long)]
    json: bool,
    /// The platform, of an image that is stored for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

/// An entry in JSON. What is not UTF-8 is shown with `\xNN` in it, and exactly in base64 beside that.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    kind: &'static str,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: [i64; 2],
    inode: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a (u32, u32)>,
}

/// Something to be listed.
type Item = (Vec<u8>, Attributes);

impl Ls {
    pub fn run(self, global: &Global) -> Result<()> {
        let mut out = BufWriter::new(std::io::stdout().lock());
        let several = self.paths.len() > 1;
        let listed = each(&self.paths, |path| {
            let path = ImagePath::parse(path)?;
            // As ls does: a link that is named is shown with -l and followed without.
            let follow = !self.long || path.path.ends_with(b"/");
            let (union, attributes) = path.open(global, self.platform.as_ref(), "ls", follow)?;
            let listing = Listing {
                verb: &self,
                union: &union,
                cannot: format!("cannot list {}", path.display()),
            };
            if attributes.kind == FileKind::Directory {
                listing.directory(&mut out, &path.path, attributes, several || self.recursive)?;
            } else {
                listing.items(&mut out, b"", vec![(path.path.clone(), attributes)])?;
            }
            Ok(())
        });
        let flushed = out.flush().map_err(output::failed);
        listed.and(flushed)
    }
}

struct Listing<'a> {
    verb: &'a Ls,
    union: &'a Union,
    cannot: String,
}

impl Listing<'_> {
    fn failed(&self, error: crate::union::Error) -> Failure {
        Failure::new(&self.cannot, error)
    }

    fn directory(
        &self,
        out: &mut impl Write,
        path: &[u8],
        directory: Attributes,
        with_title: bool,
    ) -> Result<()> {
        let mut pending = vec![(path.to_vec(), directory)];
        let mut first = true;
        while let Some((path, directory)) = pending.pop() {
            if with_title && !self.verb.json {
                let blank: &[u8] = if first { b"" } else { b"\n" };
                let title = [blank, &output::name(&path), b":\n"].concat();
                out.write_all(&title).map_err(output::failed)?;
            }
            first = false;
            let mut items: Vec<Item> = Vec::new();
            self.union
                .list_with_attributes(directory.node, 2, &mut |listed, attributes| {
                    items.push((listed.name.to_vec(), *attributes));
                    ControlFlow::Continue(())
                })
                .map_err(|error| self.failed(error))?;
            if self.verb.recursive {
                let below = items.iter().rev();
                pending.extend(
                    below
                        .filter(|(_, attributes)| attributes.kind == FileKind::Directory)
                        .map(|(name, attributes)| (join(&path, name), *attributes)),
                );
            }
            self.items(out, &path, items)?;
        }
        Ok(())
    }

    fn items(&self, out: &mut impl Write, directory: &[u8], items: Vec<Item>) -> Result<()> {
        let mut widths = [0; 4];
        if self.verb.long {
            for (_, attributes) in &items {
                for (width, cell) in widths.iter_mut().zip(cells(attributes)) {
                    *width = (*width).max(cell.len());
                }
            }
        }
        for (name, attributes) in items {
            let target = match attributes.kind {
                FileKind::Symlink if self.verb.long || self.verb.json => Some(
                    self.union
                        .read_link(attributes.node)
                        .map_err(|error| self.failed(error))?,
                ),
                _ => None,
            };
            if self.verb.json {
                let path = if directory.is_empty() {
                    name
                } else {
                    join(directory, &name)
                };
                let line = json_line(&path, &attributes, target.as_deref());
                serde_json::to_writer(&mut *out, &line)
                    .map_err(|error| output::failed(error.into()))?;
                out.write_all(b"\n").map_err(output::failed)?;
                continue;
            }
            let mut line = Vec::new();
            if self.verb.long {
                line.extend_from_slice(mode_string(&attributes).as_bytes());
                for (width, cell) in widths.iter().zip(cells(&attributes)) {
                    line.extend_from_slice(format!(" {cell:>width$}").as_bytes());
                }
                let moment = output::moment(attributes.mtime.seconds);
                line.extend_from_slice(format!(" {moment} ").as_bytes());
            }
            line.extend_from_slice(&output::name(&name));
            if let Some(target) = target {
                line.extend_from_slice(b" -> ");
                line.extend_from_slice(&output::name(&target));
            }
            line.push(b'\n');
            out.write_all(&line).map_err(output::failed)?;
        }
        Ok(())
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
    [directory, separator, name].concat()
}

/// Links, owner, group, and size or device.
fn cells(attributes: &Attributes) -> [String; 4] {
    let last = match attributes.kind {
        FileKind::CharDevice | FileKind::BlockDevice => {
            format!("{},{}", attributes.device.0, attributes.device.1)
        }
        _ => attributes.size.to_string(),
    };
    [
        attributes.nlink.to_string(),
        attributes.uid.to_string(),
        attributes.gid.to_string(),
        last,
    ]
}

fn mode_string(attributes: &Attributes) -> String {
    let kind = match attributes.kind {
        FileKind::Directory => 'd',
        FileKind::Regular => '-',
        FileKind::Symlink => 'l',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    };
    let mode = attributes.permissions;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn json_line<'a>(path: &[u8], attributes: &'a Attributes, target: Option<&[u8]>) -> Line<'a> {
    let device = matches!(
        attributes.kind,
        FileKind::CharDevice | FileKind::BlockDevice
    );
    Line {
        path: text(path),
        path_base64: exact(path),
        kind: match attributes.kind {
            FileKind::Directory => "directory",
            FileKind::Regular => "file",
            FileKind::Symlink => "symlink",
            FileKind::CharDevice => "char",
            FileKind::BlockDevice => "block",
            FileKind::Fifo => "fifo",
            FileKind::Socket => "socket",
        },
        mode: format!("{:04o}", attributes.permissions),
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        size: attributes.size,
        mtime: [
            attributes.mtime.seconds,
            i64::from(attributes.mtime.nanoseconds),
        ],
        inode: attributes.node.0,
        target: target.map(text),
        target_base64: target.and_then(exact),
        device: device.then_some(&attributes.device),
    }
}

fn text(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// The bytes that [`text`] does not tell.
fn exact(bytes: &[u8]) -> Option<String> {
    let is_text = str::from_utf8(bytes).is_ok();
    (!is_text).then(|| BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Timestamp;
    use crate::union::NodeNumber;

    #[test]
    fn modes_are_those_of_ls() {
        let time = Timestamp::default();
        for (kind, permissions, expected) in [
            (FileKind::Regular, 0o4755, "-rwsr-xr-x"),
            (FileKind::Regular, 0o4644, "-rwSr--r--"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::Directory, 0o2770, "drwxrws---"),
            (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
        ] {
            let attributes = Attributes {
                node: NodeNumber::ROOT,
                ino: 1,
                generation: 0,
                kind,
                permissions,
                nlink: 1,
                uid: 0,
                gid: 0,
                device: (0, 0),
                size: 0,
                blocks: 0,
                atime: time,
                mtime: time,
                ctime: time,
            };
            assert_eq!(mode_string(&attributes), expected);
        }
    }
}
