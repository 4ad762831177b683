//! `--format` of lists: a table, a JSON object for each row, or a template.

use std::io::{self, IsTerminal};

use serde_json::{Map, Value};

use super::failure::Failure;
use super::template::{Mode, Template, TemplateError};
use super::{Result, output};

/// A kind of list: the fields of its rows and their headings, for templates.
pub struct Listing<'a> {
    /// Names and headings.
    fields: &'a [(&'a str, &'a str)],
    /// The template of what is shown unless another is asked for.
    usual: String,
    /// Whether that is a table with headings.
    has_headings: bool,
}

impl<'a> Listing<'a> {
    /// A list that is usually shown as a table.
    pub fn new(fields: &'a [(&'a str, &'a str)], table: impl Into<String>) -> Listing<'a> {
        Listing {
            fields,
            usual: table.into(),
            has_headings: true,
        }
    }

    /// A list that is usually shown by this template, without headings.
    pub fn bare(fields: &'a [(&'a str, &'a str)], template: impl Into<String>) -> Listing<'a> {
        Listing {
            has_headings: false,
            ..Listing::new(fields, template)
        }
    }

    /// Prints rows, which are JSON objects with the fields of the list.
    ///
    /// `format` is as Docker has it: nothing or `table` for the table, `table TEMPLATE` for one of
    /// one's own, `json`, or a template for each row.
    ///
    /// # Errors
    /// A template that is wrong, or output that cannot be written.
    pub fn print(&self, format: Option<&str>, rows: &[Value]) -> Result<()> {
        let format = format.map(str::trim).filter(|format| !format.is_empty());
        let format = format.unwrap_or("table");
        if format == "json" {
            return rows.iter().try_for_each(output::json_line);
        }
        let table = format.strip_prefix("table");
        let table = table.filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        let (template, is_table) = match table.map(str::trim) {
            None => (format, false),
            Some("") => (self.usual.as_str(), self.has_headings),
            Some(own) => (own, true),
        };
        let template = parse(template)?;
        let rows: Vec<Value> = match is_table || io::stdout().is_terminal() {
            true => rows.iter().map(one_line).collect(),
            false => rows.to_vec(),
        };
        if !is_table {
            let fill = |row| template.render(row).map_err(wrong);
            return rows.iter().try_for_each(|row| output::line(&fill(row)?));
        }
        let headings: Map<String, Value> = self
            .fields
            .iter()
            .map(|(name, heading)| ((*name).to_owned(), Value::from(*heading)))
            .collect();
        let headings = template
            .render_as(&Value::Object(headings), Mode::Headings)
            .map_err(wrong)?;
        let cells = |text: String| text.split('\t').map(str::to_owned).collect::<Vec<_>>();
        let mut lines = Vec::new();
        for row in &rows {
            lines.push(cells(template.render(row).map_err(wrong)?));
        }
        let headings = cells(headings);
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        output::table(&headings, &lines)
    }
}

/// A row with nothing in its texts that would steer a terminal or break a table.
fn one_line(row: &Value) -> Value {
    let mut row = row.clone();
    for value in row.as_object_mut().into_iter().flatten() {
        if let (_, Value::String(text)) = value {
            *text = text.replace(char::is_control, " ");
        }
    }
    row
}

/// Reads a template, with `\t` and `\n` written out as shells pass them on.
///
/// # Errors
/// A template that is wrong: a usage error.
pub fn parse(text: &str) -> Result<Template> {
    let text = text.replace("\\t", "\t").replace("\\n", "\n");
    Template::parse(&text).map_err(wrong)
}

/// The failure of a template.
pub fn wrong(error: TemplateError) -> Failure {
    Failure::usage(format!("cannot use the format: {error}"))
}
