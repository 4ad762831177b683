//! Tables, JSON, sizes, times and the log.

use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use serde::Serialize;

use super::failure::Failure;
use super::{Result, progress};
use crate::{cause, fuse};

/// The failure of writing to standard output.
pub fn failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::broken_pipe()
    } else {
        // A full disk here is not that of the store, for which there are hints.
        Failure::plain(format!("cannot write the output: {error}"))
    }
}

/// Writes a line.
pub fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .map_err(failed)
}

/// Writes a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new("cannot write the output", error))?;
    line(&text)
}

/// Writes a value as one line of JSON.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::new("cannot write the output", error))?;
    line(&text)
}

/// Writes rows in columns, three spaces apart and at least ten wide, as Docker does.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|title| title.len().max(7)).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<String> = header.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        line(cells.join("   ").trim_end())?;
    }
    Ok(())
}

/// Bytes as Docker shows them: 4.2kB, 78.1MB.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    // Three significant digits.
    let digits = match value {
        _ if unit == "B" => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// How long ago a time in RFC 3339 was, as Docker says it.
pub fn ago(time: &str, now: SystemTime) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else {
        return "N/A".to_owned();
    };
    let Ok(now) = jiff::Timestamp::try_from(now) else {
        return "N/A".to_owned();
    };
    let seconds = now.as_second() - then.as_second();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    let several = |count: i64, unit: &str| format!("{count} {unit} ago");
    match () {
        () if seconds < 1 => "Less than a second ago".to_owned(),
        () if seconds == 1 => "1 second ago".to_owned(),
        () if seconds < 60 => several(seconds, "seconds"),
        () if minutes == 1 => "About a minute ago".to_owned(),
        () if minutes < 60 => several(minutes, "minutes"),
        () if hours == 1 => "About an hour ago".to_owned(),
        () if hours < 48 => several(hours, "hours"),
        () if hours < 24 * 7 * 2 => several(hours / 24, "days"),
        () if hours < 24 * 30 * 2 => several(hours / 24 / 7, "weeks"),
        () if hours < 24 * 365 * 2 => several(hours / 24 / 30, "months"),
        () => several(hours / 24 / 365, "years"),
    }
}

/// A time in RFC 3339 as Docker shows it: `2026-01-31 12:00:00 +0000 UTC`, in this machine's zone.
pub fn created_at(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => {
            let time = time.to_zoned(jiff::tz::TimeZone::system());
            time.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
        }
        Err(_) => "N/A".to_owned(),
    }
}

/// A time in RFC 3339.
pub fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "N/A".to_owned(), |time| time.to_string())
}

/// A time as `ls --time-style=long-iso` shows it, with seconds; UTC.
pub fn moment(seconds: i64) -> String {
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("@{seconds}"),
    }
}

/// The time now, or the one that `SOURCE_DATE_EPOCH` asks for.
pub fn creation_time() -> Result<SystemTime> {
    let Some(epoch) = std::env::var_os("SOURCE_DATE_EPOCH") else {
        return Ok(SystemTime::now());
    };
    let seconds = epoch.to_str().and_then(|text| text.parse().ok());
    seconds
        .and_then(|seconds| {
            SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))
        })
        .ok_or_else(|| Failure::usage("SOURCE_DATE_EPOCH is not a number of seconds"))
}

/// A name for people: as it is in a pipe, escaped on a terminal if it is not plain text.
pub fn name(bytes: &[u8]) -> Vec<u8> {
    let plain = str::from_utf8(bytes).is_ok_and(|text| !text.chars().any(char::is_control));
    if plain || !io::stdout().is_terminal() {
        bytes.to_vec()
    } else {
        format!("'{}'", bytes.escape_ascii()).into_bytes()
    }
}

/// Text of another's making as it may go to a terminal: without what would steer that.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Writes lines to standard error at once, so that those of several processes do not mix.
pub fn tell(lines: &str) {
    // Nobody can be told when that fails.
    drop(io::stderr().write_all(lines.as_bytes()));
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("plyfs") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = cause::plain(&record.args().to_string());
            let level = if fuse::is_unwanted_answer(record.target(), &text) {
                log::Level::Debug
            } else {
                record.level()
            };
            if level <= log::max_level() && !crate::mount::tell_system(level, &text) {
                let level = level.as_str().to_lowercase();
                progress::above_bars(|| tell(&format!("plyfs: {level}: {text}\n")));
            }
        }
    }

    fn flush(&self) {}
}

/// Sends the log to standard error: warnings, and more when asked to.
pub fn start_log(verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_docker() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_203_000, "4.2MB"),
            (78_100_000, "78.1MB"),
            (117_000_000, "117MB"),
            (1_240_000_000, "1.24GB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn ages_are_those_of_docker() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        for (seconds, expected) in [
            (0, "Less than a second ago"),
            (59, "59 seconds ago"),
            (90, "About a minute ago"),
            (3600, "About an hour ago"),
            (2 * 86400, "2 days ago"),
            (20 * 86400, "2 weeks ago"),
            (100 * 86400, "3 months ago"),
            (1000 * 86400, "2 years ago"),
        ] {
            let then = jiff::Timestamp::from_second(1_700_000_000 - seconds)
                .unwrap()
                .to_string();
            assert_eq!(ago(&then, now), expected, "{seconds}");
        }
        assert_eq!(ago("yesterday", now), "N/A");
    }
}
