//! Points in time as people give them to `until`, and as images have them.

use std::time::SystemTime;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Reads the value of `until`: a time (RFC 3339, or without a zone, then of this machine's), a day,
/// seconds since 1970, or how long ago in Go's words: `10m`, `1h30m`.
pub fn parse(text: &str, now: SystemTime) -> Option<Timestamp> {
    if let Some(ago) = duration(text) {
        return Timestamp::try_from(now).ok()?.checked_sub(ago).ok();
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    // Only so many digits can be a day: `2026` is taken for seconds, as Docker does.
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits: String = fraction
            .chars()
            .chain("000000000".chars())
            .take(9)
            .collect();
        return Timestamp::new(seconds.parse().ok()?, digits.parse().ok()?).ok();
    }
    // `2006-01-02Z07:00`: a day in a zone.
    if let Some((day, zone)) = text
        .split_at_checked(10)
        .filter(|(_, zone)| !zone.is_empty())
        && let Ok(time) = format!("{day}T00:00:00{zone}").parse::<Timestamp>()
    {
        return Some(time);
    }
    let here = |time: DateTime| time.to_zoned(TimeZone::system()).ok();
    let time = match text.parse::<DateTime>() {
        Ok(time) => here(time)?,
        Err(_) => here(
            text.parse::<Date>()
                .ok()?
                .to_datetime(jiff::civil::Time::midnight()),
        )?,
    };
    Some(time.timestamp())
}

/// The time that an image says it was made at.
pub fn of_image(created: Option<&str>) -> Option<Timestamp> {
    created.and_then(|time| time.parse().ok())
}

/// Go's durations: numbers with units, one after another.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut total = SignedDuration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        let part = SignedDuration::try_from_secs_f64(number * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_forms_that_docker_documents() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (text, expected) in [
            ("10m", "2001-09-09T01:36:40Z"),
            ("1h30m", "2001-09-09T00:16:40Z"),
            ("1.5h", "2001-09-09T00:16:40Z"),
            ("1500ms", "2001-09-09T01:46:38.5Z"),
            ("2017-01-04T00:00:00Z", "2017-01-04T00:00:00Z"),
            ("2017-01-04T02:00:00.5+02:00", "2017-01-04T00:00:00.5Z"),
            ("2017-01-04Z", "2017-01-04T00:00:00Z"),
            ("2017-01-04+02:00", "2017-01-03T22:00:00Z"),
            ("1483488000", "2017-01-04T00:00:00Z"),
            ("1483488000.25", "2017-01-04T00:00:00.25Z"),
        ] {
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(parse(text, now), Some(expected), "{text}");
        }
        for text in ["2017-01-04T00:00:00", "2017-01-04T00:00:00.9", "2017-01-04"] {
            assert!(parse(text, now).is_some(), "{text}");
        }
        for text in ["", "yesterday", "10 minutes", "10", "5d", "h"] {
            let expected = (text == "10").then(|| Timestamp::new(10, 0).unwrap());
            assert_eq!(parse(text, now), expected, "{text}");
        }
    }
}
