//! `login` and `logout`: what is kept where, and what it is good for.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::made::{Made, store_image};
use super::support::{Need, Registry, Store, plyfs_program, require, succeed, text, write_program};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("htpasswd")];

/// A home directory, and a registry that knows `me` by the password `secret`.
struct Lab {
    registry: Registry,
    store: Store,
    home: PathBuf,
}

impl Lab {
    fn new() -> Lab {
        let store = Store::new();
        let home = store.root().with_file_name("home");
        fs::create_dir(&home).unwrap();
        Lab {
            registry: Registry::with_password("me", "secret"),
            store,
            home,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.store.command(args);
        command
            .env("HOME", &self.home)
            .env_remove("XDG_CONFIG_HOME");
        command
    }

    /// Runs a command that reads `input`.
    fn typed(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    fn login(&self, password: &str, more: &[&str]) -> Output {
        let mut args = vec![
            "login",
            "-u",
            "me",
            "--password-stdin",
            self.registry.address(),
        ];
        args.extend(more);
        self.typed(&args, password)
    }

    fn config(&self) -> PathBuf {
        self.home.join(".docker/config.json")
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_password_is_verified_kept_used_and_forgotten() {
    if !require(NEEDS) {
        return;
    }
    let lab = Lab::new();
    let host = lab.registry.address();
    let output = lab.login("wrong\n", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        format!("plyfs: cannot log in to {host}: the credentials of \"me\" were refused\n")
    );
    assert!(!lab.config().exists());

    fs::create_dir(lab.home.join(".docker")).unwrap();
    let before = r#"{"detachKeys":"ctrl-x","auths":{"other.io":{"auth":"eDp5"}}}"#;
    fs::write(lab.config(), before).unwrap();
    let output = lab.login("secret\r\n", &[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(output.stdout, b"Login Succeeded\n");
    assert!(
        text(&output).contains("kept unencrypted in"),
        "{}",
        text(&output)
    );
    let kept = json!({"auth": "bWU6c2VjcmV0"});
    assert_eq!(
        read(&lab.config()),
        json!({"detachKeys": "ctrl-x", "auths": {"other.io": {"auth": "eDp5"}, host: kept}})
    );
    let mode = fs::metadata(lab.config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Push and pull find it, and so does another login, which needs no name.
    let name = lab.registry.reference("app:1");
    store_image(&lab.store, &name, &Made::default());
    succeed(&mut lab.command(&["push", "-q", &name]));
    succeed(&mut lab.command(&["pull", "-q", &name]));
    let output = succeed(&mut lab.command(&["login", host]));
    assert!(text(&output).contains("Authenticating with existing credentials"));

    let told = succeed(&mut lab.command(&["logout", host])).stdout;
    let told = String::from_utf8(told).unwrap();
    let place = lab.config();
    assert_eq!(
        told,
        format!(
            "Removing login credentials for {host} from {}\n",
            place.display()
        )
    );
    assert_eq!(read(&place)["auths"], json!({"other.io": {"auth": "eDp5"}}));
    let told = succeed(&mut lab.command(&["logout", host])).stdout;
    assert_eq!(told, format!("Not logged in to {host}\n").into_bytes());
    let refused = lab.command(&["push", "-q", &name]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    succeed(&mut lab.command(&["logout", "--all"]));
    assert_eq!(read(&lab.config())["auths"], json!({}));
}

#[test]
fn what_other_tools_keep_is_found_and_what_is_kept_they_find() {
    if !require(NEEDS) || !require(&[Need::Program("skopeo")]) {
        return;
    }
    let lab = Lab::new();
    let host = lab.registry.address();
    let file = lab.home.join("auth.json");
    let file = file.to_str().unwrap();
    let skopeo = |args: &[&str]| {
        let mut skopeo = Command::new("skopeo");
        succeed(
            skopeo
                .args(args)
                .args(["--authfile", file, "--tls-verify=false", host]),
        )
    };
    skopeo(&["login", "-u", "me", "-p", "secret"]);
    succeed(&mut lab.command(&["login", "--authfile", file, host]));
    succeed(&mut lab.command(&["logout", "--authfile", file, host]));
    assert_eq!(read(Path::new(file))["auths"], json!({}));

    assert!(lab.login("secret", &["--authfile", file]).status.success());
    let mut skopeo = Command::new("skopeo");
    let found = skopeo.args(["login", "--get-login", "--authfile", file, host]);
    assert_eq!(succeed(found).stdout, b"me\n");
    // The variable decides as well.
    let mut login = lab.command(&["login", host]);
    succeed(login.env("REGISTRY_AUTH_FILE", file));
    assert!(!lab.config().exists());
}

#[test]
fn credential_helpers() {
    if !require(NEEDS) {
        return;
    }
    let lab = Lab::new();
    let host = lab.registry.address();
    let (bin, safe) = (lab.home.join("bin"), lab.home.join("safe"));
    fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-safe");
    let script = format!(
        "#!/bin/sh\nsafe={}\ncase $1 in\nstore) cat >$safe;;\n\
         get) cat $safe 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }};;\n\
         erase) rm $safe;;\nesac\n",
        safe.display()
    );
    write_program(&helper, &script);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for config in [
        json!({"credsStore": "safe"}),
        json!({"credHelpers": {host: "safe"}}),
    ] {
        let file = lab.home.join("helped.json");
        fs::write(&file, config.to_string()).unwrap();
        let file = file.to_str().unwrap();
        let run = |args: &[&str]| {
            let mut command = lab.command(args);
            succeed(command.env("PATH", &path).args(["--authfile", file, host]))
        };
        let output = run(&["login", "-u", "me", "-p", "secret"]);
        let said = text(&output);
        assert!(
            said.contains("--password-stdin") && !said.contains("unencrypted"),
            "{said}"
        );
        assert_eq!(
            read(&safe),
            json!({"ServerURL": host, "Username": "me", "Secret": "secret"})
        );
        assert!(!fs::read_to_string(file).unwrap().contains("bWU6"));
        run(&["login"]);
        let told = text(&run(&["logout"]));
        assert!(told.contains("from docker-credential-safe"), "{told}");
        assert!(!safe.exists());
        assert!(text(&run(&["logout"])).contains("Not logged in"));
    }
}

#[test]
fn what_is_typed_is_not_shown() {
    if !require(NEEDS) || !require(&[Need::Program("script")]) {
        return;
    }
    let lab = Lab::new();
    let host = lab.registry.address();
    let line = format!("{} login {host}", plyfs_program().display());
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("HOME", &lab.home);
    for name in [
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
        "DOCKER_CONFIG",
        "REGISTRY_AUTH_FILE",
    ] {
        script.env_remove(name);
    }
    let mut child = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut until = |end: &str| {
        let mut byte = [0];
        while !shown.ends_with(end) && screen.read(&mut byte).unwrap() == 1 {
            shown.push(char::from(byte[0]));
        }
        shown.clone()
    };
    until("Username: ");
    keys.write_all(b"me\n").unwrap();
    until("Password: ");
    keys.write_all(b"sex\x7fcret\n").unwrap();
    let shown = until("Login Succeeded");
    assert!(shown.ends_with("Login Succeeded"), "{shown}");
    assert!(!shown.contains("cret"), "{shown}");
    drop(keys);
    assert!(child.wait().unwrap().success());
    assert!(lab.config().exists());
}

#[test]
fn wrong_usage() {
    let store = Store::new();
    for (args, why) in [
        (
            &["login", "-u", "me", "x.io"][..],
            "no terminal to ask for the password on",
        ),
        (&["login", "--password-stdin", "x.io"], "--username"),
        (&["login", "-p", "x", "x.io"], "--username"),
        (&["login", "quay.io/team"], "names more than a registry"),
        (&["login", "-u", "", "-p", "x", "x.io"], "the name is empty"),
        (&["logout", "--all", "x.io"], "cannot be used with"),
    ] {
        let said = store.fails(2, args);
        assert!(said.contains(why), "{args:?}: {said}");
    }
}
