//! The message ids of the calls of a session.

use uuid::{Builder, Uuid, fmt::Hyphenated};

use crate::{message::payload::MessageId, random::random};

/// The source of message ids: version 4 UUIDs that share 82 random bits and end with the number of their call.
///
/// No two senders share ids, and a sender recognizes its own without a memory of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallIds {
    /// The bytes in front of the number. An idle connection keeps no more than it needs.
    prefix: [u8; 11],
}

/// The bits of an id that are the number of its call. A trillion calls follow each other before a number returns.
const NUMBER: u128 = (1 << 40) - 1;

impl CallIds {
    pub(crate) fn random() -> Self {
        let [prefix @ .., _, _, _, _, _] = Builder::from_random_bytes(random()).into_uuid().into_bytes();
        Self { prefix }
    }

    /// Returns an id with the number zero.
    fn zero(self) -> u128 {
        let mut bytes = [0; 16];
        bytes[..self.prefix.len()].copy_from_slice(&self.prefix);
        u128::from_be_bytes(bytes)
    }

    /// Returns the id of the call with this number.
    pub(crate) fn id(self, number: u64) -> MessageId {
        let id = Uuid::from_u128(self.zero() | (u128::from(number) & NUMBER));
        MessageId::new(&*id.as_hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]))
    }

    /// Returns the number of the call with this id, if it is one of these.
    pub(super) fn number(self, id: &MessageId) -> Option<u64> {
        let is_hyphenated = id.as_str().len() == Hyphenated::LENGTH;
        let id = is_hyphenated.then(|| Uuid::try_parse(id.as_str()).ok())??.as_u128();
        (id & !NUMBER == self.zero()).then_some((id & NUMBER) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_one_source_and_tell_their_number() {
        let (ids, others) = (CallIds::random(), CallIds::random());
        for number in [0, 1, 0xab_cdef_0123, (1 << 40) - 1] {
            let id = ids.id(number);
            assert_eq!(id.as_str().len(), 36);
            assert_eq!(Uuid::try_parse(id.as_str()).expect("a UUID").get_version_num(), 4);
            assert_eq!((ids.number(&id), others.number(&id)), (Some(number), None));
        }
        assert_eq!(&ids.id(1).as_str()[..26], &ids.id(2).as_str()[..26]);
        for other in ["", "1", "-1", "not-an-id-although-of-the-same-length", "0123456789abcdef0123456789abcdefXXXX"] {
            assert_eq!(ids.number(&MessageId::new(other)), None);
        }
    }
}
