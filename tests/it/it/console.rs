//! The console without a browser: who gets in, what is refused, what is there when the store is sick.

use amtsbote_it::{Lab, METADATA, Options, Party, binary, eventually, run};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, Response, StatusCode};

/// Somebody with a browser of their own: a certificate or none, and the cookies they were given.
struct Browser {
    client: Client,
    base: String,
    cookie: String,
}

impl Browser {
    fn new(lab: &Lab, certificate: Option<&str>) -> Self {
        let ca = Certificate::from_pem(&std::fs::read(lab.path("pki/ca.pem")).unwrap()).unwrap();
        let builder = Client::builder().tls_certs_only([ca]).redirect(Policy::none()).no_proxy();
        let builder = match certificate {
            None => builder,
            Some(name) => {
                let read = |file: String| std::fs::read_to_string(lab.path(&file)).unwrap();
                let pem = read(format!("pki/{name}.pem")) + &read(format!("pki/{name}.key"));
                builder.identity(Identity::from_pem(pem.as_bytes()).unwrap())
            }
        };
        let base = format!("https://{}", lab.gateway().operator);
        Self { client: builder.build().unwrap(), base, cookie: String::new() }
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.client.get(format!("{}{path}", self.base)).header("Cookie", &self.cookie);
        request.send().await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    }

    async fn post_from(&self, origin: Option<&str>, path: &str, form: &[(&str, &str)]) -> Response {
        let body: Vec<_> =
            form.iter().map(|(name, value)| format!("{name}={}", value.replace('/', "%2F"))).collect();
        let mut request = self.client.post(format!("{}{path}", self.base)).header("Cookie", &self.cookie);
        request = request.header("Content-Type", "application/x-www-form-urlencoded").body(body.join("&"));
        if let Some(origin) = origin {
            request = request.header("Origin", origin);
        }
        request.send().await.unwrap()
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        self.post_from(Some(&self.base), path, form).await
    }

    /// Signs in by a link.
    async fn enter(&mut self, link: &str) -> StatusCode {
        let token = link.split_once("token=").unwrap().1;
        let answer = self.post("/console/sign-in", &[("token", token)]).await;
        if let Some(cookie) = answer.headers().get("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            for part in
                ["__Host-amtsbote=", "Secure", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=1800"]
            {
                assert!(cookie.contains(part), "{part} in {cookie}");
            }
            self.cookie = cookie.split(';').next().unwrap().to_owned();
        }
        answer.status()
    }

    /// The token of the forms of a page.
    async fn token(&self, page: &str) -> String {
        let text = self.text(page).await;
        let (_, rest) = text.split_once("name=\"token\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }
}

fn link(lab: &Lab, role: &str) -> String {
    let program = binary("amtsbote");
    let arguments = ["console-link", "--config", "amtsbote.toml", "--role", role];
    let made = run(&lab.path(""), program.to_str().unwrap(), &arguments);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

async fn shown(answer: Response) -> (StatusCode, String) {
    (answer.status(), answer.text().await.unwrap())
}

const PAGES: [&str; 11] = [
    "/console",
    "/console/messages",
    "/console/destinations",
    "/console/holds",
    "/console/dead-letters",
    "/console/bulk",
    "/console/routes",
    "/console/setup",
    "/console/audit",
    "/console/live",
    "/console/messages/01a20594-8b30-7000-b57f-31631e71333b",
];

#[tokio::test]
async fn nobody_sees_anything_without_signing_in() {
    let mut lab = Lab::start(Options::default()).await;
    let stranger = Browser::new(&lab, None);
    for page in PAGES {
        let answer = stranger.get(page).await;
        assert_eq!(
            (answer.status(), &answer.headers()["location"]),
            (StatusCode::SEE_OTHER, &"/console/sign-in".parse().unwrap()),
            "{page}"
        );
    }
    let (status, text) = shown(stranger.get("/console/sign-in").await).await;
    assert!(status == StatusCode::UNAUTHORIZED && text.contains("console-link"), "{text}");
    for wrong in ["", "x", "x.y", "eyJ9.AAAA"] {
        assert_eq!(stranger.post("/console/sign-in", &[("token", wrong)]).await.status(), 403, "{wrong}");
    }
    // A certificate that belongs to nobody, or to somebody without a role for this.
    for name in ["nobody", "portal"] {
        let other = Browser::new(&lab, Some(name));
        assert_eq!(other.get("/console").await.status(), StatusCode::SEE_OTHER, "{name}");
        let (status, text) = shown(other.get("/console/sign-in").await).await;
        assert!(status == StatusCode::UNAUTHORIZED && text.contains("nicht angenommen"), "{name}: {text}");
    }
    // A link is good once, for the gateway that runs now.
    let good = link(&lab, "viewer");
    let (mut first, mut second) = (Browser::new(&lab, None), Browser::new(&lab, None));
    assert!(
        first.text(good.strip_prefix(&first.base).unwrap()).await.contains("viewer"),
        "looking uses nothing up"
    );
    assert_eq!(first.enter(&good).await, StatusCode::SEE_OTHER);
    assert_eq!(second.enter(&good).await, StatusCode::FORBIDDEN);
    assert!(first.text("/console").await.contains("(viewer)"));
    let forged = Browser { cookie: "__Host-amtsbote=0000".to_owned(), ..Browser::new(&lab, None) };
    assert_eq!(forged.get("/console").await.headers()["location"], "/console/sign-in?expired=1");
    let old = link(&lab, "operator");
    lab.kill_gateway().await;
    lab.start_gateway().await;
    let mut late = Browser { cookie: first.cookie.clone(), ..Browser::new(&lab, None) };
    assert_eq!(late.get("/console").await.status(), StatusCode::SEE_OTHER, "sessions end with the process");
    assert_eq!(late.enter(&old).await, StatusCode::FORBIDDEN);
    // Whoever cannot read the store's folder makes no links.
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(lab.path("store/console.json")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let program = binary("amtsbote");
    let nowhere = run(&lab.path(""), program.to_str().unwrap(), &["console-link", "--store", "nowhere"]);
    assert_eq!(nowhere.status.code(), Some(75));
    assert_eq!(run(&lab.path(""), program.to_str().unwrap(), &["console-link"]).status.code(), Some(64));
}

#[tokio::test]
async fn forms_come_from_the_console_with_its_token_a_role_and_a_reason() {
    let lab = Lab::start(Options::default()).await;
    let (mut operator, mut viewer) = (Browser::new(&lab, None), Browser::new(&lab, None));
    operator.enter(&link(&lab, "operator")).await;
    viewer.enter(&link(&lab, "viewer")).await;
    let token = operator.token("/console/holds").await;
    let hold = |token: &str, reason: &str| {
        let fields = [("scope", "account"), ("key", "portal"), ("reason", reason), ("token", token)];
        fields.map(|(name, value)| (name, value.to_owned()))
    };
    let send = async |browser: &Browser, origin: Option<&str>, fields: &[(&str, String); 4]| {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        browser.post_from(origin, "/console/holds/put", &fields).await.status().as_u16()
    };
    let here = Some(operator.base.as_str());
    for origin in [None, Some("null"), Some("https://evil.example"), Some("http://127.0.0.1")] {
        assert_eq!(send(&operator, origin, &hold(&token, "x")).await, 403, "{origin:?}");
    }
    assert_eq!(send(&operator, here, &hold("", "x")).await, 403);
    assert_eq!(send(&operator, here, &hold(&"0".repeat(64), "x")).await, 403);
    assert_eq!(send(&operator, here, &hold(&token, "")).await, 400);
    assert_eq!(send(&operator, here, &hold(&token, &"x".repeat(501))).await, 400);
    let own = viewer.token("/console").await;
    assert_eq!(send(&viewer, here, &hold(&token, "x")).await, 403, "somebody else's token");
    assert_eq!(send(&viewer, here, &hold(&own, "x")).await, 403, "the role");
    // A certificate is shown to forms of any page; it needs the token, too.
    let known = Browser::new(&lab, Some("operator"));
    assert_eq!(send(&known, here, &hold("", "x")).await, 403);
    assert!(
        lab.operator("operator").get("/admin/v1/holds").await.json["holds"].as_array().unwrap().is_empty()
    );
    assert_eq!(send(&operator, here, &hold(&token, "maintenance")).await, 303);
    let holds = lab.operator("operator").get("/admin/v1/holds").await.json;
    assert_eq!(
        (&holds["holds"][0]["key"], &holds["holds"][0]["reason"]),
        (&"portal".into(), &"maintenance".into())
    );
    let audit = lab.operator("operator").get("/admin/v1/audit").await.json;
    let actions: Vec<_> =
        audit["entries"].as_array().unwrap().iter().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["hold", "sign-in", "sign-in"]);
    let huge = "x".repeat(70_000);
    assert_eq!(
        operator.post("/console/holds/put", &[("token", &token), ("reason", &huge)]).await.status(),
        400
    );
    for (action, status) in [("release", 404), ("nonsense", 404), ("redrive", 409)] {
        let id = lab.client("portal-b").submit(action, &METADATA.replace("4711", action), b"<antrag/>").await;
        let path = format!("/console/messages/{}/{action}", id.strip_prefix("urn:uuid:").unwrap());
        let answer = operator.post(&path, &[("token", &token), ("reason", "x")]).await;
        assert_eq!(answer.status(), status, "{action}");
    }
    // Going back leads to the console only.
    let fields = [
        ("scope", "account"),
        ("key", "portal"),
        ("reason", "x"),
        ("token", &token),
        ("back", "//evil.example"),
    ];
    assert_eq!(operator.post("/console/holds/lift", &fields).await.headers()["location"], "/console/holds");
    assert_eq!(
        operator.post("/console/sign-out", &[("token", &token)]).await.status(),
        StatusCode::SEE_OTHER
    );
    assert_eq!(operator.get("/console").await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn every_page_forbids_what_it_does_not_need() {
    let lab = Lab::start(Options::default()).await;
    let mut browser = Browser::new(&lab, None);
    browser.enter(&link(&lab, "viewer")).await;
    for page in ["/console", "/console/messages?since=x", "/console/sign-in", "/console/destinations/x/y"] {
        let answer = browser.get(page).await;
        let headers = answer.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part) && !policy.contains("unsafe"), "{page}: {policy}");
        }
        assert_eq!(
            (&headers["cache-control"], &headers["x-content-type-options"]),
            (&"no-store".parse().unwrap(), &"nosniff".parse().unwrap()),
            "{page}"
        );
    }
    let text = browser.text("/console").await;
    assert!(
        !text.contains("style=") && !text.contains("<script>") && !text.contains("onclick"),
        "nothing inline"
    );
    for (query, status) in [
        ("limit=x", 200),
        ("state=lost", 400),
        ("cursor=x", 400),
        ("text=%3Cscript%3E", 200),
        (&format!("text={}", "x".repeat(201)), 400),
        (&format!("caseId={}", "x".repeat(20_000)), 400),
    ] {
        assert_eq!(
            browser.get(&format!("/console/messages?{query}")).await.status(),
            status,
            "{}",
            query.get(..20).unwrap_or(query)
        );
    }
    assert_eq!(browser.get("/console/dead-letters?cursor=x").await.status(), 400);
    assert_eq!(browser.get("/console/dead-letters/preview?action=burn").await.status(), 400);
    assert_eq!(browser.get("/console/bulk/none").await.status(), 404);
    assert_eq!(browser.get("/console/assets/secret").await.status(), 404);
    assert_eq!(browser.get("/").await.headers()["location"], "/console");
    let language = browser.client.get(format!("{}/console/language/en", browser.base));
    let language = language.header("Referer", "https://evil.example/console/x").send().await.unwrap();
    assert_eq!(language.headers()["location"], "/console/x", "a path of this console, whoever sent them");
}

#[tokio::test]
async fn a_sick_store_is_told_of_and_keeps_nobody_out() {
    let options = Options { min_free: 1 << 50, ..Options::default() };
    let lab = Lab::start(options).await;
    let mut browser = Browser::new(&lab, None);
    assert_eq!(browser.enter(&link(&lab, "operator")).await, StatusCode::SEE_OTHER);
    let portal: Party = lab.client("portal");
    eventually(&lab, async || {
        let refused = portal.send(portal.submission("k", METADATA, b"<antrag/>")).await;
        (refused.status == 507 || refused.status == 503).then_some(())
    })
    .await;
    let text = browser.text("/console").await;
    assert!(text.contains("the store has no room left") && text.contains("nicht bereit"), "{text}");
    for page in PAGES.iter().filter(|page| !page.contains("live") && !page.contains("01a2")) {
        assert_eq!(browser.get(page).await.status(), 200, "{page}");
    }
}
