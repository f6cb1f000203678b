//! Symmetric encryption of streams in the layout of XML Encryption: initialisation vector, ciphertext, tag.

use openssl::cipher_ctx::{CipherCtx, CipherCtxRef};
use openssl::error::ErrorStack;

use super::algorithm::{Mode, Symmetric};
use super::problem::{Problem, Undecryptable};

const TAG: usize = 16;

/// Bytes of the initialisation vector of GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IvLength {
    /// 12, what is used today; messages say so.
    #[default]
    Twelve,
    /// 16, what older implementations use without saying so.
    Sixteen,
}

/// Bytes of the initialisation vector.
fn iv_length(algorithm: Symmetric, gcm: IvLength) -> usize {
    match (algorithm.mode, gcm) {
        (Mode::Gcm, IvLength::Twelve) => 12,
        (Mode::Gcm, IvLength::Sixteen) | (Mode::Cbc, _) => 16,
        (Mode::TripleDes, _) => 8,
    }
}

/// Bytes of the ciphertext with everything around it.
pub fn encrypted_length(algorithm: Symmetric, iv: IvLength, plain: u64) -> u64 {
    let before = iv_length(algorithm, iv) as u64;
    match algorithm.mode {
        Mode::Gcm => before + plain + TAG as u64,
        Mode::Cbc => before + (plain / 16 + 1) * 16,
        Mode::TripleDes => before + (plain / 8 + 1) * 8,
    }
}

fn start(algorithm: Symmetric, key: &[u8], iv: &[u8], encrypt: bool) -> Result<CipherCtx, ErrorStack> {
    let mut context = CipherCtx::new()?;
    let cipher = algorithm.cipher();
    let init = if encrypt { CipherCtxRef::encrypt_init } else { CipherCtxRef::decrypt_init };
    init(&mut context, cipher, None, None)?;
    if algorithm.mode == Mode::Gcm {
        context.set_iv_length(iv.len())?;
    }
    init(&mut context, None, Some(key), Some(iv))?;
    Ok(context)
}

/// Encrypts a stream.
pub struct Encryptor {
    context: CipherCtx,
    algorithm: Symmetric,
    iv: Option<Vec<u8>>,
}

impl Encryptor {
    /// Begins with a fresh vector.
    ///
    /// # Errors
    /// When cryptography or its randomness fails.
    pub fn new(algorithm: Symmetric, iv: IvLength, key: &[u8]) -> Result<Self, Problem> {
        let mut vector = vec![0; iv_length(algorithm, iv)];
        openssl::rand::rand_bytes(&mut vector)?;
        let context = start(algorithm, key, &vector, true)?;
        Ok(Self { context, algorithm, iv: Some(vector) })
    }

    /// Some more bytes.
    ///
    /// # Errors
    /// When cryptography fails.
    pub fn update(&mut self, plain: &[u8]) -> Result<Vec<u8>, Problem> {
        let mut out = self.iv.take().unwrap_or_default();
        self.context.cipher_update_vec(plain, &mut out)?;
        Ok(out)
    }

    /// The end.
    ///
    /// # Errors
    /// When cryptography fails.
    pub fn finish(mut self) -> Result<Vec<u8>, Problem> {
        let mut out = self.iv.take().unwrap_or_default();
        self.context.cipher_final_vec(&mut out)?;
        if self.algorithm.mode == Mode::Gcm {
            let mut tag = [0; TAG];
            self.context.tag(&mut tag)?;
            out.extend(tag);
        }
        Ok(out)
    }
}

/// A fresh key.
///
/// # Errors
/// When randomness fails.
pub fn generate_key(algorithm: Symmetric) -> Result<Vec<u8>, Problem> {
    let mut key = vec![0; algorithm.key];
    openssl::rand::rand_bytes(&mut key)?;
    Ok(key)
}

/// Decrypts a stream. What comes out before the end means nothing until [`Decryptor::finish`] succeeded.
pub struct Decryptor {
    algorithm: Symmetric,
    key: Vec<u8>,
    iv: usize,
    context: Option<CipherCtx>,
    /// Bytes of the vector at the beginning, then those that may be the tag.
    held: Vec<u8>,
}

impl Decryptor {
    /// Takes a key of the right length.
    ///
    /// # Errors
    /// [`Problem::Undecryptable`] for one of another length.
    pub fn new(algorithm: Symmetric, iv: IvLength, key: Vec<u8>) -> Result<Self, Problem> {
        if key.len() != algorithm.key {
            return Err(Undecryptable.into());
        }
        Ok(Self { algorithm, key, iv: iv_length(algorithm, iv), context: None, held: Vec::new() })
    }

    /// Some more bytes.
    ///
    /// # Errors
    /// [`Problem::Undecryptable`].
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Problem> {
        let mut out = Vec::new();
        if self.context.is_none() {
            let (first, others) = bytes.split_at(bytes.len().min(self.iv - self.held.len()));
            self.held.extend_from_slice(first);
            bytes = others;
            if self.held.len() < self.iv {
                return Ok(out);
            }
            self.context = Some(start(self.algorithm, &self.key, &self.held, false)?);
            self.held.clear();
        }
        let Some(context) = &mut self.context else { return Ok(out) };
        let keep = if self.algorithm.mode == Mode::Gcm { TAG } else { 0 };
        let total = self.held.len() + bytes.len();
        let through = total.saturating_sub(keep);
        let of_held = through.min(self.held.len());
        let mut decrypt =
            |bytes: &[u8]| context.cipher_update_vec(bytes, &mut out).map_err(|_| Undecryptable);
        decrypt(&self.held[..of_held])?;
        let (now, later) = bytes.split_at(through - of_held);
        decrypt(now)?;
        self.held.drain(..of_held);
        self.held.extend_from_slice(later);
        Ok(out)
    }

    /// The end: the last bytes, and the proof that nobody changed anything if the algorithm has one.
    ///
    /// # Errors
    /// [`Problem::Undecryptable`].
    pub fn finish(mut self) -> Result<Vec<u8>, Problem> {
        let mut context = self.context.take().ok_or(Undecryptable)?;
        if self.algorithm.mode == Mode::Gcm {
            if self.held.len() != TAG {
                return Err(Undecryptable.into());
            }
            context.set_tag(&self.held).map_err(|_| Undecryptable)?;
        }
        let mut out = Vec::new();
        context.cipher_final_vec(&mut out).map_err(|_| Undecryptable)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn algorithm() -> impl Strategy<Value = (Symmetric, IvLength)> {
        let all: Vec<Symmetric> = Symmetric::all().collect();
        (proptest::sample::select(all), proptest::sample::select(vec![IvLength::Twelve, IvLength::Sixteen]))
    }

    fn encrypt(algorithm: Symmetric, iv: IvLength, key: &[u8], plain: &[u8], cut: usize) -> Vec<u8> {
        let mut encryptor = Encryptor::new(algorithm, iv, key).unwrap();
        let mut out: Vec<u8> = plain.chunks(cut).flat_map(|piece| encryptor.update(piece).unwrap()).collect();
        out.extend(encryptor.finish().unwrap());
        out
    }

    fn decrypt(
        algorithm: Symmetric,
        iv: IvLength,
        key: &[u8],
        bytes: &[u8],
        cut: usize,
    ) -> Result<Vec<u8>, Problem> {
        let mut decryptor = Decryptor::new(algorithm, iv, key.to_vec())?;
        let mut out = Vec::new();
        for piece in bytes.chunks(cut) {
            out.extend(decryptor.update(piece)?);
        }
        out.extend(decryptor.finish()?);
        Ok(out)
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter((algorithm, iv) in algorithm(), plain in proptest::collection::vec(any::<u8>(), 0..300), cut in 1_usize..70) {
            let key = generate_key(algorithm).unwrap();
            let bytes = encrypt(algorithm, iv, &key, &plain, cut);
            prop_assert_eq!(bytes.len() as u64, encrypted_length(algorithm, iv, plain.len() as u64));
            prop_assert_eq!(decrypt(algorithm, iv, &key, &bytes, 71 - cut).unwrap(), plain);
        }

        #[test]
        fn whatever_is_changed_is_noticed_by_gcm(iv in proptest::sample::select(vec![IvLength::Twelve, IvLength::Sixteen]), plain in proptest::collection::vec(any::<u8>(), 1..100), at in any::<proptest::sample::Index>()) {
            let key = generate_key(Symmetric::DEFAULT).unwrap();
            let mut bytes = encrypt(Symmetric::DEFAULT, iv, &key, &plain, 16);
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
            let result = decrypt(Symmetric::DEFAULT, iv, &key, &bytes, 16);
            prop_assert!(matches!(result, Err(Problem::Undecryptable(_))));
            bytes[at] ^= 1;
            bytes.truncate(at);
            let result = decrypt(Symmetric::DEFAULT, iv, &key, &bytes, 16);
            prop_assert!(matches!(result, Err(Problem::Undecryptable(_))));
        }
    }

    #[test]
    fn a_key_of_another_length_is_as_wrong_as_any() {
        let key = vec![1; 16];
        let wrong = Decryptor::new(Symmetric::DEFAULT, IvLength::Twelve, key);
        assert!(matches!(wrong, Err(Problem::Undecryptable(_))));
    }
}
