//! A deserializer around that of `serde_json` that keeps the kind of each error and the path to it.
//!
//! `serde_json` reduces the error of a visitor to its text. The adapter stashes each [`PayloadError`] before it passes
//! through `serde_json` and takes it back on the other side. On the way out, each member and item adds itself to the
//! path. A [`Mode`] sets how strictly values are read.

use std::{borrow::Cow, cell::Cell, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, EnumAccess, Error as _, Expected, IgnoredAny, MapAccess, SeqAccess, Unexpected,
        VariantAccess, Visitor,
    },
};

use crate::validate::payload_error::{Kind, PayloadError, Step};

/// Reads a value from `json`.
///
/// # Errors
///
/// Returns the first error, with its kind and its path.
pub(super) fn read<'de, M: Mode, T: Deserialize<'de>>(json: impl Deserializer<'de>) -> Result<T, PayloadError> {
    let stash = Stash::<M> { error: Cell::new(None), mode: PhantomData };
    T::deserialize(RecordingDeserializer { json, role: Value { is_raw: false }, stash: &stash })
}

/// The strictness of a reading.
pub(super) trait Mode {
    /// `true` if the mode rejects what serde accepts: unknown members, an array for a struct, and `null` for an absent
    /// member. A strict mode also accepts `1.0` as an integer.
    const IS_STRICT: bool;

    /// Returns the text that a visitor receives for a JSON string, or `None` if the string is invalid.
    fn text(hint: Hint, text: &str) -> Option<Cow<'_, str>>;
}

/// The type that a visitor asked for, if the type changes what the visitor receives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    Any,
    Integer,
    Str,
    Struct,
    /// A newtype, or the unparsed text of a value, which `serde_json` presents as a map.
    Newtype,
}

/// The position of a value in its object.
trait Role<'de>: Copy {
    const IS_NAME: bool;

    /// Returns the hint to apply in this position.
    fn hint(self, hint: Hint) -> Hint;

    /// Records the name of a member.
    fn record(self, _: impl ToString) {}

    /// Records the name of a member without a copy.
    fn record_borrowed(self, _: &'de str) {}
}

#[derive(Clone, Copy)]
struct Value {
    /// `true` for the unparsed text of a value.
    is_raw: bool,
}

impl Role<'_> for Value {
    const IS_NAME: bool = false;

    fn hint(self, hint: Hint) -> Hint {
        if self.is_raw { Hint::Any } else { hint }
    }
}

#[derive(Clone, Copy)]
struct Name<'a, 'de>(&'a Cell<Cow<'de, str>>);

impl<'de> Role<'de> for Name<'_, 'de> {
    const IS_NAME: bool = true;

    fn hint(self, _: Hint) -> Hint {
        Hint::Any
    }

    fn record(self, name: impl ToString) {
        self.0.set(Cow::Owned(name.to_string()));
    }

    fn record_borrowed(self, name: &'de str) {
        self.0.set(Cow::Borrowed(name));
    }
}

/// The error on its way through `serde_json`.
struct Stash<M> {
    error: Cell<Option<PayloadError>>,
    mode: PhantomData<M>,
}

impl<M: Mode> Stash<M> {
    /// Stashes an error and returns a placeholder for it.
    fn put<E: de::Error>(&self, error: PayloadError) -> E {
        self.error.set(Some(error));
        E::custom("")
    }

    /// Takes the stashed error, or else converts an error that `serde_json` found itself.
    fn take_or(&self, error: impl fmt::Display) -> PayloadError {
        self.error.take().unwrap_or_else(|| PayloadError::new(Kind::NotJson, error.to_string()))
    }

    /// Returns the expectation of a visitor for a later error. A strict reading is on the hot path and needs none.
    fn expected<'de>(visitor: &impl Visitor<'de>) -> Option<String> {
        (!M::IS_STRICT).then(|| (visitor as &dyn Expected).to_string())
    }
}

/// The deserializer of one value.
struct RecordingDeserializer<'a, D, R, M> {
    json: D,
    role: R,
    stash: &'a Stash<M>,
}

impl<'a, 'de, D: Deserializer<'de>, R: Role<'de>, M: Mode> RecordingDeserializer<'a, D, R, M> {
    fn read<V: Visitor<'de>>(
        self,
        hint: Hint,
        visitor: V,
        read: impl FnOnce(D, RecordingVisitor<'a, V, R, M>) -> Result<V::Value, D::Error>,
    ) -> Result<V::Value, PayloadError> {
        let Self { json, role, stash } = self;
        let visitor = RecordingVisitor { visitor, hint: role.hint(hint), role, stash };
        read(json, visitor).map_err(|error| stash.take_or(error))
    }

    /// Reads a value that `serde_json` itself may reject because of its type.
    fn read_exact<V: Visitor<'de>>(
        self,
        hint: Hint,
        visitor: V,
        read: impl FnOnce(D, RecordingVisitor<'a, V, R, M>) -> Result<V::Value, D::Error>,
    ) -> Result<V::Value, PayloadError> {
        let Some(expected) = Stash::<M>::expected(&visitor) else { return self.read(hint, visitor, read) };
        let Self { json, role, stash } = self;
        let visitor = RecordingVisitor { visitor, hint: role.hint(hint), role, stash };
        let mismatch = || PayloadError::new(Kind::Type, format!("is not {expected}"));
        read(json, visitor).map_err(|_| stash.error.take().unwrap_or_else(mismatch))
    }
}

/// Lets JSON determine the type, so that the visitor finds the mismatch. Otherwise `serde_json` would, with no more than a
/// text. Names are all strings, so `serde_json` must parse the numbers among them.
macro_rules! described {
    ($hint:ident: $($method:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, PayloadError> {
            if R::IS_NAME {
                self.read(Hint::Any, visitor, |json, visitor| json.$method($($argument,)* visitor))
            } else {
                self.read(Hint::$hint, visitor, |json, visitor| json.deserialize_any(visitor))
            }
        })*
    };
}

/// Passes the request on, because JSON alone does not determine the type.
macro_rules! exact {
    ($hint:ident: $($method:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, PayloadError> {
            self.read_exact(Hint::$hint, visitor, |json, visitor| json.$method($($argument,)* visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>, R: Role<'de>, M: Mode> Deserializer<'de> for RecordingDeserializer<'_, D, R, M> {
    type Error = PayloadError;

    described! { Any:
        deserialize_any();
        deserialize_bool();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_string();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_identifier();
    }

    described! { Integer:
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
    }

    described! { Str: deserialize_str(); }
    described! { Struct: deserialize_struct(name: &'static str, fields: &'static [&'static str]); }

    exact! { Any:
        deserialize_i128();
        deserialize_u128();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }

    exact! { Newtype: deserialize_newtype_struct(name: &'static str); }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PayloadError> {
        if M::IS_STRICT {
            visitor.visit_some(self)
        } else {
            self.read_exact(Hint::Any, visitor, |json, visitor| json.deserialize_option(visitor))
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, PayloadError> {
        if M::IS_STRICT && !R::IS_NAME {
            // Types ignore only members that they do not have.
            Err(PayloadError::unknown_member())
        } else {
            self.read_exact(Hint::Any, visitor, |json, visitor| json.deserialize_ignored_any(visitor))
        }
    }
}

/// A visitor that passes on what `serde_json` found.
struct RecordingVisitor<'a, V, R, M> {
    visitor: V,
    hint: Hint,
    role: R,
    stash: &'a Stash<M>,
}

macro_rules! visit {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.role.record(value);
            self.visitor.$method(value).map_err(|error| self.stash.put(error))
        })*
    };
}

impl<'de, V: Visitor<'de>, R: Role<'de>, M: Mode> Visitor<'de> for RecordingVisitor<'_, V, R, M> {
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
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<V::Value, E> {
        if M::IS_STRICT && self.hint == Hint::Integer && value.fract() == 0.0 {
            // Exact below 2^53. No type of a payload holds more.
            return self.visit_i64(value as i64);
        }
        self.role.record(value);
        self.visitor.visit_f64(value).map_err(|error| self.stash.put(error))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<V::Value, E> {
        self.role.record(text);
        match M::text(self.hint, text) {
            Some(text) => self.visitor.visit_str(&text),
            None => Err(PayloadError::invalid_value(Unexpected::Str(text), &self.visitor)),
        }
        .map_err(|error| self.stash.put(error))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<V::Value, E> {
        self.role.record_borrowed(text);
        match M::text(self.hint, text) {
            Some(Cow::Borrowed(text)) => self.visitor.visit_borrowed_str(text),
            Some(Cow::Owned(text)) => self.visitor.visit_str(&text),
            None => Err(PayloadError::invalid_value(Unexpected::Str(text), &self.visitor)),
        }
        .map_err(|error| self.stash.put(error))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<V::Value, E> {
        self.visitor.visit_bytes(bytes).map_err(|error| self.stash.put(error))
    }

    fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<V::Value, E> {
        self.visitor.visit_borrowed_bytes(bytes).map_err(|error| self.stash.put(error))
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit().map_err(|error| self.stash.put(error))
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none().map_err(|error| self.stash.put(error))
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        let Self { visitor, role, stash, .. } = self;
        visitor.visit_some(RecordingDeserializer { json, role, stash }).map_err(|error| stash.put(error))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        let Self { visitor, role, stash, .. } = self;
        visitor.visit_newtype_struct(RecordingDeserializer { json, role, stash }).map_err(|error| stash.put(error))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, json: A) -> Result<V::Value, A::Error> {
        let Self { visitor, hint, stash, .. } = self;
        if M::IS_STRICT && hint == Hint::Struct {
            return Err(stash.put(PayloadError::invalid_type(Unexpected::Seq, &visitor)));
        }
        let expected = Stash::<M>::expected(&visitor);
        let mut items = Items { json, index: 0, stash };
        let value = visitor.visit_seq(&mut items).map_err(|error| stash.put(error))?;
        match expected {
            Some(expected) if items.json.next_element::<IgnoredAny>()?.is_some() => {
                Err(stash.put(PayloadError::new(Kind::Length, format!("has more items than {expected}"))))
            }
            _ => Ok(value),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, json: A) -> Result<V::Value, A::Error> {
        let Self { visitor, hint, stash, .. } = self;
        let members = Members { json, name: Cell::default(), is_raw: hint == Hint::Newtype, stash };
        visitor.visit_map(members).map_err(|error| stash.put(error))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, json: A) -> Result<V::Value, A::Error> {
        let Self { visitor, stash, .. } = self;
        visitor.visit_enum(Variants { json, stash }).map_err(|error| stash.put(error))
    }
}

/// The items of an array.
struct Items<'a, A, M> {
    json: A,
    index: usize,
    stash: &'a Stash<M>,
}

impl<'de, A: SeqAccess<'de>, M: Mode> SeqAccess<'de> for Items<'_, A, M> {
    type Error = PayloadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, PayloadError> {
        let item = self.json.next_element_seed(Seed { seed, role: Value { is_raw: false }, stash: self.stash });
        let item = item.map_err(|error| self.stash.take_or(error).within(Step::Item(self.index)))?;
        self.index += 1;
        Ok(item)
    }

    fn size_hint(&self) -> Option<usize> {
        self.json.size_hint()
    }
}

/// The members of an object.
struct Members<'a, 'de, A, M> {
    json: A,
    /// The name of the current member.
    name: Cell<Cow<'de, str>>,
    /// `true` if the object is only a disguise of an unparsed text.
    is_raw: bool,
    stash: &'a Stash<M>,
}

impl<'de, A: MapAccess<'de>, M: Mode> MapAccess<'de> for Members<'_, 'de, A, M> {
    type Error = PayloadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, PayloadError> {
        let name = self.json.next_key_seed(Seed { seed, role: Name(&self.name), stash: self.stash });
        name.map_err(|error| self.stash.take_or(error))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, PayloadError> {
        let value = self.json.next_value_seed(Seed { seed, role: Value { is_raw: self.is_raw }, stash: self.stash });
        value.map_err(|error| {
            let error = self.stash.take_or(error);
            if self.is_raw { error } else { error.within(Step::Member(self.name.take().into_owned())) }
        })
    }

    fn size_hint(&self) -> Option<usize> {
        self.json.size_hint()
    }
}

/// The variant of an enumeration: a text, or an object with one member.
struct Variants<'a, A, M> {
    json: A,
    stash: &'a Stash<M>,
}

impl<'a, 'de, A: EnumAccess<'de>, M: Mode> EnumAccess<'de> for Variants<'a, A, M> {
    type Error = PayloadError;
    type Variant = Content<'a, 'de, A::Variant, M>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), PayloadError> {
        let Self { json, stash } = self;
        let name = Cell::default();
        let variant = json.variant_seed(Seed { seed, role: Name(&name), stash });
        let (variant, json) = variant.map_err(|error| stash.take_or(error))?;
        Ok((variant, Content { json, name: name.take(), stash }))
    }
}

/// The content of a variant.
struct Content<'a, 'de, A, M> {
    json: A,
    name: Cow<'de, str>,
    stash: &'a Stash<M>,
}

impl<'a, 'de, A: VariantAccess<'de>, M: Mode> Content<'a, 'de, A, M> {
    fn read<T>(self, read: impl FnOnce(A, &'a Stash<M>) -> Result<T, A::Error>) -> Result<T, PayloadError> {
        let Self { json, name, stash } = self;
        let mismatch = || PayloadError::new(Kind::Type, "does not fit the variant");
        let in_variant = |error: PayloadError| error.within(Step::Member(name.into_owned()));
        read(json, stash).map_err(|_| in_variant(stash.error.take().unwrap_or_else(mismatch)))
    }
}

impl<'de, A: VariantAccess<'de>, M: Mode> VariantAccess<'de> for Content<'_, 'de, A, M> {
    type Error = PayloadError;

    fn unit_variant(self) -> Result<(), PayloadError> {
        self.read(|json, _| json.unit_variant())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, PayloadError> {
        let role = Value { is_raw: false };
        self.read(|json, stash| json.newtype_variant_seed(Seed { seed, role, stash }))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, PayloadError> {
        let (hint, role) = (Hint::Any, Value { is_raw: false });
        self.read(|json, stash| json.tuple_variant(len, RecordingVisitor { visitor, hint, role, stash }))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, PayloadError> {
        let (hint, role) = (Hint::Struct, Value { is_raw: false });
        self.read(|json, stash| json.struct_variant(fields, RecordingVisitor { visitor, hint, role, stash }))
    }
}

/// The seed of a name, member or item.
struct Seed<'a, T, R, M> {
    seed: T,
    role: R,
    stash: &'a Stash<M>,
}

impl<'de, T: DeserializeSeed<'de>, R: Role<'de>, M: Mode> DeserializeSeed<'de> for Seed<'_, T, R, M> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T::Value, D::Error> {
        let Self { seed, role, stash } = self;
        seed.deserialize(RecordingDeserializer { json, role, stash }).map_err(|error| stash.put(error))
    }
}
