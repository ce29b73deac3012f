//! Column types as users spell them (`BIGINT`, `STRING`, `TIMESTAMP(3)`, `ARRAY<DOUBLE>`, `ROW<a INT>`), to Arrow and back.
//! Called where a source declares its schema.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, TimeUnit};

/// Deepest nesting of `ARRAY` and `ROW` that is read.
pub const TYPE_DEPTH_MAX: usize = 8;

/// The names a column type may start with, for messages.
pub const TYPE_NAMES: &[&str] = &[
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL(p,s)",
    "STRING",
    "BYTES",
    "DATE",
    "TIMESTAMP(p)",
    "ARRAY<t>",
    "ROW<name t, ...>",
];

/// Reads the name of a type.
///
/// **Units**: `TIMESTAMP` is microseconds in UTC whatever its precision says (0 to 6).
/// **Errors**: a sentence that lists the known names.
pub fn parse(text: &str) -> Result<DataType, String> {
    let mut parser = Parser { text, rest: text.trim() };
    let data_type = parser.data_type(0)?;
    if parser.rest.is_empty() { Ok(data_type) } else { Err(parser.wrong()) }
}

/// Spells a type the way [`parse`] reads it; Arrow's own name where there is no such spelling.
pub fn name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".to_owned(),
        DataType::Binary => "BYTES".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "TIMESTAMP(6)".to_owned(),
        DataType::List(item) => format!("ARRAY<{}>", name(item.data_type())),
        DataType::Struct(fields) => {
            let parts: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name(), name(f.data_type()))).collect();
            format!("ROW<{}>", parts.join(", "))
        }
        other => other.to_string(),
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Parser<'_> {
    fn wrong(&self) -> String {
        format!("'{}' is not a column type; known are {}", self.text, TYPE_NAMES.join(", "))
    }

    fn word(&mut self) -> String {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word.to_owned()
    }

    fn eat(&mut self, mark: char) -> bool {
        match self.rest.strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, mark: char) -> Result<(), String> {
        if self.eat(mark) { Ok(()) } else { Err(self.wrong()) }
    }

    fn number(&mut self) -> Result<u8, String> {
        self.word().parse().map_err(|_| self.wrong())
    }

    fn data_type(&mut self, depth: usize) -> Result<DataType, String> {
        if depth > TYPE_DEPTH_MAX {
            return Err(format!("'{}' nests deeper than {TYPE_DEPTH_MAX} levels", self.text));
        }
        Ok(match self.word().to_ascii_uppercase().as_str() {
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "TINYINT" => DataType::Int8,
            "SMALLINT" => DataType::Int16,
            "INT" | "INTEGER" => DataType::Int32,
            "BIGINT" | "LONG" => DataType::Int64,
            "FLOAT" | "REAL" => DataType::Float32,
            "DOUBLE" => DataType::Float64,
            "STRING" | "VARCHAR" | "TEXT" => DataType::Utf8,
            "BYTES" | "VARBINARY" => DataType::Binary,
            "DATE" => DataType::Date32,
            "DECIMAL" => self.decimal()?,
            "TIMESTAMP" => self.timestamp()?,
            "ARRAY" => {
                self.expect('<')?;
                let item = self.data_type(depth + 1)?;
                self.expect('>')?;
                DataType::List(Arc::new(Field::new("item", item, true)))
            }
            "ROW" => self.row(depth)?,
            _ => return Err(self.wrong()),
        })
    }

    fn decimal(&mut self) -> Result<DataType, String> {
        self.expect('(')?;
        let precision = self.number()?;
        let scale = if self.eat(',') { self.number()? } else { 0 };
        self.expect(')')?;
        if precision == 0 || precision > 38 || scale > precision {
            return Err(format!("'{}': DECIMAL(p,s) needs 1 <= p <= 38 and s <= p", self.text));
        }
        Ok(DataType::Decimal128(precision, scale as i8))
    }

    fn timestamp(&mut self) -> Result<DataType, String> {
        if self.eat('(') {
            let precision = self.number()?;
            self.expect(')')?;
            if precision > 6 {
                return Err(format!("'{}': a timestamp's precision is 0 to 6 digits", self.text));
            }
        }
        Ok(crate::batch::event_time_type())
    }

    fn row(&mut self, depth: usize) -> Result<DataType, String> {
        self.expect('<')?;
        let mut fields = Vec::new();
        loop {
            let name = self.word();
            if name.is_empty() {
                return Err(self.wrong());
            }
            fields.push(Field::new(name, self.data_type(depth + 1)?, true));
            if !self.eat(',') {
                break;
            }
        }
        self.expect('>')?;
        Ok(DataType::Struct(Fields::from(fields)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_round_trip() {
        for text in [
            "BOOLEAN",
            "BIGINT",
            "DECIMAL(23,3)",
            "STRING",
            "TIMESTAMP(6)",
            "DATE",
            "ARRAY<DOUBLE>",
            "ROW<a INT, b ARRAY<ROW<c STRING>>>",
        ] {
            assert_eq!(parse(text).map(|t| name(&t)), Ok(text.to_owned()));
        }
        assert_eq!(parse(" timestamp ( 3 ) "), Ok(crate::batch::event_time_type()));
    }

    #[test]
    fn wrong_names_are_refused() {
        let deep = "ARRAY<".repeat(20) + "INT" + &">".repeat(20);
        for bad in [
            "",
            "STRNG",
            "DECIMAL",
            "DECIMAL(39,0)",
            "DECIMAL(3,4)",
            "TIMESTAMP(9)",
            "ARRAY<INT",
            "INT INT",
            "ROW<>",
            &deep,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
