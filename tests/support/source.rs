//! Reads the sources of the program as tokens: comments, the insides of literals and tests are left
//! out. Just enough of Rust for `tests/architecture.rs`, with the standard library alone.

use std::fs;
use std::path::Path;

/// A word or sign of the source, and the line it stands on.
pub struct Token<'a> {
    pub line: usize,
    pub text: &'a str,
}

/// A source file.
pub struct Source {
    /// Path below the package, as printed.
    pub path: String,
    /// The room it belongs to.
    pub room: String,
    /// How many modules deep it lies: 1 for `src/union/mod.rs`.
    pub depth: usize,
    pub text: String,
}

/// Splits `text` into words, `::` and single signs. Comments vanish, literals become one sign.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    let (mut found, mut line, mut i) = (Vec::new(), 1, 0);
    while i < bytes.len() {
        let start = i;
        let rest = &text[i..];
        let mut kept = "";
        if at(i).is_ascii_whitespace() {
            i += 1;
        } else if rest.starts_with("//") {
            i += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            i += rest.find("*/").map_or(rest.len(), |n| n + 2);
        } else if let Some(n) = literal(rest) {
            i += n;
            kept = "\"";
        } else if word(at(i)) {
            while word(at(i)) {
                i += 1;
            }
            kept = &text[start..i];
        } else if rest.starts_with("::") {
            i += 2;
            kept = "::";
        } else {
            i += 1;
            kept = &text[start..i];
        }
        if !kept.is_empty() {
            found.push(Token { line, text: kept });
        }
        line += bytes[start..i].iter().filter(|b| **b == b'\n').count();
    }
    found
}

/// The length of the string or character literal that `rest` begins with.
fn literal(rest: &str) -> Option<usize> {
    let prefix = rest
        .find(|c: char| !matches!(c, 'b' | 'c' | 'r'))
        .filter(|n| *n <= 2)?;
    let (head, body) = rest.split_at(prefix);
    if head.ends_with('r') && body.starts_with(['"', '#']) {
        let hashes = body.find(|c| c != '#')?;
        let close = format!("\"{}", &body[..hashes]);
        let inside = body[hashes..].strip_prefix('"')?;
        return Some(prefix + hashes + 1 + inside.find(&close)? + close.len());
    }
    let quote = body.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut escaped = false;
    for (n, c) in body.char_indices().skip(1) {
        match c {
            // A lifetime: a word after `'` that no `'` follows.
            _ if quote == '\'' && !escaped && n >= 1 && is_lifetime(body) => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(prefix + n + 1),
            _ => {}
        }
    }
    None
}

fn is_lifetime(body: &str) -> bool {
    let mut chars = body.chars().skip(1);
    let first = chars.next().unwrap_or(' ');
    (first.is_alphabetic() || first == '_') && chars.next() != Some('\'')
}

/// Where `words` (separated by spaces) stand in `tokens`.
pub fn find<'a>(tokens: &'a [Token<'a>], words: &'a str) -> impl Iterator<Item = usize> + 'a {
    let wanted: Vec<&str> = words.split(' ').collect();
    (0..tokens.len()).filter(move |i| {
        tokens.len() - i >= wanted.len()
            && wanted
                .iter()
                .zip(&tokens[*i..])
                .all(|(word, token)| *word == token.text)
    })
}

/// Cuts out what is marked `#[cfg(test)]`; also tells how many lines went and which files it names.
pub fn without_tests(text: &str) -> (Vec<Token<'_>>, usize, Vec<String>) {
    let (mut code, mut lines, mut files) = (tokens(text), 0, Vec::new());
    loop {
        let Some(start) = find(&code, "# [ cfg ( test ) ]").next() else {
            break;
        };
        let (mut depth, mut end) = (0, start + 7);
        while end < code.len() {
            match code[end].text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(code[end].text, "}" | ";") {
                break;
            }
            end += 1;
        }
        let end = end.min(code.len() - 1);
        if let Some(module) = find(&code[start..=end], "mod").next()
            && code[end].text == ";"
        {
            files.push(code[start + module + 1].text.to_owned());
        }
        lines += code[end].line - code[start].line + 1;
        code.drain(start..=end);
    }
    (code, lines, files)
}

/// Every source file of the program that is not a test.
pub fn sources() -> Vec<Source> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut tests) = (Vec::new(), Vec::new());
    let mut waiting = vec![package.join("src"), package.join("mount-helper/src")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(package).unwrap();
            let module = module_of(path);
            let files = without_tests(&text).2.into_iter();
            tests.extend(files.map(|name| [module.clone(), vec![name]].concat()));
            let room = match (path.starts_with("src"), module.first()) {
                (true, Some(room)) => room.clone(),
                (true, None) => path.file_stem().unwrap().to_str().unwrap().to_owned(),
                (false, _) => "mount-helper".to_owned(),
            };
            found.push((
                module.clone(),
                Source {
                    path: path.to_str().unwrap().to_owned(),
                    room,
                    depth: module.len(),
                    text,
                },
            ));
        }
    }
    found.retain(|(module, _)| !tests.iter().any(|test| module.starts_with(test)));
    let mut found: Vec<Source> = found.into_iter().map(|(_, source)| source).collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no sources below {}", package.display());
    found
}

/// `src/union/stack.rs` is `["union", "stack"]`; the root of a crate is `[]`.
fn module_of(path: &Path) -> Vec<String> {
    let from = path.iter().position(|part| part == "src").unwrap() + 1;
    let file: std::path::PathBuf = path.iter().skip(from).collect();
    let file = file.with_extension("");
    let mut module: Vec<String> = file
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if matches!(
        module.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        module.pop();
    }
    module
}

/// The rooms that `code` names, through `crate::`, `super::` or (outside the library) `plyfs::`.
pub fn rooms_used<'a>(source: &Source, code: &'a [Token<'a>]) -> Vec<(usize, &'a str)> {
    let mut used = Vec::new();
    for i in 0..code.len() {
        let text = |n: usize| code.get(n).map_or("", |token| token.text);
        let mut at = match text(i) {
            "crate" if !matches!(source.room.as_str(), "main" | "mount-helper") => i + 1,
            "plyfs" => i + 1,
            "super" if i == 0 || text(i - 1) != "::" => {
                let mut floors = 1;
                while text(i + 2 * floors) == "super" {
                    floors += 1;
                }
                if floors < source.depth {
                    continue;
                }
                i + 2 * floors - 1
            }
            _ => continue,
        };
        if text(at) != "::" {
            continue;
        }
        at += 1;
        if text(at) != "{" {
            used.push((code[at].line, text(at)));
            continue;
        }
        // `use crate::{a::b, c}`: the words right after `{` or `,` at the first level.
        let mut depth = 0;
        loop {
            match text(at) {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 || at >= code.len() {
                break;
            }
            if depth == 1 && matches!(text(at), "{" | ",") {
                used.push((code[at + 1].line, text(at + 1)));
            }
            at += 1;
        }
    }
    used
}

#[test]
fn the_reader_of_sources_reads_rust() {
    let text = r##"
        use crate::{layer::{self, Kind}, sys, /* oci */};
        fn f<'a>(x: &'a str) -> char { g("crate::oci", r#"crate::"oci"#, '"', '\\'', b'x'); 'y' }
        #[cfg(test)]
        mod tests { use crate::cli; fn t() { assert!({ 1 } == 1); } }
        use super::store; use super::super::fuse; // crate::image
        #[cfg(test)]
        mod cases;
        fn end() {}
    "##;
    let (code, lines, files) = without_tests(text);
    let source = Source {
        path: "x".into(),
        room: "pack".into(),
        depth: 2,
        text: String::new(),
    };
    let used = rooms_used(&source, &code);
    assert_eq!(used[..2], [(2, "layer"), (2, "sys")]);
    assert_eq!(used.last(), Some(&(6, "fuse")));
    assert!(
        !used
            .iter()
            .any(|(_, room)| ["oci", "cli", "store", "image"].contains(room))
    );
    assert_eq!((lines, files), (4, vec!["cases".to_owned()]));
    assert_eq!(find(&code, "fn end ( ) { }").count(), 1);
}
