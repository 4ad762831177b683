//! Mirrors, as the machine's own files name them.

use std::fs;
use std::process::{Command, Output};

use super::import;
use super::made::{Layout, Made};
use super::support::{Need, Registry, Setup, Store, fail, free_port, require, text};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("skopeo")];

fn run(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output
}

#[test]
fn an_image_comes_from_the_first_mirror_that_has_it() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut layout = Layout::new(&store, "layout");
    for tag in ["1", "2"] {
        let image = Made {
            layers: &["base", tag],
            ..Made::default()
        };
        layout.add(tag, &image);
        registry.push(&layout.path, tag, &format!("cache/library/app:{tag}"));
    }
    // Nobody listens there.
    let dead = format!("127.0.0.1:{}", free_port());
    let config = store.root().with_file_name("registries.conf");
    let address = registry.address();
    let text = format!(
        "[[registry]]\nlocation = \"docker.io\"\n\
         [[registry.mirror]]\nlocation = \"{dead}\"\n\
         [[registry.mirror]]\nlocation = \"{address}/cache\"\n\
         [[registry]]\nprefix = \"no.example\"\nblocked = true\n\
         [[registry]]\nprefix = \"moved.example\"\nlocation = \"{address}/moved\"\n"
    );
    fs::write(&config, text).unwrap();
    let plyfs = |arguments: &[&str]| {
        let mut command = store.command(arguments);
        command.env("CONTAINERS_REGISTRIES_CONF", &config);
        command
    };
    let printed = run(plyfs(&["pull", "-q", "app:1"])).stdout;
    assert_eq!(printed, b"docker.io/library/app:1\n");
    assert_eq!(store.stdout(["cat", "app:1:/file"]), "1");
    // What is pushed goes to the registry itself, and to where it is.
    run(plyfs(&["tag", "app:1", "moved.example/team/app:1"]));
    run(plyfs(&["push", "-q", "moved.example/team/app:1"]));
    run(plyfs(&[
        "pull",
        "-q",
        &format!("{address}/moved/team/app:1"),
    ]));
    run(plyfs(&[
        "rmi",
        &format!("{address}/moved/team/app:1"),
        "moved.example/team/app:1",
    ]));
    run(plyfs(&["pull", "-q", "-a", "app"]));
    assert_eq!(store.stdout(["cat", "app:2:/file"]), "2");
    let remote = run(plyfs(&[
        "inspect",
        "--remote",
        "-f",
        "{{.RepoTags}}",
        "app:2",
    ]))
    .stdout;
    assert_eq!(remote, b"[app:2]\n");
    let refused = plyfs(&["pull", "no.example/app:1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("it blocks no.example"), "{said}");
}

#[test]
fn hosts_toml_names_mirrors_too() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut layout = Layout::new(&store, "layout");
    layout.add("1", &Made::default());
    registry.push(&layout.path, "1", "proxy/library/app:1");
    let config = store.root().with_file_name("config");
    let host = config.join("containerd/certs.d/docker.io");
    fs::create_dir_all(&host).unwrap();
    let mirror = format!(
        "[host.\"http://{}/v2/proxy\"]\noverride_path = true\n",
        registry.address()
    );
    fs::write(host.join("hosts.toml"), mirror).unwrap();
    let mut command = store.command(["pull", "-q", "app:1"]);
    command
        .env("XDG_CONFIG_HOME", &config)
        .env("CONTAINERS_REGISTRIES_CONF", "/dev/null");
    run(command);
    assert_eq!(store.stdout(["cat", "app:1:/file"]), "base");
}

/// What the machine's files say of one registry holds for every verb that reaches it.
#[test]
fn a_registry_is_reached_as_its_files_say() {
    if !require(NEEDS) || !require(&["openssl", "htpasswd"].map(Need::Program)) {
        return;
    }
    let registry = Registry::set_up(&Setup {
        tls: true,
        credentials: Some(("me", "secret")),
        ..Setup::default()
    });
    let store = Store::new();
    let (host, place) = (registry.address(), store.root().with_file_name("config"));
    let conf = place.join("registries.conf");
    let toml = place.join(format!("containerd/certs.d/{}_", host.replace(':', "_")));
    fs::create_dir_all(&toml).unwrap();
    let toml = toml.join("hosts.toml");
    let name = registry.reference("app:1");
    import(&store, &name, b"x");
    let auth = place.join("auth.json");
    let plyfs = |arguments: &[&str]| {
        let mut command = store.command(arguments);
        command
            .env("CONTAINERS_REGISTRIES_CONF", &conf)
            .env("REGISTRY_AUTH_FILE", &auth)
            .env("XDG_CONFIG_HOME", &place);
        command
    };
    let login = ["login", "-u", "me", "-p", "secret", host];
    fs::write(&conf, "").unwrap();
    let said = fail(&mut plyfs(&login), 1);
    assert!(said.contains("certificate"), "{said}");

    let ca = registry.data().join("ca.pem");
    for (file, text) in [
        (
            &conf,
            format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"),
        ),
        (
            &toml,
            format!("server = \"https://{host}\"\nca = \"{}\"\n", ca.display()),
        ),
        (
            &toml,
            format!("[host.\"https://{host}\"]\nca = \"{}\"\n", ca.display()),
        ),
        (&toml, "skip_verify = true\n".to_owned()),
    ] {
        fs::write(file, &text).unwrap();
        for arguments in [
            &login[..],
            &["push", "-q", &name],
            &["pull", "-q", &name],
            &["tags", &name],
            &["search", "--registry", host, "app"],
            &["inspect", "--remote", &name],
            &["logout", host],
        ] {
            run(plyfs(arguments));
        }
        fs::write(file, "").unwrap();
    }
}

#[test]
fn names_of_images_are_completed() {
    let store = Store::new();
    for name in ["debian:12", "debian:13", "alpine:3"] {
        import(&store, name, b"x");
    }
    let root = format!("--root={}", store.root().display());
    let mut command = store.command([""; 0]);
    command = {
        let mut completing = Command::new(command.get_program());
        completing.args(["--", "plyfs", &root, "rmi", "deb"]);
        completing
            .env("COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", "3")
            .env("_CLAP_COMPLETE_COMP_TYPE", "9")
            .env("_CLAP_COMPLETE_SPACE", "true")
            .env("_CLAP_IFS", "\n");
        completing
    };
    let offered = String::from_utf8(run(command).stdout).unwrap();
    let offered: Vec<&str> = offered.lines().collect();
    assert_eq!(offered.len(), 2, "{offered:?}");
    assert!(
        offered
            .iter()
            .all(|name| name.contains("debian:1") || name.starts_with('1')),
        "{offered:?}"
    );
}
