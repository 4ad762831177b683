//! How many requests a registry says that it answers.
//!
//! # See
//!
//! <https://docs.docker.com/docker-hub/usage/pulls/>: `ratelimit-limit: 100;w=21600`

use std::fmt;

use super::message::Response;

/// How many requests a registry answers in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    limit: u64,
    /// How many of them are left.
    left: u64,
    /// In how many seconds.
    window: Option<u64>,
}

impl Allowance {
    /// What the headers of an answer say.
    pub(super) fn of(response: &Response) -> Option<Allowance> {
        Self::parse(
            response.header("ratelimit-limit")?,
            response.header("ratelimit-remaining")?,
        )
    }

    fn parse(limit: &str, left: &str) -> Option<Allowance> {
        let number = |header: &str| header.split([';', ',']).next()?.trim().parse().ok();
        let mut parameters = limit.split([';', ',']).map(str::trim);
        let window = parameters.find_map(|parameter| parameter.strip_prefix("w="));
        Some(Allowance {
            limit: number(limit)?,
            left: number(left)?,
            window: window.and_then(|seconds| seconds.parse().ok()),
        })
    }

    /// Tells people while there is something left, but little.
    pub(super) fn tell(&self, host: &str) {
        let text = format!("{host} answers {self}, and {} more now", self.left);
        match self.left.saturating_mul(10) <= self.limit {
            true => log::warn!("{text}"),
            false => log::info!("{text}"),
        }
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests", self.limit)?;
        let Some(seconds) = self.window.filter(|seconds| *seconds > 0) else {
            return Ok(());
        };
        match seconds {
            hours if hours % 3600 == 0 => write!(f, " in {} h", hours / 3600),
            minutes if minutes % 60 == 0 => write!(f, " in {} min", minutes / 60),
            seconds => write!(f, " in {seconds} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let docker = Allowance::parse("100;w=21600", "76;w=21600").unwrap();
        assert_eq!((docker.limit, docker.left), (100, 76));
        for (limit, left, shown) in [
            ("100;w=21600", "5;w=21600", Some("100 requests in 6 h")),
            ("20, 20;w=60", "3", Some("20 requests in 1 min")),
            ("7;w=61", "3", Some("7 requests in 61 s")),
            ("7", "3", Some("7 requests")),
            ("many", "3", None),
            ("7", "", None),
        ] {
            let found = Allowance::parse(limit, left).map(|it| it.to_string());
            assert_eq!(found.as_deref(), shown, "{limit} {left}");
        }
    }
}
