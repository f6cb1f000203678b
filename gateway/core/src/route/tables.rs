//! What the operator supplies: areas, services, organisations and who is responsible for what. Checked as a whole,
//! swapped as a whole.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::key::{Ags, Ars, LeikaKey, OzgId, PartyId, Postcode, ServiceKey, SpecificationUri};

/// Level of an area; decides how a question is passed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AreaLevel {
    /// The whole country, key `00` by our convention.
    Bund,
    /// Land.
    Land,
    /// Regierungsbezirk.
    Regierungsbezirk,
    /// Kreis or kreisfreie Stadt.
    Kreis,
    /// Association of municipalities (Verbandsgemeinde, Amt, …).
    Association,
    /// Municipality.
    Municipality,
}

/// One area of the directory of municipalities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Regional key.
    pub ars: Ars,
    /// Municipality key; associations have none.
    pub ags: Option<Ags>,
    /// Level.
    pub level: AreaLevel,
    /// Official name.
    pub name: String,
    /// The area above; absent only for the top.
    pub parent: Option<Ars>,
    /// Postcode of the seat, for municipalities.
    pub postcode: Option<Postcode>,
}

/// A service specification and when it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpecification {
    /// URI in DVDV.
    pub uri: SpecificationUri,
    /// Inclusive; absent: open.
    pub valid_from: Option<Timestamp>,
    /// Exclusive; absent: open.
    pub valid_to: Option<Timestamp>,
}

/// A service of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// OZG id.
    pub id: OzgId,
    /// Name.
    pub name: String,
    /// LeiKa keys that mean this service.
    pub leika: Vec<LeikaKey>,
    /// Whether a central office decides alone: the coarsest entry wins over more specific ones.
    pub exclusive_central: bool,
    /// Specifications, newest first.
    pub specifications: Vec<ServiceSpecification>,
}

/// An authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Primary key.
    pub key: PartyId,
    /// All further keys.
    pub additional_keys: Vec<PartyId>,
    /// Name.
    pub name: String,
    /// Category in DVDV.
    pub category: Option<String>,
}

/// Who decides about a service in an area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Responsibility {
    /// Service.
    pub service: OzgId,
    /// Area.
    pub area: Ars,
    /// Primary key of the organisation.
    pub organization: PartyId,
    /// Highest wins among equally specific entries.
    pub priority: i32,
    /// Inclusive; absent: open.
    pub valid_from: Option<Timestamp>,
    /// Exclusive; absent: open.
    pub valid_to: Option<Timestamp>,
}

/// Whether an instant lies in a half-open span.
pub(crate) fn valid_at(from: Option<Timestamp>, to: Option<Timestamp>, at: Timestamp) -> bool {
    from.is_none_or(|from| from <= at) && to.is_none_or(|to| at < to)
}

impl Responsibility {
    pub(crate) fn is_valid(&self, at: Timestamp) -> bool {
        valid_at(self.valid_from, self.valid_to, at)
    }
}

/// The tables contradict themselves; the old ones stay in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableConflict {
    /// Two areas with the same ARS.
    #[error("area {0} is listed twice")]
    AreaTwice(Ars),
    /// Two municipalities with the same AGS.
    #[error("AGS {0} belongs to two areas")]
    AgsTwice(Ags),
    /// The parent is not in the table.
    #[error("area {0} lies in {1}, which is not listed")]
    ParentMissing(Ars, Ars),
    /// Following the parents never ends.
    #[error("area {0} is its own ancestor")]
    Cycle(Ars),
    /// ARS and AGS of a municipality do not fit together.
    #[error("ARS {0} and AGS {1} do not belong together")]
    KeysDiffer(Ars, Ags),
    /// Two services with the same id.
    #[error("service {0} is listed twice")]
    ServiceTwice(OzgId),
    /// One specification URI for two services.
    #[error("specification {0} belongs to two services")]
    SpecificationTwice(SpecificationUri),
    /// One key for two organisations.
    #[error("organisation key {0} belongs to two organisations")]
    OrganizationTwice(PartyId),
    /// Responsibility for a service that is not in the catalogue.
    #[error("{1} is responsible for service {0}, which is not in the catalogue")]
    ServiceMissing(OzgId, PartyId),
    /// Responsibility for an area that is not in the table.
    #[error("{1} is responsible for area {0}, which is not listed")]
    AreaMissing(Ars, PartyId),
}

/// A consistent snapshot.
#[derive(Debug, Default)]
pub struct RoutingTables {
    pub(crate) areas: HashMap<Ars, Area>,
    pub(crate) children: HashMap<Ars, Vec<Ars>>,
    pub(crate) by_ags: HashMap<Ags, Ars>,
    pub(crate) by_postcode: HashMap<Postcode, Vec<Ars>>,
    pub(crate) services: HashMap<OzgId, Service>,
    pub(crate) by_leika: HashMap<LeikaKey, Vec<OzgId>>,
    pub(crate) by_specification: HashMap<SpecificationUri, OzgId>,
    pub(crate) organizations: HashMap<PartyId, Organization>,
    pub(crate) by_key: HashMap<PartyId, PartyId>,
    pub(crate) responsibilities: HashMap<OzgId, HashMap<Ars, Vec<Responsibility>>>,
    version: String,
}

impl RoutingTables {
    /// Checks and indexes the tables.
    ///
    /// # Errors
    /// Every contradiction found.
    pub fn try_new(
        areas: Vec<Area>,
        services: Vec<Service>,
        organizations: Vec<Organization>,
        responsibilities: Vec<Responsibility>,
    ) -> Result<Self, Vec<TableConflict>> {
        let mut conflicts = Vec::new();
        let mut tables =
            Self { version: fingerprint(&areas, &services, &responsibilities), ..Self::default() };
        tables.add_areas(areas, &mut conflicts);
        tables.add_services(services, &mut conflicts);
        tables.add_organizations(organizations, &mut conflicts);
        for entry in responsibilities {
            if !tables.services.contains_key(&entry.service) {
                conflicts
                    .push(TableConflict::ServiceMissing(entry.service.clone(), entry.organization.clone()));
            }
            if !tables.areas.contains_key(&entry.area) {
                conflicts.push(TableConflict::AreaMissing(entry.area.clone(), entry.organization.clone()));
            }
            let areas = tables.responsibilities.entry(entry.service.clone()).or_default();
            areas.entry(entry.area.clone()).or_default().push(entry);
        }
        if conflicts.is_empty() { Ok(tables) } else { Err(conflicts) }
    }

    fn add_areas(&mut self, areas: Vec<Area>, conflicts: &mut Vec<TableConflict>) {
        for area in areas {
            if let Some(ags) = &area.ags {
                if !keys_agree(&area.ars, ags) {
                    conflicts.push(TableConflict::KeysDiffer(area.ars.clone(), ags.clone()));
                }
                if self.by_ags.get(ags).is_some_and(|other| *other != area.ars) && ags.as_str().len() == 8 {
                    conflicts.push(TableConflict::AgsTwice(ags.clone()));
                }
                self.by_ags.entry(ags.clone()).or_insert_with(|| area.ars.clone());
            }
            if let Some(parent) = &area.parent {
                self.children.entry(parent.clone()).or_default().push(area.ars.clone());
            }
            if let (Some(postcode), AreaLevel::Municipality) = (&area.postcode, area.level) {
                self.by_postcode.entry(postcode.clone()).or_default().push(area.ars.clone());
            }
            if let Some(twice) = self.areas.insert(area.ars.clone(), area) {
                conflicts.push(TableConflict::AreaTwice(twice.ars));
            }
        }
        for area in self.areas.values() {
            if let Some(parent) = &area.parent
                && !self.areas.contains_key(parent)
            {
                conflicts.push(TableConflict::ParentMissing(area.ars.clone(), parent.clone()));
            }
            let mut seen = HashSet::new();
            if self.chain(&area.ars).any(|step| !seen.insert(step)) {
                conflicts.push(TableConflict::Cycle(area.ars.clone()));
            }
        }
    }

    fn add_services(&mut self, services: Vec<Service>, conflicts: &mut Vec<TableConflict>) {
        for service in services {
            for key in &service.leika {
                self.by_leika.entry(key.clone()).or_default().push(service.id.clone());
            }
            for specification in &service.specifications {
                let other = self.by_specification.insert(specification.uri.clone(), service.id.clone());
                if other.is_some_and(|other| other != service.id) {
                    conflicts.push(TableConflict::SpecificationTwice(specification.uri.clone()));
                }
            }
            if let Some(twice) = self.services.insert(service.id.clone(), service) {
                conflicts.push(TableConflict::ServiceTwice(twice.id));
            }
        }
    }

    fn add_organizations(&mut self, organizations: Vec<Organization>, conflicts: &mut Vec<TableConflict>) {
        for organization in organizations {
            for key in std::iter::once(&organization.key).chain(&organization.additional_keys) {
                if self.by_key.insert(key.clone(), organization.key.clone()).is_some() {
                    conflicts.push(TableConflict::OrganizationTwice(key.clone()));
                }
            }
            self.organizations.insert(organization.key.clone(), organization);
        }
    }

    /// The area and everything above it, most specific first. Bounded even for tables with a cycle.
    pub(crate) fn chain<'a>(&'a self, start: &'a Ars) -> impl Iterator<Item = &'a Ars> {
        std::iter::successors(Some(start), |ars| self.areas.get(*ars).and_then(|area| area.parent.as_ref()))
            .take(16)
    }

    /// The area and everything below it.
    pub(crate) fn within<'a>(&'a self, ars: &'a Ars) -> impl Iterator<Item = &'a Ars> {
        let mut open = vec![ars];
        std::iter::from_fn(move || {
            let next = open.pop()?;
            open.extend(self.children.get(next).into_iter().flatten());
            Some(next)
        })
    }

    /// All municipalities in the area, itself included if it is one.
    pub(crate) fn municipalities<'a>(&'a self, ars: &'a Ars) -> Vec<&'a Area> {
        let areas = self.within(ars).filter_map(|ars| self.areas.get(ars));
        let mut found: Vec<_> = areas.filter(|area| area.level == AreaLevel::Municipality).collect();
        found.sort_by(|a, b| a.ars.cmp(&b.ars));
        found
    }

    /// Identity of the snapshot: short digest over its content.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What the catalogue calls a service, or the services of the act it belongs to; `None` if it has neither.
    pub fn services_of(&self, key: &ServiceKey) -> Option<Vec<OzgId>> {
        self.find_services(key, &mut Vec::new())
    }

    /// Keys under which organisations are known.
    pub fn organizations(&self) -> impl Iterator<Item = &PartyId> {
        self.by_key.keys().chain(self.organizations.keys())
    }

    /// Number of areas, services and organisations.
    pub fn sizes(&self) -> BTreeMap<&'static str, usize> {
        BTreeMap::from([
            ("areas", self.areas.len()),
            ("services", self.services.len()),
            ("organizations", self.organizations.len()),
        ])
    }
}

fn keys_agree(ars: &Ars, ags: &Ags) -> bool {
    let (ars, ags) = (ars.as_str(), ags.as_str());
    match ars.len() {
        12 => ags.len() == 8 && ars[..5] == ags[..5] && ars[9..] == ags[5..],
        _ => ars == ags,
    }
}

fn fingerprint(areas: &[Area], services: &[Service], responsibilities: &[Responsibility]) -> String {
    let mut hasher = Sha256::new();
    for area in areas {
        hasher.update(format!("{area:?}"));
    }
    for service in services {
        hasher.update(format!("{service:?}"));
    }
    for entry in responsibilities {
        hasher.update(format!("{entry:?}"));
    }
    hex::encode(&hasher.finalize()[..6])
}
