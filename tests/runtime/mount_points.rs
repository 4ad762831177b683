//! What is made in a container for mounts only is no change of it.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use super::support::{Need, User, is_root, require, succeed};
use super::{Fixture, NEEDS};

impl Fixture {
    fn kept(&self, options: &[&str], script: &str) -> Vec<String> {
        let run = ["run", "-u", "0", "--name", "kept", "--entrypoint", "sh"];
        let args = [&run, options, &["app", "-c", script]].concat();
        args.iter().map(ToString::to_string).collect()
    }

    fn run_kept(&self, options: &[&str], script: &str) -> String {
        let args = self.kept(options, script);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        String::from_utf8(succeed(&mut self.command(&args)).stdout).unwrap()
    }

    fn diff(&self) -> String {
        self.store.stdout(["container", "diff", "kept"])
    }
}

/// Who runs containers, and with what.
fn kinds() -> &'static [(User, &'static [&'static str])] {
    match is_root() {
        true => &[
            (User::Same, &[]),
            (User::Same, &["--writable", "auto"]),
            (User::Plain, &[]),
        ],
        false => &[(User::Same, &[])],
    }
}

#[test]
fn regression_what_is_made_to_be_mounted_on_is_no_change() {
    if !require(&NEEDS) {
        return;
    }
    for &(user, options) in kinds() {
        let fixture = Fixture::new(user);
        let shared = super::support::temp_dir();
        fs::write(shared.path().join("file"), "of the machine\n").unwrap();
        fs::create_dir(shared.path().join("more")).unwrap();
        let shared = shared.path().display();
        let volumes = [
            format!("{shared}:/data/in"),
            format!("{shared}:/data/in/more"),
            format!("{shared}/file:/etc/deep/app.conf:ro"),
            format!("{shared}:/etc/deep/down"),
        ];
        let mut all = options.to_vec();
        all.extend(volumes.iter().flat_map(|volume| ["-v", volume.as_str()]));
        let told = fixture.run_kept(
            &all,
            "stat -c %Y /etc; read line </etc/deep/app.conf; echo $line",
        );
        // Nor is the time of a directory of the image another.
        assert_eq!(told, "0\nof the machine\n", "{options:?}");
        assert_eq!(fixture.diff(), "", "{options:?}");

        // The same while it runs.
        all.push("-i");
        let args = fixture.kept(&all, "echo ready; read line");
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = fixture.command(&args);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = piped.spawn().unwrap();
        let mut ready = [0; 5];
        running
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        assert_eq!(fixture.diff(), "", "{options:?}");
        fixture.store.run(["commit", "kept", "app:2"]);
        running.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(running.wait().unwrap().success());
        let listed = fixture.store.stdout(["ls", "-R", "app:2"]);
        assert_eq!(
            listed,
            fixture.store.stdout(["ls", "-R", "app"]),
            "{options:?}"
        );

        // What a container does there is its change, and what a directory holds shows it.
        fixture.run_kept(options, "echo x > /data/in/x; touch /etc/deep/new");
        let expected = "A /data\nA /data/in\nA /data/in/x\nC /etc\nA /etc/deep\nA /etc/deep/new\n";
        assert_eq!(fixture.diff(), expected, "{options:?}");
        fixture.store.run(["commit", "kept", "app:3"]);
        let listed = fixture.store.stdout(["ls", "-R", "app:3"]);
        assert!(
            listed.contains("new") && !listed.contains("hosts"),
            "{listed}"
        );
        fixture.store.run(["container", "rm", "kept"]);
        fixture.is_clean();
    }
}

/// A link that leads nowhere is gone after as the runtime does, and made where it leads to.
#[test]
fn regression_mount_points_behind_links_are_no_changes() {
    if !require(&[&NEEDS[..], &[Need::Root]].concat()) {
        return;
    }
    let fixture = Fixture::new(User::Same);
    fixture.run_kept(&[], "ln -s ../run/resolved /etc/link; ln -s /srv /lib");
    let before = fixture.diff();
    let volumes = ["-v", "/etc/hostname:/etc/link", "-v", "/etc:/lib/a/b"];
    fixture.run_kept(&volumes, "read line </etc/link");
    assert_eq!(fixture.diff(), before);
    let mount_points = fixture.store.root().join("containers/kept/upper");
    assert!(mount_points.join("run/resolved").is_file());
    assert!(mount_points.join("srv/a/b").is_dir());
    fixture.store.run(["container", "rm", "kept"]);
    fixture.is_clean();
}

/// What was removed stays removed in what is committed, whatever was mounted at its place since.
#[test]
fn regression_what_a_mount_point_hides_is_gone() {
    if !require(&NEEDS) {
        return;
    }
    for &(user, options) in kinds() {
        let fixture = Fixture::new(user);
        let base = "mkdir -p /base/gone/sub /base/empty /base/again /base/moved/sub; cd /base; touch app.conf gone/sub/f again/f";
        fixture.run_kept(&[], base);
        fixture.store.run(["commit", "kept", "app:1"]);
        fixture.store.run(["container", "rm", "kept"]);
        let run = |volumes: &[&str], script: &str| {
            let run = ["run", "-u", "0", "--name", "kept", "--entrypoint", "sh"];
            let args = [&run, options, volumes, &["app:1", "-c", script]].concat();
            succeed(&mut fixture.command(&args));
        };
        let remove = "cd /base; rm -r app.conf gone empty again; mkdir again; mv moved new";
        run(&[], remove);
        let removed = "C /base\nC /base/again\nD /base/again/f\nD /base/app.conf\nD /base/empty\n\
                   D /base/gone\nD /base/moved\nA /base/new\nA /base/new/sub\n";
        assert_eq!(fixture.diff(), removed);
        fixture.store.run(["commit", "kept", "app:2"]);
        let volumes = [
            "/etc/hostname:/base/app.conf",
            "/etc:/base/gone/sub/f",
            "/etc:/base/empty",
            "/etc/hostname:/base/again/f",
            "/etc:/base/new/sub/deep",
        ];
        let volumes: Vec<&str> = volumes.iter().flat_map(|volume| ["-v", volume]).collect();
        run(&volumes, "read line </base/app.conf");
        assert_eq!(fixture.diff(), removed);
        fixture.store.run(["commit", "kept", "app:3"]);
        let listed = |image| fixture.store.stdout(["ls", "-R", image]);
        assert_eq!(listed("app:3"), listed("app:2"));

        // What a container does there shows what was made.
        run(&[], "touch /base/gone/sub/x");
        let expected = removed.replace(
            "D /base/gone\n",
            "C /base/gone\nC /base/gone/sub\nD /base/gone/sub/f\nA /base/gone/sub/x\n",
        );
        assert_eq!(fixture.diff(), expected);
        fixture.store.run(["container", "rm", "kept"]);
        fixture.is_clean();
    }
}

#[test]
fn regression_mount_points_are_not_looked_for_behind_links() {
    if !require(&NEEDS) {
        return;
    }
    let fixture = Fixture::new(User::Same);
    fixture.run_kept(&["-v", "/etc:/data/in/deep", "-v", "/etc:/loop/in"], "true");
    assert_eq!(fixture.diff(), "");
    fixture.run_kept(
        &[],
        "mv /data/in /moved; ln -s ../moved /data/in; rm -r /loop; ln -s loop /loop",
    );
    let expected = "A /data\nA /data/in\nA /loop\nA /moved\nA /moved/deep\n";
    assert_eq!(fixture.diff(), expected);
    fixture.store.run(["commit", "kept", "app:2"]);
    fixture.run_kept(&[], "true");
    fixture.store.run(["container", "rm", "kept"]);
    fixture.is_clean();
}

#[test]
fn regression_a_damaged_record_of_mount_points_is_no_obstacle() {
    if !require(&NEEDS) {
        return;
    }
    let fixture = Fixture::new(User::Same);
    fixture.run_kept(&["-v", "/etc:/data/in"], "true");
    let record = fixture
        .store
        .root()
        .join("containers/kept/mount-points.json");
    fs::write(&record, "{").unwrap();
    let output = succeed(&mut fixture.command(&["container", "diff", "kept"]));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("mount-points.json is damaged"), "{told}");
    let changes = String::from_utf8(output.stdout).unwrap();
    assert!(changes.contains("A /data\nA /data/in\n"), "{changes}");
    fixture.store.run(["commit", "kept", "app:2"]);
    fixture.run_kept(&["-v", "/etc:/other"], "true");
    assert!(!fixture.diff().contains("/other"));
    fixture.store.run(["container", "rm", "kept"]);
    fixture.is_clean();
}
