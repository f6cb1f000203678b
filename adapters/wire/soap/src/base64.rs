//! Base64 as it streams by, strictly: the standard alphabet, white space anywhere, padding at the end and only there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Text that is no base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not base64")]
pub struct NotBase64;

/// Decodes in pieces.
#[derive(Debug, Default)]
pub struct Base64Decoder {
    /// Characters that do not make a whole group yet.
    rest: Vec<u8>,
    padded: bool,
}

impl Base64Decoder {
    /// Decodes some more text; what does not make whole groups is kept for the next time.
    ///
    /// # Errors
    /// [`NotBase64`] for other characters, or anything after the padding.
    pub fn feed(&mut self, text: &[u8]) -> Result<Vec<u8>, NotBase64> {
        // Looked at to the end, without leaving early: so it compiles to vector instructions.
        let spaced = text.iter().fold(false, |found, byte| found | is_space(byte));
        let dense: Vec<u8>;
        let mut text = text;
        if spaced {
            dense = text.iter().copied().filter(|byte| !is_space(byte)).collect();
            text = &dense;
        }
        let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 3);
        if !self.rest.is_empty() {
            let (first, others) = text.split_at(text.len().min(4 - self.rest.len()));
            self.rest.extend_from_slice(first);
            text = others;
            if self.rest.len() == 4 {
                let group = std::mem::take(&mut self.rest);
                self.groups(&group, &mut decoded)?;
            }
        }
        let (groups, rest) = text.split_at(text.len() / 4 * 4);
        self.groups(groups, &mut decoded)?;
        self.rest.extend_from_slice(rest);
        if self.padded && !self.rest.is_empty() {
            return Err(NotBase64);
        }
        Ok(decoded)
    }

    fn groups(&mut self, groups: &[u8], decoded: &mut Vec<u8>) -> Result<(), NotBase64> {
        if self.padded && !groups.is_empty() {
            return Err(NotBase64);
        }
        self.padded |= groups.last() == Some(&b'=');
        // Alphabet, place of the padding and the bits before it are checked there.
        STANDARD.decode_vec(groups, decoded).map_err(|_| NotBase64)
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// [`NotBase64`] if a group is incomplete.
    pub fn finish(self) -> Result<(), NotBase64> {
        if self.rest.is_empty() { Ok(()) } else { Err(NotBase64) }
    }
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Encodes in pieces.
#[derive(Debug, Default)]
pub struct Base64Encoder {
    rest: Vec<u8>,
}

impl Base64Encoder {
    /// Encodes some more bytes; up to two are kept for the next time.
    pub fn feed(&mut self, bytes: &[u8]) -> String {
        let mut groups = std::mem::take(&mut self.rest);
        groups.extend_from_slice(bytes);
        self.rest = groups.split_off(groups.len() / 3 * 3);
        STANDARD.encode(groups)
    }

    /// Encodes what is left.
    pub fn finish(self) -> String {
        STANDARD.encode(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&str]) -> Result<Vec<u8>, NotBase64> {
        let mut decoder = Base64Decoder::default();
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend(decoder.feed(piece.as_bytes())?);
        }
        decoder.finish()?;
        Ok(bytes)
    }

    #[test]
    fn white_space_is_allowed_and_nothing_else() {
        assert_eq!(decode(&["Q W\r\n", "J", "\tj"]), Ok(b"Abc".to_vec()));
        assert_eq!(decode(&["QQ==", " \n"]), Ok(b"A".to_vec()));
        for wrong in [&["QQ="][..], &["QQ==", "QQ=="], &["QQ==QQ=="], &["Q-=="], &["Q"], &["Q=Q="], &["QR=="]]
        {
            assert_eq!(decode(wrong), Err(NotBase64), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1_usize..50) {
            let mut encoder = Base64Encoder::default();
            let mut text: String = bytes.chunks(cut).map(|piece| encoder.feed(piece)).collect();
            text += &encoder.finish();
            prop_assert_eq!(&text, &STANDARD.encode(&bytes));
            let mut decoder = Base64Decoder::default();
            let decoded: Vec<u8> = text.as_bytes().chunks(cut).flat_map(|piece| decoder.feed(piece).unwrap()).collect();
            decoder.finish().unwrap();
            prop_assert_eq!(decoded, bytes);
        }
    }
}
