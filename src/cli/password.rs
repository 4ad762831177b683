//! A password from the terminal, which does not show it.

use std::io::{self, Read, Write};

use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const KILL_LINE: u8 = 0x15;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];

/// A terminal that shows nothing of what is typed, until this goes.
///
/// It handles no keys either, so that an interruption finds it as it was before.
struct Silent(Termios);

impl Silent {
    fn new() -> io::Result<Silent> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Silent(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Err(errno) = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0) {
            log::error!("the terminal stays silent (stty sane helps): {errno}");
        }
    }
}

/// Asks for a password on standard input, which must be a terminal.
///
/// # Errors
/// A terminal that cannot be used, or a password that is not UTF-8.
pub fn ask(prompt: &str) -> io::Result<String> {
    let silent = Silent::new()?;
    let mut out = io::stdout();
    write!(out, "{prompt}")?;
    out.flush()?;
    let typed = read_line(&mut io::stdin().lock());
    drop(silent);
    writeln!(out)?;
    match typed? {
        Some(typed) => String::from_utf8(typed).map_err(io::Error::other),
        None => {
            raise(Signal::SIGINT)?;
            Err(io::ErrorKind::Interrupted.into())
        }
    }
}

/// What is typed up to the end of a line; `None` if that is an interruption.
fn read_line(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut typed = Vec::new();
    let mut key = [0];
    loop {
        if input.read(&mut key)? == 0 {
            return Ok(Some(typed));
        }
        match key[0] {
            b'\n' | b'\r' => return Ok(Some(typed)),
            END if typed.is_empty() => return Ok(Some(typed)),
            INTERRUPT => return Ok(None),
            KILL_LINE => typed.clear(),
            key if BACKSPACE.contains(&key) => {
                // A character of several bytes goes as a whole.
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            key => typed.push(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        for (typed, expected) in [
            (&b"secret\nmore"[..], Some("secret")),
            (b"sex\x7fcret\r", Some("secret")),
            ("se\u{e9}\x7fcret\n".as_bytes(), Some("secret")),
            (b"wrong\x15secret", Some("secret")),
            (b"se\x03", None),
            (b"\x04x", Some("")),
        ] {
            let read = read_line(&mut &typed[..]).unwrap();
            assert_eq!(read.as_deref(), expected.map(str::as_bytes), "{typed:?}");
        }
    }
}
