use serde_json::{Value, json};

use super::*;

fn image() -> Value {
    json!({
        "Id": "sha256:0123456789abcdef",
        "RepoTags": ["debian:12", "debian:latest"],
        "Size": 1234,
        "Author": "",
        "Config": {
            "Env": ["PATH=/bin", "A=b"],
            "Labels": {"vendor": "x y", "a.b/c": "dotted"},
            "Cmd": null,
        },
    })
}

fn rendered(template: &str) -> String {
    let result = Template::parse(template).and_then(|template| template.render(&image()));
    result.unwrap_or_else(|error| panic!("{template}: {error}"))
}

#[test]
fn what_docker_users_write() {
    for (template, expected) in [
        ("{{.Id}}", "sha256:0123456789abcdef"),
        ("plain", "plain"),
        ("{{ .Size }} bytes", "1234 bytes"),
        ("{{.RepoTags}}", "[debian:12 debian:latest]"),
        ("{{.Config.Labels}}", "map[a.b/c:dotted vendor:x y]"),
        ("{{.Config.Labels.vendor}}", "x y"),
        ("{{.Config.Labels.absent}}", "<no value>"),
        ("{{.Config.Cmd}}", "<no value>"),
        ("{{index .RepoTags 0}}", "debian:12"),
        (r#"{{index .Config.Labels "a.b/c"}}"#, "dotted"),
        (r#"{{index .Config.Labels "absent"}}"#, ""),
        ("{{json .RepoTags}}", r#"["debian:12","debian:latest"]"#),
        ("{{json .Config.Cmd}}", "null"),
        ("{{.RepoTags | json}}", r#"["debian:12","debian:latest"]"#),
        (r#"{{join .RepoTags ", "}}"#, "debian:12, debian:latest"),
        (r#"{{index (split .Id ":") 0}}"#, "sha256"),
        ("{{upper .Id | lower}}", "sha256:0123456789abcdef"),
        (r#"{{title "ab cd"}}"#, "Ab Cd"),
        (r#"{{pad "x" 1 2}}|"#, " x  |"),
        ("{{truncate .Id 8}}", "sha256:0"),
        ("{{slice .Id 7 11}}", "0123"),
        ("{{len .RepoTags}}{{len .Id}}", "223"),
        (
            "{{range .RepoTags}}<{{.}}>{{end}}",
            "<debian:12><debian:latest>",
        ),
        (
            "{{range $i, $t := .RepoTags}}{{$i}}={{$t}} {{end}}",
            "0=debian:12 1=debian:latest ",
        ),
        (
            "{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}};{{end}}",
            "a.b/c:dotted;vendor:x y;",
        ),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        (
            "{{if .Author}}by {{.Author}}{{else}}unknown{{end}}",
            "unknown",
        ),
        ("{{if .Author}}a{{else if .Size}}b{{else}}c{{end}}", "b"),
        ("{{with .Config}}{{len .Env}} {{$.Size}}{{end}}", "2 1234"),
        ("{{with .Author}}a{{end}}", ""),
        ("{{with $x := .Size}}{{$x}}{{end}}", "1234"),
        (r#"{{$n := 1}}{{if true}}{{$n = 2}}{{end}}{{$n}}"#, "2"),
        (r#"{{if and .Size (not .Author)}}y{{end}}"#, "y"),
        (r#"{{or .Author "nobody"}}"#, "nobody"),
        (
            r#"{{if eq .Size 1 1234}}y{{end}}{{if ne .Author "x"}}n{{end}}"#,
            "yn",
        ),
        ("{{if gt .Size 1000}}big{{else}}small{{end}}", "big"),
        ("{{(index .RepoTags 1)}}", "debian:latest"),
        ("{{(index .Config.Env 0) | printf \"%s!\"}}", "PATH=/bin!"),
        (
            r#"{{printf "%-6s|%5d|%05d|%.2f|%q|%x|%%|%v" "ab" 42 42 1.5 "q" "hi" .RepoTags}}"#,
            "ab    |   42|00042|1.50|\"q\"|6869|%|[debian:12 debian:latest]",
        ),
        ("{{print 1 2 \"a\" 3}}", "1 2a3"),
        ("{{println .Size}}", "1234\n"),
        ("a {{- /* comment */ -}} b", "ab"),
        ("a {{- .Size -}} b", "a1234b"),
        ("{{/* all */}}x", "x"),
        ("{{`{{`}}", "{{"),
        (r#"{{"a\tb\"c"}}"#, "a\tb\"c"),
        ("{{-3}}", "-3"),
        ("{{nil | json}}", "null"),
    ] {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

#[test]
fn what_is_refused_and_why() {
    for (template, why) in [
        ("{{.Sise}}", "there is no field Sise, only Author"),
        ("{{.Size.X}}", "it is a number"),
        ("{{Size}}", "there is no function Size"),
        ("{{html .Id}}", "html is not supported"),
        ("{{define \"x\"}}", "define is not supported"),
        ("{{.Id", "has no end"),
        ("{{if .Id}}", "{{if}} has no {{end}}"),
        ("{{end}}", "no beginning"),
        ("{{}}", "empty"),
        ("{{.Id | }}", "nothing follows |"),
        ("{{.Id .Size}}", "only a function"),
        ("{{index .RepoTags 7}}", "no item 7 of 2"),
        ("{{index .RepoTags -1}}", "no item -1"),
        ("{{(.Id}}", "not closed"),
        ("{{$x}}", "no variable $x"),
        ("{{\"x}}", "has no end"),
        ("{{#}}", "unexpected '#'"),
        ("{{upper}}", "wrong number"),
        ("{{len .Size}}", "len cannot take a number"),
        ("{{lt .Size \"x\"}}", "cannot be compared"),
        ("{{printf \"%s\"}}", "no value"),
        ("{{pad \"x\" 1000000000 0}}", "pad cannot take"),
        ("{{printf \"%99999d\" 1}}", "too wide"),
    ] {
        let result = Template::parse(template).and_then(|template| template.render(&image()));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(why), "{template}: {error}");
    }
}

#[test]
fn headings_stay_as_they_are() {
    let template = Template::parse("{{lower .ID}}\t{{truncate .Tag 2}}\t{{json .Size}}").unwrap();
    let headings = json!({"ID": "IMAGE ID", "Tag": "TAG", "Size": "SIZE"});
    let text = template.render_as(&headings, Mode::Headings).unwrap();
    assert_eq!(text, "IMAGE ID\tTAG\tSIZE");
}
