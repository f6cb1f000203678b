//! Signing in without a certificate: one-time links made on the host, and the sessions they open.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use amtsbote_core::account::Role;
use amtsbote_core::key::AccountName;
use amtsbote_core::port::Entropy;
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A link is good for so long.
const LINK: SignedDuration = SignedDuration::from_mins(5);
/// A session ends after so long, whatever happens in it.
pub(crate) const SESSION: SignedDuration = SignedDuration::from_mins(30);
/// Sessions at the same time; further ones push the oldest out.
const SESSIONS: usize = 256;

/// What a link lets somebody be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Name in the audit trail.
    pub name: AccountName,
    /// viewer, operator or administrator.
    pub role: Role,
}

/// A link does not sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not made with this secret.
    #[error("the link is not of this gateway")]
    Foreign,
    /// Older than five minutes.
    #[error("the link has expired")]
    Expired,
    /// It signed somebody in before.
    #[error("the link was used before")]
    Used,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    id: String,
    name: AccountName,
    role: String,
    until: Timestamp,
}

/// Makes and redeems one-time links. Whoever has the secret can make them; the gateway remembers which were used.
pub struct Links {
    key: Key,
    used: Mutex<HashMap<String, Timestamp>>,
}

/// Roles a link can give, as they are written.
pub(crate) const ROLES: [(Role, &str); 3] =
    [(Role::Viewer, "viewer"), (Role::Operator, "operator"), (Role::Administrator, "administrator")];

impl Links {
    /// Links under a secret of at least 32 random bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self { key: Key::new(HMAC_SHA256, secret), used: Mutex::default() }
    }

    /// A token that signs in once within five minutes.
    pub fn make(&self, grant: &Grant, now: Timestamp, entropy: &dyn Entropy) -> String {
        let role = ROLES.iter().find(|(role, _)| *role == grant.role).map_or("viewer", |(_, name)| name);
        let claims = Claims {
            id: random_name(entropy),
            name: grant.name.clone(),
            role: role.to_owned(),
            until: now.saturating_add(LINK).unwrap_or(now),
        };
        // Plain strings in a struct cannot fail to become JSON.
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, claims.as_bytes()));
        format!("{claims}.{signature}")
    }

    /// Who a token makes its bearer, without using it up.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn read(&self, token: &str, now: Timestamp) -> Result<Grant, LinkError> {
        self.claims(token, now).map(|(_, grant)| grant)
    }

    /// Uses a token up.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn redeem(&self, token: &str, now: Timestamp) -> Result<Grant, LinkError> {
        let (claims, grant) = self.claims(token, now)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, until| *until > now);
        match used.insert(claims.id, claims.until) {
            None => Ok(grant),
            Some(_) => Err(LinkError::Used),
        }
    }

    fn claims(&self, token: &str, now: Timestamp) -> Result<(Claims, Grant), LinkError> {
        let (text, signature) = token.split_once('.').ok_or(LinkError::Foreign)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| LinkError::Foreign)?;
        hmac::verify(&self.key, text.as_bytes(), &signature).map_err(|_| LinkError::Foreign)?;
        let claims = URL_SAFE_NO_PAD.decode(text).map_err(|_| LinkError::Foreign)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| LinkError::Foreign)?;
        let role = ROLES.iter().find(|(_, name)| *name == claims.role).ok_or(LinkError::Foreign)?.0;
        if claims.until <= now {
            return Err(LinkError::Expired);
        }
        if self.used.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&claims.id) {
            return Err(LinkError::Used);
        }
        let grant = Grant { name: claims.name.clone(), role };
        Ok((claims, grant))
    }
}

fn random_name(entropy: &dyn Entropy) -> String {
    let mut bytes = [0_u8; 32];
    entropy.fill(&mut bytes);
    hex::encode(bytes)
}

/// Somebody who signed in by a link.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) grant: Grant,
    pub(crate) until: Timestamp,
}

/// Sessions, by the random name only the browser knows. In memory: they end with the process.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Session>>);

impl Sessions {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, Session>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn open(&self, grant: Grant, now: Timestamp, entropy: &dyn Entropy) -> String {
        let name = random_name(entropy);
        let until = now.saturating_add(SESSION).unwrap_or(now);
        self.with(|sessions| {
            sessions.retain(|_, session| session.until > now);
            if sessions.len() >= SESSIONS
                && let Some(oldest) =
                    sessions.iter().min_by_key(|(_, one)| one.until).map(|(name, _)| name.clone())
            {
                sessions.remove(&oldest);
            }
            sessions.insert(name.clone(), Session { grant, until });
        });
        name
    }

    pub(crate) fn find(&self, name: &str, now: Timestamp) -> Option<Session> {
        self.with(|sessions| sessions.get(name).filter(|session| session.until > now).cloned())
    }

    pub(crate) fn close(&self, name: &str) {
        self.with(|sessions| drop(sessions.remove(name)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    struct Counting(AtomicU8);

    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn grant() -> Grant {
        Grant { name: "console-anna".parse().unwrap(), role: Role::Operator }
    }

    #[test]
    fn a_link_signs_in_once_and_not_for_long() {
        let (links, entropy) = (Links::new(&[7; 32]), Counting(AtomicU8::new(0)));
        let token = links.make(&grant(), at(0), &entropy);
        assert_eq!(links.read(&token, at(299)), Ok(grant()), "reading uses nothing up");
        assert_eq!(links.redeem(&token, at(300)), Err(LinkError::Expired));
        assert_eq!(links.redeem(&token, at(299)), Ok(grant()));
        assert_eq!(links.redeem(&token, at(299)), Err(LinkError::Used));
        assert_eq!(links.read(&token, at(299)), Err(LinkError::Used));
        let another = links.make(&grant(), at(0), &entropy);
        assert_eq!(links.redeem(&another, at(1)), Ok(grant()));
    }

    #[test]
    fn what_others_made_signs_nobody_in() {
        let (links, entropy) = (Links::new(&[7; 32]), Counting(AtomicU8::new(0)));
        let foreign = Links::new(&[8; 32]).make(&grant(), at(0), &entropy);
        let own = links.make(&grant(), at(0), &entropy);
        let (claims, signature) = own.split_once('.').unwrap();
        let raised = String::from_utf8(URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let raised = URL_SAFE_NO_PAD.encode(raised.replace("operator", "administrator"));
        for token in [&foreign, "", ".", "x.y", claims, &format!("{raised}.{signature}")] {
            assert_eq!(links.redeem(token, at(1)), Err(LinkError::Foreign), "{token}");
        }
    }

    #[test]
    fn sessions_end_and_do_not_pile_up() {
        let (sessions, entropy) = (Sessions::default(), Counting(AtomicU8::new(0)));
        let name = sessions.open(grant(), at(0), &entropy);
        assert!(sessions.find(&name, at(1_799)).is_some() && sessions.find(&name, at(1_800)).is_none());
        assert!(sessions.find("another", at(1)).is_none());
        sessions.close(&name);
        assert!(sessions.find(&name, at(1)).is_none());
    }
}
