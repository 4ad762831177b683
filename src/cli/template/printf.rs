//! `printf` of templates: the verbs of Go's that make sense for text, numbers and truth values.

use serde_json::Value;

use super::value::printed;
use super::{Result, TemplateError};

/// The widest column.
const LARGEST: usize = 1 << 12;

/// One directive: `%-10.3s`.
#[derive(Default)]
struct Directive {
    left: bool,
    zeros: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

/// What `printf FORMAT VALUES` prints.
pub(super) fn format(arguments: &[Value]) -> Result<String> {
    let Some((Value::String(format), values)) = arguments.split_first() else {
        return Err(TemplateError::new("printf needs a format first"));
    };
    let mut values = values.iter();
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = Directive::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            match flag {
                '-' => directive.left = true,
                '0' => directive.zeros = true,
                '+' => directive.plus = true,
                _ => {}
            }
        }
        directive.width = digits(&mut chars)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            directive.precision = Some(digits(&mut chars)?.unwrap_or(0));
        }
        match chars.next() {
            Some('%') => text.push('%'),
            Some(verb) => match values.next() {
                Some(value) => text.push_str(&directive.apply(verb, value)?),
                None => {
                    return Err(TemplateError::new(format!(
                        "printf has no value for %{verb}"
                    )));
                }
            },
            None => return Err(TemplateError::new("printf's format ends with %")),
        }
    }
    match values.next() {
        None => Ok(text),
        Some(_) => Err(TemplateError::new("printf has more values than its format")),
    }
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>> {
    let mut number: Option<usize> = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let longer = number.unwrap_or(0) * 10 + digit as usize;
        if longer > LARGEST {
            return Err(TemplateError::new(
                "printf's format asks for too wide a column",
            ));
        }
        number = Some(longer);
    }
    Ok(number)
}

impl Directive {
    fn apply(&self, verb: char, value: &Value) -> Result<String> {
        let wrong = || {
            TemplateError::new(format!(
                "printf cannot print {} with %{verb}",
                super::value::kind(value)
            ))
        };
        let text = match verb {
            'v' | 's' => {
                let text = printed(value);
                match self.precision {
                    Some(most) => text.chars().take(most).collect(),
                    None => text,
                }
            }
            'q' => serde_json::to_string(&printed(value)).map_err(|_| wrong())?,
            't' => value.as_bool().ok_or_else(wrong)?.to_string(),
            'd' => {
                let number = value.as_i64().ok_or_else(wrong)?;
                self.signed(number >= 0, number.to_string())
            }
            'x' => match value {
                Value::String(text) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
                value => format!("{:x}", value.as_u64().ok_or_else(wrong)?),
            },
            'f' => {
                let number = value.as_f64().ok_or_else(wrong)?;
                let precision = self.precision.unwrap_or(6);
                self.signed(number >= 0.0, format!("{number:.precision$}"))
            }
            _ => return Err(TemplateError::new(format!("printf does not know %{verb}"))),
        };
        let missing = self.width.saturating_sub(text.chars().count());
        Ok(match (self.left, self.zeros && value.is_number()) {
            (true, _) => text + &" ".repeat(missing),
            (false, true) => match text.strip_prefix('-') {
                Some(digits) => format!("-{}{digits}", "0".repeat(missing)),
                None => "0".repeat(missing) + &text,
            },
            (false, false) => " ".repeat(missing) + &text,
        })
    }

    fn signed(&self, positive: bool, text: String) -> String {
        match self.plus && positive {
            true => format!("+{text}"),
            false => text,
        }
    }
}
