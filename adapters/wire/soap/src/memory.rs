//! Content that is small enough to be kept in memory.

use async_trait::async_trait;
use bytes::Bytes;

use crate::envelope::ContentSink;

/// There is more content than was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more content than expected")]
pub struct TooMuch;

/// Keeps contents in memory, up to a bound on all of them together.
#[derive(Debug, Clone, Default)]
pub struct InMemory {
    contents: Vec<Vec<u8>>,
    left: usize,
}

impl InMemory {
    /// Keeps up to so many bytes.
    pub fn new(most: usize) -> Self {
        Self { contents: Vec::new(), left: most }
    }

    /// The content with this number.
    pub fn content(&self, number: usize) -> Option<&[u8]> {
        self.contents.get(number).map(Vec::as_slice)
    }
}

#[async_trait]
impl ContentSink for InMemory {
    type Error = TooMuch;

    async fn begin(&mut self) -> Result<usize, TooMuch> {
        self.contents.push(Vec::new());
        Ok(self.contents.len() - 1)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), TooMuch> {
        self.left = self.left.checked_sub(bytes.len()).ok_or(TooMuch)?;
        if let Some(content) = self.contents.last_mut() {
            content.extend_from_slice(&bytes);
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), TooMuch> {
        Ok(())
    }
}
