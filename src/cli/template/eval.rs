//! Fills a template in.

use serde_json::Value;

use super::functions::{self, Mode};
use super::parse::{Base, Node, Operand, Pipeline};
use super::{Result, TemplateError, value};

/// The most bytes that a template may make of one value.
const LARGEST: usize = 64 << 20;

/// The text that `nodes` make of `root`.
pub(super) fn render(nodes: &[Node], root: &Value, mode: Mode) -> Result<String> {
    let mut state = State {
        out: String::new(),
        variables: vec![(String::new(), root.clone())],
        mode,
    };
    state.nodes(nodes, root)?;
    Ok(state.out)
}

struct State {
    out: String,
    /// Innermost last; the first one is `$`.
    variables: Vec<(String, Value)>,
    mode: Mode,
}

impl State {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => self.print(text)?,
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.print(&value::shown(&value))?;
                    }
                }
                Node::Choose {
                    branches,
                    otherwise,
                } => {
                    let visible = self.variables.len();
                    let mut chosen = None;
                    for branch in branches {
                        let value = self.pipeline(&branch.condition, dot)?;
                        if value::is_true(&value) {
                            chosen = Some((branch, value));
                            break;
                        }
                    }
                    match chosen {
                        Some((branch, value)) if branch.sets_dot => {
                            self.nodes(&branch.body, &value)?;
                        }
                        Some((branch, _)) => self.nodes(&branch.body, dot)?,
                        None => self.nodes(otherwise, dot)?,
                    }
                    self.variables.truncate(visible);
                }
                Node::Range {
                    over,
                    body,
                    otherwise,
                } => self.range(over, body, otherwise, dot)?,
            }
        }
        Ok(())
    }

    fn print(&mut self, text: &str) -> Result<()> {
        self.out.push_str(text);
        if self.out.len() > LARGEST {
            return Err(TemplateError::new("the template makes too much output"));
        }
        Ok(())
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<()> {
        let visible = self.variables.len();
        // The variables hold an item each, not the whole.
        let whole = self.commands(over, dot)?;
        let items: Vec<(Value, Value)> = match whole {
            Value::Array(list) => (0_u64..).map(Value::from).zip(list).collect(),
            Value::Object(map) => {
                let mut items: Vec<(String, Value)> = map.into_iter().collect();
                items.sort_by(|a, b| a.0.cmp(&b.0));
                let pair = |(key, value): (String, Value)| (Value::from(key), value);
                items.into_iter().map(pair).collect()
            }
            Value::Null => Vec::new(),
            other => {
                let kind = value::kind(&other);
                return Err(TemplateError::new(format!("range cannot go over {kind}")));
            }
        };
        if items.is_empty() {
            self.nodes(otherwise, dot)?;
        }
        for (key, item) in items {
            match over.variables.as_slice() {
                [] => {}
                [one] => self.variables.push((one.clone(), item.clone())),
                [first, second, ..] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), item.clone()));
                }
            }
            self.nodes(body, &item)?;
            self.variables.truncate(visible);
        }
        Ok(())
    }

    /// The value of a pipeline, which its variable takes, if it has one.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let value = self.commands(pipeline, dot)?;
        match pipeline.variables.as_slice() {
            [] => {}
            [name] if pipeline.assigns => {
                let known = self.variables.iter_mut().rev().find(|(n, _)| n == name);
                match known {
                    Some((_, slot)) => *slot = value.clone(),
                    None => return Err(no_variable(name)),
                }
            }
            [name] => self.variables.push((name.clone(), value.clone())),
            _ => return Err(TemplateError::new("two variables go with range only")),
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut before = None;
        for command in &pipeline.commands {
            before = Some(self.command(command, before, dot)?);
        }
        Ok(before.unwrap_or(Value::Null))
    }

    fn command(
        &mut self,
        operands: &[Operand],
        before: Option<Value>,
        dot: &Value,
    ) -> Result<Value> {
        let Some((first, rest)) = operands.split_first() else {
            return Err(TemplateError::new("a value is missing"));
        };
        let Base::Function(name) = &first.base else {
            if !rest.is_empty() || before.is_some() {
                return Err(TemplateError::new("only a function can be given arguments"));
            }
            return self.operand(first, dot);
        };
        let mut arguments = Vec::new();
        for operand in rest {
            let value = self.operand(operand, dot)?;
            // What follows may rely on what was found out: `and .A .A.B`.
            let decided = match name.as_str() {
                "and" => !value::is_true(&value),
                "or" => value::is_true(&value),
                _ => false,
            };
            if decided {
                return Ok(value);
            }
            arguments.push(value);
        }
        arguments.extend(before);
        let value = functions::call(name, arguments, self.mode)?;
        fields(value, &first.fields)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value> {
        let value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Literal(value) => value.clone(),
            Base::Variable(name) => {
                let known = self.variables.iter().rev().find(|(n, _)| n == name);
                known
                    .map(|(_, value)| value.clone())
                    .ok_or_else(|| no_variable(name))?
            }
            Base::Function(name) => functions::call(name, Vec::new(), self.mode)?,
            Base::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
        };
        fields(value, &operand.fields)
    }
}

fn fields(value: Value, names: &[String]) -> Result<Value> {
    names
        .iter()
        .try_fold(value, |value, name| value::field(&value, name))
}

fn no_variable(name: &str) -> TemplateError {
    TemplateError::new(format!("there is no variable ${name}"))
}
