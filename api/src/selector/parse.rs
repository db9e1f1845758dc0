//! The text form of label selectors.

use super::{Operator, Requirement, SelectorError};

/// Splits and reads; keys and values are not yet checked.
pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            Token::Word(_) | Token::Symbol("!") => {}
            Token::End => return Ok(requirements),
            other => return Err(other.unexpected("!, identifier, or 'end of string'")),
        }
        let requirement = parser.requirement();
        requirements
            .push(requirement.map_err(|error| SelectorError::Requirement(Box::new(error)))?);
        match parser.next() {
            Token::End => return Ok(requirements),
            // A requirement must follow.
            Token::Symbol(",") => match parser.peek() {
                Token::Word(_) | Token::Symbol("!") => {}
                other => return Err(other.unexpected("identifier after ','")),
            },
            other => return Err(other.unexpected("',' or 'end of string'")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl Token<'_> {
    fn text(self) -> String {
        match self {
            Token::Word(text) | Token::Symbol(text) => text.to_owned(),
            Token::End => String::new(),
        }
    }

    fn unexpected(self, expected: &'static str) -> SelectorError {
        SelectorError::Syntax { found: self.text(), expected }
    }
}

/// Longest first.
const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (token, length) = match SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            Some(symbol) => (Token::Symbol(symbol), symbol.len()),
            None => {
                let is_end = |c: char| c.is_whitespace() || "=!(),<>".contains(c);
                let length = rest.find(is_end).unwrap_or(rest.len());
                (Token::Word(&rest[..length]), length)
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let is_absent = self.peek() == Token::Symbol("!");
        if is_absent {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(other.unexpected("identifier")),
        };
        // No path is known yet, which Go says so.
        super::check_key("<nil>", key)?;
        if is_absent {
            return Ok(Requirement::new(key, Operator::DoesNotExist, []));
        }
        let operator = match self.peek() {
            Token::End | Token::Symbol(",") => {
                return Ok(Requirement::new(key, Operator::Exists, []));
            }
            Token::Symbol("=" | "==") => Operator::Equals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            other => return Err(other.unexpected("in, notin, =, ==, !=, gt, lt")),
        };
        self.at += 1;
        match operator {
            Operator::In | Operator::NotIn => {
                let values = self.values()?;
                Ok(Requirement::new(key, operator, values))
            }
            _ => {
                let value = self.value()?;
                if matches!(operator, Operator::GreaterThan | Operator::LessThan)
                    && value.parse::<i64>().is_err()
                {
                    return Err(SelectorError::NotANumber(value.to_owned()));
                }
                Ok(Requirement::new(key, operator, [value]))
            }
        }
    }

    /// One value after `=`; nothing at all is the empty value.
    fn value(&mut self) -> Result<&'a str, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(""),
            Token::Word(value) => {
                self.at += 1;
                Ok(value)
            }
            other => Err(other.unexpected("identifier")),
        }
    }

    /// `(a, b)`. Between two commas stands an empty value.
    fn values(&mut self) -> Result<Vec<&'a str>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(SelectorError::NoList(other.text())),
        }
        if !matches!(self.peek(), Token::Word(_) | Token::Symbol("," | ")")) {
            return Err(self.peek().unexpected("',', ')' or identifier"));
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(value) => {
                    values.push(value);
                    match self.next() {
                        Token::Symbol(",") => {
                            if self.peek() == Token::Symbol(")") {
                                values.push("");
                            }
                        }
                        Token::Symbol(")") => return Ok(values),
                        other => return Err(other.unexpected("',' or ')'")),
                    }
                }
                Token::Symbol(",") => {
                    values.push("");
                    if self.peek() == Token::Symbol(")") {
                        values.push("");
                    }
                }
                Token::Symbol(")") => {
                    if values.is_empty() {
                        values.push("");
                    }
                    return Ok(values);
                }
                other => return Err(other.unexpected("',', or identifier")),
            }
        }
    }
}
