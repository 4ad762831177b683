//! `tags` and `search`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use serde_json::Value;

use super::made::{Layout, Made};
use super::support::{Need, Registry, Store, free_port, require};

const NEEDS: &[Need] = &[Need::Program("docker-registry"), Need::Program("skopeo")];

#[test]
fn tags_of_a_repository() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut layout = Layout::new(&store, "layout");
    let digest = layout.add("x", &Made::default());
    for tag in ["1.9", "1.10", "1.10-rc1", "latest"] {
        registry.push(&layout.path, "x", &format!("app:{tag}"));
    }
    let app = registry.reference("app");
    let tags = |more: &[&str]| {
        let mut args = vec!["tags", &app];
        args.extend(more);
        store.stdout(args)
    };
    assert_eq!(tags(&[]), "1.10\n1.10-rc1\n1.9\nlatest\n");
    assert_eq!(
        tags(&["--sort", "version"]),
        "latest\n1.9\n1.10-rc1\n1.10\n"
    );
    let newest = ["--filter", "1.*", "--sort", "version", "-r", "--limit", "1"];
    assert_eq!(tags(&newest), "1.10\n");
    let table = tags(&["--digest", "--limit", "1"]);
    assert_eq!(
        table.split_whitespace().collect::<Vec<_>>(),
        ["TAG", "DIGEST", "1.10", &digest.to_string()]
    );
    let object = tags(&["--digest", "--json", "--filter", "latest"]);
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object["Digest"], digest.to_string());
    assert_eq!(tags(&["--format", "{{.Tag}}!", "--limit", "1"]), "1.10!\n");

    let said = store.fails(1, ["tags", &registry.reference("none")]);
    assert!(
        said.contains("cannot list the tags of") && said.contains("there is no"),
        "{said}"
    );
    assert!(
        store
            .fails(2, ["tags", &app, "--sort", "size"])
            .contains("possible values")
    );
}

#[test]
fn a_registry_without_search_has_a_catalog() {
    if !require(NEEDS) {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let mut layout = Layout::new(&store, "layout");
    layout.add("x", &Made::default());
    for name in ["team/app", "team/tool", "apples"] {
        registry.push(&layout.path, "x", name);
    }
    let host = registry.address();
    let found = ["search", "--registry", host, "--format", "{{.Name}}", "APP"];
    assert_eq!(store.stdout(found), "apples\nteam/app\n");
    let none = store.stdout(["search", "--registry", host, "nothing"]);
    assert_eq!(none.lines().count(), 1, "{none}");
}

/// Answers each request with what Docker's registry answered once.
fn recorded() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let long = "A minimal Docker image based on Alpine Linux with a complete package index";
    let body = format!(
        r#"{{"num_pages":1,"num_results":3,"page_size":25,"page":1,"query":"alpine","results":[
        {{"name":"alpine/git","description":"A  simple git\ncontainer","star_count":248,"is_trusted":true,"is_automated":true,"is_official":false}},
        {{"name":"alpine","description":"{long}","star_count":11000,"is_trusted":false,"is_automated":false,"is_official":true}},
        {{"name":"odd/one","description":"\u001b[2J","star_count":0,"is_automated":false,"is_official":false}}]}}"#
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let body = match first.contains("/v1/search?q=alpine&n=") {
                true => body.as_str(),
                false => "{}",
            };
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
            write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    address
}

#[test]
fn what_docker_s_registry_finds() {
    let (store, host) = (Store::new(), recorded());
    let search = |more: &[&str]| {
        let mut args = vec!["search", "--registry", &host, "alpine"];
        args.extend(more);
        store.stdout(args)
    };
    let table = search(&[]);
    let lines: Vec<&str> = table.lines().collect();
    let words = |at: usize| {
        lines[at]
            .split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
    };
    assert_eq!(
        words(0).collect::<Vec<_>>(),
        ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    );
    let shortened = "A minimal Docker image based on Alpine Linux\u{2026}";
    assert_eq!(
        words(1).collect::<Vec<_>>(),
        ["alpine", shortened, "11000", "[OK]"]
    );
    assert!(lines[2].contains("simple git container"), "{table}");
    assert!(
        lines[3].contains("[2J") && !table.contains('\u{1b}'),
        "{table}"
    );

    assert!(search(&["--no-trunc"]).contains("complete package index"));
    let names = |more: &[&str]| {
        let args = [&["--format", "{{.Name}} {{.StarCount}}"], more].concat();
        search(&args)
    };
    assert_eq!(names(&["-f", "is-official=true"]), "alpine 11000\n");
    assert_eq!(
        names(&["-f", "stars=100", "-f", "is-official=false"]),
        "alpine/git 248\n"
    );
    assert_eq!(names(&["--limit", "1"]), "alpine 11000\n");
    let object: Value = serde_json::from_str(&search(&["--limit", "1", "--json"])).unwrap();
    assert_eq!(object["IsOfficial"], "[OK]");

    for (args, why) in [
        (&["--limit", "0"][..], "not between 1 and 100"),
        (&["-f", "stars=many"], "it is no number"),
        (&["-f", "size=1"], "known are"),
    ] {
        let all = [&["search", "alpine"], args].concat();
        let said = store.fails(2, all);
        assert!(said.contains(why), "{said}");
    }
    // Where nobody answers.
    let gone = format!("127.0.0.1:{}", free_port());
    let said = store.fails(1, ["search", "--registry", &gone, "x"]);
    assert!(
        said.contains(&format!("cannot search {gone} for x: cannot reach")),
        "{said}"
    );
}
