//! Where the store under test lies: always made again as it was before, and perhaps on a disk that loses
//! what was not synced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::succeed;

/// File systems on which power is lost, with the options that leave most to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// As it is by default.
    Ext4,
    /// Without what it does for programs that forget to sync.
    Ext4Careless,
    Xfs,
    Btrfs,
}

impl Disk {
    /// The program that makes it.
    pub fn program(self) -> &'static str {
        match self {
            Disk::Ext4 | Disk::Ext4Careless => "mkfs.ext4",
            Disk::Xfs => "mkfs.xfs",
            Disk::Btrfs => "mkfs.btrfs",
        }
    }

    /// Arguments of that program, options of the mount, and a size in MiB.
    fn traits(self) -> (&'static [&'static str], &'static str, u64) {
        let ext4: &[&str] = &["-q", "-F", "-m", "0", "-J", "size=4"];
        match self {
            // Nothing is committed by time.
            Disk::Ext4 => (ext4, "loop,commit=600", 40),
            Disk::Ext4Careless => {
                let options = "loop,commit=600,data=writeback,noauto_da_alloc";
                (ext4, options, 40)
            }
            Disk::Xfs => (&["-q", "-f"], "loop", 320),
            Disk::Btrfs => (&["-q", "-f", "-M"], "loop,commit=300", 128),
        }
    }
}

/// A directory that is made again as it was.
pub struct Ground {
    base: PathBuf,
    disk: Option<Disk>,
}

impl Ground {
    /// An empty one in `base`; on a disk of its own, if one is named, that loses what is not synced.
    pub fn new(base: &Path, disk: Option<Disk>) -> Ground {
        let ground = Ground {
            base: base.to_owned(),
            disk,
        };
        fs::create_dir(ground.work()).unwrap();
        if let Some(disk) = disk {
            let (args, _, megabytes) = disk.traits();
            let image = fs::File::create(ground.image("now")).unwrap();
            image.set_len(megabytes << 20).unwrap();
            let mut mkfs = Command::new(disk.program());
            succeed(mkfs.args(args).arg(ground.image("now")));
            ground.mount();
        }
        ground
    }

    /// The directory.
    pub fn work(&self) -> PathBuf {
        self.base.join("work")
    }

    fn image(&self, name: &str) -> PathBuf {
        self.base.join(format!("{name}.img"))
    }

    /// As it is now it will be made again.
    pub fn keep(&self) {
        match self.disk {
            None => copy(&self.work(), &self.base.join("before")),
            Some(_) => {
                self.umount();
                copy(&self.image("now"), &self.image("before"));
                self.mount();
            }
        }
    }

    /// Makes it again as it was kept.
    pub fn reset(&self) {
        match self.disk {
            None => {
                fs::remove_dir_all(self.work()).unwrap();
                copy(&self.base.join("before"), &self.work());
            }
            Some(_) => {
                self.umount();
                copy(&self.image("before"), &self.image("now"));
                self.mount();
            }
        }
    }

    /// Whether it can lose power.
    pub fn loses_power(&self) -> bool {
        self.disk.is_some()
    }

    /// Power is lost, and comes back. Before that another program has synced a file of its own, if `committed`:
    /// thereby the journal has what was done, but files may lack their contents.
    pub fn lose_power(&self, committed: bool) {
        if committed {
            let other = self.work().join("other");
            fs::File::create(other).unwrap().sync_all().unwrap();
        }
        // What has come to the disk is all that its image has.
        copy(&self.image("now"), &self.image("lost"));
        self.umount();
        fs::rename(self.image("lost"), self.image("now")).unwrap();
        self.mount();
    }

    fn mount(&self) {
        let options = self.disk.map(|disk| disk.traits().1);
        let mut mount = Command::new("mount");
        mount.args(["-o", options.unwrap_or_default()]);
        succeed(mount.arg(self.image("now")).arg(self.work()));
    }

    fn umount(&self) {
        succeed(Command::new("umount").arg(self.work()));
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.disk.is_some() {
            let unmounted = Command::new("umount").arg("-l").arg(self.work()).status();
            if !unmounted.as_ref().is_ok_and(|status| status.success()) {
                eprintln!("{}: {unmounted:?}", self.work().display());
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    succeed(
        copy.args(["-aT", "--sparse=always", "--remove-destination"])
            .arg(from)
            .arg(to),
    );
}
