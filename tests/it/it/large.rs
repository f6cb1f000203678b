//! Memory does not grow with the size of a body (promise P8).

use amtsbote_it::{Lab, METADATA, Options, Party};
use reqwest::Method;
use sha2::{Digest, Sha256};

/// Size of the document: all that the default limit allows. `AMTSBOTE_LARGE_MIB` makes it smaller for a quick look.
fn size() -> usize {
    let mib: usize = std::env::var("AMTSBOTE_LARGE_MIB").map_or(1024, |text| text.parse().unwrap());
    mib << 20
}

const PIECE: usize = 1 << 20;

fn piece(number: usize) -> Vec<u8> {
    (0..PIECE).map(|n| u8::try_from((n * 7 + number * 13) % 251).unwrap()).collect()
}

/// Peak resident memory of the gateway in bytes.
fn peak(lab: &Lab) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.gateway().pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn head(name: &str) -> Vec<u8> {
    format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\nContent-Type: application/pdf\r\n\r\n")
        .into_bytes()
}

async fn upload(portal: &Party, key: &str, metadata_first: bool) -> String {
    let metadata = [head("metadata"), METADATA.as_bytes().to_vec(), b"\r\n".to_vec()].concat();
    let document = std::iter::once(head("document"))
        .chain((0..size() / PIECE).map(piece))
        .chain(std::iter::once(b"\r\n".to_vec()));
    let (before, after) = if metadata_first { (metadata, Vec::new()) } else { (Vec::new(), metadata) };
    let pieces = std::iter::once(before).chain(document).chain([after, b"--b--\r\n".to_vec()]);
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces.map(Ok::<_, std::io::Error>)));
    let request = portal.request(Method::POST, "/v1/submissions").header("Idempotency-Key", key);
    let answer =
        portal.send(request.header("Content-Type", "multipart/form-data; boundary=b").body(body)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json["parts"][0]["sha256"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn large_documents_travel_in_constant_memory() {
    let lab = Lab::start(Options::default()).await;
    let (portal, department) = (lab.client("portal"), lab.client("department"));
    portal.submit("warm-up", METADATA, b"x").await;
    department.lease(1).await;
    let idle = peak(&lab);
    let sent = upload(&portal, "metadata-first", true).await;
    assert_eq!(upload(&portal, "metadata-last", false).await, sent);
    let (_, messages) = department.lease(2).await;
    for message in messages {
        let href = message["document"]["href"].as_str().unwrap();
        let mut reply = department.request(Method::GET, href).send().await.unwrap();
        let (mut hasher, mut length) = (Sha256::new(), 0);
        while let Some(bytes) = reply.chunk().await.unwrap() {
            hasher.update(&bytes);
            length += bytes.len();
        }
        assert_eq!((length, hex::encode(hasher.finalize())), (size(), sent.clone()));
    }
    let grown = peak(&lab) - idle;
    println!(
        "idle {} KiB, grown by {} KiB for {} MiB up and down twice",
        idle >> 10,
        grown >> 10,
        size() >> 20
    );
    assert!(grown < 64 << 20, "peak memory grew by {} MiB", grown >> 20);
}
