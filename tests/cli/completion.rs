//! What bash offers who presses Tab, with its own way of breaking words.

use std::process::Command;

use super::import;
use super::support::{Need, Store, plyfs_program, require, succeed};

/// What is offered for a line that ends at the cursor: the words as bash breaks them, and the last of
/// them as bash hands it to who completes.
fn offered(store: &Store, line: &str, words: &[&str], last: &str) -> Vec<String> {
    let script = r#"
        source <(COMPLETE=bash "$PLYFS")
        COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 last=$2
        shift 2
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        complete -p plyfs | grep -q _plyfs_whole_words || exit 1
        _plyfs_whole_words plyfs "$last" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash", line, last])
        .args(words)
        .env("PLYFS", plyfs_program())
        .env("PLYFS_ROOT", store.root());
    let offered = String::from_utf8(succeed(&mut bash).stdout).unwrap();
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn regression_names_with_colons_are_completed_in_bash() {
    if !require(&[Need::Program("bash")]) {
        return;
    }
    let store = Store::new();
    for name in ["app:12", "app:13", "other:1", "localhost:5000/own/tool:1"] {
        import(&store, name, b"x");
    }
    let sorted = |line: &str, words: &[&str], last: &str| {
        let mut found = offered(&store, line, words, last);
        found.sort();
        found
    };
    let plain = sorted("plyfs rmi ap", &["plyfs", "rmi", "ap"], "ap");
    assert_eq!(plain, ["app:12", "app:13"]);
    // Bash keeps what stands before the last break.
    let broken = sorted("plyfs rmi app:1", &["plyfs", "rmi", "app", ":", "1"], "1");
    assert_eq!(broken, ["12", "13"]);
    let ended = sorted("plyfs rmi app:", &["plyfs", "rmi", "app", ":"], "");
    assert_eq!(ended, ["12", "13"]);
    let words = [
        "plyfs",
        "rmi",
        "other",
        ":",
        "1",
        "localhost",
        ":",
        "5000/o",
    ];
    let line = "plyfs rmi other:1  localhost:5000/o";
    assert_eq!(sorted(line, &words, "5000/o"), ["5000/own/tool:1"]);
    // Where bash was told not to break there, it replaces the whole.
    let whole = sorted("plyfs rmi app:1", &["plyfs", "rmi", "app:1"], "app:1");
    assert_eq!(whole, ["app:12", "app:13"]);
    let verbs = sorted("plyfs image p", &["plyfs", "image", "p"], "p");
    assert!(verbs.contains(&"prune".to_owned()), "{verbs:?}");
}
