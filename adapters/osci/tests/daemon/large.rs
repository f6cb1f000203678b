//! Memory does not grow with the size of an attachment (promise P8).

use std::io::Write as _;
use std::sync::Arc;

use amtsbote_it::Lab;
use amtsbote_osci::codec::block::{CertificateRole, Certificates};
use amtsbote_osci::codec::content::{NewContainer, NewContent};
use amtsbote_osci::codec::order::{Answer, FetchRule, Request};
use amtsbote_osci::{Freight, Session};
use sha2::{Digest as _, Sha256};

use crate::lab::{client, own, peer, prepare};

/// Bytes of the attachment. `AMTSBOTE_OSCI_MIB=1024` makes it all that the default limit allows.
fn size() -> u64 {
    let mib: u64 = std::env::var("AMTSBOTE_OSCI_MIB").map_or(200, |text| text.parse().unwrap());
    mib << 20
}

/// Peak resident memory of the gateway in bytes.
fn peak(lab: &Lab) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.gateway().pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Stores for bob, signed by its author, with an attachment of so many bytes; its digest.
async fn store(lab: &Lab, alice: &mut Session, size: u64) -> [u8; 32] {
    let (mut file, mut hasher, mut left) = (tempfile::tempfile().unwrap(), Sha256::new(), size);
    let piece: Vec<u8> = (0..1_u32 << 20).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
    while left > 0 {
        let next = &piece[..usize::try_from(left.min(1 << 20)).unwrap()];
        file.write_all(next).unwrap();
        hasher.update(next);
        left -= next.len() as u64;
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let contents = vec![
        NewContent::Inline(b"x".to_vec()),
        NewContent::Part("large.bin".to_owned(), Some(digest.to_vec())),
    ];
    let package = NewContainer { contents }.finish(Some(&own(lab, "alice").signature)).unwrap();
    let bob = own(lab, "bob");
    let certificates =
        Certificates::default().with(CertificateRole::CipherAddressee, bob.cipher.certificate());
    let freight =
        Freight::delivery(package, certificates).with_file("large.bin", Arc::new(file), size, digest);
    let id = alice.message_id().await.unwrap();
    let stored = alice.ask(&Request::StoreDelivery { id: Some(id), subject: None }, freight).await.unwrap();
    assert!(stored.response.feedback.is_success(), "{:?}", stored.response.feedback);
    digest
}

/// The digest of the attachment of the next delivery, once there is one.
async fn fetch(lab: &Lab) -> [u8; 32] {
    let mut bob = client(lab, "bob", 2).open(peer(lab)).await.unwrap();
    loop {
        let answered = bob.ask(&Request::FetchDelivery(FetchRule::Next), Freight::default()).await.unwrap();
        if let Answer::FetchDelivery(_, Some(_)) = &answered.response.answer {
            let received = &answered.received;
            let mut content = received.content(received.part("large.bin").unwrap());
            let mut hasher = Sha256::new();
            while let Some(piece) = content.next_piece().unwrap() {
                hasher.update(piece);
            }
            bob.close().await.unwrap();
            return hasher.finalize().into();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_attachments_travel_in_constant_memory() {
    let mut lab = prepare("").await;
    lab.start_gateway().await;
    let mut alice = client(&lab, "alice", 1).open(peer(&lab)).await.unwrap();
    // Buffers that every message needs are there afterwards.
    let small = store(&lab, &mut alice, 4 << 20).await;
    assert_eq!(fetch(&lab).await, small);
    let idle = peak(&lab);
    let sent = store(&lab, &mut alice, size()).await;
    assert_eq!(fetch(&lab).await, sent);
    let grown = peak(&lab) - idle;
    println!("idle {} KiB, grown by {} KiB for {} MiB in and out", idle >> 10, grown >> 10, size() >> 20);
    assert!(grown < 48 << 20, "peak memory grew by {} MiB", grown >> 20);
}
