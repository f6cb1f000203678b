//! A short run of every target with every `cargo test`: the seeds, changed seeds, and noise. Long runs, guided by coverage, are in
//! `guided/`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any};
use proptest::test_runner::{RngSeed, TestRunner};

/// A change of a seed: where, how, with what.
type Edit = (u16, u8, u8);

/// What stands at places where it means something.
const TOKENS: [&[u8]; 16] = [
    b"<",
    b">",
    b"/>",
    b"&",
    b";",
    b"\"",
    b"'",
    b"=",
    b"<!--",
    b"-->",
    b"<![CDATA[",
    b"]]>",
    b"<!DOCTYPE a>",
    b"\r\n--B\r\n",
    b"\r\n--B--",
    b"\r\n\r\n",
];

fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn change(seed: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (place, how, what) in edits {
        if bytes.is_empty() {
            break;
        }
        let at = usize::from(*place) % bytes.len();
        let length = usize::from(*what).min(bytes.len() - at);
        match how % 6 {
            0 => bytes[at] = *what,
            1 => bytes.insert(at, *what),
            2 => drop(bytes.drain(at..at + length)),
            3 => bytes.truncate(at),
            4 => {
                let piece = bytes[at..at + length].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let token = TOKENS[usize::from(*what) % TOKENS.len()];
                bytes.splice(at..at, token.iter().copied());
            }
        }
    }
    bytes
}

fn run(folder: &str, target: fn(&[u8])) {
    let seeds = seeds(folder);
    seeds.iter().for_each(|seed| target(seed));
    let edits = vec(any::<Edit>(), 1..6);
    let ran = runner().run(&(0..seeds.len(), edits), |(seed, edits)| {
        target(&change(&seeds[seed], &edits));
        Ok(())
    });
    ran.unwrap();
}

/// The same cases in every run; `AMTSBOTE_FUZZ_SEED` gives others, `AMTSBOTE_FUZZ_CASES` more.
fn runner() -> TestRunner {
    let number = |name, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    TestRunner::new(ProptestConfig {
        cases: u32::try_from(number("AMTSBOTE_FUZZ_CASES", 4_000)).unwrap(),
        rng_seed: RngSeed::Fixed(number("AMTSBOTE_FUZZ_SEED", 1)),
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
fn envelopes() {
    run("envelope", amtsbote_fuzz::envelope_alone);
}

#[test]
fn packages() {
    run("package", amtsbote_fuzz::package);
}

#[test]
fn media_types() {
    run("media-type", amtsbote_fuzz::media_type);
}

#[test]
fn documents() {
    run("document", amtsbote_fuzz::document);
}

#[test]
fn osci_messages() {
    run("osci", amtsbote_fuzz::osci_message);
}

#[test]
fn ciphertexts() {
    run("ciphertext", amtsbote_fuzz::ciphertext);
}

#[test]
fn noise() {
    let ran = runner().run(&vec(any::<u8>(), 0..400), |bytes| {
        amtsbote_fuzz::envelope_alone(&bytes);
        amtsbote_fuzz::package(&bytes);
        amtsbote_fuzz::media_type(&bytes);
        amtsbote_fuzz::document(&bytes);
        amtsbote_fuzz::osci_message(&bytes);
        amtsbote_fuzz::ciphertext(&bytes);
        Ok(())
    });
    ran.unwrap();
}
