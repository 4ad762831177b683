//! What ordinary programs make of a mount, compared with a plain directory: root and ordinary users.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::fixture::Lab;
use crate::support::{Need, User, command_as, is_root, require, succeed, temp_dir};
use crate::writable::{Writable, fingerprint};

/// A tree like that of an image: programs, configuration, links, odd names, attributes.
fn image_like(root: &Path) {
    for directory in [
        "etc/opt",
        "usr/bin",
        "usr/lib/deep/er",
        "var/tmp",
        "srv/\u{fc}",
    ] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for number in 0..60 {
        let text = format!("{number}\n").repeat(number * 11);
        fs::write(root.join(format!("usr/lib/deep/{number}")), text).unwrap();
    }
    fs::write(root.join("etc/shadow"), "secret").unwrap();
    fs::write(root.join("usr/bin/tool"), "#!/bin/sh\n").unwrap();
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/alias")).unwrap();
    symlink("../etc", root.join("usr/etc")).unwrap();
    fs::write(root.join("srv/\u{fc}/a b\nc"), "odd").unwrap();
    let sparse = fs::File::create(root.join("var/sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    succeed(
        Command::new("setfattr")
            .args(["-n", "user.note", "-v", "kept"])
            .arg(root.join("etc")),
    );
    for (path, mode) in [
        ("var/tmp", 0o1777),
        ("usr/bin/tool", 0o4755),
        ("etc/shadow", 0o640),
    ] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Makes all that is below `root` old: rsync does not set a time that differs by less than a second.
fn age(root: &Path) {
    let mut find = Command::new("find");
    find.arg(root).args([
        "-depth",
        "-exec",
        "touch",
        "-h",
        "-d",
        "2020-02-03 04:05:06.789",
        "{}",
        "+",
    ]);
    succeed(&mut find);
}

/// Runs a script as `user` with the mount in `$M`, the tree it shows in `$L`, and room in `$T`.
fn script(user: User, mount: &Path, lower: &Path, text: &str) -> String {
    let room = temp_dir();
    if user == User::Plain && is_root() {
        std::os::unix::fs::chown(room.path(), Some(65534), Some(65534)).unwrap();
    }
    let mut command = command_as(user, "sh");
    command.args(["-euc", text]).current_dir("/");
    command
        .env("M", mount)
        .env("L", lower)
        .env("T", room.path());
    command
        .env("LC_ALL", "C.UTF-8")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    String::from_utf8(succeed(&mut command).stdout).unwrap()
}

/// Each program sees in `$M` what it sees in `$L`.
const READERS: &str = r#"
    df "$M" | tail -1 | grep -q " $M\$"
    test "$(df --output=fstype "$M" | tail -1)" = fuse.plyfs
    stat -f -c '%l %s' "$M" | grep -q '^255 '
    list() { (cd "$1" && find . -mindepth 1 ! -type d -printf '%P %y %m %s %T@ %n %l\0' | sort -z; \
              cd "$1" && find . -mindepth 1 -type d -printf '%P %m %T@\0' | sort -z; \
              cd "$1" && find . -type f -exec sha1sum {} + | sort) | tr '\0' '\n'; }
    list "$M" > "$T/m"; list "$L" > "$T/l"; diff "$T/m" "$T/l"
    (cd "$M" && getfattr -R -h -d -m 'user\.' . 2>/dev/null | grep -v override || true) > "$T/m"
    (cd "$L" && getfattr -R -h -d -m 'user\.' .) > "$T/l"; grep -q note "$T/m"; cmp "$T/m" "$T/l"
    getfattr -R -h -d -m - "$M" >/dev/null
    tar --xattrs --sort=name --numeric-owner -C "$M" -cf "$T/m" .
    tar -df "$T/m" -C "$L"
    rsync -aHAX "$M/" "$T/copy"
    rsync -aHAXin "$M/" "$T/copy" > "$T/changes"; cat "$T/changes"; test ! -s "$T/changes"
    list "$T/copy" > "$T/m"; list "$L" > "$T/l"; diff "$T/m" "$T/l"
    test "$(stat -c %i "$M/usr/bin/tool")" = "$(stat -c %i "$M/usr/bin/alias")"
"#;

#[test]
fn programs_read_an_image_like_a_disk() {
    for user in [User::Same, User::Plain] {
        if !require(&[
            Need::Fuse,
            Need::PlainUser,
            Need::Program("rsync"),
            Need::Program("git"),
        ]) {
            return;
        }
        let source = temp_dir();
        image_like(source.path());
        if is_root() {
            // An ordinary user sees true owners in a mount; what he copies becomes his own.
            let owner = if user == User::Plain {
                "65534:65534"
            } else {
                "0:0"
            };
            succeed(
                Command::new("chown")
                    .args(["-Rh", owner])
                    .arg(source.path()),
            );
            let tool = source.path().join("usr/bin/tool");
            fs::set_permissions(tool, fs::Permissions::from_mode(0o4755)).unwrap();
        }
        succeed(
            command_as(user, "git")
                .args(["init", "-q"])
                .arg(source.path().join("srv/repo")),
        );
        age(source.path());
        let lab = Lab::with(user, source);
        let mount = lab.mount(&[]);
        // What may be where others mount is none of ours: the import is an archive of this tree.
        script(user, mount.path(), lab.source.path(), READERS);
        let said = script(
            user,
            mount.path(),
            lab.source.path(),
            "git -c safe.directory='*' -C \"$M/srv/repo\" status --short --branch",
        );
        assert!(said.contains("No commits yet"), "{said}");
        mount.unmount();
    }
}

#[test]
fn programs_read_a_writable_union_like_a_disk() {
    for user in [User::Same, User::Plain] {
        let needs = [Need::Fuse, Need::PlainUser, Need::Program("rsync")];
        if !require(&needs) || (user == User::Same && !is_root()) {
            return;
        }
        let union = Writable::of(user);
        image_like(&union.lower());
        if is_root() && user == User::Plain {
            succeed(
                Command::new("chown")
                    .args(["-Rh", "65534:65534"])
                    .arg(union.lower()),
            );
        }
        age(&union.lower());
        let before = fingerprint(&union.lower());
        let mount = union.mount(&[]);
        script(user, mount.path(), &union.lower(), READERS);
        mount.unmount();
        assert_eq!(before, fingerprint(&union.lower()));
    }
}

#[test]
fn git_and_rsync_work_in_a_writable_union() {
    for user in [User::Same, User::Plain] {
        let needs = [
            Need::Fuse,
            Need::PlainUser,
            Need::Program("rsync"),
            Need::Program("git"),
        ];
        if !require(&needs) || (user == User::Same && !is_root()) {
            return;
        }
        let union = Writable::of(user);
        let mount = union.mount(&[]);
        let from = temp_dir();
        image_like(from.path());
        if is_root() && user == User::Plain {
            succeed(
                Command::new("chown")
                    .args(["-Rh", "65534:65534"])
                    .arg(from.path()),
            );
        }
        let said = script(
            user,
            mount.path(),
            from.path(),
            r#"
            rsync -aHAX "$L/" "$M/copy"
            rsync -aHAXi "$L/" "$M/copy"
            cd "$M"; export HOME="$T"
            git init -q repo; cd repo
            git config user.email a@example.org; git config user.name a
            cp -r ../dir .; git add .; git commit -qm first; git status --short
            git mv dir moved; git commit -qam second; rm -rf moved; git checkout -q .
            git fsck --strict 2>&1; git status --short; git log --oneline | wc -l; cat moved/file
            "#,
        );
        assert_eq!(said, "2\nfile\n", "{user:?}");
        mount.unmount();
    }
}
