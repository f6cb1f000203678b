//! Token endpoint with signed client assertions, and the check of tokens.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::fingerprint;
use crate::problem::{Answer, missing, reply, unauthenticated};
use crate::server::{AudienceCheck, MockOptions};

/// Clocks may differ by so many seconds.
const LEEWAY: i64 = 60;
/// An assertion may live so many seconds.
const ASSERTION_MAX: i64 = 600;

/// A certificate that may ask for tokens, and the category whose client it is.
#[derive(Debug, Clone)]
pub(crate) struct RegisteredClient {
    pub(crate) der: Vec<u8>,
    pub(crate) category: String,
}

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    clients: Mutex<Vec<RegisteredClient>>,
    issued: Mutex<HashMap<String, i64>>,
    replayed: Mutex<HashSet<String>>,
}

#[derive(Deserialize)]
struct Claims {
    iat: Option<i64>,
    nbf: Option<i64>,
    exp: i64,
    jti: Option<String>,
    aud: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Subject {
    sub: Option<String>,
}

impl Tokens {
    pub(crate) fn register(&self, client: RegisteredClient) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }

    pub(crate) fn clients(&self) -> Vec<RegisteredClient> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets all tokens, as a restarted server does.
    pub(crate) fn forget(&self) {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Answers a token request.
    pub(crate) fn issue(&self, form: &str, own_url: &str, now: Timestamp, options: &MockOptions) -> Answer {
        let fields: HashMap<String, String> =
            url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        let expected = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ];
        for (name, value) in expected {
            match fields.get(name) {
                None => return missing(name),
                Some(found) if found != value => return crate::problem::unreadable(found),
                Some(_) => {}
            }
        }
        let Some(assertion) = fields.get("client_assertion") else { return missing("client_assertion") };
        if let Err(reason) = self.verify(assertion, own_url, now, options) {
            return unauthenticated(&reason);
        }
        let token = hex::encode(rand::random::<[u8; 24]>());
        let life = options.token_life;
        self.issued
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token.clone(), now.as_second() + i64::from(life));
        let body = json!({
            "access_token": token, "expires_in": life, "refresh_expires_in": 0, "token_type": "Bearer",
            "not-before-policy": 0, "scope": "email profile dvdv2-kernsystem-application-client-scope",
        });
        let mut answer = reply(StatusCode::OK, "application/json; charset=utf-8", body.to_string());
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    fn verify(
        &self,
        assertion: &str,
        own_url: &str,
        now: Timestamp,
        options: &MockOptions,
    ) -> Result<(), String> {
        let header =
            jsonwebtoken::decode_header(assertion).map_err(|_| "assertion is not a JWT".to_owned())?;
        let elliptic = matches!(header.alg, Algorithm::ES256 | Algorithm::ES384);
        if header.alg != Algorithm::RS256 && !(elliptic && options.accept_elliptic) {
            return Err("algorithm not allowed".to_owned());
        }
        let subject = jsonwebtoken::dangerous::insecure_decode::<Subject>(assertion)
            .map_err(|_| "assertion has no readable claims".to_owned())?
            .claims
            .sub
            .ok_or("claim sub is missing")?;
        let client =
            self.clients().into_iter().find(|client| format!("fp:{}", fingerprint(&client.der)) == subject);
        let client = client.ok_or("no matching client certificate")?;
        let key = public_key(&client.der, elliptic)?;
        let mut validation = Validation::new(header.alg);
        // Times are checked below, against the mock's own clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp"]);
        let claims = jsonwebtoken::decode::<Claims>(assertion, &key, &validation)
            .map_err(|_| "signature or claims are not valid".to_owned())?
            .claims;
        let second = now.as_second();
        if claims.exp + LEEWAY <= second || claims.exp - claims.iat.unwrap_or(second) > ASSERTION_MAX {
            return Err("claim exp is not acceptable".to_owned());
        }
        if claims.nbf.is_some_and(|from| from - LEEWAY > second) {
            return Err("claim nbf lies in the future".to_owned());
        }
        self.check_audience(&claims, own_url, options)?;
        if options.refuse_replay {
            let id = claims.jti.ok_or("claim jti is missing")?;
            if !self.replayed.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
                return Err("assertion was used before".to_owned());
            }
        }
        Ok(())
    }

    fn check_audience(&self, claims: &Claims, own_url: &str, options: &MockOptions) -> Result<(), String> {
        let audience = match &claims.aud {
            Some(serde_json::Value::String(one)) => vec![one.clone()],
            Some(serde_json::Value::Array(list)) => {
                list.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        };
        let accepted = match &options.audience {
            AudienceCheck::Off => return Ok(()),
            // Behind a proxy the mock does not know its own scheme.
            AudienceCheck::OwnUrl => audience
                .iter()
                .any(|one| ["http", "https"].iter().any(|scheme| *one == format!("{scheme}{own_url}"))),
            AudienceCheck::OneOf(list) => audience.iter().any(|one| list.contains(one)),
        };
        if accepted { Ok(()) } else { Err("claim aud names somebody else".to_owned()) }
    }

    /// Whether a request on the standalone path carries a valid token.
    pub(crate) fn check(&self, headers: &HeaderMap, now: Timestamp) -> Result<(), &'static str> {
        let value =
            headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let Some((scheme, token)) = value.split_once(' ') else {
            return Err("no token");
        };
        if !scheme.eq_ignore_ascii_case("EmbeddedBearer") {
            return Err("the scheme must be EmbeddedBearer");
        }
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        match issued.get(token.trim()) {
            Some(end) if *end > now.as_second() => Ok(()),
            Some(_) => Err("the token has expired"),
            None => Err("the token is unknown"),
        }
    }
}

fn public_key(der: &[u8], elliptic: bool) -> Result<DecodingKey, String> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let key = &certificate.public_key().subject_public_key.data;
    Ok(if elliptic { DecodingKey::from_ec_der(key) } else { DecodingKey::from_rsa_der(key) })
}
