//! The functions that templates call: Go's own and those that Docker adds.

use std::cmp::Ordering;

use serde_json::Value;

use super::value::{is_true, kind, printed};
use super::{Result, TemplateError, printf};

/// What a template is filled in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Values.
    Values,
    /// The headings of a table: functions that only change how a value looks do nothing.
    Headings,
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: Vec<Value>, mode: Mode) -> Result<Value> {
    let looks = matches!(
        name,
        "json" | "title" | "lower" | "upper" | "truncate" | "pad" | "join"
    );
    if mode == Mode::Headings && looks {
        return one(name, arguments.into_iter().take(1).collect());
    }
    Ok(match name {
        "and" | "or" => last(name, arguments)?,
        "not" => Value::from(!is_true(&one(name, arguments)?)),
        "eq" => {
            let [first, rest @ ..] = arguments.as_slice() else {
                return Err(wrong_number(name));
            };
            if rest.is_empty() {
                return Err(wrong_number(name));
            }
            Value::from(rest.iter().any(|other| equal(first, other)))
        }
        "ne" => {
            let [a, b] = exactly(name, arguments)?;
            Value::from(!equal(&a, &b))
        }
        "lt" | "le" | "gt" | "ge" => {
            let [a, b] = exactly(name, arguments)?;
            let order = compare(&a, &b)?;
            Value::from(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            })
        }
        "len" => {
            let value = one(name, arguments)?;
            Value::from(match &value {
                Value::String(text) => text.len(),
                Value::Array(list) => list.len(),
                Value::Object(map) => map.len(),
                other => return Err(cannot(name, other)),
            })
        }
        "index" => index(arguments)?,
        "slice" => slice(arguments)?,
        "print" => Value::from(print(&arguments)),
        "println" => {
            let words: Vec<String> = arguments.iter().map(printed).collect();
            Value::from(words.join(" ") + "\n")
        }
        "printf" => Value::from(printf::format(&arguments)?),
        "json" => {
            let value = one(name, arguments)?;
            let text = serde_json::to_string(&value);
            Value::from(text.map_err(|error| TemplateError::new(error.to_string()))?)
        }
        "lower" => Value::from(text(name, &one(name, arguments)?)?.to_lowercase()),
        "upper" => Value::from(text(name, &one(name, arguments)?)?.to_uppercase()),
        "title" => Value::from(title(text(name, &one(name, arguments)?)?)),
        "split" => {
            let [whole, separator] = exactly(name, arguments)?;
            let parts = split(text(name, &whole)?, text(name, &separator)?);
            Value::Array(parts.into_iter().map(Value::from).collect())
        }
        "join" => {
            let [list, separator] = exactly(name, arguments)?;
            let words: Vec<String> = match &list {
                Value::Array(list) => list.iter().map(printed).collect(),
                Value::Null => Vec::new(),
                other => return Err(cannot(name, other)),
            };
            Value::from(words.join(text(name, &separator)?))
        }
        "pad" => {
            let [value, before, after] = exactly(name, arguments)?;
            let value = text(name, &value)?;
            let (before, after) = (count(name, &before)?, count(name, &after)?);
            Value::from(match value {
                "" => String::new(),
                value => format!("{}{value}{}", " ".repeat(before), " ".repeat(after)),
            })
        }
        "truncate" => {
            let [value, length] = exactly(name, arguments)?;
            let length = count(name, &length)?;
            Value::from(text(name, &value)?.chars().take(length).collect::<String>())
        }
        "html" | "js" | "urlquery" | "call" => {
            return Err(TemplateError::new(format!(
                "the function {name} is not supported"
            )));
        }
        _ => {
            return Err(TemplateError::new(format!(
                "there is no function {name} (fields begin with a dot)"
            )));
        }
    })
}

fn wrong_number(name: &str) -> TemplateError {
    TemplateError::new(format!("{name} is given a wrong number of arguments"))
}

fn cannot(name: &str, value: &Value) -> TemplateError {
    TemplateError::new(format!("{name} cannot take {}", kind(value)))
}

fn exactly<const N: usize>(name: &str, arguments: Vec<Value>) -> Result<[Value; N]> {
    arguments.try_into().map_err(|_| wrong_number(name))
}

fn one(name: &str, arguments: Vec<Value>) -> Result<Value> {
    let [value] = exactly(name, arguments)?;
    Ok(value)
}

fn last(name: &str, mut arguments: Vec<Value>) -> Result<Value> {
    arguments.pop().ok_or_else(|| wrong_number(name))
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(""),
        other => Err(cannot(name, other)),
    }
}

/// The most that a width or length may be.
const LARGEST: u64 = 1 << 16;

fn count(name: &str, value: &Value) -> Result<usize> {
    let number = value.as_u64().filter(|number| *number <= LARGEST);
    number
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| cannot(name, value))
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering> {
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().partial_cmp(&b.as_f64()),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let (a, b) = (kind(a), kind(b));
    order.ok_or_else(|| TemplateError::new(format!("{a} cannot be compared with {b}")))
}

/// `index LIST 0`, `index MAP "key"`, and so on for what that gives.
fn index(arguments: Vec<Value>) -> Result<Value> {
    let mut arguments = arguments.into_iter();
    let mut value = arguments.next().ok_or_else(|| wrong_number("index"))?;
    for key in arguments {
        value = match (&value, &key) {
            (Value::Array(list), Value::Number(number)) => {
                let at = number.as_u64().and_then(|n| usize::try_from(n).ok());
                let found = at.and_then(|at| list.get(at));
                found.cloned().ok_or_else(|| {
                    TemplateError::new(format!("there is no item {number} of {}", list.len()))
                })?
            }
            // Go gives what an absent key would hold, which for strings is nothing at all.
            (Value::Object(map), Value::String(key)) => {
                map.get(key).cloned().unwrap_or_else(|| Value::from(""))
            }
            (Value::Null, Value::String(_)) => Value::from(""),
            (value, _) => return Err(cannot("index", value)),
        };
    }
    Ok(value)
}

/// `slice TEXT 1 3`, in bytes as in Go, or of a list.
fn slice(arguments: Vec<Value>) -> Result<Value> {
    let mut arguments = arguments.into_iter();
    let value = arguments.next().ok_or_else(|| wrong_number("slice"))?;
    let bounds: Vec<Value> = arguments.collect();
    let length = match &value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.len(),
        other => return Err(cannot("slice", other)),
    };
    let mut ends = [0, length];
    if bounds.len() > ends.len() {
        return Err(wrong_number("slice"));
    }
    for (end, bound) in ends.iter_mut().zip(&bounds) {
        *end = count("slice", bound)?;
    }
    let [from, to] = ends;
    let found = match &value {
        Value::String(text) => text.get(from..to).map(Value::from),
        Value::Array(list) => list.get(from..to).map(|part| Value::from(part.to_vec())),
        _ => None,
    };
    found.ok_or_else(|| TemplateError::new(format!("there is no part {from} to {to} of {length}")))
}

/// As Go's `Sprint`: spaces only between two values of which neither is a string.
fn print(values: &[Value]) -> String {
    let mut text = String::new();
    let mut after_string = true;
    for value in values {
        let is_string = value.is_string();
        if !after_string && !is_string {
            text.push(' ');
        }
        text.push_str(&printed(value));
        after_string = is_string;
    }
    text
}

/// Every word with a capital.
fn title(text: &str) -> String {
    let mut within = false;
    let mut titled = String::with_capacity(text.len());
    for c in text.chars() {
        if within {
            titled.push(c);
        } else {
            titled.extend(c.to_uppercase());
        }
        within = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    titled
}

fn split<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    if separator.is_empty() {
        // Go splits into characters then.
        let characters = text.char_indices();
        return characters
            .filter_map(|(at, c)| text.get(at..at + c.len_utf8()))
            .collect();
    }
    text.split(separator).collect()
}
