//! Paths as text, for what is recorded as JSON.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path as text from which its bytes can be told: a byte that is no UTF-8 is `\\xFF` in hexadecimal
/// digits, and a backslash is two.
#[must_use]
pub fn path_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', r"\\"));
        for byte in chunk.invalid() {
            text.push_str(&format!(r"\x{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn regression_paths_that_are_no_text_stay_apart() {
        let text = |bytes: &[u8]| path_text(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(text("/a b/\u{e9}".as_bytes()), "/a b/\u{e9}");
        assert_eq!(text(b"/a\xff\xfe/b"), r"/a\xFF\xFE/b");
        assert_eq!(text(br"/a\xFF"), r"/a\\xFF");
    }
}
