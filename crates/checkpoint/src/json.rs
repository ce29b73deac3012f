//! How the values of manifests look in JSON, without loss: each module is a `#[serde(with = ...)]` of the types of
//! `weir-core`, which know no serde. Used by `manifest.rs` and `task_state.rs`.
//!
//! A `weir_core::Value` is the JSON one would expect, with two additions. A number with a fraction is
//! `{"$float": "1.5"}` (shortest decimal digits that give the same bits; `"inf"`, `"-inf"`; other bits as `"0x..."`), so
//! that it stays apart from whole numbers and no reader rounds it. A map's key that begins with `$` gets one more `$`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use weir_core::Value;

const FLOAT: &str = "$float";

/// Nesting that a manifest may hold; JSON readers stop at 128 levels, a manifest itself has some ten.
pub(crate) const VALUE_DEPTH_MAX: usize = 64;

struct Shown<'a>(&'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(truth) => serializer.serialize_bool(*truth),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Float(number) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(FLOAT, &float_text(*number))?;
                map.end()
            }
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Shown(item))?;
                }
                list.end()
            }
            Value::Map(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    if name.starts_with('$') {
                        map.serialize_entry(&format!("${name}"), &Shown(value))?;
                    } else {
                        map.serialize_entry(name, &Shown(value))?;
                    }
                }
                map.end()
            }
        }
    }
}

fn float_text(number: f64) -> String {
    if number.is_nan() { format!("0x{:016x}", number.to_bits()) } else { format!("{number:?}") }
}

fn read_float(text: &str) -> Option<f64> {
    let number = match text.strip_prefix("0x") {
        Some(bits) => f64::from_bits(u64::from_str_radix(bits, 16).ok()?),
        None => text.parse().ok()?,
    };
    (float_text(number) == text).then_some(number)
}

struct Read(Value);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadVisitor).map(Read)
    }
}

struct ReadVisitor;

impl<'de> Visitor<'de> for ReadVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        i64::try_from(number).map(Value::Integer).map_err(|_| E::custom("a whole number above 2^63 - 1"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Read(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == FLOAT && fields.is_empty() {
                let text: String = map.next_value()?;
                let number = read_float(&text).ok_or_else(|| de::Error::custom("a number that cannot be read"))?;
                return match map.next_key::<String>()? {
                    None => Ok(Value::Float(number)),
                    Some(_) => Err(de::Error::custom("a number with fields")),
                };
            }
            let name = match name.strip_prefix('$') {
                Some(rest) if rest.starts_with('$') => rest.to_owned(),
                Some(_) => return Err(de::Error::custom("a key that begins with one '$'")),
                None => name,
            };
            let Read(value) = map.next_value()?;
            if fields.insert(name, value).is_some() {
                return Err(de::Error::custom("a key that comes twice"));
            }
        }
        Ok(Value::Map(fields))
    }
}

/// One value.
pub(crate) mod value {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Value, serializer: S) -> Result<S::Ok, S::Error> {
        Shown(value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        Ok(Read::deserialize(deserializer)?.0)
    }
}

/// A list of values.
pub(crate) mod values {
    use super::*;

    pub fn serialize<S: Serializer>(values: &[Value], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(Shown))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Value>, D::Error> {
        Ok(Vec::<Read>::deserialize(deserializer)?.into_iter().map(|Read(value)| value).collect())
    }
}

/// A value or none; the field is left out for none (`null` is a value).
pub(crate) mod optional_value {
    use super::*;

    pub fn serialize<S: Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Shown).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
        Ok(Some(Read::deserialize(deserializer)?.0))
    }
}

/// 128 bits as 32 hexadecimal digits.
pub(crate) mod hex128 {
    use super::*;

    pub fn serialize<S: Serializer>(bits: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{bits:032x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u128::from_str_radix(&text, 16) {
            Ok(bits) if format!("{bits:032x}") == text => Ok(bits),
            _ => Err(de::Error::custom("expected 32 hexadecimal digits")),
        }
    }
}

/// Bytes as pairs of hexadecimal digits.
pub(crate) mod hex_bytes {
    use super::*;
    use bytes::Bytes;

    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |digit: u8| DIGITS.iter().position(|known| *known == digit);
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        bytes.map(Bytes::from).ok_or_else(|| de::Error::custom("expected pairs of hexadecimal digits"))
    }
}

/// The ids of `weir-core` as their bare numbers and texts.
macro_rules! bare {
    ($module:ident, $id:ident, $inner:ty) => {
        pub(crate) mod $module {
            use super::*;
            use weir_core::$id;

            pub fn serialize<S: Serializer>(id: &$id, serializer: S) -> Result<S::Ok, S::Error> {
                id.0.serialize(serializer)
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$id, D::Error> {
                <$inner>::deserialize(deserializer).map($id)
            }
        }
    };
}

bare!(checkpoint_id, CheckpointId, u64);
bare!(operator_uid, OperatorUid, String);
bare!(subtask_index, SubtaskIndex, u32);
bare!(split_index, SplitIndex, u32);
bare!(event_time, EventTime, i64);

/// A job id as 32 hexadecimal digits.
pub(crate) mod job_id {
    use super::*;
    use weir_core::JobId;

    pub fn serialize<S: Serializer>(id: &JobId, serializer: S) -> Result<S::Ok, S::Error> {
        hex128::serialize(&id.0, serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<JobId, D::Error> {
        hex128::deserialize(deserializer).map(JobId)
    }
}

/// An incarnation as 32 hexadecimal digits.
pub(crate) mod incarnation {
    use super::*;
    use crate::Incarnation;

    pub fn serialize<S: Serializer>(incarnation: &Incarnation, serializer: S) -> Result<S::Ok, S::Error> {
        hex128::serialize(&incarnation.0, serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Incarnation, D::Error> {
        hex128::deserialize(deserializer).map(Incarnation)
    }
}

/// Term and attempt, by name.
pub(crate) mod token {
    use super::*;
    use weir_core::{AttemptNumber, FencingToken};

    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Token {
        term: u64,
        attempt: u32,
    }

    pub fn serialize<S: Serializer>(token: &FencingToken, serializer: S) -> Result<S::Ok, S::Error> {
        Token { term: token.term, attempt: token.attempt.0 }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<FencingToken, D::Error> {
        let Token { term, attempt } = Token::deserialize(deserializer)?;
        Ok(FencingToken { term, attempt: AttemptNumber(attempt) })
    }
}
