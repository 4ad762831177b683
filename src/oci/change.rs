//! Instructions of a Dockerfile that change how an image is run: what `commit --change` takes.
//!
//! Words are split and `$NAME` is replaced as Docker does it: from the environment of the image.
//!
//! # See
//! <https://docs.docker.com/reference/dockerfile/>

use serde_json::{Value, json};

use super::{Config, ParseError, quoted};

/// Changes to a configuration, one instruction after another.
#[derive(Debug)]
pub struct Changes {
    config: Config,
    /// Whether a command was among the instructions, so that a new entrypoint leaves it.
    has_cmd: bool,
}

/// A word, and the instruction it is of for messages.
type Words = Result<Vec<String>, String>;

impl Changes {
    /// Starts from this configuration.
    pub fn to(config: Config) -> Self {
        let has_cmd = false;
        Self { config, has_cmd }
    }

    /// The configuration as it is now.
    pub fn config(self) -> Config {
        self.config
    }

    /// Follows the instructions of a text, usually one: `CMD ["nginx"]`. Each is on a line of its own,
    /// or on several with a backslash at the end of all but the last; lines with `#` say nothing.
    ///
    /// # Errors
    ///
    /// [`ParseError::Instruction`]; then only the instructions before that one were followed.
    pub fn apply(&mut self, text: &str) -> Result<(), ParseError> {
        let says_something = |line: &&str| {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with('#')
        };
        let mut instructions: Vec<String> = Vec::new();
        let mut goes_on = false;
        for line in text.lines().map(str::trim_end).filter(says_something) {
            let part = line.strip_suffix('\\').unwrap_or(line);
            match instructions.last_mut() {
                Some(begun) if goes_on => begun.push_str(part),
                _ => instructions.push(part.to_owned()),
            }
            goes_on = part.len() < line.len();
        }
        if instructions.is_empty() {
            return self.apply_one("");
        }
        instructions.iter().try_for_each(|one| self.apply_one(one))
    }

    fn apply_one(&mut self, instruction: &str) -> Result<(), ParseError> {
        let text = instruction.trim();
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        self.follow(&name.to_ascii_uppercase(), rest.trim())
            .map_err(|why| ParseError::Instruction {
                text: quoted(text),
                why,
            })
    }

    fn follow(&mut self, name: &str, rest: &str) -> Result<(), String> {
        let empty_is_meant = matches!(name, "CMD" | "ENTRYPOINT");
        if rest.is_empty() && !empty_is_meant {
            return Err(match name {
                "ENV" | "EXPOSE" | "LABEL" | "ONBUILD" | "USER" | "VOLUME" | "WORKDIR"
                | "STOPSIGNAL" | "HEALTHCHECK" => "it says nothing".to_owned(),
                _ => unknown(),
            });
        }
        match name {
            "CMD" => {
                self.config.cmd = command(rest);
                self.has_cmd = true;
            }
            "ENTRYPOINT" => {
                self.config.entrypoint = command(rest);
                if !self.has_cmd {
                    self.config.cmd.clear();
                }
            }
            "ENV" => {
                for (key, value) in self.pairs(rest)? {
                    set_variable(&mut self.config.env, &key, &value);
                }
            }
            "LABEL" => {
                let pairs = self.pairs(rest)?;
                self.config.labels.extend(pairs);
            }
            "EXPOSE" => {
                let words = self.words(rest)?;
                let exposed: Result<Vec<_>, _> = words.iter().map(|word| ports(word)).collect();
                self.config.exposed_ports.extend(exposed?.concat());
            }
            "VOLUME" => {
                let volumes = match array(rest) {
                    Some(volumes) => volumes,
                    None => self.words(rest)?,
                };
                self.config.volumes.extend(volumes);
            }
            "USER" => {
                let user = self.word(rest)?;
                if user.contains(char::is_whitespace) {
                    return Err("it is more than one user".to_owned());
                }
                self.config.user = user;
            }
            "WORKDIR" => {
                let path = self.word(rest)?;
                self.config.working_dir = below(&self.config.working_dir, &path);
            }
            "STOPSIGNAL" => {
                let signal = self.word(rest)?;
                if !is_signal(&signal) {
                    return Err(format!("{} is no signal", quoted(&signal)));
                }
                self.config.stop_signal = Some(signal);
            }
            "ONBUILD" => {
                let trigger = rest.split_whitespace().next().unwrap_or_default();
                if ["ONBUILD", "FROM", "MAINTAINER"].contains(&&*trigger.to_ascii_uppercase()) {
                    return Err(format!("{trigger} cannot be a trigger"));
                }
                let triggers = self.config.other.entry("OnBuild".to_owned()).or_default();
                match triggers {
                    Value::Array(triggers) => triggers.push(rest.into()),
                    other => *other = json!([rest]),
                }
            }
            "HEALTHCHECK" => {
                let check = health_check(rest)?;
                self.config.other.insert("Healthcheck".to_owned(), check);
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// `KEY=VALUE KEY=VALUE`, or `KEY VALUE`.
    fn pairs(&self, text: &str) -> Result<Vec<(String, String)>, String> {
        let first = text.split_whitespace().next().unwrap_or_default();
        if !first.contains('=') {
            let (key, value) = text
                .split_once(char::is_whitespace)
                .ok_or("it is not KEY=VALUE")?;
            let value = self.expand(value.trim())?;
            return Ok(vec![(self.word(key)?, value)]);
        }
        let words = self.words(text)?.into_iter();
        let pairs = words.map(|word| match word.split_once('=') {
            Some(("", _)) | None => Err(format!("{} is not KEY=VALUE", quoted(&word))),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        });
        pairs.collect()
    }

    fn word(&self, text: &str) -> Result<String, String> {
        self.expand(text)
    }

    /// The words of a text, without their quotes.
    fn words(&self, text: &str) -> Words {
        let mut words = Vec::new();
        let mut reader = Reader::new(&self.config.env, text);
        while reader.skip_space() {
            words.push(reader.word(true)?);
        }
        Ok(words)
    }

    /// A text of one word, which may have spaces in it.
    fn expand(&self, text: &str) -> Result<String, String> {
        Reader::new(&self.config.env, text).word(false)
    }
}

fn unknown() -> String {
    "it is none of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, \
     WORKDIR"
        .to_owned()
}

/// Reads words as Docker's own shell does.
struct Reader<'a> {
    environment: &'a [String],
    left: std::iter::Peekable<std::str::Chars<'a>>,
}

impl<'a> Reader<'a> {
    fn new(environment: &'a [String], text: &'a str) -> Self {
        let left = text.chars().peekable();
        Self { environment, left }
    }

    /// Goes to the next word, if there is one.
    fn skip_space(&mut self) -> bool {
        while self.left.next_if(|c| c.is_whitespace()).is_some() {}
        self.left.peek().is_some()
    }

    /// Reads to the end, or to the next space outside of quotes.
    fn word(&mut self, ends_at_space: bool) -> Result<String, String> {
        let mut word = String::new();
        let mut quote = None;
        while let Some(next) = self.left.peek().copied() {
            if quote.is_none() && ends_at_space && next.is_whitespace() {
                break;
            }
            self.left.next();
            match (next, quote) {
                ('\'' | '"', None) => quote = Some(next),
                (c, Some(open)) if c == open => quote = None,
                ('\\', None | Some('"')) => match self.left.next() {
                    // In double quotes only these are escaped.
                    Some(c) if quote.is_some() && !matches!(c, '"' | '$' | '\\') => {
                        word.extend(['\\', c]);
                    }
                    Some(c) => word.push(c),
                    None => word.push('\\'),
                },
                ('$', None | Some('"')) => word.push_str(&self.variable()?),
                (c, _) => word.push(c),
            }
        }
        match quote {
            Some(open) => Err(format!("a quote {open} is not closed")),
            None => Ok(word),
        }
    }

    /// What stands behind a dollar sign.
    fn variable(&mut self) -> Result<String, String> {
        let part_of_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        let braces = self.left.next_if_eq(&'{').is_some();
        let mut name = String::new();
        while let Some(c) = self.left.next_if(part_of_name) {
            name.push(c);
        }
        if !braces {
            // A dollar sign by itself stands for itself.
            return Ok(match name.is_empty() {
                true => "$".to_owned(),
                false => self.value(&name).unwrap_or_default().to_owned(),
            });
        }
        let mut rest = String::new();
        loop {
            match self.left.next() {
                Some('}') => break,
                Some(c) => rest.push(c),
                None => return Err("a brace { is not closed".to_owned()),
            }
        }
        let value = self.value(&name).filter(|value| !value.is_empty());
        let other = |text: &str| Reader::new(self.environment, text).word(false);
        match (name.is_empty(), rest.as_bytes()) {
            (false, []) => Ok(self.value(&name).unwrap_or_default().to_owned()),
            (false, [b':', b'-', ..]) => match value {
                Some(value) => Ok(value.to_owned()),
                None => other(&rest[2..]),
            },
            (false, [b':', b'+', ..]) => match value {
                Some(_) => other(&rest[2..]),
                None => Ok(String::new()),
            },
            _ => Err(format!("${{{name}{rest}}} is not understood")),
        }
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        let pairs = self
            .environment
            .iter()
            .filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(key, _)| *key == name);
        found.next_back().map(|(_, value)| value)
    }
}

/// The JSON form `["a", "b"]`; other text is not.
fn array(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// The JSON form, or a line for the shell.
fn command(text: &str) -> Vec<String> {
    match array(text) {
        Some(command) => command,
        None if text.is_empty() => Vec::new(),
        None => ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
    }
}

fn set_variable(environment: &mut Vec<String>, key: &str, value: &str) {
    let pair = format!("{key}={value}");
    let is_same = |known: &&mut String| known.split_once('=').is_some_and(|(name, _)| name == key);
    match environment.iter_mut().find(is_same) {
        Some(known) => *known = pair,
        None => environment.push(pair),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{} is no port", quoted(text));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(wrong());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// Whether this is the number of a signal or its name, with `SIG` before it or not.
fn is_signal(text: &str) -> bool {
    const NAMES: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR \
        QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ \
        RTMIN RTMAX";
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let is_in = |range: std::ops::RangeInclusive<u8>, number: &str| {
        number.parse().is_ok_and(|number| range.contains(&number))
    };
    if let Some(above) = name.strip_prefix("RTMIN+") {
        return is_in(1..=15, above);
    }
    if let Some(below) = name.strip_prefix("RTMAX-") {
        return is_in(1..=14, below);
    }
    is_in(1..=64, text) || NAMES.split(' ').any(|known| known == name)
}

/// A path seen from a directory, without `.` and `..` in it.
fn below(directory: &str, path: &str) -> String {
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{directory}/{path}"),
    };
    let mut parts = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `NONE`, or flags and `CMD` with a command.
fn health_check(text: &str) -> Result<Value, String> {
    let mut check = serde_json::Map::new();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, next) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        let (name, value) = flag
            .split_once('=')
            .ok_or(format!("--{flag} has no value"))?;
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => "Retries",
            _ => return Err(format!("--{name} is not understood")),
        };
        let number = match key {
            "Retries" => value.parse().ok(),
            _ => nanoseconds(value),
        };
        let number: u64 = number.ok_or(format!("{} is not valid for --{name}", quoted(value)))?;
        check.insert(key.to_owned(), number.into());
        rest = next.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    let test = match (kind.to_ascii_uppercase().as_str(), array(command)) {
        ("NONE", _) if command.is_empty() && check.is_empty() => vec!["NONE".to_owned()],
        ("CMD", Some(mut words)) if !words.is_empty() => {
            words.insert(0, "CMD".to_owned());
            words
        }
        ("CMD", None) if !command.is_empty() => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        _ => return Err("it is neither NONE nor CMD with a command".to_owned()),
    };
    check.insert("Test".to_owned(), test.into());
    Ok(check.into())
}

/// A duration as Go writes it: `1m30s`.
fn nanoseconds(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let units = [
            ("ns", 1),
            ("us", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let (unit, worth) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest.strip_prefix(unit)?;
        total = total.checked_add(number.checked_mul(worth)?)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(start: Config, instructions: &[&str]) -> Config {
        let mut changes = Changes::to(start);
        for instruction in instructions {
            changes.apply(instruction).unwrap();
        }
        changes.config()
    }

    #[test]
    fn commands_in_both_forms() {
        let shell = |line: &str| ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
        let start = Config {
            cmd: vec!["old".to_owned()],
            ..Config::default()
        };
        let config = changed(start.clone(), &[r#"CMD ["a", "b c"]"#]);
        assert_eq!(config.cmd, ["a", "b c"]);
        assert_eq!(
            changed(start.clone(), &["cmd echo $HOME 'x'"]).cmd,
            shell("echo $HOME 'x'")
        );
        // A command of the image below means nothing to another entrypoint.
        let config = changed(start.clone(), &[r#"ENTRYPOINT ["/e"]"#]);
        assert_eq!(
            (config.entrypoint, config.cmd),
            (vec!["/e".to_owned()], vec![])
        );
        let config = changed(start.clone(), &["CMD new", r#"ENTRYPOINT ["/e"]"#]);
        assert_eq!(config.cmd, shell("new"));
        assert!(changed(start, &["CMD"]).cmd.is_empty());
    }

    #[test]
    fn words_quotes_and_variables() {
        let start = Config {
            env: vec!["PATH=/bin".to_owned(), "EMPTY=".to_owned()],
            ..Config::default()
        };
        let config = changed(
            start,
            &[
                r#"ENV PATH=$PATH:/opt A="a b" B=a\ b C='$PATH' D=${NONE:-x} E=${PATH:+yes}"#,
                "ENV LONG some text here",
                "ENV A=again",
                r#"LABEL a.b="c d" e=f"#,
                "LABEL old style",
                "USER ${PATH}",
            ],
        );
        assert_eq!(
            config.env,
            [
                "PATH=/bin:/opt",
                "EMPTY=",
                "A=again",
                "B=a b",
                "C=$PATH",
                "D=x",
                "E=yes",
                "LONG=some text here",
            ]
        );
        assert_eq!(config.labels["a.b"], "c d");
        assert_eq!(config.labels["old"], "style");
        assert_eq!(config.user, "/bin:/opt");
    }

    #[test]
    fn the_other_instructions() {
        let config = changed(
            Config::default(),
            &[
                "EXPOSE 80 53/udp 8000-8002",
                r#"VOLUME ["/a", "/b c"]"#,
                "VOLUME /d /e",
                "WORKDIR /srv",
                "WORKDIR ../app/./x",
                "STOPSIGNAL SIGINT",
                "ONBUILD RUN make",
                "ONBUILD ADD . /src",
                "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f localhost",
            ],
        );
        let ports = Vec::from_iter(&config.exposed_ports);
        assert_eq!(
            ports,
            ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
        );
        assert_eq!(Vec::from_iter(&config.volumes), ["/a", "/b c", "/d", "/e"]);
        assert_eq!(config.working_dir, "/app/x");
        assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(config.other["OnBuild"], json!(["RUN make", "ADD . /src"]));
        let check = json!({
            "Interval": 90_000_000_000_u64, "Retries": 3, "Test": ["CMD-SHELL", "curl -f localhost"],
        });
        assert_eq!(config.other["Healthcheck"], check);
        let config = changed(Config::default(), &["HEALTHCHECK NONE"]);
        assert_eq!(config.other["Healthcheck"], json!({"Test": ["NONE"]}));
    }

    #[test]
    fn regression_several_lines_are_several_instructions() {
        let text = "USER web\n# a remark\nENV A=1 \\\n\n  B=2\r\nSTOPSIGNAL rtmin+3";
        let config = changed(Config::default(), &[text]);
        assert_eq!(config.user, "web");
        assert_eq!(config.env, ["A=1", "B=2"]);
        assert_eq!(config.stop_signal.as_deref(), Some("rtmin+3"));
    }

    #[test]
    fn what_is_refused() {
        for (instruction, why) in [
            ("RUN make", "none of CMD"),
            ("", "none of CMD"),
            ("ENV", "says nothing"),
            ("ENV A", "not KEY=VALUE"),
            ("ENV =x", "not KEY=VALUE"),
            (r#"ENV A="x"#, "not closed"),
            ("ENV A=${B", "not closed"),
            ("EXPOSE 80/xyz", "no port"),
            ("EXPOSE 70000", "no port"),
            ("EXPOSE 9-8", "no port"),
            ("USER a b", "more than one"),
            ("STOPSIGNAL FOO", "no signal"),
            ("STOPSIGNAL 0", "no signal"),
            ("STOPSIGNAL SIGTERM x", "no signal"),
            ("ONBUILD FROM x", "cannot be a trigger"),
            ("HEALTHCHECK --interval=x CMD y", "not valid"),
            ("HEALTHCHECK RUN", "neither NONE nor CMD"),
        ] {
            let mut changes = Changes::to(Config::default());
            let error = changes.apply(instruction).unwrap_err().to_string();
            assert!(error.contains(why), "{instruction}: {error}");
            assert_eq!(changes.config(), Config::default());
        }
    }
}
