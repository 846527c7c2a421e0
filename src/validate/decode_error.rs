//! Why serde does not take a payload for a type: a second reading, by a deserializer around that of `serde_json`.
//!
//! It asks for all that the type asks for and refuses nothing that serde takes. It only listens: to what kind of fault
//! there is, and to the members and items that lead there.

use std::{cell::Cell, fmt};

use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, EnumAccess, Expected, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
        Visitor,
    },
};

use crate::{
    error::{ErrorCode, Violation},
    message::payload::Payload,
    validate::payload_error::{Failed, Kind, PayloadError, Step, find, hide},
};

/// What is wrong with a payload that was not decoded as a `T`, because of `error`.
#[cold]
pub(crate) fn explain_decode_error<T: DeserializeOwned>(payload: &Payload, error: &serde_json::Error) -> Violation {
    let failed = Cell::new(None);
    let mut json = serde_json::Deserializer::from_str(payload.as_str());
    match T::deserialize(Listening { json: &mut json, name: None, failed: &failed }) {
        Err(fault) => fault.into(),
        // A type that does not say the same twice.
        Ok(_) => Violation::new(ErrorCode::FORMAT_VIOLATION, "", error.to_string()),
    }
}

/// The deserializer of one value.
struct Listening<'a, D> {
    json: D,
    /// Takes the value down, where it is the name of a member.
    name: Option<&'a Cell<String>>,
    failed: &'a Failed,
}

impl<'a, D> Listening<'a, D> {
    fn split<V>(self, visitor: V) -> (D, Ear<'a, V>) {
        let Self { json, name, failed } = self;
        (json, Ear { visitor, name, failed })
    }
}

/// JSON says what it is, and then it is the visitor that finds it wrong; `serde_json` would do so by its text alone.
/// Names of members are all strings, and have to be asked for numbers.
macro_rules! any {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, PayloadError> {
            let is_name = self.name.is_some();
            let (json, ear) = self.split(visitor);
            let failed = ear.failed;
            match is_name {
                true => json.$method($($argument,)* ear),
                false => json.deserialize_any(ear),
            }
            .map_err(|error| find(failed, error))
        })*
    };
}

/// Here JSON alone does not say what is wanted.
macro_rules! asked {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, PayloadError> {
            let reason = format!("is not {}", &visitor as &dyn Expected);
            let (json, ear) = self.split(visitor);
            let failed = ear.failed;
            json.$method($($argument,)* ear)
                .map_err(|_| failed.take().unwrap_or_else(|| PayloadError::new(Kind::Type, reason)))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Listening<'_, D> {
    type Error = PayloadError;

    any! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_identifier();
    }

    asked! {
        deserialize_i128();
        deserialize_u128();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_newtype_struct(name: &'static str);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_ignored_any();
    }
}

/// A visitor that gets what `serde_json` found.
struct Ear<'a, V> {
    visitor: V,
    name: Option<&'a Cell<String>>,
    failed: &'a Failed,
}

impl<V> Ear<'_, V> {
    fn take_down(&self, name: impl fmt::Display) {
        if let Some(taken) = self.name {
            taken.set(name.to_string());
        }
    }
}

macro_rules! visit {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.take_down(value);
            self.visitor.$method(value).map_err(|fault| hide(self.failed, fault))
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Ear<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit! {
        visit_bool: bool;
        visit_i64: i64;
        visit_i128: i128;
        visit_u64: u64;
        visit_u128: u128;
        visit_f64: f64;
        visit_str: &str;
        visit_borrowed_str: &'de str;
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<V::Value, E> {
        self.visitor.visit_bytes(bytes).map_err(|fault| hide(self.failed, fault))
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<V::Value, E> {
        self.visitor.visit_borrowed_bytes(bytes).map_err(|fault| hide(self.failed, fault))
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit().map_err(|fault| hide(self.failed, fault))
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none().map_err(|fault| hide(self.failed, fault))
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        let Self { visitor, name, failed } = self;
        visitor.visit_some(Listening { json, name, failed }).map_err(|fault| hide(failed, fault))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        let Self { visitor, name, failed } = self;
        visitor.visit_newtype_struct(Listening { json, name, failed }).map_err(|fault| hide(failed, fault))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, json: A) -> Result<V::Value, A::Error> {
        let Self { visitor, failed, .. } = self;
        let too_many = format!("has more items than {}", &visitor as &dyn Expected);
        let mut items = Items { json, index: 0, failed };
        let value = visitor.visit_seq(&mut items).map_err(|fault| hide(failed, fault))?;
        match items.json.next_element::<IgnoredAny>()? {
            Some(_) => Err(hide(failed, PayloadError::new(Kind::Length, too_many))),
            None => Ok(value),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, json: A) -> Result<V::Value, A::Error> {
        let Self { visitor, failed, .. } = self;
        visitor.visit_map(Members { json, name: Cell::default(), failed }).map_err(|fault| hide(failed, fault))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, json: A) -> Result<V::Value, A::Error> {
        let Self { visitor, failed, .. } = self;
        visitor.visit_enum(Variants { json, failed }).map_err(|fault| hide(failed, fault))
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
        let item = self.json.next_element_seed(Nested { seed, name: None, failed: self.failed });
        let item = item.map_err(|error| find(self.failed, error).within(Step::Item(self.index)))?;
        self.index += 1;
        Ok(item)
    }

    fn size_hint(&self) -> Option<usize> {
        self.json.size_hint()
    }
}

/// The members of an object.
struct Members<'a, A> {
    json: A,
    /// Of the member that is being read.
    name: Cell<String>,
    failed: &'a Failed,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, A> {
    type Error = PayloadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, PayloadError> {
        let name = Nested { seed, name: Some(&self.name), failed: self.failed };
        self.json.next_key_seed(name).map_err(|error| find(self.failed, error))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, PayloadError> {
        let value = self.json.next_value_seed(Nested { seed, name: None, failed: self.failed });
        value.map_err(|error| find(self.failed, error).within(Step::Member(self.name.take())))
    }

    fn size_hint(&self) -> Option<usize> {
        self.json.size_hint()
    }
}

/// The variants of an enumeration: a text, or an object with one member.
struct Variants<'a, A> {
    json: A,
    failed: &'a Failed,
}

impl<'a, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Variants<'a, A> {
    type Error = PayloadError;
    type Variant = Content<'a, A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), PayloadError> {
        let Self { json, failed } = self;
        let name = Cell::default();
        let variant = json.variant_seed(Nested { seed, name: Some(&name), failed });
        let (variant, json) = variant.map_err(|error| find(failed, error))?;
        Ok((variant, Content { json, name: name.take(), failed }))
    }
}

/// What a variant holds.
struct Content<'a, A> {
    json: A,
    name: String,
    failed: &'a Failed,
}

impl<A> Content<'_, A> {
    fn fault(failed: &Failed, name: String) -> PayloadError {
        let other = || PayloadError::new(Kind::Type, "does not hold what the variant does");
        failed.take().unwrap_or_else(other).within(Step::Member(name))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Content<'_, A> {
    type Error = PayloadError;

    fn unit_variant(self) -> Result<(), PayloadError> {
        let Self { json, name, failed } = self;
        json.unit_variant().map_err(|_| Self::fault(failed, name))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, PayloadError> {
        let Self { json, name, failed } = self;
        json.newtype_variant_seed(Nested { seed, name: None, failed }).map_err(|_| Self::fault(failed, name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, PayloadError> {
        let Self { json, name, failed } = self;
        json.tuple_variant(len, Ear { visitor, name: None, failed }).map_err(|_| Self::fault(failed, name))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PayloadError> {
        let Self { json, name, failed } = self;
        json.struct_variant(fields, Ear { visitor, name: None, failed }).map_err(|_| Self::fault(failed, name))
    }
}

/// What is read of a member or an item.
struct Nested<'a, T> {
    seed: T,
    name: Option<&'a Cell<String>>,
    failed: &'a Failed,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Nested<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T::Value, D::Error> {
        let Self { seed, name, failed } = self;
        seed.deserialize(Listening { json, name, failed }).map_err(|fault| hide(failed, fault))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;

    const FORMAT: ErrorCode = ErrorCode::FORMAT_VIOLATION;
    const OCCURRENCE: ErrorCode = ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION;
    const TYPE: ErrorCode = ErrorCode::TYPE_CONSTRAINT_VIOLATION;
    const PROPERTY: ErrorCode = ErrorCode::PROPERTY_CONSTRAINT_VIOLATION;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct All {
        #[serde(default)]
        small: u8,
        #[serde(default)]
        text: Option<String>,
        #[serde(default)]
        list: Vec<Inner>,
        #[serde(default)]
        pair: (u8, u8),
        #[serde(default)]
        numbers: HashMap<u8, bool>,
        #[serde(default)]
        kind: Kinds,
        #[serde(default)]
        wide: u128,
        #[serde(default)]
        wrapped: Wrapped,
        #[serde(default)]
        either: Option<Either>,
        #[serde(default)]
        shape: Option<Shape>,
        #[serde(default)]
        raw: Option<Payload>,
        #[serde(default)]
        letter: Option<char>,
        #[serde(default)]
        nothing: (),
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        id: u32,
    }

    #[derive(Debug, Default, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    enum Kinds {
        #[default]
        Soft,
        Timed(u8),
        Both(u8, u8),
        Named {
            at: u8,
        },
    }

    #[derive(Debug, Default, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Wrapped(u8);

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only read")]
    enum Either {
        Number(u8),
        Flag { on: bool },
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "type")]
    #[expect(dead_code, reason = "only read")]
    enum Shape {
        Round { radius: u8 },
    }

    fn violation(json: &str) -> Violation {
        let payload = Payload(json.into());
        let error = payload.decode::<All>().expect_err(json);
        explain_decode_error::<All>(&payload, &error)
    }

    #[test]
    fn each_misfit_has_its_code_and_its_place() {
        for (json, code, pointer) in [
            ("7", FORMAT, ""),
            (r#"{"small":"x"}"#, TYPE, "/small"),
            (r#"{"small":300}"#, PROPERTY, "/small"),
            (r#"{"small":-1}"#, PROPERTY, "/small"),
            (r#"{"small":1.5}"#, TYPE, "/small"),
            (r#"{"small":null}"#, TYPE, "/small"),
            (r#"{"small":1e999}"#, FORMAT, "/small"),
            (r#"{"small":1,"small":1}"#, FORMAT, "/small"),
            (r#"{"text":7}"#, TYPE, "/text"),
            (r#"{"te~xt/":7}"#, FORMAT, "/te~0xt~1"),
            (r#"{"list":{}}"#, TYPE, "/list"),
            (r#"{"list":[{"id":1},{}]}"#, OCCURRENCE, "/list/1/id"),
            (r#"{"list":[{"id":1},{"id":true}]}"#, TYPE, "/list/1/id"),
            (r#"{"list":[[]]}"#, OCCURRENCE, "/list/0"),
            (r#"{"pair":[1]}"#, OCCURRENCE, "/pair"),
            (r#"{"pair":[1,2,3]}"#, OCCURRENCE, "/pair"),
            (r#"{"pair":[1,"x"]}"#, TYPE, "/pair/1"),
            (r#"{"numbers":{"1":true,"2":7}}"#, TYPE, "/numbers/2"),
            (r#"{"kind":"Hard"}"#, PROPERTY, "/kind"),
            (r#"{"kind":7}"#, TYPE, "/kind"),
            (r#"{"kind":null}"#, TYPE, "/kind"),
            (r#"{"kind":"Timed"}"#, TYPE, "/kind/Timed"),
            (r#"{"kind":{"Hard":1}}"#, PROPERTY, "/kind"),
            (r#"{"kind":{"Timed":"x"}}"#, TYPE, "/kind/Timed"),
            (r#"{"kind":{"Both":[1,"x"]}}"#, TYPE, "/kind/Both/1"),
            (r#"{"kind":{"Named":{}}}"#, OCCURRENCE, "/kind/Named/at"),
            (r#"{"wide":"x"}"#, TYPE, "/wide"),
            (r#"{"wrapped":"x"}"#, TYPE, "/wrapped"),
            (r#"{"either":"x"}"#, PROPERTY, "/either"),
            (r#"{"shape":{"type":"Square"}}"#, PROPERTY, "/shape/type"),
            (r#"{"shape":{"type":"Round"}}"#, OCCURRENCE, "/shape/radius"),
            (r#"{"letter":"xy"}"#, PROPERTY, "/letter"),
            (r#"{"nothing":1}"#, TYPE, "/nothing"),
        ] {
            let violation = violation(json);
            assert_eq!((violation.code(), violation.pointer()), (&code, pointer), "{json}: {violation}");
        }
    }

    #[test]
    fn what_serde_takes_is_taken_on_the_way_to_the_misfit() {
        let taken = r#"{"small":1,"text":null,"list":[[1],{"id":1,"more":{}}],"pair":[1,2],"numbers":{"1":true},
            "kind":{"Named":{"at":1}},"wide":340282366920938463463374607431768211455,"wrapped":1,"either":{"on":true},
            "shape":{"type":"Round","radius":1},"raw":{"any":[]},"letter":"x","nothing":null"#;
        Payload(format!("{taken}}}").into()).decode::<All>().expect("serde takes it");
        let violation = violation(&format!("{taken},\"last\":1}}"));
        assert_eq!((violation.code(), violation.pointer()), (&FORMAT, "/last"), "{violation}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_not_quoted() {
        assert!(!violation(r#"{"small":"hunter2"}"#).to_string().contains("hunter2"));
    }
}
