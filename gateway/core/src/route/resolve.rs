//! The pure decision over the tables (routing reference, sections 5.1 to 5.6): same tables, same question, same answer.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::OutcomeKind;
use super::tables::{Area, AreaLevel, Organization, Responsibility, RoutingTables, Service};
use crate::key::{Ags, AreaKey, Ars, LeikaKey, OzgId, PartyId, ServiceKey, SpecificationUri};

/// Question: which authority is responsible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRequest {
    /// For what.
    pub service: ServiceKey,
    /// Where.
    pub area: AreaKey,
}

/// Answer of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How it ended.
    pub outcome: OutcomeKind,
    /// Services the key meant.
    pub services: Vec<OzgId>,
    /// Area the question meant, if it was one.
    pub area: Option<Ars>,
    /// Area whose registration matched.
    pub matched_area: Option<Ars>,
    /// The authority.
    pub organization: Option<PartyId>,
    /// Key under which the directory is to be asked.
    pub lookup_key: Option<PartyId>,
    /// Specifications to ask for, in order.
    pub specifications: Vec<SpecificationUri>,
    /// Equally specific organisations, for `AMBIGUOUS`.
    pub candidates: Vec<PartyId>,
    /// Areas with different answers, for `AREA_AMBIGUOUS`.
    pub areas: Vec<Ars>,
    /// Other organisations are responsible for parts of the area.
    pub more_specific_exists: bool,
    /// When a matching entry becomes valid, for `NOT_VALID`.
    pub next_valid_from: Option<Timestamp>,
    /// Steps, for people.
    pub trace: Vec<String>,
}

impl Decision {
    fn ended(outcome: OutcomeKind, services: &[OzgId], trace: Vec<String>) -> Self {
        Self {
            outcome,
            services: services.to_vec(),
            area: None,
            matched_area: None,
            organization: None,
            lookup_key: None,
            specifications: Vec::new(),
            candidates: Vec::new(),
            areas: Vec::new(),
            more_specific_exists: false,
            next_valid_from: None,
            trace,
        }
    }
}

impl RoutingTables {
    /// Decides who is responsible at an instant.
    pub fn resolve(&self, request: &RouteRequest, at: Timestamp) -> Decision {
        let mut trace = Vec::new();
        let Some(services) = self.find_services(&request.service, &mut trace) else {
            return Decision::ended(OutcomeKind::ServiceUnknown, &[], trace);
        };
        let asked = match &request.area {
            AreaKey::Ars(ars) => self.find_ars(ars).map(|area| vec![area]),
            AreaKey::Ags(ags) => self.find_ags(ags).map(|area| vec![area]),
            AreaKey::Plz(postcode) => self
                .by_postcode
                .get(postcode)
                .map(|places| places.iter().filter_map(|ars| self.areas.get(ars)).collect::<Vec<_>>()),
        };
        let Some(asked) = asked else {
            trace.push(format!("{} is not in the area table", request.area));
            return Decision::ended(OutcomeKind::AreaUnknown, &services, trace);
        };
        let mut decision = match asked.as_slice() {
            [area] => self.decide(&services, area, at, trace),
            several => self.decide_for_all(&services, several, at, trace),
        };
        if decision.outcome == OutcomeKind::Resolved {
            decision.specifications = self.specifications(&request.service, &services, at);
        }
        decision
    }

    /// Specifications of a service for a recipient that is already known; `None` if the service is unknown.
    pub(crate) fn specifications_of(
        &self,
        key: &ServiceKey,
        at: Timestamp,
        trace: &mut Vec<String>,
    ) -> Option<(Vec<OzgId>, Vec<SpecificationUri>)> {
        let services = self.find_services(key, trace)?;
        let specifications = self.specifications(key, &services, at);
        Some((services, specifications))
    }

    pub(super) fn find_services(&self, key: &ServiceKey, trace: &mut Vec<String>) -> Option<Vec<OzgId>> {
        let found = match key {
            ServiceKey::Ozg(id) => self.services.contains_key(id).then(|| vec![id.clone()]),
            ServiceKey::Uri(uri) => self.by_specification.get(uri).map(|id| vec![id.clone()]),
            ServiceKey::Leika(leika) => self.by_leika.get(leika).cloned().or_else(|| {
                let act = act_of(leika)?;
                trace.push(format!("leika {leika} unknown, trying the act {act}"));
                self.by_leika.get(&act).cloned()
            }),
        };
        match &found {
            Some(services) => {
                let ids: Vec<&str> = services.iter().map(OzgId::as_str).collect();
                trace.push(format!("{key} -> {}", ids.join(", ")));
            }
            None => trace.push(format!("{key} is not in the service catalogue")),
        }
        found
    }

    /// Exact key first; a right-padded key of 12 digits is cut to its level.
    fn find_ars(&self, ars: &Ars) -> Option<&Area> {
        let text = ars.as_str();
        self.areas.get(ars).or_else(|| {
            if text.len() != 12 {
                return None;
            }
            [9, 5, 3, 2]
                .iter()
                .filter(|length| text[**length..].bytes().all(|digit| digit == b'0'))
                .find_map(|length| self.areas.get(&text[..*length].parse::<Ars>().ok()?))
        })
    }

    fn find_ags(&self, ags: &Ags) -> Option<&Area> {
        let text = ags.as_str();
        let ars = match text.len() {
            8 => self.by_ags.get(ags).cloned().or_else(|| text.strip_suffix("000")?.parse::<Ars>().ok()),
            _ => text.parse::<Ars>().ok(),
        };
        self.areas.get(&ars?)
    }

    /// A postcode answers only when all its municipalities agree (5.3).
    fn decide_for_all(
        &self,
        services: &[OzgId],
        places: &[&Area],
        at: Timestamp,
        mut trace: Vec<String>,
    ) -> Decision {
        let mut answers: Vec<Decision> =
            places.iter().map(|area| self.decide(services, area, at, Vec::new())).collect();
        let names: Vec<&str> = places.iter().map(|area| area.ars.as_str()).collect();
        trace.push(format!("postcode belongs to {}", names.join(", ")));
        let Some(mut first) = answers.pop() else {
            return Decision::ended(OutcomeKind::AreaUnknown, services, trace);
        };
        if answers
            .iter()
            .any(|other| other.outcome != first.outcome || other.organization != first.organization)
        {
            let mut ended = Decision::ended(OutcomeKind::AreaAmbiguous, services, trace);
            ended.areas = places.iter().map(|area| area.ars.clone()).collect();
            ended.areas.sort();
            return ended;
        }
        if answers.iter().any(|other| other.lookup_key != first.lookup_key) {
            first.lookup_key = first.organization.clone();
        }
        first.area = None;
        trace.append(&mut first.trace);
        first.trace = trace;
        first
    }

    fn decide(&self, services: &[OzgId], area: &Area, at: Timestamp, mut trace: Vec<String>) -> Decision {
        let mut chain: Vec<&Ars> = self.chain(&area.ars).collect();
        let path: Vec<&str> = chain.iter().map(|ars| ars.as_str()).collect();
        trace.push(format!("area chain {}", path.join(" > ")));
        if services.iter().filter_map(|id| self.services.get(id)).any(|service| service.exclusive_central) {
            trace.push("decided centrally: the coarsest entry wins".to_owned());
            chain.reverse();
        }
        for ars in &chain {
            let valid = self.rows(services, ars).filter(|row| row.is_valid(at));
            let best = valid.clone().map(|row| row.priority).max();
            let organizations: BTreeSet<&PartyId> =
                valid.filter(|row| Some(row.priority) == best).map(|row| &row.organization).collect();
            let mut found = organizations.into_iter();
            match (found.next(), found.next()) {
                (None, _) => continue,
                (Some(organization), None) => {
                    trace.push(format!("match at {ars}: {organization}"));
                    let mut decision = self.resolved(services, area, ars, organization, trace);
                    decision.more_specific_exists = self.others_below(services, area, organization, at);
                    return decision;
                }
                (Some(one), Some(two)) => {
                    trace.push(format!("several organisations are equally specific at {ars}"));
                    let mut ended = Decision::ended(OutcomeKind::Ambiguous, services, trace);
                    ended.candidates = [one, two].into_iter().chain(found).cloned().collect();
                    ended.area = Some(area.ars.clone());
                    return ended;
                }
            }
        }
        self.decide_without_match(services, area, &chain, at, trace)
    }

    fn decide_without_match(
        &self,
        services: &[OzgId],
        area: &Area,
        chain: &[&Ars],
        at: Timestamp,
        mut trace: Vec<String>,
    ) -> Decision {
        let mut invalid = chain.iter().flat_map(|ars| self.rows(services, ars)).peekable();
        if invalid.peek().is_some() {
            trace.push("entries exist, but none is valid at this time".to_owned());
            let next = invalid.filter_map(|row| row.valid_from).filter(|from| *from > at).min();
            let mut ended = Decision::ended(OutcomeKind::NotValid, services, trace);
            ended.area = Some(area.ars.clone());
            ended.next_valid_from = next;
            return ended;
        }
        let outcome = if self.rows_below(services, area, at).next().is_none() {
            trace.push("nobody is registered on the whole chain".to_owned());
            OutcomeKind::NotResponsible
        } else if let Some(decision) = self.decide_downwards(services, area, at, &mut trace) {
            return decision;
        } else {
            trace.push("offices below the area do not agree".to_owned());
            OutcomeKind::AreaTooCoarse
        };
        let mut ended = Decision::ended(outcome, services, trace);
        ended.area = Some(area.ars.clone());
        ended
    }

    /// Section 5.4b: an area with a single municipality, or an association or Kreis whose members agree.
    fn decide_downwards(
        &self,
        services: &[OzgId],
        area: &Area,
        at: Timestamp,
        trace: &mut Vec<String>,
    ) -> Option<Decision> {
        let members = self.municipalities(&area.ars);
        if members.len() > 1 && !matches!(area.level, AreaLevel::Association | AreaLevel::Kreis) {
            return None;
        }
        let mut agreed: Option<Decision> = None;
        for member in &members {
            let answer = self.decide(services, member, at, Vec::new());
            if answer.outcome != OutcomeKind::Resolved
                || agreed.as_ref().is_some_and(|other| other.organization != answer.organization)
            {
                return None;
            }
            agreed = Some(answer);
        }
        let mut decision = agreed?;
        trace.push(format!("all {} municipalities of {} agree", members.len(), area.ars));
        if members.len() > 1 {
            decision.lookup_key = decision.organization.clone();
        }
        decision.area = Some(area.ars.clone());
        decision.matched_area = Some(area.ars.clone());
        decision.trace = std::mem::take(trace);
        Some(decision)
    }

    fn resolved(
        &self,
        services: &[OzgId],
        area: &Area,
        matched: &Ars,
        organization: &PartyId,
        trace: Vec<String>,
    ) -> Decision {
        let mut decision = Decision::ended(OutcomeKind::Resolved, services, trace);
        let known = self.organizations.get(organization);
        decision.lookup_key =
            Some(known.map_or_else(|| organization.clone(), |known| lookup_key(known, area)));
        decision.area = Some(area.ars.clone());
        decision.matched_area = Some(matched.clone());
        decision.organization = Some(organization.clone());
        decision
    }

    fn rows<'a>(
        &'a self,
        services: &'a [OzgId],
        ars: &'a Ars,
    ) -> impl Iterator<Item = &'a Responsibility> + Clone {
        services.iter().filter_map(|service| self.responsibilities.get(service)?.get(ars)).flatten()
    }

    fn rows_below<'a>(
        &'a self,
        services: &'a [OzgId],
        area: &'a Area,
        at: Timestamp,
    ) -> impl Iterator<Item = &'a Responsibility> {
        self.within(&area.ars)
            .filter(|ars| **ars != area.ars)
            .flat_map(|ars| self.rows(services, ars))
            .filter(move |row| row.is_valid(at))
    }

    fn others_below(&self, services: &[OzgId], area: &Area, organization: &PartyId, at: Timestamp) -> bool {
        area.level != AreaLevel::Municipality
            && self.rows_below(services, area, at).any(|row| row.organization != *organization)
    }

    fn specifications(&self, key: &ServiceKey, services: &[OzgId], at: Timestamp) -> Vec<SpecificationUri> {
        if let ServiceKey::Uri(uri) = key {
            return vec![uri.clone()];
        }
        let entries =
            services.iter().filter_map(|id| self.services.get(id)).flat_map(valid_specifications(at));
        entries.collect()
    }
}

fn valid_specifications(at: Timestamp) -> impl Fn(&Service) -> Vec<SpecificationUri> {
    move |service| {
        let valid = service
            .specifications
            .iter()
            .filter(|one| super::tables::valid_at(one.valid_from, one.valid_to, at));
        valid.map(|one| one.uri.clone()).collect()
    }
}

/// The act behind a detail key (`…DDD` -> `…000`); never the object.
fn act_of(leika: &LeikaKey) -> Option<LeikaKey> {
    let (act, detail) = leika.as_str().split_at(11);
    if detail == "000" { None } else { format!("{act}000").parse().ok() }
}

/// The organisation's key that belongs to the asked municipality, else its primary key. Keys are compared with the table,
/// never computed (5.6).
fn lookup_key(organization: &Organization, area: &Area) -> PartyId {
    let Some(ags) = area.ags.as_ref().filter(|_| area.level == AreaLevel::Municipality) else {
        return organization.key.clone();
    };
    let wanted = [format!("ags:{ags}"), format!("psb:{ags}_00")];
    let keys = std::iter::once(&organization.key).chain(&organization.additional_keys);
    keys.into_iter()
        .find(|key| wanted.iter().any(|one| one == key.as_str()))
        .unwrap_or(&organization.key)
        .clone()
}
