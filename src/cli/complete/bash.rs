//! Completion in bash, which breaks words where names of images have colons.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap_complete::env::{Bash, EnvCompleter};

/// As clap completes, with whole words.
pub struct WholeWords;

/// Puts the words together again that bash broke at colons and equal signs, up to the cursor, lets them
/// be completed, and takes off what stands before the last break, which bash keeps.
const WHOLE_WORDS: &str = r#"
_plyfs_whole_words() {
    local rest=${COMP_LINE:0:COMP_POINT} words=() word space
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        space=${rest%%[![:space:]]*}
        rest=${rest#"$space"}
        word=${word:0:${#rest}}
        if [[ -z $space && ${#words[@]} -gt 0 && ( $word == [:=]* || ${words[-1]} == *[:=] ) ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        rest=${rest#"$word"}
    done
    local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
    local current=${words[-1]} last=${words[-1]##*[:=]}
    [[ $2 == "$current" ]] && last=$2
    COMPREPLY=()
    _clap_complete_plyfs "$1" "$current" "$3"
    COMPREPLY=("${COMPREPLY[@]#"${current%"$last"}"}")
}
complete -o nospace -o bashdefault -o nosort -F _plyfs_whole_words plyfs
"#;

impl EnvCompleter for WholeWords {
    fn name(&self) -> &'static str {
        Bash.name()
    }

    fn is(&self, name: &str) -> bool {
        Bash.is(name)
    }

    fn write_registration(
        &self,
        var: &str,
        name: &str,
        bin: &str,
        completer: &str,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        Bash.write_registration(var, name, bin, completer, out)?;
        out.write_all(WHOLE_WORDS.as_bytes())
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        directory: Option<&Path>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        Bash.write_complete(command, words, directory, out)
    }
}
