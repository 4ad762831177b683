//! Makes a tree of a template's pieces.

use serde_json::Value;

use super::lex::{Kind, Piece, Token};
use super::{Result, TemplateError};

/// A part of a template.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    /// Prints what the pipeline gives, unless that goes into a variable.
    Print(Pipeline),
    /// `if` or `with`: the first branch whose condition holds, or else the last part.
    Choose {
        branches: Vec<Branch>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// A branch of `if` or `with`.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub condition: Pipeline,
    pub body: Vec<Node>,
    /// Whether `.` is the condition's value in it: `with`.
    pub sets_dot: bool,
}

/// Commands; each is given the value of the one before as its last argument.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    /// The variables that take the value.
    pub variables: Vec<String>,
    /// Whether these exist already: `=` instead of `:=`.
    pub assigns: bool,
    pub commands: Vec<Vec<Operand>>,
}

/// A value of a command, and the fields of it that are meant.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub base: Base,
    pub fields: Vec<String>,
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Pipeline(Box<Pipeline>),
}

/// How a list of nodes ended.
enum Stop {
    Template,
    End,
    /// With what follows the word.
    Else(Vec<Token>),
}

/// Makes the tree.
///
/// # Errors
/// What is wrong, in the words of the template.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>> {
    let mut pieces = pieces.into_iter();
    match nodes(&mut pieces)? {
        (nodes, Stop::Template) => Ok(nodes),
        (_, Stop::End) => Err(TemplateError::new("{{end}} has no beginning")),
        (_, Stop::Else(_)) => Err(TemplateError::new("{{else}} has no beginning")),
    }
}

type Pieces = std::vec::IntoIter<Piece>;

fn nodes(pieces: &mut Pieces) -> Result<(Vec<Node>, Stop)> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let keyword = match tokens.first() {
            Some(Token {
                kind: Kind::Word(word),
                ..
            }) => word.clone(),
            Some(_) => String::new(),
            None => return Err(TemplateError::new("an action is empty: {{}}")),
        };
        let rest = || tokens.get(1..).unwrap_or_default().to_vec();
        match keyword.as_str() {
            "end" => return Ok((nodes, Stop::End)),
            "else" => return Ok((nodes, Stop::Else(rest()))),
            "if" | "with" => nodes.push(choose(&keyword, rest(), pieces)?),
            "range" => nodes.push(range(rest(), pieces)?),
            "define" | "template" | "block" | "break" | "continue" => {
                return Err(TemplateError::new(format!("{keyword} is not supported")));
            }
            _ => nodes.push(Node::Print(pipeline(tokens)?)),
        }
    }
    Ok((nodes, Stop::Template))
}

fn choose(keyword: &str, condition: Vec<Token>, pieces: &mut Pieces) -> Result<Node> {
    let mut branches = Vec::new();
    let (mut keyword, mut condition) = (keyword.to_owned(), condition);
    loop {
        let (body, end) = nodes(pieces)?;
        branches.push(Branch {
            condition: pipeline(condition)?,
            body,
            sets_dot: keyword == "with",
        });
        let rest = match end {
            Stop::Template => return Err(unclosed(&keyword)),
            Stop::End => {
                let otherwise = Vec::new();
                return Ok(Node::Choose {
                    branches,
                    otherwise,
                });
            }
            Stop::Else(rest) => rest,
        };
        match rest.first().map(|token| &token.kind) {
            None => {
                let otherwise = last_part(&keyword, pieces)?;
                return Ok(Node::Choose {
                    branches,
                    otherwise,
                });
            }
            Some(Kind::Word(word)) if word == "if" || word == "with" => {
                keyword.clone_from(word);
                condition = rest.get(1..).unwrap_or_default().to_vec();
            }
            Some(_) => return Err(TemplateError::new("else is followed by something else")),
        }
    }
}

fn range(over: Vec<Token>, pieces: &mut Pieces) -> Result<Node> {
    let over = pipeline(over)?;
    let (body, end) = nodes(pieces)?;
    let otherwise = match end {
        Stop::Template => return Err(unclosed("range")),
        Stop::End => Vec::new(),
        Stop::Else(rest) if rest.is_empty() => last_part("range", pieces)?,
        Stop::Else(_) => return Err(TemplateError::new("else is followed by something else")),
    };
    Ok(Node::Range {
        over,
        body,
        otherwise,
    })
}

/// What stands between `else` and `end`.
fn last_part(keyword: &str, pieces: &mut Pieces) -> Result<Vec<Node>> {
    match nodes(pieces)? {
        (nodes, Stop::End) => Ok(nodes),
        (_, Stop::Template) => Err(unclosed(keyword)),
        (_, Stop::Else(_)) => Err(TemplateError::new("a second {{else}}")),
    }
}

fn unclosed(keyword: &str) -> TemplateError {
    TemplateError::new(format!("{{{{{keyword}}}}} has no {{{{end}}}}"))
}

fn pipeline(tokens: Vec<Token>) -> Result<Pipeline> {
    let mut tokens = tokens.into_iter().peekable();
    let pipeline = commands(&mut tokens)?;
    match tokens.next() {
        None => Ok(pipeline),
        Some(token) => Err(unexpected(&token.kind)),
    }
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

fn commands(tokens: &mut Tokens) -> Result<Pipeline> {
    let (variables, assigns) = declaration(tokens)?;
    let mut commands = Vec::new();
    let mut command = Vec::new();
    loop {
        match tokens.peek().map(|token| &token.kind) {
            Some(Kind::Sign("|")) if !command.is_empty() => {
                tokens.next();
                commands.push(std::mem::take(&mut command));
            }
            None | Some(Kind::Sign(")")) if command.is_empty() => {
                return Err(TemplateError::new(match commands.is_empty() {
                    true => "a value is missing",
                    false => "nothing follows |",
                }));
            }
            None | Some(Kind::Sign(")")) => {
                commands.push(command);
                return Ok(Pipeline {
                    variables,
                    assigns,
                    commands,
                });
            }
            Some(_) => command.push(operand(tokens)?),
        }
    }
}

/// `$x :=`, `$i, $x :=` or `$x =`; nothing is taken where none of these stands.
fn declaration(tokens: &mut Tokens) -> Result<(Vec<String>, bool)> {
    let mut ahead = tokens.clone();
    let mut variables = Vec::new();
    loop {
        let Some(Kind::Variable(name)) = ahead.next().map(|token| token.kind) else {
            return Ok((Vec::new(), false));
        };
        variables.push(name);
        match ahead.next().map(|token| token.kind) {
            Some(Kind::Sign(",")) if variables.len() < 2 => {}
            Some(Kind::Sign(sign @ (":=" | "="))) => {
                *tokens = ahead;
                return Ok((variables, sign == "="));
            }
            Some(Kind::Sign(",")) => return Err(TemplateError::new("more than two variables")),
            _ => return Ok((Vec::new(), false)),
        }
    }
}

fn operand(tokens: &mut Tokens) -> Result<Operand> {
    let mut fields = Vec::new();
    let base = match tokens.next().map(|token| token.kind) {
        Some(Kind::Dot) => Base::Dot,
        Some(Kind::Field(name)) => {
            fields.push(name);
            Base::Dot
        }
        Some(Kind::Variable(name)) => Base::Variable(name),
        Some(Kind::Text(text)) => Base::Literal(Value::from(text)),
        Some(Kind::Integer(number)) => Base::Literal(Value::from(number)),
        Some(Kind::Float(number)) => Base::Literal(Value::from(number)),
        Some(Kind::Word(word)) => match word.as_str() {
            "true" => Base::Literal(Value::from(true)),
            "false" => Base::Literal(Value::from(false)),
            "nil" => Base::Literal(Value::Null),
            _ => Base::Function(word),
        },
        Some(Kind::Sign("(")) => {
            let inner = commands(tokens)?;
            match tokens.next().map(|token| token.kind) {
                Some(Kind::Sign(")")) => Base::Pipeline(Box::new(inner)),
                _ => return Err(TemplateError::new("a parenthesis is not closed")),
            }
        }
        Some(kind) => return Err(unexpected(&kind)),
        None => return Err(TemplateError::new("a value is missing")),
    };
    // `.A.B`, `$x.A` and `(index .A 0).B`, but not `.A .B`.
    while let Some(Token {
        kind: Kind::Field(name),
        glued: true,
    }) = tokens.peek()
    {
        fields.push(name.clone());
        tokens.next();
    }
    Ok(Operand { base, fields })
}

fn unexpected(kind: &Kind) -> TemplateError {
    TemplateError::new(match kind {
        Kind::Sign(sign) => format!("unexpected {sign}"),
        _ => "two values stand where one is expected".to_owned(),
    })
}
