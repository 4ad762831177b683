//! JSON values as Go's templates see them.

use serde_json::Value;

use super::{Result, TemplateError};

/// Whether Go takes it for true: everything but zero and what is empty.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As an action prints it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        value => printed(value),
    }
}

/// As Go's `%v` prints it.
pub(super) fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(printed).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut items: Vec<(&String, String)> = map
                .iter()
                .map(|(key, value)| (key, printed(value)))
                .collect();
            items.sort();
            let items: Vec<String> = items
                .into_iter()
                .map(|(key, value)| format!("{key}:{value}"))
                .collect();
            format!("map[{}]", items.join(" "))
        }
    }
}

/// A field of a value.
///
/// # Errors
/// For a value that has no fields, and for a name like those of our own fields, which begin with a
/// capital, that is not there. Another name is a key of a map, which may be absent.
pub(super) fn field(value: &Value, name: &str) -> Result<Value> {
    match value {
        Value::Object(map) => match map.get(name) {
            Some(value) => Ok(value.clone()),
            None if name.starts_with(char::is_uppercase) => {
                let known: Vec<&str> = map.keys().map(String::as_str).collect();
                Err(TemplateError::new(format!(
                    "there is no field {name}, only {}",
                    known.join(", ")
                )))
            }
            None => Ok(Value::Null),
        },
        Value::Null => Ok(Value::Null),
        other => Err(TemplateError::new(format!(
            "{} has no field {name}: it is {}",
            printed(other),
            kind(other)
        ))),
    }
}

/// What sort of value it is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
