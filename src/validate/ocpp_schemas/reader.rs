//! Reads a payload as a schema would: a deserializer around that of `serde_json`.
//!
//! serde is lenient where schemas are not: it skips members that a type does not have, takes an array for a struct and
//! `null` for an absent member. Here each of them fails, and every failure keeps what kind it is. Where it happened is
//! put together only then, on the way out of the members and items that lead to it.

use std::{borrow::Cow, cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, MapAccess, SeqAccess, Unexpected, Visitor,
        value::{BorrowedStrDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use crate::validate::{
    ocpp_schemas::formats,
    payload_error::{Failed, Kind, PayloadError, Step, find, hide},
};

/// Reads the JSON text of a payload, all of it.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, PayloadError> {
    let failed = Cell::new(None);
    let mut json = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Reader { json: &mut json, raw: false, failed: &failed })?;
    json.end().map_err(|error| PayloadError::new(Kind::NotJson, error.to_string()))?;
    Ok(value)
}

/// The deserializer of one value.
struct Reader<'a, D> {
    json: D,
    /// It is the unread text of a number.
    raw: bool,
    failed: &'a Failed,
}

/// What a type asks for beyond what its visitor says.
#[derive(Clone, Copy)]
enum Wanted {
    Anything,
    /// A struct's visitor would take an array as well.
    Object,
    /// Draft 6 and later: 1.0 is a whole number.
    Whole,
    /// An enumeration, or a date: the version types own the strings of all other members.
    DateOrName,
    /// The unread text of a number, which `serde_json` disguises as a map.
    Raw,
}

impl<'de, D: Deserializer<'de>> Reader<'_, D> {
    fn read<V: Visitor<'de>>(self, wanted: Wanted, visitor: V) -> Result<V::Value, PayloadError> {
        let Self { json, failed, .. } = self;
        json.deserialize_any(Watched { visitor, wanted, failed }).map_err(|error| find(failed, error))
    }
}

macro_rules! whole {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PayloadError> {
            self.read(Wanted::Whole, visitor)
        })*
    };
}

/// All hints but these are of no use: JSON says what it is.
impl<'de, D: Deserializer<'de>> Deserializer<'de> for Reader<'_, D> {
    type Error = PayloadError;

    forward_to_deserialize_any! {
        bool f32 f64 char string bytes byte_buf unit unit_struct seq tuple tuple_struct map enum identifier
    }

    whole! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PayloadError> {
        self.read(Wanted::Anything, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PayloadError> {
        self.read(Wanted::Object, visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PayloadError> {
        match self.raw {
            true => self.read(Wanted::Anything, visitor),
            false => self.read(Wanted::DateOrName, visitor),
        }
    }

    /// A member that is there has a value: `null` is none, but where anything may stand.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PayloadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, PayloadError> {
        let Self { json, failed, .. } = self;
        json.deserialize_newtype_struct(name, Watched { visitor, wanted: Wanted::Raw, failed })
            .map_err(|error| find(failed, error))
    }

    /// Nothing is read to be ignored but the members that a type does not have.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, PayloadError> {
        Err(PayloadError::unknown_member())
    }
}

/// A visitor that gets what `serde_json` found.
struct Watched<'a, V> {
    visitor: V,
    wanted: Wanted,
    failed: &'a Failed,
}

impl<V> Watched<'_, V> {
    /// No enumeration has a name that begins with anything but a letter, and no date begins with one.
    fn may_be_date(&self, text: &str) -> bool {
        matches!(self.wanted, Wanted::DateOrName) && !text.starts_with(|first: char| first.is_ascii_alphabetic())
    }
}

macro_rules! visit {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value).map_err(|fault| hide(self.failed, fault))
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Watched<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit! {
        visit_bool: bool;
        visit_i64: i64;
        visit_u64: u64;
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<V::Value, E> {
        // Exact below 2^53, and no type of a payload holds what is beyond.
        let result = match self.wanted {
            Wanted::Whole if value.fract() == 0.0 => self.visitor.visit_i64(value as i64),
            _ => self.visitor.visit_f64(value),
        };
        result.map_err(|fault| hide(self.failed, fault))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        let result = match self.may_be_date(text) {
            true => match formats::date_time(text) {
                Some(date) => self.visitor.visit_str(&date),
                None => Err(de::Error::invalid_value(Unexpected::Str(text), &self.visitor)),
            },
            false => self.visitor.visit_str(text),
        };
        result.map_err(|fault| hide(self.failed, fault))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<V::Value, E> {
        match self.may_be_date(text) {
            true => self.visit_str(text),
            false => self.visitor.visit_borrowed_str(text).map_err(|fault| hide(self.failed, fault)),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit().map_err(|fault| hide(self.failed, fault))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        let Self { visitor, failed, .. } = self;
        visitor.visit_newtype_struct(Reader { json, raw: false, failed }).map_err(|fault| hide(failed, fault))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, json: A) -> Result<V::Value, A::Error> {
        let Self { visitor, wanted, failed } = self;
        let result = match wanted {
            Wanted::Object => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => visitor.visit_seq(Items { json, index: 0, failed }),
        };
        result.map_err(|fault| hide(failed, fault))
    }

    fn visit_map<A: MapAccess<'de>>(self, json: A) -> Result<V::Value, A::Error> {
        let Self { visitor, wanted, failed } = self;
        let raw = matches!(wanted, Wanted::Raw);
        visitor.visit_map(Members { json, name: Cow::Borrowed(""), raw, failed }).map_err(|fault| hide(failed, fault))
    }
}

/// The items of an array.
struct Items<'a, A> {
    json: A,
    index: usize,
    failed: &'a Failed,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = PayloadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, PayloadError> {
        let nested = Nested { seed, raw: false, failed: self.failed };
        let item = self.json.next_element_seed(nested);
        let item = item.map_err(|error| find(self.failed, error).within(Step::Item(self.index)))?;
        self.index += 1;
        Ok(item)
    }

    fn size_hint(&self) -> Option<usize> {
        self.json.size_hint()
    }
}

/// The members of an object.
struct Members<'a, 'de, A> {
    json: A,
    /// Of the member that is being read.
    name: Cow<'de, str>,
    raw: bool,
    failed: &'a Failed,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, 'de, A> {
    type Error = PayloadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, PayloadError> {
        let Some(name) = self.json.next_key_seed(Name).map_err(|error| find(self.failed, error))? else {
            return Ok(None);
        };
        self.name = name;
        match &self.name {
            Cow::Borrowed(name) => seed.deserialize(BorrowedStrDeserializer::new(name)),
            Cow::Owned(name) => seed.deserialize(StrDeserializer::new(name)),
        }
        .map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, PayloadError> {
        let nested = Nested { seed, raw: self.raw, failed: self.failed };
        self.json.next_value_seed(nested).map_err(|error| {
            let fault = find(self.failed, error);
            match self.raw {
                true => fault,
                false => fault.within(Step::Member(self.name.as_ref().to_owned())),
            }
        })
    }

    fn size_hint(&self) -> Option<usize> {
        self.json.size_hint()
    }
}

/// The name of a member, borrowed where nothing in it is escaped.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Cow<'de, str>, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }

    fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }
}

/// What is read of a member or an item.
struct Nested<'a, T> {
    seed: T,
    raw: bool,
    failed: &'a Failed,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Nested<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T::Value, D::Error> {
        let Self { seed, raw, failed } = self;
        seed.deserialize(Reader { json, raw, failed }).map_err(|fault| hide(failed, fault))
    }
}
