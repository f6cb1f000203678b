//! Files of the laboratory: certificates, configuration, `lab.json`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use amtsbote_certs::{Folder, KeyKind, Purpose};
use amtsbote_core::account::Role;
use amtsbote_core::port::Clock as _;
use amtsbote_osci::codec::certificate::Identity as OsciIdentity;
use amtsbote_xta::XtaOptions;
use serde_json::{Value, json};
use url::Url;

use super::plan::{AREAS, Plan};
use super::{DemoError, write_error};
use crate::config::Config;
use crate::{Gateway, StartError, SystemClock};

/// Party of the portals.
const PORTALS: [(&str, &str); 2] = [("portal-a", "ags:07315000"), ("portal-b", "ags:02000000")];

/// Client that stores some applications by OSCI.
pub(super) const OSCI_AUTHOR: &str = "alice";
/// Password of all PKCS#12 files.
const P12_PASSWORD: &str = "demo";

/// Portal that hands in some of its applications by XTA.
pub(super) const XTA_PORTAL: &str = "portal-a";

/// The party of a portal; empty if there is no such portal.
pub(super) fn party_of(portal: &str) -> &'static str {
    PORTALS.iter().find(|(name, _)| *name == portal).map_or("", |(_, party)| party)
}

/// Writes a file so that readers see all of it or nothing.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_atomically(path: &Path, content: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Makes the folder; an earlier laboratory in it is removed, anything else is left alone.
pub(super) fn prepare_folder(dir: &Path) -> Result<PathBuf, DemoError> {
    std::fs::create_dir_all(dir).map_err(write_error(dir))?;
    let marker = dir.join("laboratory");
    let empty = std::fs::read_dir(dir).map_err(write_error(dir))?.next().is_none();
    if !empty && !marker.exists() {
        return Err(DemoError::Foreign(dir.to_owned()));
    }
    for name in ["pki", "store"] {
        let path = dir.join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(write_error(&path))?;
        }
    }
    let lab = dir.join("lab.json");
    if lab.exists() {
        std::fs::remove_file(&lab).map_err(write_error(&lab))?;
    }
    let text =
        "Folder of `amtsbote demo`. Everything in it may be deleted and is made anew by the next run.\n";
    std::fs::write(&marker, text).map_err(write_error(&marker))?;
    dir.canonicalize().map_err(write_error(dir))
}

/// What later steps need of the certificates.
pub(super) struct Pki {
    /// Certificate registered with the directory, DER.
    pub(super) dvdv_client: Vec<u8>,
}

pub(super) fn make_certificates(dir: &Path, plan: &Plan) -> Result<Pki, DemoError> {
    let folder = Folder::create(&dir.join("pki"), SystemClock.now().into())?;
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    folder.add("server", &Purpose::Server(names), KeyKind::P256)?;
    folder.add("seal", &Purpose::Seal, KeyKind::P256)?;
    folder.add("operator", &Purpose::Client, KeyKind::P256)?;
    for (name, _) in PORTALS {
        folder.add(name, &Purpose::Client, KeyKind::P256)?;
    }
    for department in &plan.departments {
        folder.add(&department.account, &Purpose::Client, KeyKind::P256)?;
    }
    for name in osci_names(plan) {
        folder.add(&format!("{name}-cipher"), &Purpose::Cipher, KeyKind::Rsa3072)?;
        folder.add(&format!("{name}-sign"), &Purpose::Seal, KeyKind::Rsa3072)?;
        for kind in ["cipher", "sign"] {
            write_p12(dir, &format!("{name}-{kind}"))?;
        }
    }
    // The published interface of DVDV knows RS256 only.
    let dvdv_client = folder.add("dvdv-client", &Purpose::Client, KeyKind::Rsa3072)?.der;
    Ok(Pki { dvdv_client })
}

/// Everybody with keys of OSCI.
fn osci_names(plan: &Plan) -> Vec<&str> {
    let departments = plan.departments.iter().filter(|one| one.osci).map(|one| one.account.as_str());
    ["intermediary", OSCI_AUTHOR].into_iter().chain(departments).collect()
}

/// Certificate and key once more, as software for OSCI reads them.
fn write_p12(dir: &Path, name: &str) -> Result<(), DemoError> {
    let identity = osci_identity(&dir.join("pki"), name)?;
    let path = dir.join("pki").join(format!("{name}.p12"));
    let bytes = identity.to_p12(name, P12_PASSWORD);
    let bytes = bytes.map_err(|error| write_error(&path)(std::io::Error::other(error)))?;
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    open.and_then(|mut file| file.write_all(&bytes)).map_err(write_error(&path))
}

/// A certificate of OSCI with its key.
pub(super) fn osci_identity(pki: &Path, name: &str) -> Result<OsciIdentity, DemoError> {
    let read = |extension: &str| {
        let path = pki.join(format!("{name}.{extension}"));
        std::fs::read(&path).map_err(write_error(&path))
    };
    let loaded = OsciIdentity::from_pem(&read("pem")?, &read("key")?);
    loaded.map_err(|error| write_error(&pki.join(name))(std::io::Error::other(error)))
}

/// The address without what proves who we are.
fn without_login(url: &Url) -> Url {
    let mut plain = url.clone();
    let stripped = plain.set_username("").is_ok() && plain.set_password(None).is_ok();
    debug_assert!(
        stripped || !url.has_host(),
        "only addresses without a host refuse this, and they have no login"
    );
    plain
}

/// Writes a file that only its owner may read.
fn write_secret(path: &Path, secret: &str) -> Result<(), DemoError> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(secret.as_bytes())).map_err(write_error(path))
}

/// Writes tables and configuration, and reads the configuration back as `serve` would.
pub(super) fn write_configuration(
    dir: &Path,
    plan: &Plan,
    directory: &Url,
    rabbitmq: Option<&Url>,
) -> Result<Config, DemoError> {
    let write = |name: &str, content: &str| {
        let path = dir.join(name);
        std::fs::write(&path, content).map_err(write_error(&path))
    };
    write("areas.csv", AREAS)?;
    write("services.csv", dvdv_mock::example::SERVICES)?;
    write("authorities.csv", dvdv_mock::example::AUTHORITIES)?;
    let mut text = format!(
        "# Configuration of the laboratory; `amtsbote serve --config` runs it without the simulators.\n\
         [store]\npath = \"store\"\n\n\
         [exchange]\nlisten = \"127.0.0.1:0\"\ncertificate = \"pki/server.pem\"\nkey = \"pki/server.key\"\nclient_ca = [\"pki/ca.pem\"]\n\n\
         [operator]\nlisten = \"127.0.0.1:0\"\ncertificate = \"pki/server.pem\"\nkey = \"pki/server.key\"\nclient_ca = [\"pki/ca.pem\"]\n\n\
         [telemetry]\nlisten = \"127.0.0.1:0\"\n\n\
         [seal]\ncertificate = \"pki/seal.pem\"\nkey = \"pki/seal.key\"\n\n\
         [directory]\nservers = [\"{directory}\"]\ncertificate = \"pki/dvdv-client.pem\"\nkey = \"pki/dvdv-client.key\"\n\n\
         [routing]\nareas = \"areas.csv\"\nservices = \"services.csv\"\nauthorities = \"authorities.csv\"\nretry = \"5s\"\n\n\
         [osci]\nlisten = \"127.0.0.1:0\"\n\
         cipher_certificate = \"pki/intermediary-cipher.pem\"\ncipher_key = \"pki/intermediary-cipher.key\"\n\
         signature_certificate = \"pki/intermediary-sign.pem\"\nsignature_key = \"pki/intermediary-sign.key\"\n\n\
         [log]\nlevel = \"warn\"\n"
    );
    if let Some(url) = rabbitmq {
        let plain = without_login(url);
        let (user, password) = login(url);
        write_secret(&dir.join("broker.password"), &password)?;
        let user = toml::Value::String(user);
        text.push_str(&format!(
            "\n[brokers.demo]\nurl = \"{plain}\"\nusername = {user}\npassword_file = \"broker.password\"\n"
        ));
    }
    for (name, party) in PORTALS {
        text.push_str(&format!(
            "\n[[accounts]]\nname = \"{name}\"\nroles = [\"author\"]\nparties = [\"{party}\"]\ncertificates = [\"pki/{name}.pem\"]\n"
        ));
    }
    text.push_str(&format!(
        "\n[[accounts]]\nname = \"{OSCI_AUTHOR}\"\nroles = [\"author\"]\nparties = [\"ags:07339000\"]\n{}",
        osci_lines(OSCI_AUTHOR)
    ));
    for department in &plan.departments {
        let serves: Vec<String> = department.serves.iter().map(|key| format!("\"{key}\"")).collect();
        let channel = department
            .queue
            .as_ref()
            .map_or("mailbox".to_owned(), |queue| format!("amqp://demo?queue={queue}"));
        text.push_str(&format!(
            "\n[[accounts]]\nname = \"{name}\"\nroles = [\"reader\"]\nparties = [\"{party}\"]\nserves = [{serves}]\n\
             channel = \"{channel}\"\ncertificates = [\"pki/{name}.pem\"]\n{osci}",
            name = department.account,
            osci = if department.osci { osci_lines(&department.account) } else { String::new() },
            party = department.party,
            serves = serves.join(", "),
        ));
    }
    text.push_str("\n[[accounts]]\nname = \"operator\"\nroles = [\"operator\"]\ncertificates = [\"pki/operator.pem\"]\n");
    write("amtsbote.toml", &text)?;
    Config::load(&dir.join("amtsbote.toml")).map_err(|issues| {
        let detail = issues.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        DemoError::Start(StartError::Configuration { what: "demo configuration".to_owned(), detail })
    })
}

fn osci_lines(name: &str) -> String {
    format!("osci_cipher = [\"pki/{name}-cipher.pem\"]\nosci_signature = [\"pki/{name}-sign.pem\"]\n")
}

/// User and password of a broker URL; guest if there are none.
pub(super) fn login(url: &Url) -> (String, String) {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = if url.username().is_empty() { "guest".to_owned() } else { decode(url.username()) };
    (user, url.password().map_or_else(|| "guest".to_owned(), decode))
}

/// The description of the laboratory.
pub(super) fn describe(
    dir: &Path,
    plan: &Plan,
    gateway: &Gateway,
    directory: &Url,
    rabbitmq: Option<&Url>,
) -> String {
    debug_assert!(dir.is_absolute());
    let xta = XtaOptions::default();
    let account = |name: &str, roles: &[&str], parties: Vec<String>| {
        json!({
            "name": name, "roles": roles, "party": parties.first(), "parties": parties,
            "key": format!("pki/{name}.key"), "certificate": format!("pki/{name}.pem"),
        })
    };
    let mut accounts: Vec<Value> =
        PORTALS.iter().map(|(name, party)| account(name, &["author"], vec![(*party).to_owned()])).collect();
    for department in &plan.departments {
        let parties = std::iter::once(department.party.clone())
            .chain(department.serves.iter().map(ToString::to_string));
        accounts.push(account(&department.account, &["reader"], parties.collect()));
    }
    for one in &mut accounts {
        let name = one["name"].as_str().unwrap_or_default();
        let department =
            plan.departments.iter().any(|department| department.xta && department.account == name);
        if name == XTA_PORTAL || department {
            one["xta"] = Value::Bool(true);
        }
    }
    accounts.push(account("operator", &["operator"], Vec::new()));
    let channel = |name: &str| {
        let queued = plan.departments.iter().any(|one| one.account == name && one.queue.is_some());
        if queued { "amqp" } else { "mailbox" }
    };
    let routes: Vec<Value> = plan
        .routes
        .iter()
        .map(|route| {
            json!({
                "service": format!("ozg:{}", route.service), "area": format!("ars:{}", route.ars),
                "organization": route.organization, "account": route.account, "channel": channel(&route.account),
                "xtaReader": route.organization, "xtaService": route.specification,
            })
        })
        .collect();
    let address = |address: Option<std::net::SocketAddr>, scheme: &str| {
        address.map(|address| format!("{scheme}://{address}"))
    };
    let mut lab = json!({
        "pid": std::process::id(),
        "exchange": format!("https://{}", gateway.exchange),
        "operator": address(gateway.operator, "https"),
        "telemetry": address(gateway.telemetry, "http"),
        "ca": "pki/ca.pem", "sealCa": "pki/seal-ca.pem",
        "xta": { "send": xta.send, "management": xta.management, "msgbox": xta.msgbox },
        "dvdv": {
            "baseUrl": directory.as_str(), "entryPath": "extern/standaloneauth/directory",
            "key": "pki/dvdv-client.key", "certificate": "pki/dvdv-client.pem",
        },
        "accounts": accounts, "routes": routes,
    });
    if let Some(address) = gateway.osci {
        lab["osci"] = json!(format!("http://{address}"));
        lab["osciIntermediary"] = json!({
            "url": format!("http://{address}/"),
            "cipherCertificate": "pki/intermediary-cipher.pem", "signatureCertificate": "pki/intermediary-sign.pem",
        });
        let clients = osci_names(plan).into_iter().skip(1).map(|name| {
            let roles = if name == OSCI_AUTHOR { ["author"] } else { ["reader"] };
            json!({
                "name": name, "roles": roles, "password": P12_PASSWORD,
                "cipher": format!("pki/{name}-cipher.p12"), "sign": format!("pki/{name}-sign.p12"),
                "cipherCertificate": format!("pki/{name}-cipher.pem"), "signCertificate": format!("pki/{name}-sign.pem"),
                "cipherKey": format!("pki/{name}-cipher.key"), "signKey": format!("pki/{name}-sign.key"),
            })
        });
        lab["osciAccounts"] = Value::Array(clients.collect());
    }
    if let Some(url) = rabbitmq {
        let queues: Vec<&String> = plan.departments.iter().filter_map(|one| one.queue.as_ref()).collect();
        lab["amqp"] = json!({ "url": without_login(url).as_str(), "queues": queues });
    }
    format!("{lab:#}\n")
}

/// Prints lines that work when pasted.
pub(super) fn print_how_to(dir: &Path, plan: &Plan, gateway: &Gateway) {
    let Some(route) = plan.routes.iter().find(|route| {
        plan.departments
            .iter()
            .any(|department| department.account == route.account && department.queue.is_none())
    }) else {
        return;
    };
    let (base, department) = (format!("https://{}", gateway.exchange), &route.account);
    let telemetry =
        gateway.telemetry.map(|address| format!("curl http://{address}/health/ready\n")).unwrap_or_default();
    let console = crate::console::link(&dir.join("store"), Role::Operator, None).map_or_else(
        |error| format!("no link to the console: {error}\n"),
        |link| {
            format!(
                "\nThe console, for five minutes and once (`amtsbote console-link --store {}` makes another link):\n\n{link}\n",
                dir.join("store").display()
            )
        },
    );
    println!(
        "\nThe laboratory keeps running; Ctrl-C ends it. It is described in lab.json. Try, in another terminal:\n\n\
         cd {dir}\n\
         echo '<antrag/>' > antrag.xml\n\
         curl --cacert pki/ca.pem --cert pki/portal-a.pem --key pki/portal-a.key '{base}/v1/routes?service=ozg:{service}&area=ars:{ars}'\n\
         curl --cacert pki/ca.pem --cert pki/portal-a.pem --key pki/portal-a.key -H 'Idempotency-Key: mine-1' \\\n\
         \x20 -F 'metadata={{\"service\":{{\"ozg\":\"{service}\"}},\"area\":{{\"ars\":\"{ars}\"}},\"subject\":\"Antrag\"}};type=application/json' \\\n\
         \x20 -F 'document=@antrag.xml;type=application/xml' {base}/v1/submissions\n\
         curl --cacert pki/ca.pem --cert pki/{department}.pem --key pki/{department}.key -H 'Content-Type: application/json' \\\n\
         \x20 -d '{{\"max\":1,\"seconds\":300,\"wait\":10}}' {base}/v1/mailbox/leases\n\
         {telemetry}{console}",
        dir = dir.display(),
        service = route.service,
        ars = route.ars,
    );
}
