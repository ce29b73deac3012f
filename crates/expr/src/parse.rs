//! Text to syntax tree: limits first, then sqlparser, then nothing may be left over. Called by `expression` and
//! `items`. It must not know types or functions.

use arrow_schema::Schema;
use datafusion_sql::sqlparser::ast::{Expr, OrderByExpr, SelectItem};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::error::ExpressionError;
use crate::registry::{Lookup, Registry};
use crate::{DEPTH_MAX, TEXT_BYTES_MAX, depth};

static DIALECT: GenericDialect = GenericDialect {};

/// The parser counts up to three steps per level of ours; its limit only backs up the one of `depth`.
const PARSER_STEPS_MAX: usize = 4 * DEPTH_MAX;
/// Of text that should not be there, this much is shown.
const REST_CHARS_MAX: usize = 40;

/// Parses one expression.
pub(crate) fn expression(sql: &str, schema: &Schema) -> Result<Expr, ExpressionError> {
    let mut parser = parser(tokens(sql, schema)?);
    let expr = parser.parse_expr().map_err(syntax)?;
    finish(&parser, sql)?;
    Ok(expr)
}

/// Parses one item of a select list. A name needs its `AS`: without it, a forgotten operator would pass as a name.
pub(crate) fn select_item(sql: &str, schema: &Schema) -> Result<SelectItem, ExpressionError> {
    let tokens = tokens(sql, schema)?;
    let marks: Vec<Token> = tokens.iter().map(|t| t.token.clone()).filter(is_mark).collect();
    let mut parser = parser(tokens);
    let item = parser.parse_select_item().map_err(syntax)?;
    finish(&parser, sql)?;
    let before_last = marks.len().checked_sub(2).map(|index| &marks[index]);
    let has_as = matches!(before_last, Some(Token::Word(word)) if word.value.eq_ignore_ascii_case("as"));
    if let SelectItem::ExprWithAlias { alias, .. } = &item
        && !has_as
    {
        return Err(ExpressionError::Syntax {
            message: format!("before '{alias}' an operator is missing, or AS if it is the name of the result"),
        });
    }
    Ok(item)
}

/// Parses one ordering.
pub(crate) fn order_item(sql: &str, schema: &Schema) -> Result<OrderByExpr, ExpressionError> {
    let mut parser = parser(tokens(sql, schema)?);
    let item = parser.parse_order_by_expr().map_err(syntax)?;
    finish(&parser, sql)?;
    Ok(item)
}

fn tokens(sql: &str, schema: &Schema) -> Result<Vec<TokenWithSpan>, ExpressionError> {
    if sql.len() > TEXT_BYTES_MAX {
        return Err(ExpressionError::TooLong { bytes: sql.len() });
    }
    let tokens = Tokenizer::new(&DIALECT, sql)
        .tokenize_with_location()
        .map_err(|error| ExpressionError::Syntax { message: error.to_string() })?;
    if !tokens.iter().any(|token| is_mark(&token.token)) {
        return Err(ExpressionError::Empty);
    }
    depth::check(tokens.iter().map(|t| &t.token), &KnownNames(schema))?;
    Ok(tokens)
}

struct KnownNames<'a>(&'a Schema);

impl depth::Names for KnownNames<'_> {
    fn is_column(&self, name: &str) -> bool {
        self.0.index_of(name).is_ok()
    }

    fn is_function(&self, name: &str) -> bool {
        !matches!(Registry::get().look_up(&name.to_lowercase()), Lookup::Unknown)
    }
}

fn parser(tokens: Vec<TokenWithSpan>) -> Parser<'static> {
    Parser::new(&DIALECT).with_recursion_limit(PARSER_STEPS_MAX).with_tokens_with_locations(tokens)
}

fn is_mark(token: &Token) -> bool {
    !matches!(token, Token::Whitespace(_) | Token::EOF)
}

fn syntax(error: ParserError) -> ExpressionError {
    match error {
        ParserError::RecursionLimitExceeded => ExpressionError::TooDeep,
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            ExpressionError::Syntax { message: message.replace("Expected: ", "expected ") }
        }
    }
}

fn finish(parser: &Parser<'_>, sql: &str) -> Result<(), ExpressionError> {
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(());
    }
    let (line, column) = (next.span.start.line, next.span.start.column);
    // The tokenizer counts lines and columns from 1, columns in characters.
    let text = sql.split('\n').nth(line.saturating_sub(1) as usize).unwrap_or_default();
    let rest: String = text.chars().skip(column.saturating_sub(1) as usize).take(REST_CHARS_MAX).collect();
    Err(ExpressionError::Trailing { rest: rest.trim_end().to_owned(), line, column })
}
