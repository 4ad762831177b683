//! Splits a template into text and the tokens of its actions.

use super::{Result, TemplateError};

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Text that stands outside of actions.
    Text(String),
    /// The tokens of an action, in order.
    Action(Vec<Token>),
}

/// A token of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub kind: Kind,
    /// Whether it follows the token before without a space.
    pub glued: bool,
}

/// Kind of a token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// `.`
    Dot,
    /// `.Name`
    Field(String),
    /// `$name`; the name is empty for `$`.
    Variable(String),
    /// A function or a keyword.
    Word(String),
    /// A string, a raw string or a character.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// `(`, `)`, `|`, `,`, `=` or `:=`.
    Sign(&'static str),
}

/// Splits a template.
///
/// # Errors
/// An action without an end, or a character that no token begins with.
pub(super) fn lex(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let (before, action) = match rest.split_once("{{") {
            Some((before, action)) => (before, Some(action)),
            None => (rest, None),
        };
        let mut before = if trim { before.trim_start() } else { before };
        let trimmed = action.and_then(|action| action.strip_prefix('-'));
        // Only with a space behind it: `{{-3}}` is a number.
        let trimmed = trimmed.filter(|action| action.starts_with(char::is_whitespace));
        if trimmed.is_some() {
            before = before.trim_end();
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let Some(action) = trimmed.or(action) else {
            return Ok(pieces);
        };
        if let Some(comment) = action.trim_start().strip_prefix("/*") {
            let unclosed = || TemplateError::new("a comment has no end (*/}})");
            let (_, after) = comment.split_once("*/").ok_or_else(unclosed)?;
            let after = after.trim_start();
            trim = after.starts_with("-}}");
            let after = after.strip_prefix('-').unwrap_or(after);
            rest = after.strip_prefix("}}").ok_or_else(unclosed)?;
            continue;
        }
        let (tokens, after, trims) = tokens(action)?;
        trim = trims;
        rest = after;
        pieces.push(Piece::Action(tokens));
    }
}

/// The tokens up to `}}`, what follows it, and whether that loses its leading space.
fn tokens(action: &str) -> Result<(Vec<Token>, &str, bool)> {
    let mut tokens = Vec::new();
    let mut rest = action;
    let mut glued = false;
    loop {
        let next = rest.trim_start();
        let spaced = next.len() < rest.len();
        rest = next;
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        if let Some(after) = rest.strip_prefix("-}}")
            && spaced
        {
            return Ok((tokens, after, true));
        }
        if rest.is_empty() {
            let shown = action.trim();
            return Err(TemplateError::new(format!(
                "the action {{{{{shown} has no end (}}}})"
            )));
        }
        let (kind, after) = token(rest)?;
        tokens.push(Token {
            kind,
            glued: glued && !spaced,
        });
        glued = true;
        rest = after;
    }
}

fn token(text: &str) -> Result<(Kind, &str)> {
    const SIGNS: [&str; 6] = [":=", "(", ")", "|", ",", "="];
    for sign in SIGNS {
        if let Some(after) = text.strip_prefix(sign) {
            return Ok((Kind::Sign(sign), after));
        }
    }
    let first = text.chars().next().unwrap_or_default();
    match first {
        '"' | '\'' => quoted(text, first),
        '`' => {
            let (raw, after) = text
                .get(1..)
                .and_then(|rest| rest.split_once('`'))
                .ok_or_else(|| TemplateError::new(format!("the string {text} has no end")))?;
            Ok((Kind::Text(raw.to_owned()), after))
        }
        '.' => {
            let (name, after) = word(text.get(1..).unwrap_or_default());
            Ok(match name {
                "" => (Kind::Dot, after),
                name => (Kind::Field(name.to_owned()), after),
            })
        }
        '$' => {
            let (name, after) = word(text.get(1..).unwrap_or_default());
            Ok((Kind::Variable(name.to_owned()), after))
        }
        '0'..='9' | '-' | '+' => number(text),
        _ if first.is_alphabetic() || first == '_' => {
            let (name, after) = word(text);
            Ok((Kind::Word(name.to_owned()), after))
        }
        _ => Err(TemplateError::new(format!(
            "unexpected {first:?} in an action"
        ))),
    }
}

/// The letters and digits that `text` begins with, and the rest.
fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    text.split_at(end)
}

fn number(text: &str) -> Result<(Kind, &str)> {
    let sign = usize::from(text.starts_with(['-', '+']));
    let body = text.get(sign..).unwrap_or_default();
    let end = body
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'))
        .unwrap_or(body.len());
    let (digits, after) = text.split_at(sign + end);
    let plain = digits.trim_start_matches('+').replace('_', "");
    if let Ok(integer) = plain.parse() {
        return Ok((Kind::Integer(integer), after));
    }
    match plain.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok((Kind::Float(float), after)),
        _ => Err(TemplateError::new(format!("{digits:?} is no number"))),
    }
}

/// A string between quotes, with Go's escapes.
fn quoted(text: &str, quote: char) -> Result<(Kind, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => {
                let after = text.get(at + c.len_utf8()..).unwrap_or_default();
                return Ok((Kind::Text(value), after));
            }
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, escaped @ ('\\' | '"' | '\''))) => value.push(escaped),
                Some((_, escaped)) => {
                    return Err(TemplateError::new(format!(
                        "the escape \\{escaped} is not understood"
                    )));
                }
                None => break,
            },
            c => value.push(c),
        }
    }
    Err(TemplateError::new(format!("the string {text} has no end")))
}
