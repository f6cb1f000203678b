//! Recorded requests of the official client, played to an intermediary that is told the conversations, challenges and ids of then.
//! Skipped with a message where the recordings are not at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use amtsbote_core::key::AccountName;
use amtsbote_osci::clients::Client;
use amtsbote_osci::codec::algorithm::Policy;
use amtsbote_osci::codec::block::ControlBlock;
use amtsbote_osci::codec::certificate::Identity;
use amtsbote_osci::codec::order::{Request, Response};
use amtsbote_osci::dialogs::Dialog;
use amtsbote_osci::reception::{Incoming, Limits, Received, Reception};
use amtsbote_osci::{OsciKeys, Own};
use axum::http::{HeaderMap, Method as HttpMethod};

use crate::lab::{Lab, Setup};

fn recordings() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/osci12");
    if folder.exists() {
        return Some(folder);
    }
    eprintln!("skipped: there are no recordings at {}", folder.display());
    None
}

fn key(folder: &Path, name: &str) -> Identity {
    let read =
        |extension: &str| std::fs::read(folder.join("keys").join(name).with_extension(extension)).unwrap();
    Identity::from_pem(&read("crt"), &read("key")).unwrap()
}

fn own(folder: &Path, name: &str) -> Own {
    Own { cipher: key(folder, &format!("{name}-cipher")), signature: key(folder, &format!("{name}-sign")) }
}

const EVERYTHING: Policy = Policy { legacy_ciphers: true, rsa15: true };

fn read(bytes: &[u8], keys: &[Identity]) -> Option<Received> {
    let limits = Limits { xml: 64 << 20, message: 1 << 30, policy: EVERYTHING, folder: std::env::temp_dir() };
    let mut reception = Reception::new(limits);
    reception.feed(bytes).unwrap();
    if let Some(data) = reception.locked() {
        let key = amtsbote_osci::codec::encryption::find_key(data, keys).unwrap();
        let decryptor = data.open(key, EVERYTHING).unwrap();
        reception.unlock(decryptor).unwrap();
    }
    match reception.finish().unwrap() {
        Incoming::Message(message) => Some(*message),
        Incoming::Fault(_) => None,
    }
}

/// Requests of the folders, in order; pushes are our own side.
fn requests(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with(".request.bin")
                && name.starts_with(|c: char| c.is_ascii_digit())
                && !["AcceptDelivery", "ProcessDelivery"].iter().any(|push| name.contains(push))
        })
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_conversations_are_understood_again() {
    let Some(root) = recordings() else { return };
    let (alice, bob, intermediary) = (own(&root, "alice"), own(&root, "bob"), own(&root, "intermediary"));
    let keys = [intermediary.cipher.clone(), alice.cipher.clone(), bob.cipher.clone()];
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    let (mut played, mut codes) = (0, BTreeMap::<String, usize>::new());
    for folder in folders.iter().filter(|folder| !folder.ends_with("keys") && !folder.ends_with("fault-9400"))
    {
        let mut ids = BTreeMap::<String, AccountName>::new();
        let mut parsed = Vec::new();
        for path in requests(folder) {
            let bytes = std::fs::read(&path).unwrap();
            let message = read(&bytes, &keys).unwrap();
            match Request::read(&message.envelope).unwrap() {
                Request::StoreDelivery { id: Some(id), .. } | Request::PartialStoreDelivery { id, .. } => {
                    ids.insert(id, "alice".parse().unwrap());
                }
                Request::ForwardDelivery(push) | Request::MediateDelivery(push) => {
                    ids.extend(push.id.map(|id| (id, "alice".parse().unwrap())));
                }
                _ => {}
            }
            parsed.push((path, bytes, ControlBlock::read(&message.envelope).unwrap(), message));
        }
        let lab = Lab::with(Setup {
            policy: EVERYTHING,
            unsigned_orders: true,
            ids: Some(ids),
            keys: Some(OsciKeys {
                cipher: vec![intermediary.cipher.clone()],
                signature: intermediary.signature.clone(),
            }),
            accounts: Some((alice.clone(), bob.clone())),
            ..Setup::default()
        })
        .await;
        let mut client = None;
        for (path, bytes, control, message) in parsed {
            let shown = path.strip_prefix(&root).unwrap().display().to_string();
            let certificates = amtsbote_osci::codec::block::Certificates::read(&message.envelope).unwrap();
            let cipher =
                certificates.get(amtsbote_osci::codec::block::CertificateRole::CipherOriginator).cloned();
            if let Some(cipher) = cipher {
                client = lab.services.trust.client(&lab.services.accounts.load(), &cipher);
            }
            if let (Some(conversation), Some(client)) = (&control.conversation, &client) {
                let dialog = Dialog {
                    client: Client::clone(client),
                    challenge: control.response.clone().unwrap(),
                    sequence: control.sequence.unwrap(),
                    handed_over: None,
                    transfer: None,
                    last_heard: amtsbote_core::port::Clock::now(lab.outside.clock.as_ref()),
                };
                lab.services.dialogs.put_back(conversation.clone(), dialog);
            }
            let reply =
                lab.http.exchange(HttpMethod::POST, lab.url(), HeaderMap::new(), bytes.into()).await.unwrap();
            let answer = read(&reply.body, &keys).unwrap_or_else(|| panic!("{shown}: a fault"));
            let response = Response::read(&answer.envelope).unwrap();
            let asked = ControlBlock::read(&answer.envelope).unwrap();
            assert_eq!(asked.response, control.challenge, "{shown}");
            assert!(message.encrypted.is_none() || answer.encrypted.is_some(), "{shown}");
            let code = response.feedback.first().unwrap().digits.clone();
            let expected: BTreeSet<&str> = match Request::read(&message.envelope).unwrap() {
                // Nobody knows these recipients' addresses here.
                Request::ForwardDelivery(_) | Request::MediateDelivery(_) => ["9811"].into(),
                // Chunks of then are larger than what is allowed here.
                Request::PartialFetchDelivery(..) => ["9803", "0801", "9902"].into(),
                Request::FetchDelivery(_) => ["9803", "0801"].into(),
                Request::FetchProcessCard(_) => ["9804", "0801"].into(),
                _ => ["0800", "0801"].into(),
            };
            assert!(expected.contains(code.as_str()), "{shown}: {code}");
            *codes.entry(code).or_default() += 1;
            played += 1;
        }
    }
    assert!(played > 100 && codes.len() >= 5, "{played} {codes:?}");
}
