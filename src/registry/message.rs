//! What is sent to a server, and what it answers.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use ureq::Body;
use ureq::http::Response as HttpResponse;

use super::exact::read_limited;
use super::url::Url;

/// How much of an error's body is read.
const LARGEST_DETAIL: u64 = 64 << 10;

/// The methods that registries know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
}

impl Method {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

/// What a request carries. It can be had again, for another attempt.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Nothing,
    /// An HTML form, encoded.
    Form(&'a str),
    Bytes(&'a [u8]),
    Part(Part<'a>),
}

/// A part of a file.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) file: &'a File,
    /// In bytes.
    pub(super) start: u64,
    pub(super) length: u64,
    /// Is told how far in the file the sending is.
    pub(super) sent: &'a (dyn Fn(u64) + Sync),
}

impl<'a> Part<'a> {
    pub(super) fn reader(self) -> impl Read + 'a {
        let position = self.start;
        PartReader {
            part: self,
            position,
        }
    }
}

struct PartReader<'a> {
    part: Part<'a>,
    position: u64,
}

impl Read for PartReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.part.start + self.part.length;
        let left = usize::try_from(end - self.position).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let count = self
            .part
            .file
            .read_at(&mut buffer[..length], self.position)?;
        if count == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        (self.part.sent)(self.position);
        Ok(count)
    }
}

/// A request.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(&'static str, String)],
    /// The `Authorization` header.
    pub(super) authorization: Option<&'a str>,
    pub(super) content: Content<'a>,
    /// The registry that named this address, if it is not the registry's own: all addresses on the way
    /// must then be fit for that.
    pub(super) named_by: Option<&'a Url>,
    /// Sent again only if the server says that it has refused it: a lost answer must not make it
    /// happen twice.
    pub(super) once: bool,
}

impl<'a> Request<'a> {
    /// A plain request without content.
    pub(super) fn new(
        method: Method,
        url: &'a Url,
        headers: &'a [(&'static str, String)],
    ) -> Request<'a> {
        Request {
            method,
            url,
            headers,
            authorization: None,
            content: Content::Nothing,
            named_by: None,
            once: false,
        }
    }

    /// A plain GET.
    pub(super) fn get(url: &'a Url, headers: &'a [(&'static str, String)]) -> Request<'a> {
        Request::new(Method::Get, url, headers)
    }
}

/// The answer to a request, after redirects.
#[derive(Debug)]
pub(super) struct Response {
    /// Who answered in the end.
    pub(super) url: Url,
    /// Whether the request ended at another origin than it started from.
    pub(super) elsewhere: bool,
    pub(super) inner: HttpResponse<Body>,
}

impl Response {
    pub(super) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// The first header of this name, if it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// All headers of this name that are text.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.inner
            .headers()
            .get_all(name)
            .iter()
            .flat_map(|value| value.to_str())
    }

    pub(super) fn into_body(self) -> Box<dyn Read + Send> {
        Box::new(self.inner.into_body().into_reader())
    }

    /// What the server says about its error, in one bounded line.
    pub(super) fn into_detail(self) -> String {
        match read_limited(self.into_body(), LARGEST_DETAIL) {
            Ok(Some(bytes)) => detail(&bytes),
            Ok(None) => String::new(),
            Err(e) => {
                log::debug!("cannot read what the server says about its error: {e}");
                String::new()
            }
        }
    }

    /// How long the server asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let header = self.header("retry-after")?.trim();
        if let Ok(seconds) = header.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let until = httpdate::parse_http_date(header).ok()?;
        // By the server's clock, which need not be ours.
        let date = self.header("date").map(httpdate::parse_http_date);
        let now = date.and_then(Result::ok).unwrap_or_else(SystemTime::now);
        Some(until.duration_since(now).unwrap_or_default())
    }
}

/// The messages in a body of the distribution specification's form; anything else says nothing.
fn detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<OneError>,
    }
    #[derive(serde::Deserialize)]
    struct OneError {
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    let Ok(Errors { errors }) = serde_json::from_slice(body) else {
        return String::new();
    };
    let texts: Vec<String> = errors
        .into_iter()
        .take(3)
        .filter_map(|error| error.message.filter(|text| !text.is_empty()).or(error.code))
        .collect();
    texts
        .join(", ")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_details_of_errors_are_one_line() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no\u001b[2J\nway"}]}"#,
                "no [2J way",
            ),
            (
                r#"{"errors":[{"code":"DENIED"},{"message":"x"}]}"#,
                "DENIED, x",
            ),
            ("<html>", ""),
        ] {
            assert_eq!(detail(body.as_bytes()), expected);
        }
    }
}
