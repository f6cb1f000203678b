//! What operators hold back: a destination, a service, an account, or one message (promise P5). Pure; [`crate::control`]
//! keeps it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::MessageId;
use crate::key::{AccountName, OzgId, ServiceKey};
use crate::message::Message;
use crate::route::{Destination, Route};

/// What a hold is on. Written `scope/key`, for example `service/ozg:10092`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HoldKey {
    /// Everything for one destination.
    Destination(Destination),
    /// Everything for one service, however the sender named it.
    Service(ServiceKey),
    /// Everything one account submitted.
    Account(AccountName),
    /// One message.
    Message(MessageId),
}

/// The text names nothing that can be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHoldKey {
    /// The scope is none of the four.
    #[error("the scope must be destination, service, account or message")]
    Scope,
    /// The key does not fit its scope.
    #[error("the key is malformed: {0}")]
    Key(String),
}

impl HoldKey {
    /// A key of a scope.
    ///
    /// # Errors
    /// When there is no such scope, or the key does not fit it.
    pub fn of(scope: &str, key: &str) -> Result<Self, InvalidHoldKey> {
        let wrong = |error: &dyn fmt::Display| InvalidHoldKey::Key(error.to_string());
        match scope {
            "destination" => key.parse().map(Self::Destination).map_err(|error| wrong(&error)),
            "service" => key.parse().map(Self::Service).map_err(|error| wrong(&error)),
            "account" => key.parse().map(Self::Account).map_err(|error| wrong(&error)),
            "message" => key.parse().map(Self::Message).map_err(|error| wrong(&error)),
            _ => Err(InvalidHoldKey::Scope),
        }
    }

    /// `destination`, `service`, `account` or `message`.
    pub fn scope(&self) -> &'static str {
        match self {
            Self::Destination(_) => "destination",
            Self::Service(_) => "service",
            Self::Account(_) => "account",
            Self::Message(_) => "message",
        }
    }

    /// The key without its scope.
    pub fn key(&self) -> String {
        match self {
            Self::Destination(destination) => destination.to_string(),
            Self::Service(service) => service.to_string(),
            Self::Account(account) => account.to_string(),
            Self::Message(id) => id.to_string(),
        }
    }
}

impl FromStr for HoldKey {
    type Err = InvalidHoldKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scope, key) = text.split_once('/').ok_or(InvalidHoldKey::Scope)?;
        Self::of(scope, key)
    }
}

impl fmt::Display for HoldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope(), self.key())
    }
}

impl Serialize for HoldKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HoldKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why something is held, since when, until when, and by whom. The JSON form is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// On what.
    pub key: HoldKey,
    /// What a held service is called in routes, however the operator or the sender named it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<OzgId>,
    /// For other operators.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; absent: until somebody releases it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Who set it.
    pub by: AccountName,
}

impl Hold {
    /// Whether it holds at a time.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// All holds. Small: one entry per decision of an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoldBook(BTreeMap<String, Hold>);

impl HoldBook {
    /// The hold on exactly this.
    pub fn get(&self, key: &HoldKey) -> Option<&Hold> {
        self.0.get(&key.to_string())
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Hold> {
        self.0.values()
    }

    /// Adds or replaces one; the one it replaces.
    pub fn put(&mut self, hold: Hold) -> Option<Hold> {
        self.0.insert(hold.key.to_string(), hold)
    }

    /// Takes one out.
    pub fn lift(&mut self, key: &HoldKey) -> Option<Hold> {
        self.0.remove(&key.to_string())
    }

    /// The hold in force on a destination as a whole.
    pub fn on_destination(&self, destination: &Destination, now: Timestamp) -> Option<&Hold> {
        if self.0.is_empty() {
            return None;
        }
        self.get(&HoldKey::Destination(destination.clone())).filter(|hold| hold.is_in_force(now))
    }

    /// The hold in force on a message by something smaller than its destination.
    pub fn on_message(&self, message: &Message, route: Option<&Route>, now: Timestamp) -> Option<&Hold> {
        self.0.values().find(|hold| hold.is_in_force(now) && concerns(hold, message, route))
    }

    /// When the first of them ends by itself.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.0.values().filter_map(|hold| hold.until).min()
    }
}

fn concerns(hold: &Hold, message: &Message, route: Option<&Route>) -> bool {
    match &hold.key {
        HoldKey::Destination(_) => false,
        HoldKey::Account(account) => message.account == *account,
        HoldKey::Message(id) => message.id == *id,
        HoldKey::Service(service) => {
            let same = |route: &Route| match service {
                ServiceKey::Uri(uri) => route.specification.as_ref() == Some(uri),
                ServiceKey::Ozg(id) => route.service == id.as_str(),
                ServiceKey::Leika(_) => hold.services.iter().any(|one| one.as_str() == route.service),
            };
            message.metadata.service == *service || route.is_some_and(same)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_nonsense_is_refused() {
        for text in [
            "destination/amqp/wgb:073150000000",
            "service/ozg:10092",
            "account/portal-a",
            "message/urn:uuid:01976c6e-7a00-7000-8000-000000000001",
        ] {
            assert_eq!(text.parse::<HoldKey>().unwrap().to_string(), text);
        }
        assert_eq!("planet/earth".parse::<HoldKey>(), Err(InvalidHoldKey::Scope));
        assert!(matches!("destination/mars".parse::<HoldKey>(), Err(InvalidHoldKey::Key(_))));
    }

    #[test]
    fn a_hold_ends_at_its_end() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key: HoldKey = "destination/amqp/wgb:073150000000".parse().unwrap();
        let HoldKey::Destination(destination) = key.clone() else { panic!() };
        let mut book = HoldBook::default();
        let by: AccountName = "operator".parse().unwrap();
        book.put(Hold {
            key,
            services: Vec::new(),
            reason: "update".to_owned(),
            since: at(0),
            until: Some(at(10)),
            by,
        });
        assert!(book.on_destination(&destination, at(9)).is_some());
        assert!(book.on_destination(&destination, at(10)).is_none());
        assert_eq!(book.next_end(), Some(at(10)));
    }
}
