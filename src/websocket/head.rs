//! Heads of frames, masks, and close codes (RFC 6455 §5.2, §5.3 and §7.4).

/// The end of a connection that this side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Masks the frames that it sends.
    Client,
    Server,
}

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    pub(crate) fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) opcode: Opcode,
    /// Set on the last frame of a message.
    pub(crate) is_final: bool,
    /// RSV1, which marks a compressed message (RFC 7692 §6).
    pub(crate) is_compressed: bool,
    pub(crate) mask: Option<[u8; 4]>,
    pub(crate) payload_len: u64,
}

/// An error of a head that no connection allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("RSV2 or RSV3 set although no extension defines them")]
    ReservedBits,
    #[error("reserved opcode {0}")]
    ReservedOpcode(u8),
    #[error("frame of 2^63 bytes or more")]
    Length,
    #[error("control frame of more than 125 bytes")]
    LongControlFrame,
    #[error("fragmented control frame")]
    FragmentedControlFrame,
}

const FINAL: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_AND_RSV3: u8 = 0x30;
const MASKED: u8 = 0x80;

impl Head {
    /// Reads the head at the front of `bytes`, and returns it with its own length. Returns `None` if it is incomplete.
    ///
    /// Errors are found as early as the first two bytes. The length of a data frame may take more bytes than necessary, as
    /// other implementations accept it.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let &[first, second, ref after @ ..] = bytes else { return Ok(None) };
        if first & RSV2_AND_RSV3 != 0 {
            return Err(HeadError::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & 0xf).ok_or(HeadError::ReservedOpcode(first & 0xf))?;
        let is_final = first & FINAL != 0;
        let short_len = second & !MASKED;
        if opcode.is_control() {
            if !is_final {
                return Err(HeadError::FragmentedControlFrame);
            }
            if short_len > 125 {
                return Err(HeadError::LongControlFrame);
            }
        }
        let (payload_len, after) = match short_len {
            126 => {
                let Some((len, after)) = after.split_first_chunk() else { return Ok(None) };
                (u16::from_be_bytes(*len).into(), after)
            }
            127 => {
                let Some((len, after)) = after.split_first_chunk() else { return Ok(None) };
                (u64::from_be_bytes(*len), after)
            }
            len => (len.into(), after),
        };
        if payload_len >> 63 != 0 {
            return Err(HeadError::Length);
        }
        let (mask, after) = if second & MASKED != 0 {
            let Some((mask, after)) = after.split_first_chunk() else { return Ok(None) };
            (Some(*mask), after)
        } else {
            (None, after)
        };
        let head = Self { opcode, is_final, is_compressed: first & RSV1 != 0, mask, payload_len };
        Ok(Some((head, bytes.len() - after.len())))
    }

    /// Appends the head to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let final_bit = if self.is_final { FINAL } else { 0 };
        let rsv1 = if self.is_compressed { RSV1 } else { 0 };
        out.push(final_bit | rsv1 | self.opcode as u8);
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        match self.payload_len {
            len @ 0..=125 => out.push(masked | len as u8),
            len @ 126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                out.push(masked | 127);
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
        out.extend(self.mask.iter().flatten());
    }
}

/// Masks a payload, or removes its mask.
pub(crate) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Returns whether a close frame may have this code (RFC 6455 §7.4, and IANA's registry).
pub(crate) fn is_valid_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(opcode: Opcode, payload_len: u64) -> Head {
        Head { opcode, is_final: true, is_compressed: false, mask: None, payload_len }
    }

    #[test]
    fn head_written_is_read_back_with_every_length_and_mask() {
        for payload_len in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, u64::MAX >> 1] {
            for mask in [None, Some([1, 2, 3, 4])] {
                for (is_final, is_compressed) in [(true, false), (true, true), (false, true), (false, false)] {
                    let head = Head { opcode: Opcode::Binary, is_final, is_compressed, mask, payload_len };
                    let mut bytes = Vec::new();
                    head.write(&mut bytes);
                    assert_eq!(Head::read(&bytes), Ok(Some((head, bytes.len()))));
                    for end in 0..bytes.len() {
                        assert_eq!(Head::read(&bytes[..end]), Ok(None), "{end} bytes of {bytes:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn head_in_the_examples_of_the_standard_is_read() {
        // RFC 6455 §5.7.
        let masked = Head { mask: Some([0x37, 0xfa, 0x21, 0x3d]), ..head(Opcode::Text, 5) };
        for (bytes, expected) in [
            (&[0x81, 0x05][..], head(Opcode::Text, 5)),
            (&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d], masked),
            (&[0x01, 0x03], Head { is_final: false, ..head(Opcode::Text, 3) }),
            (&[0x80, 0x02], head(Opcode::Continuation, 2)),
            (&[0x89, 0x05], head(Opcode::Ping, 5)),
            (&[0x82, 0x7e, 0x01, 0x00], head(Opcode::Binary, 256)),
            (&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0], head(Opcode::Binary, 65_536)),
            // RFC 7692 §7.2.3.1.
            (&[0xc1, 0x07], Head { is_compressed: true, ..head(Opcode::Text, 7) }),
            // Longer than necessary.
            (&[0x81, 0x7e, 0x00, 0x05], head(Opcode::Text, 5)),
            (&[0x81, 0x7f, 0, 0, 0, 0, 0, 0, 0, 5], head(Opcode::Text, 5)),
        ] {
            assert_eq!(Head::read(bytes), Ok(Some((expected, bytes.len()))), "{bytes:?}");
        }
    }

    #[test]
    fn head_that_is_invalid_is_an_error_as_soon_as_it_shows() {
        for (bytes, error) in [
            (&[0xa1, 0x00][..], HeadError::ReservedBits),
            (&[0x91, 0x00], HeadError::ReservedBits),
            (&[0x83, 0x00], HeadError::ReservedOpcode(3)),
            (&[0x8f, 0x7f], HeadError::ReservedOpcode(15)),
            (&[0x09, 0x00], HeadError::FragmentedControlFrame),
            (&[0x88, 0x7e], HeadError::LongControlFrame),
            (&[0x8a, 0xff], HeadError::LongControlFrame),
            (&[0x81, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0], HeadError::Length),
            (&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], HeadError::Length),
        ] {
            assert_eq!(Head::read(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn mask_is_applied_byte_by_byte() {
        let mask = [1, 2, 4, 8];
        for len in 0..40 {
            let payload: Vec<u8> = (0..len).collect();
            let mut masked = payload.clone();
            apply_mask(&mut masked, mask);
            let expected: Vec<u8> = payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
            assert_eq!(masked, expected);
        }
    }
}
