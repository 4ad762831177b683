//! What people are told: which argument was wrong, and what they may have meant.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use super::support::{
    Need, Registry, Store, fail, odd_image, plyfs_program, require, succeed, temp_dir,
};
use super::{archive, import, import_from, layout};

#[test]
fn regression_paths_and_names_that_were_nearly_right() {
    let store = Store::new();
    import(&store, "debian:1", b"x");
    import(&store, "debian", b"x");
    for (arguments, hint) in [
        (["ls", "debian/etc"], "plyfs ls debian:/etc"),
        (["ls", "debian:etc"], "plyfs ls debian:/etc"),
        (["cat", "debian:1/file"], "plyfs cat debian:1:/file"),
        (["ls", "debain"], "plyfs ls debian"),
    ] {
        let said = store.fails(1, arguments);
        assert!(said.contains(&format!("hint: {hint}")), "{said}");
    }
    let said = store.fails(1, ["ls", "debian:2"]);
    assert!(said.contains("the store, which has debian:1"), "{said}");
    let said = store.fails(1, ["ls", "nothing/like/it"]);
    assert!(said.contains("hint: plyfs pull nothing/like/it"), "{said}");
}

#[test]
fn regression_what_is_no_file_is_not_printed() {
    if !require(&[Need::Root, Need::Program("mknod")]) {
        return;
    }
    let (store, tree) = (Store::new(), temp_dir());
    fs::create_dir(tree.path().join("d")).unwrap();
    let device = tree.path().join("null");
    let mut mknod = Command::new("mknod");
    succeed(mknod.arg(device).args(["c", "1", "3"]));
    import_from(&store, tree.path(), "odd:1");
    let said = store.fails(1, ["cat", "odd:1:/d"]);
    assert!(said.contains("it is a directory"), "{said}");
    let said = store.fails(1, ["cat", "odd:1:/null"]);
    assert!(said.contains("it is not a regular file"), "{said}");
}

#[test]
fn regression_several_arguments_go_on_after_one_that_failed() {
    let store = Store::new();
    import(&store, "a:1", b"first");
    import(&store, "b:1", b"second");
    for (arguments, expected) in [
        (
            &["cat", "a:1:/file", "a:1:/no", "b:1:/file"][..],
            "firstsecond",
        ),
        (&["ls", "no:1", "a:1"], "file"),
        (&["image", "inspect", "no:1", "b:1"], "b:1"),
        (&["image", "rm", "a:1", "no:1", "b:1"], "Untagged: b:1"),
    ] {
        let output = store.command(arguments).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
        assert_eq!(said.matches("plyfs: ").count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn regression_wrong_names_are_usage_errors_everywhere() {
    let store = Store::new();
    import(&store, "a:1", b"first");
    for arguments in [
        &["pull", "UPPER/Case"][..],
        &["ls", "UPPER/Case"],
        &["image", "rm", "UPPER/Case"],
        &["image", "inspect", "UPPER/Case"],
        &["import", "/dev/null", "UPPER/Case"],
        &["mount", "UPPER/Case", "/mnt"],
    ] {
        store.fails(2, arguments);
    }
}

#[test]
fn regression_wrong_arguments_are_told_in_one_line() {
    let store = Store::new();
    for (arguments, why, hint) in [
        (
            &["pull"][..],
            "the following required arguments were not provided: <IMAGE>...",
            "plyfs pull --help",
        ),
        (
            &["image", "ls", "--al"],
            "unexpected argument '--al' found",
            "a similar argument exists: '--all'",
        ),
        (
            &["images", "extra", "--sort", "colour"],
            "invalid value 'colour' for '--sort <KEY>'",
            "plyfs images --help",
        ),
        (
            &["tag", "a:1", "UPPER:1"],
            "invalid value 'UPPER:1' for '<NAME[:TAG]>...'",
            "plyfs tag --help",
        ),
        (
            &["psuh", "x"],
            "unrecognized subcommand 'psuh'",
            "a similar subcommand exists: 'push'",
        ),
        (
            &["import", "https://example.org/root.tar"],
            "it is an address",
            "curl -fL https://example.org/root.tar | plyfs import - NAME",
        ),
    ] {
        let said = store.fails(2, arguments);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert!(
            lines[0].starts_with("plyfs: ") && lines[0].contains(why),
            "{said}"
        );
        assert_eq!(lines[1], format!("hint: {hint}"), "{said}");
    }
}

#[test]
fn regression_hints_name_what_can_help() {
    let store = Store::new();
    import(&store, "a:1", b"x");
    for (arguments, hint) in [
        (
            &["save", "--platform", "linux/s390x", "a:1"][..],
            "plyfs pull --platform linux/s390x a:1",
        ),
        (
            &["inspect", "deadbeef"],
            "plyfs image ls lists what is there",
        ),
        (
            &["history", "sha256:0123456789ab"],
            "plyfs image ls lists what is there",
        ),
        (
            &["export", "web"],
            "plyfs container ls and plyfs image ls list what is there",
        ),
        (
            &["history", "nothing/like/it"],
            "plyfs pull nothing/like/it",
        ),
    ] {
        let said = store.fails(1, arguments);
        assert!(
            said.ends_with(&format!("hint: {hint}\n")),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn regression_a_store_that_is_not_there() {
    let directory = temp_dir();
    let plyfs = |root: &str| {
        let mut command = Command::new(plyfs_program());
        command
            .env_remove("PLYFS_ROOT")
            .arg("--root")
            .arg(directory.path().join(root));
        command.args(["image", "ls"]);
        command
    };
    fs::write(directory.path().join("file"), b"").unwrap();
    let output = plyfs("new").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.starts_with(b"REPOSITORY"), "{output:?}");
    let said = fail(&mut plyfs("no/such/place"), 1);
    assert!(said.contains("there is no store"), "{said}");
    let said = fail(&mut plyfs("file"), 1);
    assert!(said.contains("file is not a directory"), "{said}");
    let mut pull = Command::new(plyfs_program());
    pull.arg("--root").arg(directory.path().join("file"));
    let said = fail(pull.args(["pull", "oci:/no"]), 1);
    assert!(said.contains("file is not a directory"), "{said}");
}

#[test]
fn regression_a_first_look_at_containers_finds_none() {
    let directory = temp_dir();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(plyfs_program());
        command.arg("--root").arg(directory.path().join("new"));
        succeed(command.args(["container", "ls"]).args(arguments)).stdout
    };
    assert!(run(&[]).starts_with(b"NAME"));
    assert_eq!(run(&["--json"]), b"[]\n");
}

#[test]
fn regression_an_empty_variable_names_no_store() {
    let home = temp_dir();
    let run = |root: &str, arguments: &[&str]| {
        let mut command = Command::new(plyfs_program());
        command
            .env("PLYFS_ROOT", root)
            .env("XDG_DATA_HOME", home.path());
        command.args(arguments).output().unwrap()
    };
    let output = run("", &["image", "ls"]);
    assert!(output.status.success(), "{output:?}");
    let usage = String::from_utf8(run("/somewhere", &["pull"]).stderr).unwrap();
    assert!(!usage.contains("--root <"), "{usage}");
}

#[test]
fn regression_a_file_is_not_asked_a_registry_for() {
    let directory = temp_dir();
    fs::write(directory.path().join("deb.tar"), b"").unwrap();
    fs::create_dir(directory.path().join("tree")).unwrap();
    let store = Store::new();
    for (name, hint) in [
        ("deb.tar", "docker-archive:deb.tar"),
        ("./deb.tar", "plyfs import ./deb.tar"),
        ("./tree", "oci:./tree"),
    ] {
        let said = fail(
            store.command(["pull", name]).current_dir(directory.path()),
            2,
        );
        assert!(said.contains(hint), "{said}");
    }
}

#[test]
fn regression_one_of_several_images_has_to_be_chosen() {
    let (source, store) = (Store::new(), Store::new());
    import(&source, "a:1", b"first");
    let directory = format!("oci:{}", source.root().display());
    store.run(["pull", "-q", &directory, "--name", "one"]);
    import(&source, "b:1", b"second");
    let said = store.fails(1, ["pull", "-q", &directory, "--name", "one"]);
    assert!(
        said.contains("docker.io/library/a:1, docker.io/library/b:1"),
        "{said}"
    );
}

#[test]
fn regression_the_platform_that_was_asked_for_has_to_fit() {
    let (source, store) = (Store::new(), Store::new());
    let tree = temp_dir();
    let tree = tree.path().to_str().unwrap();
    source.run(["import", "--platform", "linux/s390x", tree, "z:1"]);
    let layout = layout(&source.root(), "docker.io/library/z:1");
    let said = store.fails(
        1,
        [
            "pull",
            "--platform",
            "linux/riscv64",
            &layout,
            "--name",
            "z",
        ],
    );
    assert!(
        said.contains("made for linux/s390x, not for linux/riscv64"),
        "{said}"
    );
    store.run(["pull", "-q", &layout, "--name", "z"]);
    store.run(["ls", "--platform", "linux/s390x", "z"]);
    let said = store.fails(1, ["ls", "--platform", "linux/riscv64", "z"]);
    assert!(said.contains("made for linux/s390x"), "{said}");
}

#[test]
fn regression_an_archive_of_images_that_was_cut_says_so() {
    let store = Store::new();
    let whole = archive(&[("0123/layer.tar", &[1; 2000]), ("manifest.json", b"[]")]);
    let path = store.root().with_file_name("cut.tar");
    fs::write(&path, &whole[..512 + 2048]).unwrap();
    let said = store.fails(1, ["pull", &format!("docker-archive:{}", path.display())]);
    assert!(said.contains("cut short"), "{said}");
}

#[test]
fn regression_missing_tags_and_missing_repositories_are_told_apart() {
    if !require(&[Need::Program("docker-registry"), Need::Program("skopeo")]) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    registry.push(&odd_image().layout, "odd", "odd:1");
    let pull = |name: &str| {
        let reference = registry.reference(name);
        store.fails(1, ["pull", "-q", "--insecure", &reference])
    };
    let said = pull("odd:2");
    assert!(said.contains("the closest tag is 1"), "{said}");
    let said = pull("other:1");
    assert!(said.contains("there is no repository"), "{said}");
}

/// Who interrupts a pull is told that nothing is lost.
#[test]
fn regression_an_interrupted_pull_says_how_it_goes_on() {
    use std::os::unix::process::ExitStatusExt;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("{}/a:1", silent.local_addr().unwrap());
    let store = Store::new();
    let mut command = store.command(["pull", "--insecure", &reference]);
    let pull = command.stdout(std::process::Stdio::null());
    let pull = pull.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let connection = silent.accept().unwrap();
    succeed(Command::new("kill").args(["-INT", &pull.id().to_string()]));
    let output = pull.wait_with_output().unwrap();
    drop(connection);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("goes on where it stopped"), "{said}");
    assert_eq!(output.status.signal(), Some(2), "{said}");
}

/// So that the lines of several processes do not mix.
#[test]
fn regression_an_error_and_its_hint_are_written_at_once() {
    let store = Store::new();
    import(&store, "app:1", b"content");
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let mut command = store.command(["ls", "none"]);
    let status = command.stderr(OwnedFd::from(theirs)).status().unwrap();
    assert_eq!(status.code(), Some(1));
    let mut said = [0; 4096];
    let count = ours.recv(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..count]);
    assert!(said.starts_with("plyfs: cannot list none"), "{said}");
    assert!(said.ends_with("hint: plyfs pull none\n"), "{said}");
}

#[test]
fn regression_a_container_in_use_says_how_it_is_let_go() {
    if !require(&[Need::Fuse]) {
        return;
    }
    let store = Store::new();
    import(&store, "app:1", b"content");
    let mut mount = store.command(["mount", "--name", "web", "app:1"]);
    succeed(mount.arg(store.mountpoint()));
    let _mount = store.guard();
    let other = temp_dir();
    let other = other.path().display().to_string();
    for words in [
        &["container", "rm", "web"][..],
        &["mount", "--name", "web", &other],
    ] {
        let said = store.fails(1, words);
        assert!(said.contains("hint: plyfs umount it first"), "{said}");
    }
}
