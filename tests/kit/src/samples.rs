//! Small, valid things to test with.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::account::{Account, AccountBook, Credential, LocalChannel, Role};
use amtsbote_core::delivery::{Delivery, Event, EventKind, SealRecord};
use amtsbote_core::id::{MessageId, MessageIdSource};
use amtsbote_core::message::{
    ExternalId, IdScheme, IntakeKey, Message, Metadata, Part, Sha256Digest, content_digest,
};
use amtsbote_core::port::{Acceptance, Staged};
use amtsbote_core::route::{
    ChannelKind, Destination, Endpoint, OrganizationRef, Route, RoutingTables, Sources,
};

use crate::seeded::SeededEntropy;

/// An organisation responsible for everything in the samples.
pub const OFFICE: &str = "wgb:073150000000";
/// The account that serves [`OFFICE`].
pub const DEPARTMENT: &str = "department";
/// The account that submits.
pub const PORTAL: &str = "portal";

/// Metadata of an application for [`OFFICE`].
pub fn metadata() -> Metadata {
    serde_json::from_value(serde_json::json!({
        "service": {"ozg": "10092"}, "area": {"ars": "073150000000"}, "caseId": "case-1"
    }))
    .unwrap()
}

/// A route to an organisation over a channel.
pub fn route(organization: &str, channel: ChannelKind) -> Route {
    let key: amtsbote_core::key::PartyId = organization.parse().unwrap();
    Route {
        service: "10092".to_owned(),
        specification: None,
        organization: OrganizationRef { key: key.clone(), name: "Office".to_owned(), category: None },
        lookup_key: key.clone(),
        matched_area: None,
        destination: Destination { organization: key, channel },
        endpoint: Endpoint::new(channel, organization.to_owned()),
        evidence: None,
        decided_at: crate::time::noon(),
        trace: vec!["sample".to_owned()],
    }
}

/// A seal.
pub fn seal() -> SealRecord {
    SealRecord { algorithm: "fake".to_owned(), certificate: "00".to_owned(), signature: vec![7; 70].into() }
}

/// One account of each kind: a portal, and a department that serves [`OFFICE`].
pub fn accounts(channel: LocalChannel) -> AccountBook {
    let account = |name: &str, role, pin, party: &str, serves: &[&str]| Account {
        name: name.parse().unwrap(),
        roles: BTreeSet::from([role]),
        parties: vec![party.parse().unwrap()],
        serves: serves.iter().map(|key| key.parse().unwrap()).collect(),
        channel: channel.clone(),
        credentials: vec![Credential::Pinned([pin; 32])],
        message_limit: None,
    };
    AccountBook::try_new(vec![
        account(PORTAL, Role::Author, 1, "ags:07315000", &[]),
        account(DEPARTMENT, Role::Reader, 2, "dept:mainz-01", &[OFFICE]),
        account("stranger", Role::Reader, 3, "dept:fremd-01", &["wgb:999999999999"]),
    ])
    .unwrap()
}

/// Tables in which [`OFFICE`] is responsible for service 10092 in Mainz.
pub fn tables() -> RoutingTables {
    let sources = Sources {
        areas: "ars,ags,level,name,parent_ars,plz_sitz\n07,07,land,Rheinland-Pfalz,00,\n07315,07315,kreis,Mainz,07,\n\
                073150000000,07315000,gemeinde,Mainz,07315,55116\n",
        services: "ozg_id,name,leika_key,service_specification_uri\n10092,Wohngeld,99107023037000,http://amtsbote.example/w\n\
                   10519,Bau,,http://amtsbote.example/b\n",
        authorities: "organization_key,name,category,covers,services\nwgb:073150000000,Mainz,Wohngeld,073150000000,10092\n",
    };
    sources.load().unwrap().tables
}

/// Makes acceptances with growing ids.
pub struct Acceptances {
    ids: MessageIdSource,
    entropy: SeededEntropy,
    now: Timestamp,
}

impl Default for Acceptances {
    fn default() -> Self {
        Self { ids: MessageIdSource::default(), entropy: SeededEntropy::new(7), now: crate::time::noon() }
    }
}

impl Acceptances {
    /// A routed message with the given key and document.
    pub fn routed(&self, key: &str, document: &[u8], channel: ChannelKind) -> Acceptance {
        self.make(key, metadata(), document, Some(&route(OFFICE, channel)))
    }

    /// A message with all details.
    pub fn make(&self, key: &str, metadata: Metadata, document: &[u8], route: Option<&Route>) -> Acceptance {
        let parts = vec![Part {
            name: Some("antrag.xml".to_owned()),
            media_type: "application/xml".to_owned(),
            size: document.len() as u64,
            sha256: Sha256Digest::of(document),
            offset: 0,
            attributes: BTreeMap::new(),
        }];
        let message = Message {
            id: self.ids.next(self.now, &self.entropy),
            received_at: self.now,
            account: PORTAL.parse().unwrap(),
            sender: "ags:07315000".parse().unwrap(),
            content: content_digest(&metadata, b"", &parts),
            metadata,
            parts,
            external_ids: vec![ExternalId { scheme: IdScheme::Client, value: key.to_owned() }],
            carried: Vec::new(),
        };
        let delivery = Delivery::new(&message, route);
        let mut events =
            vec![Event { at: self.now, kind: EventKind::Received { account: message.account.clone() } }];
        if let Some(route) = route {
            events.push(Event { at: self.now, kind: EventKind::Routed { route: Box::new(route.clone()) } });
        }
        Acceptance {
            key: intake_key(key),
            answer: format!("{{\"id\":\"{}\"}}", message.id).into(),
            message: Arc::new(message),
            delivery,
            events,
            payload: Staged::Inline(vec![document.to_vec().into()]),
        }
    }

    /// An id no message has.
    pub fn unused_id(&self) -> MessageId {
        self.ids.next(self.now, &self.entropy)
    }
}

/// An intake key of the portal.
pub fn intake_key(value: &str) -> IntakeKey {
    IntakeKey { account: PORTAL.parse().unwrap(), scheme: IdScheme::Client, value: value.parse().unwrap() }
}
