//! Bounds the depth of an expression before it is parsed, so that no text can overflow the stack of the parser or of
//! anything behind it. Called by `parse`. *Pure*, and without recursion.
//!
//! The depth of a tree is bounded from its tokens alone. In a run of operands such as `a + b * c` every operator may
//! add one level; a group (parentheses, brackets, `CASE ... END`) adds one level and what is inside. Commas and `AND`
//! and `OR` end a run: arguments lie beside each other, and `check` balances chains of conditions.
//!
//! ```text
//! ((a + b) * c + d)      run of the outer group: 2 operators + inner group (1 operator + 1) = 4, itself 1: 5 levels
//! ```

use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::tokenizer::{Token, Word};

use crate::error::ExpressionError;
use crate::{CONDITIONS_MAX, DEPTH_MAX};

/// Keywords that never nest anything, or only by the parentheses that must follow.
const FLAT: [Keyword; 20] = [
    Keyword::AS,
    Keyword::CAST,
    Keyword::TRY_CAST,
    Keyword::EXTRACT,
    Keyword::ARRAY,
    Keyword::ASC,
    Keyword::DESC,
    Keyword::NULL,
    Keyword::TRUE,
    Keyword::FALSE,
    Keyword::WHERE,
    Keyword::FILTER,
    Keyword::DISTINCT,
    Keyword::FROM,
    Keyword::FOR,
    Keyword::BIGINT,
    Keyword::INT,
    Keyword::DOUBLE,
    Keyword::STRING,
    Keyword::TIMESTAMP,
];

/// Keywords that begin or continue an expression whatever is named like them.
const NESTING: [Keyword; 6] =
    [Keyword::NOT, Keyword::INTERVAL, Keyword::PRIOR, Keyword::IS, Keyword::BETWEEN, Keyword::COLLATE];

/// Which words are names, even though SQL has keywords like them.
pub(crate) trait Names {
    /// Whether a column is named so.
    fn is_column(&self, name: &str) -> bool;
    /// Whether a function is named so.
    fn is_function(&self, name: &str) -> bool;
}

/// Refuses a text that may nest too deep.
pub(crate) fn check<'a>(tokens: impl Iterator<Item = &'a Token>, names: &impl Names) -> Result<(), ExpressionError> {
    let mut scan = Scan { open: Vec::new(), level: Level::default(), conditions: 0 };
    let mut tokens = tokens.filter(|token| !matches!(token, Token::Whitespace(_))).peekable();
    while let Some(token) = tokens.next() {
        let is_name = |word: &Word| match tokens.peek() {
            Some(Token::LParen) => names.is_function(&word.value),
            _ => names.is_column(&word.value),
        };
        scan.token(token, is_name)?;
    }
    let open = scan.open.len();
    if scan.level.depth() + open > DEPTH_MAX { Err(ExpressionError::TooDeep) } else { Ok(()) }
}

#[derive(Default)]
struct Level {
    is_case: bool,
    /// Operators of the run so far.
    operators: usize,
    /// Deepest group of the run so far.
    inner: usize,
    /// Deepest run that has ended.
    deepest: usize,
    /// `BETWEEN`s whose `AND` is still to come.
    betweens: usize,
    conditions: usize,
}

impl Level {
    fn end_run(&mut self) {
        self.deepest = self.deepest.max(self.operators + self.inner);
        self.operators = 0;
        self.inner = 0;
    }

    fn depth(&mut self) -> usize {
        self.end_run();
        // A balanced chain of n conditions is log2(n) deep.
        self.deepest + (usize::BITS - self.conditions.leading_zeros()) as usize
    }
}

struct Scan {
    open: Vec<Level>,
    level: Level,
    conditions: usize,
}

impl Scan {
    fn token(&mut self, token: &Token, is_name: impl FnOnce(&Word) -> bool) -> Result<(), ExpressionError> {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => self.enter(false)?,
            Token::RParen | Token::RBrace => self.leave(),
            Token::RBracket => {
                self.leave();
                self.level.operators += 1;
            }
            Token::Comma => self.level.end_run(),
            Token::Word(word) if word.quote_style.is_none() => self.word(word, is_name)?,
            Token::Word(_) | Token::Number(..) | Token::Whitespace(_) | Token::EOF | Token::SemiColon => {}
            text if is_text(text) => {}
            _ => self.level.operators += 1,
        }
        if self.level.operators > DEPTH_MAX { Err(ExpressionError::TooDeep) } else { Ok(()) }
    }

    fn word(&mut self, word: &Word, is_name: impl FnOnce(&Word) -> bool) -> Result<(), ExpressionError> {
        match word.keyword {
            Keyword::NoKeyword => {}
            Keyword::CASE => self.enter(true)?,
            Keyword::END if self.level.is_case => self.leave(),
            Keyword::WHEN | Keyword::THEN | Keyword::ELSE => self.level.end_run(),
            Keyword::AND if self.level.betweens > 0 => self.level.betweens -= 1,
            Keyword::AND | Keyword::OR => {
                self.level.end_run();
                self.level.conditions += 1;
                self.conditions += 1;
                if self.conditions > CONDITIONS_MAX {
                    return Err(ExpressionError::TooManyConditions);
                }
            }
            keyword if FLAT.contains(&keyword) => {}
            keyword if !NESTING.contains(&keyword) && is_name(word) => {}
            keyword => {
                self.level.betweens += usize::from(keyword == Keyword::BETWEEN);
                self.level.operators += 1;
            }
        }
        Ok(())
    }

    fn enter(&mut self, is_case: bool) -> Result<(), ExpressionError> {
        self.open.push(std::mem::replace(&mut self.level, Level { is_case, ..Level::default() }));
        if self.open.len() > DEPTH_MAX { Err(ExpressionError::TooDeep) } else { Ok(()) }
    }

    /// A closing mark too many is left to the parser to complain about.
    fn leave(&mut self) {
        if let Some(outer) = self.open.pop() {
            let depth = self.level.depth() + 1;
            self.level = outer;
            self.level.inner = self.level.inner.max(depth);
        }
    }
}

fn is_text(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::DollarQuotedString(_)
            | Token::UnicodeStringLiteral(_)
    )
}
