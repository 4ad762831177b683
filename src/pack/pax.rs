//! The records of a PAX extended header.

use std::ops::Range;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::header::{decimal, owner};
use super::sparse::Map;
use super::{Limits, Problem};
use crate::layer::Timestamp;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A range of [`Extensions::body`].
type Span = Range<usize>;

/// What a PAX header says about the entry that follows it.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// The records, and behind them what had to be decoded.
    pub(super) body: Vec<u8>,
    pub(super) path: Option<Span>,
    pub(super) link: Option<Span>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    xattrs: Vec<(Span, Span)>,
    pub(super) sparse: SparseRecords,
}

/// The records that GNU tar writes for sparse files.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Span>,
    pub(super) size: Option<u64>,
    /// Formats 0.0 and 0.1 have the map among the records.
    pub(super) map: Map,
    pub(super) has_map: bool,
    offset: Option<u64>,
}

impl Extensions {
    /// Forgets everything; memory is kept for the next header unless it was unusually large.
    pub(super) fn clear(&mut self) {
        let (mut body, mut xattrs) = (
            std::mem::take(&mut self.body),
            std::mem::take(&mut self.xattrs),
        );
        let mut map = std::mem::take(&mut self.sparse.map);
        body.clear();
        body.shrink_to(1 << 16);
        xattrs.clear();
        map.clear();
        *self = Extensions {
            body,
            xattrs,
            ..Extensions::default()
        };
        self.sparse.map = map;
    }

    pub(super) fn get(&self, span: &Span) -> &[u8] {
        self.body.get(span.clone()).unwrap_or_default()
    }

    /// Names and values of the extended attributes.
    pub(super) fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.xattrs
            .iter()
            .map(|(name, value)| (self.get(name), self.get(value)))
    }

    /// Reads the records in `body`.
    pub(super) fn parse(&mut self, limits: &Limits) -> Result<(), Problem> {
        let (mut at, end) = (0, self.body.len());
        while at < end {
            let rest = self.body.get(at..end).unwrap_or_default();
            let digits = rest
                .iter()
                .take(20)
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            let length = rest.get(..digits).and_then(decimal);
            let length = length.ok_or(Problem::Pax("no length"))?;
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= rest.len());
            let length = length.ok_or(Problem::Pax("the length exceeds the header"))?;
            let record = rest
                .get(digits..length)
                .and_then(|record| record.strip_prefix(b" "));
            let record = record.and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or(Problem::Pax("the length is wrong"))?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.ok_or(Problem::Pax("no equals sign"))?;
            let start = at + digits + 1;
            let key = start..start + equals;
            let value = start + equals + 1..start + record.len();
            self.record(key, value, limits)?;
            at += length;
        }
        if self.sparse.offset.is_some() {
            return Err(Problem::Sparse("an offset without a length"));
        }
        Ok(())
    }

    fn record(&mut self, key: Span, value: Span, limits: &Limits) -> Result<(), Problem> {
        let (name, bytes) = (self.get(&key), self.get(&value));
        if let Some(xattr) = name.strip_prefix(b"SCHILY.xattr.") {
            let start = key.end - xattr.len();
            // GNU tar encodes the equals sign, which would end the key, and so the percent sign.
            let decoded = xattr
                .contains(&b'%')
                .then(|| decode_percent(xattr, b"3D25"));
            return self.xattr(start..key.end, decoded, value, limits);
        }
        if let Some(xattr) = name.strip_prefix(b"LIBARCHIVE.xattr.") {
            let decoded = decode_percent(xattr, b"");
            let bytes = BASE64.decode(bytes);
            let bytes = bytes.map_err(|_| Problem::Pax("an attribute is not valid base64"))?;
            let value = self.append(&bytes);
            return self.xattr(key, Some(decoded), value, limits);
        }
        if name.starts_with(b"GNU.sparse.") {
            return sparse_record(&mut self.sparse, &self.body, key, value, limits);
        }
        // An empty value takes back what an earlier header said, which leaves the plain header.
        let empty = bytes.is_empty();
        match name {
            b"" => return Err(Problem::Pax("no key")),
            b"path" | b"linkpath" if bytes.contains(&0) => return Err(Problem::Nul("path")),
            b"path" => self.path = (!empty).then_some(value),
            b"linkpath" => self.link = (!empty).then_some(value),
            _ if empty => {}
            b"size" => self.size = Some(number(bytes, "size")?),
            b"uid" => self.uid = Some(owner(signed(bytes, "uid")?, "uid")?),
            b"gid" => self.gid = Some(owner(signed(bytes, "gid")?, "gid")?),
            b"mtime" => self.mtime = Some(timestamp(bytes).ok_or(Problem::Number("mtime"))?),
            _ => {}
        }
        Ok(())
    }

    fn xattr(
        &mut self,
        name: Span,
        decoded: Option<Vec<u8>>,
        value: Span,
        limits: &Limits,
    ) -> Result<(), Problem> {
        let name = match decoded {
            Some(decoded) => self.append(&decoded),
            None => name,
        };
        let bytes = self.get(&name);
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(Problem::Pax("an attribute without a valid name"));
        }
        // The kernel's limits: no file could ever have more.
        for (what, length, limit) in [
            (
                "bytes in the name of an extended attribute",
                bytes.len(),
                255,
            ),
            ("bytes in an extended attribute", value.len(), 65536),
            ("extended attributes", self.xattrs.len() + 1, limits.xattrs),
        ] {
            if length > limit {
                return Err(Problem::TooLarge {
                    what,
                    limit: limit as u64,
                });
            }
        }
        self.xattrs.push((name, value));
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Span {
        let start = self.body.len();
        self.body.extend_from_slice(bytes);
        start..self.body.len()
    }
}

fn sparse_record(
    sparse: &mut SparseRecords,
    body: &[u8],
    key: Span,
    value: Span,
    limits: &Limits,
) -> Result<(), Problem> {
    let bytes = body.get(value.clone()).unwrap_or_default();
    let key = body
        .get(key)
        .and_then(|key| key.strip_prefix(b"GNU.sparse."))
        .unwrap_or_default();
    let what = "number of a sparse map";
    match key {
        b"major" => sparse.major = Some(number(bytes, what)?),
        b"minor" => sparse.minor = Some(number(bytes, what)?),
        b"name" if bytes.contains(&0) => return Err(Problem::Nul("path")),
        b"name" => sparse.name = Some(value),
        b"size" | b"realsize" => sparse.size = Some(number(bytes, what)?),
        b"numblocks" => sparse.has_map = true,
        b"offset" if sparse.offset.is_some() => {
            return Err(Problem::Sparse("two offsets without a length"));
        }
        b"offset" => sparse.offset = Some(number(bytes, what)?),
        b"numbytes" => {
            let offset = sparse.offset.take();
            let offset = offset.ok_or(Problem::Sparse("a length without an offset"))?;
            sparse.map.push(offset, number(bytes, what)?, limits)?;
        }
        b"map" => {
            sparse.has_map = true;
            sparse.map.clear();
            let mut numbers = bytes
                .split(|byte| *byte == b',')
                .filter(|part| !part.is_empty());
            while let Some(offset) = numbers.next() {
                let length = numbers
                    .next()
                    .ok_or(Problem::Sparse("an offset without a length"))?;
                sparse
                    .map
                    .push(number(offset, what)?, number(length, what)?, limits)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn number(bytes: &[u8], what: &'static str) -> Result<u64, Problem> {
    // Signed 64 bits are what file sizes are everywhere.
    decimal(bytes)
        .filter(|value| *value <= i64::MAX as u64)
        .ok_or(Problem::Number(what))
}

fn signed(bytes: &[u8], what: &'static str) -> Result<i64, Problem> {
    match bytes.strip_prefix(b"-") {
        Some(digits) => Ok(-(number(digits, what)? as i64)),
        None => Ok(number(bytes, what)? as i64),
    }
}

/// A decimal fraction of seconds, rounded down to nanoseconds away from what cannot be held.
fn timestamp(bytes: &[u8]) -> Option<Timestamp> {
    let (negative, bytes) = match bytes.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, bytes),
    };
    let mut parts = bytes.splitn(2, |byte| *byte == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for place in 0..9 {
            let digit = fraction
                .get(place)
                .map_or(0, |digit| u32::from(digit - b'0'));
            nanoseconds = nanoseconds * 10 + digit;
        }
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp {
            seconds: whole,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -whole,
            nanoseconds,
        },
        // Nanoseconds count forward, also before the epoch.
        (true, _) => Timestamp {
            seconds: -whole - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

/// Decodes `%xy`: each if `only` is empty, else only the two-digit codes in `only`.
fn decode_percent(bytes: &[u8], only: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, behind @ ..]) = (first, tail) {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            let known = only.is_empty() || only.chunks(2).any(|code| code == [*high, *low]);
            if let (Some(high), Some(low), true) = (digit(high), digit(low), known) {
                decoded.push((high * 16 + low) as u8);
                rest = behind;
                continue;
            }
        }
        decoded.push(*first);
        rest = tail;
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::super::tests::archive::record;
    use super::*;

    #[test]
    fn timestamps_count_nanoseconds_forward() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("-1.5", -2, 500_000_000),
            ("-0.000000001", -1, 999_999_999),
            ("-3", -3, 0),
            ("1700000000.123456789999", 1_700_000_000, 123_456_789),
            ("5.", 5, 0),
            ("9223372036854775807", i64::MAX, 0),
        ] {
            let expected = Timestamp {
                seconds,
                nanoseconds,
            };
            assert_eq!(timestamp(text.as_bytes()), Some(expected), "{text}");
        }
        for text in [
            "",
            "-",
            "x",
            "1.x",
            "1e5",
            "9223372036854775808",
            " 1",
            "+1",
        ] {
            assert_eq!(timestamp(text.as_bytes()), None, "{text}");
        }
    }

    fn parse(body: &[u8]) -> Result<Extensions, Problem> {
        let mut extensions = Extensions {
            body: body.into(),
            ..Extensions::default()
        };
        extensions.parse(&Limits::default()).map(|()| extensions)
    }

    #[test]
    fn malformed_records_are_refused() {
        for body in [
            &b"10 path=ab\n\n"[..],
            b"99 path=a\n",
            b"0 a=b\n",
            b"x",
            b"8 path=a\n",
            b"18446744073709551616 a=b\n",
            b"6 path\n",
            b"5 =x\n",
            b"11 size=-1\n\n",
            b"12 path=a\0b\n",
            b"17 SCHILY.xattr.=\n\n",
            b"24 GNU.sparse.offset=10\n\n",
        ] {
            assert!(parse(body).is_err(), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn attribute_names_are_decoded() {
        let body = [
            record(b"SCHILY.xattr.user.a%3Db", b"x=\0"),
            record(b"LIBARCHIVE.xattr.user.%c3%a4", b"AAE"),
        ];
        let extensions = parse(&body.concat()).unwrap();
        let xattrs: Vec<_> = extensions.xattrs().collect();
        let expected: [(&[u8], &[u8]); 2] =
            [(b"user.a=b", b"x=\0"), ("user.ä".as_bytes(), b"\0\x01")];
        assert_eq!(xattrs, expected);
    }
}
