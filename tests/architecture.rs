//! The walls of the house: which room may use which, where an outside crate may be named, what may
//! not be written at all. Every breach is told as `file:line: rule`.

#[path = "support/source.rs"]
mod source;

use source::{Token, find, rooms_used, sources, without_tests};

/// Each room and the rooms it may use. A row only names rows above it: that is the order of floors.
const ROOMS: &[(&str, &str)] = &[
    ("sys", ""),
    ("whiteout", ""),
    ("cause", ""),
    ("idmap", ""),
    ("oci", ""),
    ("options", "idmap"),
    ("layer", "sys whiteout"),
    ("pack", "sys whiteout oci layer"),
    ("registry", "sys cause oci"),
    ("store", "sys cause oci layer"),
    ("union", "sys whiteout idmap layer"),
    (
        "image",
        "sys cause whiteout oci layer pack registry store union",
    ),
    ("overlay", "sys whiteout idmap layer union"),
    ("fuse", "sys layer union overlay"),
    ("mount", EVERYTHING_ABOVE),
    (
        "snapshotter",
        "cause idmap oci options pack registry store union image mount",
    ),
    ("cli", EVERYTHING_ABOVE),
    ("main", "cli"),
    ("mount-helper", "mount options"),
];
const EVERYTHING_ABOVE: &str = "*";

/// Outside crates that only some rooms may name.
const CRATES: &[(&str, &str)] = &[
    ("fuser", "fuse"),
    ("tar", "pack registry"),
    ("flate2", "pack"),
    ("zstd", "pack"),
    ("ureq", "registry"),
    ("http_auth", "registry"),
    ("toml", "registry"),
    ("clap", "cli"),
    ("clap_complete", "cli"),
    ("anyhow", "cli"),
    ("indicatif", "cli"),
    ("redb", "snapshotter"),
    ("regex", "snapshotter"),
    ("tonic", "snapshotter"),
    ("tonic_prost", "snapshotter"),
    ("prost", "snapshotter"),
    ("prost_types", "snapshotter"),
    ("tokio", "snapshotter"),
    ("tokio_stream", "snapshotter"),
];

/// Crates that only some files of their room may name.
const CRATES_OF_FILES: &[(&str, &str)] = &[
    ("tonic", "src/snapshotter/transport"),
    ("tonic_prost", "src/snapshotter/transport"),
    ("prost", "src/snapshotter/transport"),
    ("prost_types", "src/snapshotter/transport"),
    ("tokio", "src/snapshotter/transport"),
    ("tokio_stream", "src/snapshotter/transport"),
];

/// Files that a program wrote; their length is not ours to choose.
const GENERATED: &[&str] = &["src/snapshotter/transport/generated.rs"];

/// Token sequences that only some rooms may contain, and the rule that holds elsewhere.
const RESERVED: &[(&str, &str, &str)] = &[
    ("unsafe", "sys", "`unsafe` lives in sys only"),
    ("println !", VOICES, "only cli and the mount helper print"),
    ("eprintln !", VOICES, "only cli and the mount helper print"),
    ("print !", VOICES, "only cli and the mount helper print"),
    ("eprint !", VOICES, "only cli and the mount helper print"),
    ("env :: var", VOICES, ENVIRONMENT),
    ("env :: var_os", VOICES, ENVIRONMENT),
    ("env :: vars", VOICES, ENVIRONMENT),
    ("env :: args", VOICES, ENVIRONMENT),
    ("env :: args_os", VOICES, ENVIRONMENT),
    ("env :: current_dir", VOICES, ENVIRONMENT),
    ("env :: home_dir", VOICES, ENVIRONMENT),
    ("env :: temp_dir", VOICES, ENVIRONMENT),
    (
        "process :: exit",
        VOICES,
        "only cli and the mount helper end the process",
    ),
    ("todo !", "", "nothing is left as `todo!`"),
    ("unimplemented !", "", "nothing is left as `unimplemented!`"),
    ("dbg !", "", "no `dbg!` stays in the code"),
];
const ENVIRONMENT: &str = "only cli and the mount helper read the environment";
const VOICES: &str = "cli main mount-helper";

/// Token sequences that the rooms named may not contain, and the rule that they would break.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    (
        "name : String",
        TREES,
        "a name is bytes (OsStr, [u8]), never String",
    ),
    (
        "path : String",
        TREES,
        "a path is bytes (OsStr, [u8]), never String",
    ),
    (
        "target : String",
        TREES,
        "a link target is bytes (OsStr, [u8]), never String",
    ),
    (
        "WritableDir",
        "layer union fuse",
        "only the upper layer can be written to",
    ),
    ("std :: fs", VALUES, "this room does no I/O"),
    ("TcpStream", VALUES, "this room does no I/O"),
    ("SystemTime :: now", VALUES, "this room has no clock"),
];
const TREES: &str = "layer pack union overlay fuse";
const VALUES: &str = "oci whiteout idmap options";

/// The most lines a file may have, tests not counted.
const MAX_LINES: usize = 450;
/// A comment with these words, on the line or just above it, excuses a result that is thrown away.
const EXCUSE: &str = "best effort";

fn among(list: &str, name: &str) -> bool {
    list.split(' ').any(|entry| entry == name)
}

fn report(breaches: Vec<String>) {
    assert!(
        breaches.is_empty(),
        "{} breaches:\n{}\n",
        breaches.len(),
        breaches.join("\n")
    );
}

#[test]
fn rooms_use_only_what_lies_below_them() {
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|source| source.room != "lib") {
        let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| *room == source.room) else {
            let (path, room) = (&source.path, &source.room);
            breaches.push(format!(
                "{path}: the room `{room}` has no row in ROOMS ({})",
                file!()
            ));
            continue;
        };
        for (line, used) in rooms_used(source, &without_tests(&source.text).0) {
            let known = ROOMS.iter().any(|(room, _)| *room == used);
            let above = ROOMS.iter().take_while(|(room, _)| *room != source.room);
            let may = match *allowed {
                EVERYTHING_ABOVE => above.into_iter().any(|(room, _)| *room == used),
                list => among(list, used),
            };
            if known && used != source.room && !may {
                let (path, room) = (&source.path, &source.room);
                breaches.push(format!("{path}:{line}: `{room}` may not use `{used}`"));
            }
        }
    }
    report(breaches);
}

#[test]
fn the_table_of_rooms_has_no_circle() {
    for (n, (room, allowed)) in ROOMS.iter().enumerate() {
        for used in allowed
            .split(' ')
            .filter(|used| !matches!(*used, "" | EVERYTHING_ABOVE))
        {
            let above = ROOMS[..n].iter().any(|(earlier, _)| *earlier == used);
            assert!(
                above,
                "`{room}` may use `{used}`, which does not stand above it in ROOMS"
            );
        }
    }
}

#[test]
fn crates_and_words_stay_in_their_rooms() {
    let mut breaches = Vec::new();
    for source in sources() {
        let (path, room) = (&source.path, &source.room.as_str());
        let (code, ..) = without_tests(&source.text);
        let elsewhere = CRATES.iter().filter(|(_, rooms)| !among(rooms, room));
        let other_file = CRATES_OF_FILES
            .iter()
            .filter(|(_, files)| !path.starts_with(files));
        for (name, places) in elsewhere.chain(other_file) {
            for line in named(&code, name) {
                breaches.push(format!(
                    "{path}:{line}: the crate `{name}` is named only in: {places}"
                ));
            }
        }
        let reserved = RESERVED.iter().filter(|(_, rooms, _)| !among(rooms, room));
        let forbidden = FORBIDDEN.iter().filter(|(_, rooms, _)| among(rooms, room));
        for (word, _, rule) in reserved.chain(forbidden) {
            for at in find(&code, word) {
                breaches.push(format!("{path}:{}: {rule}", code[at].line));
            }
        }
    }
    report(breaches);
}

/// The lines on which code names a crate.
fn named(code: &[Token<'_>], name: &str) -> Vec<usize> {
    let is_crate = |at: &usize| {
        let before = if *at > 0 { code[*at - 1].text } else { "" };
        let after = code.get(*at + 1).map_or("", |token| token.text);
        before == "use" || (after == "::" && before != "::")
    };
    let found = find(code, name).filter(is_crate);
    found.map(|at| code[at].line).collect()
}

#[test]
fn no_result_is_thrown_away_silently() {
    let mut breaches = Vec::new();
    for source in sources() {
        let (code, ..) = without_tests(&source.text);
        let lines: Vec<&str> = source.text.lines().collect();
        for at in find(&code, "let _ =") {
            let line = code[at].line;
            let statement = code[at..].iter().take_while(|token| token.text != ";");
            let calls = statement.filter(|token| token.text == "(").count() > 0;
            let excused = lines[line.saturating_sub(4)..line]
                .iter()
                .any(|l| l.contains(EXCUSE));
            if calls && !excused {
                breaches.push(format!(
                    "{}:{line}: handle the result, or say why not in a comment with `{EXCUSE}`",
                    source.path
                ));
            }
        }
    }
    report(breaches);
}

#[test]
fn files_stay_short() {
    let mut breaches = Vec::new();
    for source in sources() {
        if GENERATED.contains(&source.path.as_str()) {
            continue;
        }
        let lines = source.text.lines().count() - without_tests(&source.text).1;
        if lines > MAX_LINES {
            let path = &source.path;
            breaches.push(format!(
                "{path}: {lines} lines without tests, at most {MAX_LINES}"
            ));
        }
    }
    report(breaches);
}
