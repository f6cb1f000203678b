//! The client against the mock, over real sockets, in good and bad times.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use amtsbote_certs::{Authority, KeyKind, Purpose};
use amtsbote_core::port::{
    CertificateDirectory as _, Clock as _, Directory as _, DirectoryAnswer, ServiceQuery,
};
use amtsbote_core::route::{ChannelKind, EndpointCertificate};
use amtsbote_dvdv::{AskError, DvdvDirectory, DvdvOptions, EntryPath, InvalidDvdvOptions};
use amtsbote_http::{Client, ClientOptions, Limits, Listener, Reach, serve};
use amtsbote_testkit::seeded::SeededEntropy;
use amtsbote_testkit::time::{ShiftableClock, noon};
use dvdv_mock::{Directory, Fault, FaultRule, Mock, MockOptions, Now};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

const WOHNGELD: &str = "http://amtsbote.example/dvdv/ozg10092/1/ozg10092v1Antrag.wsdl";
const UMMELDUNG: &str = "http://amtsbote.example/dvdv/ozg10124/1/ozg10124v1Antrag.wsdl";

struct Running {
    mock: Arc<Mock>,
    url: Url,
    _stop: DropGuard,
}

async fn start(options: MockOptions) -> Running {
    let mock =
        Mock::new(Directory::example().unwrap(), MockOptions { now: Now::Fixed(noon()), ..options }).unwrap();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/dvdv2-backend", socket.local_addr().unwrap()).parse().unwrap();
    let stop = CancellationToken::new();
    let limits = Limits { drain: Duration::from_millis(10), ..Limits::default() };
    tokio::spawn(serve(
        Listener { name: "dvdv", socket, tls: None, router: mock.router(), limits },
        stop.clone(),
    ));
    Running { mock, url, _stop: stop.drop_guard() }
}

struct World {
    folder: tempfile::TempDir,
    certificate: Vec<u8>,
    clock: Arc<ShiftableClock>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now: SystemTime = noon().into();
        let issued =
            Authority::new("test", now).unwrap().issue("client", &Purpose::Client, KeyKind::Rsa3072).unwrap();
        std::fs::write(folder.path().join("client.pem"), issued.chain_pem).unwrap();
        std::fs::write(folder.path().join("client.key"), issued.key_pem).unwrap();
        Self { folder, certificate: issued.der, clock: Arc::new(ShiftableClock::starting_at(noon())) }
    }

    /// Moves the clocks of the client and of the servers.
    fn advance(&self, servers: &[&Running], by: Duration) {
        self.clock.advance(by);
        servers.iter().for_each(|server| server.mock.set_now(Now::Fixed(self.clock.now())));
    }

    fn options(&self, servers: &[&Running]) -> DvdvOptions {
        let entry = EntryPath::Standalone {
            certificate: self.folder.path().join("client.pem"),
            key: self.folder.path().join("client.key"),
            audience: None,
        };
        let mut options = DvdvOptions::new(servers.iter().map(|one| one.url.clone()).collect(), entry);
        options.retries = 0;
        options.pause = Duration::from_millis(1);
        for server in servers {
            server.mock.register_client(self.certificate.clone(), "Vermittlungsstelle");
        }
        options
    }

    fn client(&self, options: DvdvOptions) -> DvdvDirectory {
        let http = ClientOptions {
            reach: Reach::Anywhere,
            connect: Duration::from_secs(2),
            total: Duration::from_secs(5),
            body: 8 << 20,
        };
        let client = Client::new(amtsbote_tls::client_config(Vec::new(), None).unwrap(), http).unwrap();
        let clock = Arc::clone(&self.clock);
        DvdvDirectory::new(client, options, clock, Arc::new(SeededEntropy::new(1))).unwrap()
    }
}

fn query(organization: &str, specification: &str) -> ServiceQuery {
    ServiceQuery {
        organization: organization.parse().unwrap(),
        specification: specification.parse().unwrap(),
    }
}

fn mainz() -> ServiceQuery {
    query("wgb:073150000000", WOHNGELD)
}

fn rule(function: Option<&str>, times: Option<u32>, fault: Fault) -> FaultRule {
    FaultRule { function: function.map(str::to_owned), after: 0, times, fault }
}

fn is_found(answer: &DirectoryAnswer, kept: bool) -> bool {
    matches!(answer, DirectoryAnswer::Found(record) if record.stale == kept)
}

#[tokio::test]
async fn hits_misses_and_expired_entries_are_told_apart() {
    let (world, server) = (World::new(), start(MockOptions::default()).await);
    let client = world.client(world.options(&[&server]));
    let DirectoryAnswer::Found(record) = client.find(&mainz()).await.unwrap() else { panic!() };
    assert_eq!(record.endpoints[0].channel, ChannelKind::Xta);
    assert_eq!(record.record.name, "ozg10092v1Antrag");
    assert_eq!(client.find(&query("wgb:999999999999", WOHNGELD)).await.unwrap(), DirectoryAnswer::NotListed);
    let expired = client.find(&query("ags:16056000", UMMELDUNG)).await.unwrap();
    assert_eq!(expired, DirectoryAnswer::NotValid { warning: "Dienst ungültig".to_owned() });
    let osci = client.find(&query("ags:07332050", UMMELDUNG)).await.unwrap();
    let DirectoryAnswer::Found(record) = osci else { panic!("{osci:?}") };
    assert_eq!(record.endpoints[0].channel, ChannelKind::Osci);
}

#[tokio::test]
async fn a_void_token_is_replaced_once_and_a_refusal_is_final() {
    let (world, server) = (World::new(), start(MockOptions::default()).await);
    let client = world.client(world.options(&[&server]));
    assert!(is_found(&client.find(&mainz()).await.unwrap(), false));
    server.mock.forget_tokens();
    assert!(client.verify_category(&"0".repeat(40), "Passbehörde").await.is_ok_and(|known| !known));
    server.mock.script(vec![rule(Some("verifycategory"), None, Fault::Unauthorized)]);
    let refused = client.verify_category(&"0".repeat(40), "Passbehörde").await.unwrap_err();
    assert!(matches!(refused, AskError::Refused { .. }), "{refused}");
}

#[tokio::test]
async fn an_unregistered_certificate_makes_the_directory_unavailable() {
    let (world, server) = (World::new(), start(MockOptions::default()).await);
    let mut options = world.options(&[]);
    options.servers = vec![server.url.clone()];
    let down = world.client(options).find(&mainz()).await.unwrap_err();
    assert!(down.reason.contains("refuses us"), "{down}");
}

#[tokio::test]
async fn revocation_shows_by_category_and_by_certificate() {
    let (world, server) = (World::new(), start(MockOptions::default()).await);
    let client = world.client(world.options(&[&server]));
    let spelled = "AA:".repeat(19) + "AA";
    assert!(!client.verify_category(&spelled, "Vermittlungsstelle").await.unwrap());
    for fault in [Fault::RevokedReasonOnly, Fault::RevokedBadDate] {
        server.mock.script(vec![rule(None, None, fault)]);
        world.advance(&[&server], Duration::from_secs(3600));
        let answer = client.find(&query("ags:07315000", UMMELDUNG)).await.unwrap();
        let DirectoryAnswer::CertificateUnusable { reason } = answer else { panic!("{answer:?}") };
        assert_eq!(reason, "the certificate is revoked");
    }
}

#[tokio::test]
async fn fresh_answers_need_no_server_and_grow_old() {
    let (world, server) = (World::new(), start(MockOptions::default()).await);
    let client = world.client(world.options(&[&server]));
    assert_eq!(client.cached(&mainz()), None);
    client.find(&mainz()).await.unwrap();
    server.mock.script(vec![rule(None, None, Fault::Status { code: 503, retry_after: None })]);
    assert!(is_found(&client.cached(&mainz()).unwrap(), false));
    world.advance(&[&server], Duration::from_secs(601));
    assert_eq!(client.cached(&mainz()), None);
    assert!(is_found(&client.find(&mainz()).await.unwrap(), true), "kept while the directory is down");
    world.advance(&[&server], Duration::from_secs(24 * 3600));
    assert!(client.find(&mainz()).await.is_err(), "but not for ever");
}

#[tokio::test]
async fn misses_are_believed_for_a_shorter_time_and_never_beyond() {
    let (world, server) = (World::new(), start(MockOptions::default()).await);
    let client = world.client(world.options(&[&server]));
    let nobody = query("wgb:999999999999", WOHNGELD);
    client.find(&nobody).await.unwrap();
    assert_eq!(client.cached(&nobody), Some(DirectoryAnswer::NotListed));
    world.advance(&[&server], Duration::from_secs(301));
    assert_eq!(client.cached(&nobody), None);
    server.mock.script(vec![rule(None, None, Fault::Reset)]);
    assert!(client.find(&nobody).await.is_err());
}

#[tokio::test]
async fn another_server_takes_over_and_the_primary_comes_back() {
    let world = World::new();
    let primary = start(MockOptions::default()).await;
    let secondary = start(MockOptions { prefix: "/other/path".to_owned(), ..MockOptions::default() }).await;
    let mut second = secondary.url.clone();
    second.set_path("/other/path");
    let mut options = world.options(&[&primary, &secondary]);
    options.servers[1] = second;
    let client = world.client(options);
    primary.mock.script(vec![rule(None, None, Fault::Status { code: 502, retry_after: None })]);
    assert!(is_found(&client.find(&mainz()).await.unwrap(), false));
    primary.mock.script(Vec::new());
    secondary.mock.script(vec![rule(None, None, Fault::Status { code: 500, retry_after: None })]);
    world.advance(&[&primary, &secondary], Duration::from_secs(601));
    assert!(is_found(&client.find(&mainz()).await.unwrap(), false), "the primary answers again");
}

#[tokio::test]
async fn technical_errors_are_retried_and_nonsense_is_not_a_miss() {
    let (world, server) = (World::new(), start(MockOptions::default()).await);
    let mut options = world.options(&[&server]);
    options.retries = 2;
    let client = world.client(options.clone());
    let function = Some("findservicedescription");
    for fault in [Fault::Status { code: 503, retry_after: Some(0) }, Fault::Reset] {
        server.mock.script(vec![rule(function, Some(2), fault)]);
        world.advance(&[&server], Duration::from_secs(601));
        assert!(is_found(&client.find(&mainz()).await.unwrap(), false), "{fault:?}");
    }
    server.mock.script(vec![rule(function, Some(1), Fault::Truncated)]);
    let other = query("wgb:064110000000", WOHNGELD);
    assert!(client.find(&other).await.unwrap_err().reason.contains("not what a DVDV server sends"));
    for fault in [Fault::NullRequired, Fault::UnknownEnum, Fault::UnknownProperty] {
        server.mock.script(vec![rule(function, Some(1), fault)]);
        world.advance(&[&server], Duration::from_secs(601));
        assert!(matches!(client.find(&other).await.unwrap(), DirectoryAnswer::Found(_)), "{fault:?}");
    }
    server.mock.script(vec![rule(function, Some(1), Fault::EmptyBody)]);
    world.advance(&[&server], Duration::from_secs(601));
    assert_eq!(client.find(&other).await.unwrap(), DirectoryAnswer::NotListed);
    server.mock.script(Vec::new());
    options.servers[0].set_path("/wrong/base");
    assert!(world.client(options).find(&mainz()).await.is_err(), "a plain 404 is a wrong address");
}

#[tokio::test]
async fn many_at_once_ask_once() {
    let (world, server) = (World::new(), start(MockOptions::default()).await);
    let client = Arc::new(world.client(world.options(&[&server])));
    let function = Some("findservicedescription");
    let mut broken = rule(function, None, Fault::Status { code: 500, retry_after: None });
    broken.after = 1;
    let slow = rule(function, Some(1), Fault::Latency { milliseconds: 50 });
    server.mock.script(vec![slow, broken]);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.find(&mainz()).await })
        })
        .collect();
    for task in tasks {
        assert!(is_found(&task.await.unwrap().unwrap(), false), "a second question would have failed");
    }
}

#[test]
fn contradicting_settings_are_refused() {
    let check = |options: DvdvOptions| {
        let world = World::new();
        let http = ClientOptions {
            reach: Reach::Anywhere,
            connect: Duration::from_secs(1),
            total: Duration::from_secs(1),
            body: 1,
        };
        let client = Client::new(amtsbote_tls::client_config(Vec::new(), None).unwrap(), http).unwrap();
        let clock = Arc::clone(&world.clock);
        DvdvDirectory::new(client, options, clock, Arc::new(SeededEntropy::new(1))).err()
    };
    let url: Url = "http://localhost/".parse().unwrap();
    assert_eq!(check(DvdvOptions::new(Vec::new(), EntryPath::Intern)), Some(InvalidDvdvOptions::NoServer));
    let ftp = DvdvOptions::new(vec!["ftp://localhost/".parse().unwrap()], EntryPath::Intern);
    assert_eq!(check(ftp), Some(InvalidDvdvOptions::Scheme));
    let mut backwards = DvdvOptions::new(vec![url], EntryPath::Intern);
    backwards.negative = Duration::from_secs(601);
    assert_eq!(check(backwards), Some(InvalidDvdvOptions::Negative));
}

#[tokio::test]
async fn while_the_directory_is_down_one_question_finds_out_for_all() {
    let world = World::new();
    let server = start(MockOptions::default()).await;
    let options = world.options(&[&server]);
    let (fresh, rest) = (options.fresh, options.rest);
    let directory = world.client(options);
    assert!(is_found(&directory.find(&mainz()).await.unwrap(), false));
    world.advance(&[&server], fresh);
    // It fails once; whoever asked again would get an answer.
    server.mock.script(vec![rule(
        Some("findservicedescription"),
        Some(1),
        Fault::Status { code: 503, retry_after: None },
    )]);
    let wanted = mainz();
    let questions = (0..64).map(|_| directory.find(&wanted));
    let answers = futures::future::join_all(questions).await;
    assert!(answers.iter().all(|answer| is_found(answer.as_ref().unwrap(), true)));
    let unknown = directory.find(&query("wgb:010010000000", WOHNGELD)).await.unwrap_err();
    assert!(unknown.reason.contains("503"), "{}", unknown.reason);
    world.advance(&[&server], rest);
    assert!(is_found(&directory.find(&mainz()).await.unwrap(), false));
    assert!(directory.find(&query("wgb:010010000000", WOHNGELD)).await.is_ok());
}

#[tokio::test]
async fn certificates_are_asked_about_and_answers_age() {
    let world = World::new();
    let server = start(MockOptions::default()).await;
    let client = world.client(world.options(&[&server]));
    assert!(client.belongs_to(&world.certificate, "Vermittlungsstelle").await.unwrap());
    assert!(!client.belongs_to(&world.certificate, "Passbehörde").await.unwrap());
    assert!(!client.belongs_to(b"another", "Vermittlungsstelle").await.unwrap());
    // The certificate of the addressee is what the service is described with.
    let wiesbaden =
        query("hsz:060000000000", "http://amtsbote.example/dvdv/ozg10747/1/ozg10747v1Antrag.wsdl");
    let DirectoryAnswer::Found(record) = client.find(&wiesbaden).await.unwrap() else {
        panic!("it is listed")
    };
    let osci = record.endpoints.iter().find(|one| one.channel == ChannelKind::Osci);
    let listed = &osci.unwrap().certificates[&EndpointCertificate::Recipient];
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, listed).unwrap();
    let organizations = client.addressed_by(&der).await.unwrap();
    assert!(organizations.contains(&wiesbaden.organization), "{organizations:?}");
    assert_eq!(client.addressed_by(&world.certificate).await.unwrap(), []);
    // Known answers hold for five minutes, and no longer.
    let down = FaultRule {
        function: None,
        after: 0,
        times: None,
        fault: Fault::Status { code: 503, retry_after: None },
    };
    server.mock.script(vec![down]);
    assert!(client.belongs_to(&world.certificate, "Vermittlungsstelle").await.unwrap());
    world.advance(&[&server], Duration::from_secs(5 * 60));
    assert!(client.belongs_to(&world.certificate, "Vermittlungsstelle").await.is_err());
    assert!(client.addressed_by(&der).await.is_err());
}
