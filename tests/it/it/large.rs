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

mod xta {
    use amtsbote_it::OFFICE;
    use amtsbote_it::soap::{NAMESPACES, operation};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::xta::{Order, author, close, fetch, list};

    /// Bytes of the document; the test of REST has the full gigabyte.
    fn size() -> usize {
        super::size() / 1024 * 500
    }

    fn begin(order: &Order<'_>, content: &str) -> Vec<u8> {
        let (_, action) = operation("sendMessage");
        format!(
            "<env:Envelope {NAMESPACES}><env:Header><wsa:Action>{action}</wsa:Action>{}</env:Header><env:Body><xta:GenericContentContainer><xta:ContentContainer><xta:Message contentType=\"application/pdf\">{content}",
            order.header()
        )
        .into_bytes()
    }

    const END: &[u8] =
        b"</xta:Message></xta:ContentContainer></xta:GenericContentContainer></env:Body></env:Envelope>";

    async fn send(
        portal: &Party,
        content_type: String,
        pieces: impl Iterator<Item = Vec<u8>> + Send + 'static,
    ) {
        let (path, _) = operation("sendMessage");
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces.map(Ok::<_, std::io::Error>)));
        let request = portal.request(Method::POST, path).header("Content-Type", content_type).body(body);
        let reply = request.send().await.unwrap();
        let status = reply.status();
        assert!(status.is_success(), "{status} {}", reply.text().await.unwrap());
    }

    async fn send_packed(portal: &Party, order: &Order<'_>) {
        let (_, action) = operation("sendMessage");
        let include = "<x:Include xmlns:x=\"http://www.w3.org/2004/08/xop/include\" href=\"cid:d\"/>";
        let head = b"--B\r\nContent-Type: application/xop+xml; type=\"application/soap+xml\"\r\nContent-ID: <r>\r\n\r\n";
        let before =
            [head.as_slice(), &begin(order, include), END, b"\r\n--B\r\nContent-ID: <d>\r\n\r\n"].concat();
        let content = (0..size() / PIECE).map(piece);
        let pieces = std::iter::once(before).chain(content).chain(std::iter::once(b"\r\n--B--\r\n".to_vec()));
        let content_type = format!(
            "multipart/related; type=\"application/xop+xml\"; boundary=B; start=\"<r>\"; action=\"{action}\""
        );
        send(portal, content_type, pieces).await;
    }

    async fn send_inline(portal: &Party, order: &Order<'_>) {
        let (_, action) = operation("sendMessage");
        // Groups of three bytes, so that no piece needs padding but the last.
        let pieces = (0..size() / PIECE / 3).map(|n| (3 * n..3 * n + 3).flat_map(piece).collect::<Vec<u8>>());
        let pieces = pieces.map(|bytes| STANDARD.encode(bytes).into_bytes());
        let pieces = std::iter::once(begin(order, "")).chain(pieces).chain(std::iter::once(END.to_vec()));
        send(portal, format!("application/soap+xml; action=\"{action}\""), pieces).await;
    }

    /// Length and digest of the document as it comes in a package.
    async fn download(department: &Party, id: &str, expected: usize) -> String {
        let (path, action) = operation("getMessage");
        let text = amtsbote_it::soap::envelope(&action, &author(OFFICE), &fetch(id));
        let body =
            format!("--B\r\nContent-Type: application/xop+xml\r\nContent-ID: <r>\r\n\r\n{text}\r\n--B--\r\n");
        let content_type = format!("multipart/related; boundary=B; action=\"{action}\"");
        let request = department.request(Method::POST, path).header("Content-Type", content_type).body(body);
        let mut reply = request.send().await.unwrap();
        assert!(reply.status().is_success());
        let (mut head, mut hasher, mut length) = (Vec::new(), Sha256::new(), 0);
        while let Some(bytes) = reply.chunk().await.unwrap() {
            let mut bytes = bytes.to_vec();
            if length == 0 {
                head.extend_from_slice(&bytes);
                // Behind the headers of the first and of the second part.
                let ends: Vec<usize> = head
                    .windows(4)
                    .enumerate()
                    .filter(|(_, four)| four == b"\r\n\r\n")
                    .map(|(at, _)| at + 4)
                    .take(2)
                    .collect();
                let [_, begin] = ends[..] else { continue };
                bytes = head.split_off(begin);
            }
            let left = expected - length;
            let content = &bytes[..bytes.len().min(left)];
            hasher.update(content);
            length += content.len();
        }
        assert_eq!(length, expected);
        hex::encode(hasher.finalize())
    }

    #[tokio::test]
    async fn large_orders_travel_in_constant_memory() {
        let lab = Lab::start(Options {
            extra: "[xta]\nmessage_bytes = 1073741824".to_owned(),
            ..Options::default()
        })
        .await;
        let (portal, department) = (lab.client("portal"), lab.client("department"));
        portal.submit("warm-up", METADATA, b"x").await;
        department.lease(1).await;
        let idle = peak(&lab);
        let (packed, inline) =
            (Order::new("urn:de:xta:messageid:fv:packed"), Order::new("urn:de:xta:messageid:fv:inline"));
        send_packed(&portal, &packed).await;
        send_inline(&portal, &inline).await;
        list(&department, 2).await;
        let digest = |bytes: usize| {
            let mut hasher = Sha256::new();
            (0..bytes / PIECE).for_each(|number| hasher.update(piece(number)));
            hex::encode(hasher.finalize())
        };
        assert_eq!(download(&department, packed.id, size()).await, digest(size()));
        let thirds = size() / PIECE / 3 * 3 * PIECE;
        assert_eq!(download(&department, inline.id, thirds).await, digest(thirds));
        drop(department.soap("close", "", &close("1", &[packed.id, inline.id])).await.ok());
        let grown = peak(&lab).saturating_sub(idle);
        println!(
            "idle {} KiB, grown by {} KiB for {} MiB in and out, packed and inline",
            idle >> 10,
            grown >> 10,
            size() >> 20
        );
        assert!(grown < 64 << 20, "peak memory grew by {} MiB", grown >> 20);
    }
}
