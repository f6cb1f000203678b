//! Nothing acknowledged is ever lost (promise P1).

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use amtsbote_it::{Lab, METADATA, Options, Party, run, sha256};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::Value;

const CYCLES: usize = 25;
const CLIENTS: usize = 64;
const PER_CYCLE: usize = 500;

/// What portals were told is safe: key -> id and digest of the document.
type Acknowledged = Arc<Mutex<HashMap<String, (String, String)>>>;

fn document(key: &str) -> Vec<u8> {
    let mut random =
        StdRng::seed_from_u64(key.bytes().fold(7, |seed, byte| seed * 31 % 1_000_003 + u64::from(byte)));
    let size = random.random_range(10..20_000);
    format!("<antrag key='{key}'>")
        .into_bytes()
        .into_iter()
        .chain((0..size).map(|_| random.random()))
        .collect()
}

/// Submits until told to stop or until the gateway is gone.
async fn portal(
    party: Party,
    name: String,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    safe: Acknowledged,
) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{name}-{number}");
        let content = document(&key);
        let Ok(reply) = party.submission(&key, METADATA, &content).send().await else { return };
        let status = reply.status().as_u16();
        let Ok(answer) = reply.json::<Value>().await else { return };
        if status == 202 {
            let id = answer["id"].as_str().unwrap().to_owned();
            safe.lock().unwrap().insert(key, (id, sha256(&content)));
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_twenty_five_times_under_load_nothing_acknowledged_is_lost() {
    let mut lab = Lab::start(Options::default()).await;
    let safe: Acknowledged = Arc::default();
    let mut random = StdRng::seed_from_u64(20_260_115);
    for cycle in 0..CYCLES {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let party = lab.client("portal");
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let name = format!("c{cycle}-{client}");
                tokio::spawn(portal(
                    party.clone(),
                    name,
                    Arc::clone(&stop),
                    Arc::clone(&count),
                    Arc::clone(&safe),
                ))
            })
            .collect();
        // The moment: after a seeded number of acknowledgements and a seeded number of microseconds more.
        let enough = PER_CYCLE + random.random_range(0..100);
        let mut every = tokio::time::interval(std::time::Duration::from_millis(1));
        while count.load(Ordering::Relaxed) < enough {
            every.tick().await;
            assert!(
                clients.iter().any(|client| !client.is_finished()),
                "the gateway ended by itself:\n{}",
                lab.log()
            );
        }
        tokio::time::sleep(std::time::Duration::from_micros(random.random_range(0..5_000))).await;
        lab.kill_gateway().await;
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        lab.start_gateway().await;
    }
    let expected = safe.lock().unwrap().clone();
    assert!(expected.len() >= CYCLES * PER_CYCLE);

    // Every acknowledged key is answered with the same message.
    let party = lab.client("portal");
    let sample: Vec<_> = expected.iter().take(200).collect();
    for (key, (id, _)) in sample {
        let again = party.send(party.submission(key, METADATA, &document(key))).await;
        assert_eq!((again.status, again.json["id"].as_str()), (200, Some(id.as_str())), "{key}");
    }
    // The department gets all of them, with the right content.
    let department = lab.client("department");
    let mut open: HashMap<String, String> = expected.into_values().collect();
    let mut surplus = 0;
    while !open.is_empty() {
        let (token, messages) = department.lease(100).await;
        assert!(!messages.is_empty(), "{} acknowledged messages were lost", open.len());
        let work = messages.iter().map(|message| {
            let department = department.clone();
            let (id, token) = (message["id"].as_str().unwrap().to_owned(), token.clone());
            let href = message["document"]["href"].as_str().unwrap().to_owned();
            async move {
                let digest = sha256(&department.bytes(&href).await);
                let done = department.on_message(&id, "acknowledge", Some(&token), None).await;
                assert_eq!(done.status, 200);
                (id, digest)
            }
        });
        for (id, digest) in futures::future::join_all(work).await {
            match open.remove(&id) {
                Some(expected) => assert_eq!(digest, expected, "{id}"),
                // Durable, but its answer was cut off by the kill.
                None => surplus += 1,
            }
        }
    }
    println!("unanswered but durable: {surplus}");
}

#[tokio::test]
async fn a_completed_sync_precedes_every_answer() {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let wrapper =
        ["strace", "-f", "-yy", "-e", "trace=fdatasync,sendto,write,writev,sendmsg", "-s", "0", "-o"];
    let mut wrapper: Vec<String> = wrapper.map(str::to_owned).to_vec();
    wrapper.push(trace.path().display().to_string());
    // Held, so that the only frames are those of the submissions.
    let extra = "[engine]\nhold = true\n".to_owned();
    let mut lab = Lab::start(Options { wrapper, extra, ..Options::default() }).await;
    let portal = lab.client("portal");
    let mut spans = Vec::new();
    for number in 0..20 {
        let before = journal_length(&lab.store());
        portal.submit(&format!("{number}"), METADATA, b"x").await;
        spans.push((before, journal_length(&lab.store())));
    }
    lab.stop_gateway().await;
    assert!(spans.iter().all(|(before, after)| after > before), "every answer has its frame: {spans:?}");
    let trace = std::fs::read_to_string(trace.path()).unwrap();
    // Whenever bytes leave on a socket, everything in the journal has been synced.
    let (mut unsynced, mut written, mut answers) = (false, 0, 0);
    for line in trace.lines() {
        let on_journal = line.contains(".journal>");
        let writes = [" write(", " writev(", " sendto(", " sendmsg("].iter().any(|call| line.contains(call));
        let ends_well = line.trim_end().ends_with("= 0");
        if on_journal && writes {
            unsynced = true;
            written += 1;
        } else if ends_well
            && (line.contains("fdatasync resumed") || (on_journal && line.contains(" fdatasync(")))
        {
            unsynced = false;
        } else if writes && line.contains("<TCP:[") && written > 0 {
            assert!(!unsynced, "an answer left before its sync was complete:\n{line}");
            answers += 1;
        }
    }
    assert!(written >= 20 && answers >= 20, "{written} writes, {answers} answers:\n{trace}");
}

fn journal_length(store: &Path) -> u64 {
    let folder = std::fs::read_dir(store.join("journal")).unwrap();
    folder.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let disk = tempfile::tempdir().unwrap();
    let mount =
        run(disk.path(), "mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", disk.path().to_str().unwrap()]);
    if !mount.status.success() {
        eprintln!(
            "skipped: a small file system cannot be mounted here ({})",
            String::from_utf8_lossy(&mount.stderr)
        );
        return;
    }
    let _unmount = Unmount(disk.path().to_owned());
    let mut lab = Lab::start(Options {
        store: Some(disk.path().join("store")),
        min_free: 6 << 20,
        ..Options::default()
    })
    .await;
    let portal = lab.client("portal");
    let mut accepted = Vec::new();
    let mut refused = None;
    for number in 0..200 {
        let answer =
            portal.send(portal.submission(&format!("{number}"), METADATA, &vec![b'x'; 300_000])).await;
        if answer.status == 202 {
            accepted.push(answer.json["id"].as_str().unwrap().to_owned());
        } else {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!((refused.status, refused.problem()), (503, "store-full"), "{refused:?}");
    // A department still takes what is there, although nothing new fits.
    let department = lab.client("department");
    let (token, messages) = department.lease(1).await;
    let first = messages[0]["id"].as_str().unwrap();
    assert_eq!(department.on_message(first, "acknowledge", Some(&token), None).await.status, 200);
    assert!(accepted.len() > 20, "{}", accepted.len());
    let large = portal.send(portal.submission("large", METADATA, &vec![b'y'; 20 << 20])).await;
    assert_eq!(
        (large.status, large.problem()),
        (503, "store-full"),
        "also for bodies with a file of their own"
    );
    lab.stop_gateway().await;
    lab.start_gateway().await;
    let portal = lab.client("portal");
    for id in &accepted {
        assert_eq!(portal.get(&format!("/v1/submissions/{id}")).await.status, 200);
    }
    lab.stop_gateway().await;
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        run(Path::new("/"), "umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[tokio::test]
async fn a_damaged_journal_and_a_missing_index_hurt_only_what_is_damaged() {
    let mut lab = Lab::start(Options::default()).await;
    let portal = lab.client("portal");
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(
            portal
                .submit(&format!("{number}"), METADATA, format!("document number {number:02}").as_bytes())
                .await,
        );
    }
    lab.kill_gateway().await;
    let journal = lab.store().join("journal/00000001.journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    let place = bytes.windows(18).position(|window| window == b"document number 07").unwrap();
    bytes[place] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    std::fs::remove_dir_all(lab.store().join("index")).unwrap();
    lab.start_gateway().await;
    let log = lab.log();
    assert!(log.contains("quarantine") && log.contains("The index was rebuilt"), "{log}");
    let portal = lab.client("portal");
    for (number, id) in ids.iter().enumerate() {
        let status = portal.get(&format!("/v1/submissions/{id}")).await.status;
        assert_eq!(status, if number == 7 { 404 } else { 200 }, "message {number}");
    }
    assert!(std::fs::read_dir(lab.store().join("quarantine")).unwrap().count() >= 1);
    let again = portal.request(Method::GET, "/v1/submissions").send().await.unwrap();
    assert!(again.status().is_success());
}
