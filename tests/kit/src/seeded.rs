//! Randomness that repeats.

use std::sync::Mutex;

use amtsbote_core::port::Entropy;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Entropy from a seed; equal seeds give equal ids, tokens and jitter.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// Entropy for a seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap().fill_bytes(bytes);
    }
}
