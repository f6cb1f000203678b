//! Signatures of Standard Webhooks 1.0.0: HMAC-SHA256 over `{id}.{timestamp}.{body}`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How secrets are written.
const PREFIX: &str = "whsec_";
/// Bytes of a secret.
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// A file with secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableSecret {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A line is no secret.
    #[error("{path}: line {line} is not whsec_ and 24 to 64 bytes in Base64")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// There is none.
    #[error("{path}: holds no secret")]
    Empty {
        /// Which.
        path: PathBuf,
    },
}

/// Secrets shared with one endpoint; several while they are changed.
#[derive(Clone)]
pub struct Secrets(Arc<[Key]>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Reads a file with one secret in each line.
    ///
    /// # Errors
    /// When there is none, or a line is something else.
    pub fn load(path: &Path) -> Result<Self, UnusableSecret> {
        let path_ = || path.to_owned();
        let text = std::fs::read_to_string(path)
            .map_err(|source| UnusableSecret::Unreadable { path: path_(), source })?;
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let bytes = line.trim().strip_prefix(PREFIX).and_then(|coded| STANDARD.decode(coded).ok());
            let bytes = bytes.filter(|bytes| LENGTH.contains(&bytes.len()));
            let malformed = || UnusableSecret::Malformed { path: path_(), line: number + 1 };
            keys.push(Key::new(HMAC_SHA256, &bytes.ok_or_else(malformed)?));
        }
        match keys.is_empty() {
            true => Err(UnusableSecret::Empty { path: path_() }),
            false => Ok(Self(keys.into())),
        }
    }

    /// Begins a signature; `seconds` since 1970.
    pub(crate) fn sign(&self, id: &str, seconds: i64) -> Signer {
        let begin = |key: &Key| {
            let mut context = Context::with_key(key);
            context.update(format!("{id}.{seconds}.").as_bytes());
            context
        };
        Signer(self.0.iter().map(begin).collect())
    }
}

/// A signature that is being made.
pub(crate) struct Signer(Vec<Context>);

impl Signer {
    /// The next bytes of the body.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for context in &mut self.0 {
            context.update(bytes);
        }
    }

    /// The value of `webhook-signature`.
    pub(crate) fn finish(self) -> String {
        let signed = self.0.into_iter().map(|context| format!("v1,{}", STANDARD.encode(context.sign())));
        signed.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(text: &str) -> Result<Secrets, UnusableSecret> {
        let path = std::env::temp_dir().join(format!("amtsbote-secret-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Secrets::load(&path)
    }

    #[test]
    fn signatures_are_those_of_the_standard() {
        // The example of the specification's reference libraries.
        let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let old = format!("whsec_{}", STANDARD.encode([7; 32]));
        let mut signer = secrets(&format!("{secret}\n\n{old}\n"))
            .unwrap()
            .sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553);
        signer.update(br#"{"email":"test@example.com","#);
        signer.update(br#""username":"test_user"}"#);
        let signed = signer.finish();
        let (first, second) = signed.split_once(' ').unwrap();
        assert_eq!(first, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
        assert!(second.starts_with("v1,") && second != first, "both are valid while secrets are changed");
        for wrong in ["", "secret", "whsec_AAAA", "whsec_????"] {
            assert!(secrets(wrong).is_err(), "{wrong}");
        }
    }
}
