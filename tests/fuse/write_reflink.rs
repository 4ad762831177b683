//! Copying up where the file system can share data.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, umount2};

use crate::support::{Need, Store, require, succeed, temp_dir, text};
use crate::writable::WAYS;

const SIZE: usize = 24 << 20;

/// The extents of a file, as filefrag(8) lists them, after all was written.
fn extents(path: &Path) -> String {
    text(&succeed(
        Command::new("filefrag").args(["-s", "-v"]).arg(path),
    ))
}

#[test]
fn appending_to_a_large_lower_file_shares_its_data() {
    let programs = ["mkfs.btrfs", "filefrag", "mount"].map(Need::Program);
    if !require(&[Need::Fuse, Need::Root]) || !require(&programs) {
        return;
    }
    for way in WAYS {
        let (directory, store) = (temp_dir(), Store::new());
        let (image, disk) = (
            directory.path().join("image"),
            directory.path().join("disk"),
        );
        fs::File::create(&image)
            .unwrap()
            .set_len(300 << 20)
            .unwrap();
        succeed(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        fs::create_dir(&disk).unwrap();
        let mut mount = Command::new("mount");
        succeed(mount.args(["-o", "loop"]).args([&image, &disk]));
        for name in ["lower", "upper", "work"] {
            fs::create_dir(disk.join(name)).unwrap();
        }
        let content: Vec<u8> = (0..SIZE).map(|at| (at / 4096) as u8).collect();
        fs::write(disk.join("lower/large"), &content).unwrap();
        assert!(
            !extents(&disk.join("lower/large")).contains("shared"),
            "{way}"
        );

        let at = disk.display();
        let options = format!("lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work,{way}");
        let guard = store.guard();
        let mut command = store.command(["mount", "-o", &options]);
        succeed(command.arg(guard.path()));
        let file = fs::OpenOptions::new()
            .append(true)
            .open(guard.path().join("large"));
        file.unwrap().write_all(b"!").unwrap();
        guard.unmount();

        let list = extents(&disk.join("upper/large"));
        let kept = fs::read(disk.join("lower/large")).unwrap() == content;
        let appended = fs::read(disk.join("upper/large")).unwrap();
        umount2(&disk, MntFlags::MNT_DETACH).unwrap();
        assert!(kept && appended == [&content[..], b"!"].concat(), "{way}");
        let own = list.lines().filter(|line| {
            line.trim()
                .starts_with(|first: char| first.is_ascii_digit())
        });
        let own: Vec<_> = own.filter(|line| !line.contains("shared")).collect();
        assert!(list.contains("shared") && own.len() <= 1, "{way}: {list}");
    }
}
