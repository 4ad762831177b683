//! Ways out of the root that other unpackers have been caught with, under the names that
//! containerd and umoci give their tests.

use super::archive::Archive;
use super::plyfs::pack::Problem;
use super::{contained, problem};

fn new() -> Archive {
    Archive::new().dir("etc/").file("etc/passwd", "ours")
}

macro_rules! contained {
    ($($name:ident: $archive:expr => [$($line:literal),* $(,)?];)*) => {
        $(#[test]
        fn $name() {
            let tree = super::World::new().pack(&$archive.end(), &Default::default());
            let mut tree = tree.unwrap();
            tree.sort();
            let mut expected = vec![$($line),*];
            expected.push("d etc");
            if !expected.iter().any(|line| line[1..].starts_with(" etc/passwd")) {
                expected.push("f etc/passwd=ours");
            }
            expected.sort_unstable();
            assert_eq!(tree, expected);
        })*
    };
}

contained! {
    symlink_absolute: new().symlink("localetc", "/etc").file("/localetc/unbroken", "x")
        => ["l localetc -> /etc", "@f localetc/unbroken=x"];
    symlink_up_and_out: new().dir("dir").symlink("dir/up", "../../../../etc").file("dir/up/passwd", "evil")
        => ["d dir", "l dir/up -> ../../../../etc", "@f dir/up/passwd=evil"];
    symlink_multiple_absolute: new().symlink("a", "/b").symlink("b", "/etc").file("a/evil", "x")
        => ["l a -> /b", "l b -> /etc", "@f a/evil=x"];
    symlink_multiple_relative: new().symlink("a", "../b").symlink("b", "../../etc").file("a/evil", "x")
        => ["l a -> ../b", "l b -> ../../etc", "@f a/evil=x"];
    symlink_empty_file: new().symlink("empty", "../../etc/empty").file("empty", "")
        => ["f empty="];
    symlink_override_file: new().symlink("evil", "../../passwd").file("evil", "ours")
        => ["f evil=ours"];
    symlink_loop: new().symlink("a", "b").symlink("b", "a").file("a/b/a/f", "x")
        => ["l a -> b", "l b -> a", "@f a/b/a/f=x"];
    hardlink_relative: new().link("breakouts", "../../../etc/passwd")
        => ["f breakouts=ours", "= etc/passwd breakouts"];
    hardlink_relative_long: new().link("breakouts", "../../../../../../../../../../../../../../../etc/passwd")
        => ["f breakouts=ours", "= etc/passwd breakouts"];
    hardlink_down_and_out: new().dir("down").link("down/out", "down/../../../../etc/passwd")
        => ["d down", "f down/out=ours", "= etc/passwd down/out"];
    hardlink_relative_up_and_out: new().link("breakouts", "../passwd")
        => ["h breakouts -> passwd"];
    hardlink_absolute: new().link("localpasswd", "/etc/passwd")
        => ["= localpasswd etc/passwd"];
    hardlink_direct_relative: new().link("../../passwd", "../../../etc/passwd")
        => ["= passwd etc/passwd"];
    hardlink_direct_absolute: new().link("/etc/../../passwd", "/etc/passwd")
        => ["= passwd etc/passwd"];
    hardlink_through_symlink: new().symlink("out", "../../..").link("evil", "out/etc/passwd")
        => ["l out -> ../../..", "h evil -> out/etc/passwd"];
    hardlink_over_symlink_parent: new().symlink("out", "/").link("out/evil", "etc/passwd")
        => ["l out -> /", "@= out/evil etc/passwd"];
    hardlink_symlink_before_create_target: new().symlink("l", "/etc/later").link("m", "l").file("m", "x").file("etc/later", "y")
        => ["f etc/later=y", "l l -> /etc/later", "f m=x"];
    hardlink_symlink_relative: new().symlink("l", "../../etc/passwd").link("m", "l").file("m/f", "x")
        => ["l l -> ../../etc/passwd", "= m l", "@f m/f=x"];
    hardlink_symlink_absolute: new().symlink("l", "/etc/passwd").link("m", "l")
        => ["l l -> /etc/passwd", "= m l"];
    hardlink_symlink_chmod: new().symlink("l", "/etc/passwd").link("m", "l").file("n", "x")
        => ["l l -> /etc/passwd", "= m l", "f n=x"];
    hardlink_overwrites_content: new().link("etc/shadow", "../../passwd").file("etc/shadow", "evil")
        => ["f etc/shadow=evil"];
    symlink_parent_directory: new().symlink("dir", "..").file("dir/evil", "x")
        => ["l dir -> ..", "@f dir/evil=x"];
    symlink_parent_relative: new().dir("dir").symlink("dir/up", "../..").file("dir/up/../evil", "x")
        => ["d dir", "l dir/up -> ../..", "f dir/evil=x"];
    symlink_slash_ended: new().symlink("evil/", "/etc").file("evil/passwd", "x")
        => ["l evil -> /etc", "@f evil/passwd=x"];
    symlink_override_directory: new().dir("d").file("d/f", "").symlink("d", "/etc").file("d/passwd", "x")
        => ["l d -> /etc", "@f d/passwd=x"];
    symlink_override_directory_relative: new().dir("d").symlink("d", "../../etc").dir("d/sub")
        => ["l d -> ../../etc", "@d d/sub"];
    symlink_override_path: new().file("a/b/c", "1").symlink("a/b", "/etc").file("a/b/passwd", "2")
        => ["d? a", "l a/b -> /etc", "@f a/b/passwd=2"];
    directory_override_symlink: new().symlink("d", "../../etc").dir("d").file("d/passwd", "x")
        => ["d! d", "f d/passwd=x"];
    directory_override_symlink_and_hardlink: new().symlink("d", "/etc").link("e", "d").dir("d").file("d/f", "x")
        => ["d! d", "f d/f=x", "l e -> /etc"];
    non_directory_parent: new().file("etc/passwd/evil", "x").file("etc/passwd", "ours")
        => [];
    directory_creation: new().dir("/../../outside/").dir("a/b/../../../../c/")
        => ["d outside", "d c"];
    whiteout_root: new().file(".wh.etc2", "").file("/.wh.usr", "").file("../../.wh.var", "")
        => ["w etc2", "w usr", "w var"];
    whiteout_parent: new().file("etc/../.wh.passwd", "")
        => ["w passwd"];
    whiteout_relative_path: new().file("dir/../../../.wh.store", "")
        => ["w store"];
    whiteout_symlink: new().symlink("l", "../../etc").file(".wh.l", "")
        => ["l l -> ../../etc"];
    whiteout_symlink_path: new().symlink("l", "../../../etc").file("l/.wh.passwd", "")
        => ["l l -> ../../../etc", "@w l/passwd"];
    whiteout_directory_name: new().dir(".wh.dir/").file(".wh.other/f", "x")
        => ["w dir", "d? .wh.other", "f .wh.other/f=x"];
    whiteout_dead_symlink_parent: new().symlink("dead", "/nowhere").file("dead/.wh.f", "")
        => ["l dead -> /nowhere", "@w dead/f"];
    whiteout_symlink_is_no_link: new().symlink(".wh.passwd", "/etc/passwd").link(".wh.group", "etc/passwd")
        => ["w passwd", "w group"];
    opaque_through_symlink: new().symlink("l", "../../..").file("l/.wh..wh..opq", "")
        => ["l l -> ../../..", "@! l"];
    opaque_above_the_root: new().file("sub/../../../.wh..wh..opq", "")
        => ["d! "];
    aufs_metadata: new().dir(".wh..wh.plnk").file("etc/.wh..wh.orph/passwd", "x").symlink(".wh..wh.aufs", "/etc")
        => [];
    a_name_of_ours: new().file("pack", "evil").dir("files").file("files/0", "evil").symlink("files/1", "/etc/passwd")
        => ["f pack=evil", "d files", "f files/0=evil", "l files/1 -> /etc/passwd"];
    devices: new().entry(b'4', b"dev/sda", b"", b"", &|block| block[335] = b'7').entry(b'3', b"dev/zero", b"", b"", &|_| ())
        => ["d? dev", "b dev/sda 7:0", "c dev/zero 0:0"];
    long_names_mislead: new().gnu_long(b'L', b"../../../../etc/passwd").gnu_long(b'K', b"/etc/shadow").symlink("innocent", "x")
        => ["l etc/passwd -> /etc/shadow"];
}

#[test]
fn long_names_replace_what_was_there() {
    let archive = new()
        .gnu_long(b'L', b"../../../../etc/passwd")
        .file("innocent", "evil");
    contained(archive, &["d etc", "f etc/passwd=evil"]);
}

#[test]
fn roots_that_are_no_directories() {
    // The root of the layer as a symbolic link made umoci unpack through it.
    for path in [
        "/",
        "/.",
        "/../",
        "/../../../../",
        "/./.././",
        "..",
        ".",
        "a/..",
        "",
    ] {
        assert_eq!(
            problem(Archive::new().symlink(path, "/etc")),
            Problem::Root,
            "{path}"
        );
        assert_eq!(
            problem(Archive::new().file(path, "x")),
            Problem::Root,
            "{path}"
        );
        contained(Archive::new().dir(path), &[]);
    }
}

#[test]
fn hard_links_to_directories() {
    for target in ["etc", "/", "..", "../../..", "etc/", ""] {
        let problem = problem(new().link("breakout", target));
        assert!(
            matches!(problem, Problem::HardLink { .. }),
            "{target}: {problem}"
        );
    }
}

#[test]
fn whiteouts_of_dots() {
    // "WhiteoutRootParent" and "WhiteoutCurrentDirectory" of containerd.
    for path in [
        "etc/.wh..",
        "etc/.wh...",
        ".wh..",
        ".wh...",
        ".wh.",
        "etc/.wh./",
        "/.wh../",
    ] {
        assert_eq!(problem(new().file(path, "")), Problem::Whiteout, "{path}");
    }
}

#[test]
fn symlink_without_target() {
    assert_eq!(problem(new().symlink("l", "")), Problem::EmptyTarget);
}
