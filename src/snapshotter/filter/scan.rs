//! The words of a filter.

use std::iter::Peekable;
use std::str::CharIndices;

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The name of a field.
    Field(String),
    /// What stands between quotes (`"`, `/` or `|`), without them.
    Quoted(String),
    /// A run of the characters of operators.
    Operator(String),
    /// What follows an operator.
    Value(String),
    /// A comma or a dot.
    Separator(char),
    /// Nothing more.
    End,
}

/// Cuts a filter into words.
pub(super) struct Scanner<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
    /// Whether an operator came just before: a value may contain what a field may not.
    value: bool,
    /// Where the last word began.
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Scanner<'a> {
        Scanner {
            text,
            rest: text.char_indices().peekable(),
            value: false,
            at: 0,
        }
    }

    /// A complaint about the last word.
    pub(super) fn expected(&self, what: &str) -> String {
        let found = self.text.get(self.at..).unwrap_or_default();
        format!("expected {what} at {found:?}")
    }

    /// The next word.
    pub(super) fn scan(&mut self) -> Result<Token, String> {
        while self
            .rest
            .next_if(|(_, char)| char.is_whitespace())
            .is_some()
        {}
        let value = std::mem::take(&mut self.value);
        let Some((at, first)) = self.rest.next() else {
            self.at = self.text.len();
            return Ok(Token::End);
        };
        self.at = at;
        match first {
            '"' | '/' | '|' => self.quoted(first).map(Token::Quoted),
            ',' | '.' => Ok(Token::Separator(first)),
            '=' | '!' | '~' | '@' => {
                self.value = true;
                Ok(Token::Operator(self.run(first, is_operator)))
            }
            _ if value => Ok(Token::Value(self.run(first, is_value))),
            _ if is_field(first) => Ok(Token::Field(self.run(first, is_field))),
            _ => Err(self.expected("a field")),
        }
    }

    fn run(&mut self, first: char, belongs: fn(char) -> bool) -> String {
        let mut run = String::from(first);
        while let Some((_, next)) = self.rest.next_if(|(_, char)| belongs(*char)) {
            run.push(next);
        }
        run
    }

    /// The rest of a quoted text, with the escapes of Go's strings undone.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                '\n' => return Err(self.expected("a quote at the end of the line")),
                '\\' => self.escape(quote, &mut bytes)?,
                char if char == quote => break,
                char => push(&mut bytes, char),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.expected("UTF-8"))
    }

    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<(), String> {
        match self.next()? {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            't' => bytes.push(b'\t'),
            'n' => bytes.push(b'\n'),
            'v' => bytes.push(11),
            'f' => bytes.push(12),
            'r' => bytes.push(b'\r'),
            '\\' => bytes.push(b'\\'),
            char if char == quote => push(bytes, char),
            'x' => bytes.push(self.byte(0, 16, 2)?),
            first @ '0'..='7' => {
                let first = first.to_digit(8).unwrap_or(0);
                bytes.push(self.byte(first, 8, 2)?);
            }
            'u' => push(bytes, self.char(4)?),
            'U' => push(bytes, self.char(8)?),
            // A pattern between slashes or bars keeps the escapes of its own language.
            char if quote != '"' => {
                bytes.push(b'\\');
                push(bytes, char);
            }
            _ => return Err(self.expected("an escape that Go knows")),
        }
        Ok(())
    }

    fn byte(&mut self, first: u32, base: u32, digits: u32) -> Result<u8, String> {
        let number = self.number(first, base, digits)?;
        u8::try_from(number).map_err(|_| self.expected("an escape of one byte"))
    }

    fn char(&mut self, digits: u32) -> Result<char, String> {
        let number = self.number(0, 16, digits)?;
        char::from_u32(number).ok_or_else(|| self.expected("an escape of one character"))
    }

    fn number(&mut self, first: u32, base: u32, digits: u32) -> Result<u32, String> {
        let mut number = first;
        for _ in 0..digits {
            let digit = self.next()?.to_digit(base);
            let digit = digit.ok_or_else(|| self.expected("digits in an escape"))?;
            number = number.wrapping_mul(base).wrapping_add(digit);
        }
        Ok(number)
    }

    fn next(&mut self) -> Result<char, String> {
        let next = self.rest.next();
        next.map(|(_, char)| char)
            .ok_or_else(|| self.expected("a closing quote"))
    }
}

fn push(bytes: &mut Vec<u8>, char: char) {
    bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

fn is_operator(char: char) -> bool {
    matches!(char, '=' | '!' | '~' | '@')
}

fn is_field(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '-' | '_')
}

fn is_value(char: char) -> bool {
    char != ',' && !char.is_whitespace() && !char.is_control()
}
