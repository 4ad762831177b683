//! The templates of `--format`: the part of Go's text/template that Docker's users write.
//!
//! Understood are text, comments, `{{- -}}`, fields and chains of them, variables, pipelines,
//! parentheses, literals, `if`, `with` and `range` with `else`, and the functions of
//! [`functions`]. Not understood, and refused with a message that says so, are `define`,
//! `template`, `block`, `break`, `continue`, `html`, `js`, `urlquery` and `call`.
//!
//! # Invariants
//! * What is printed is what Go prints: lists as `[a b]`, maps as `map[k:v]`, nothing as `<no value>`.
//! * A field that cannot be there is an error, not empty output: misspelt templates are noticed.
//!
//! # See
//! <https://pkg.go.dev/text/template>, <https://docs.docker.com/engine/cli/formatting/>

mod eval;
mod functions;
mod lex;
mod parse;
mod printf;
mod value;

#[cfg(test)]
mod tests;

use serde_json::Value;

pub use functions::Mode;

/// What is wrong with a template, or with what it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct TemplateError {
    what: String,
}

impl TemplateError {
    fn new(what: impl Into<String>) -> TemplateError {
        TemplateError { what: what.into() }
    }
}

type Result<T> = std::result::Result<T, TemplateError>;

/// A template that was read.
#[derive(Debug, Clone)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`] says what is wrong and where.
    pub fn parse(text: &str) -> Result<Template> {
        let nodes = parse::parse(lex::lex(text)?)?;
        Ok(Template { nodes })
    }

    /// The text that the template makes of `value`.
    ///
    /// # Errors
    /// A field that is not there, or a function that is given what it cannot take.
    pub fn render(&self, value: &Value) -> Result<String> {
        self.render_as(value, Mode::Values)
    }

    /// As [`Template::render`]; in [`Mode::Headings`] functions leave their argument as it is.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_as(&self, value: &Value, mode: Mode) -> Result<String> {
        eval::render(&self.nodes, value, mode)
    }
}
