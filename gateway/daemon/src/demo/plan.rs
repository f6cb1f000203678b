//! Which application goes where: one for each of the 35 services, to different places, and who serves the organisations.

use std::collections::{BTreeMap, BTreeSet};

use amtsbote_core::Timestamp;
use amtsbote_core::key::PartyId;
use amtsbote_core::route::{OutcomeKind, RouteRequest, RoutingTables, Sources};

/// The sample area table, with its source named beside it.
pub(super) const AREAS: &str = include_str!("../../../core/data/areas-sample.csv");

/// An application of the demo.
#[derive(Debug, Clone)]
pub(super) struct Application {
    /// OZG id.
    pub(super) service: String,
    /// Name of the service.
    pub(super) title: String,
    /// Regional key the portal sends.
    pub(super) ars: String,
    /// Name of the place.
    pub(super) place: String,
    /// Organisation that is responsible.
    pub(super) organization: PartyId,
    /// Account of the department.
    pub(super) account: String,
    /// Service specification under which the directory lists the organisation.
    pub(super) specification: String,
}

/// A department and what it serves.
#[derive(Debug, Clone)]
pub(super) struct Department {
    /// Account name.
    pub(super) account: String,
    /// Its own party.
    pub(super) party: String,
    /// Organisations.
    pub(super) serves: BTreeSet<PartyId>,
    /// Queue, if it does not poll.
    pub(super) queue: Option<String>,
    /// Whether it polls by XTA.
    pub(super) xta: bool,
    /// Whether it fetches by OSCI, and gets its application by OSCI.
    pub(super) osci: bool,
}

/// The whole plan.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) routes: Vec<Application>,
    pub(super) departments: Vec<Department>,
}

struct Authority {
    place: String,
    services: Vec<String>,
    covers: Vec<String>,
    key: String,
}

/// Makes the plan from the example tables.
pub(super) fn make(queues: bool, now: Timestamp) -> Plan {
    let (services, authorities) = (dvdv_mock::example::SERVICES, dvdv_mock::example::AUTHORITIES);
    let Ok(loaded) = (Sources { areas: AREAS, services, authorities }).load() else { return Plan::default() };
    let authorities = read_authorities();
    let areas = column_map(AREAS, "ars", "name");
    let mut visits: BTreeMap<String, usize> = BTreeMap::new();
    let mut plan = Plan::default();
    for [service, title, specification] in columns(services, ["ozg_id", "name", "service_specification_uri"])
    {
        let candidates = authorities.iter().filter(|one| one.services.contains(&service));
        let mut found: Vec<Application> = candidates
            .filter_map(|one| {
                application(&loaded.tables, one, [&service, &title, &specification], &areas, now)
            })
            .collect();
        found.sort_by_key(|one| visits.get(&one.place).copied().unwrap_or_default());
        if let Some(application) = found.into_iter().next() {
            *visits.entry(application.place.clone()).or_default() += 1;
            plan.routes.push(application);
        }
    }
    plan.departments = departments(&plan.routes, queues);
    plan
}

/// The first area of an authority that leads to it.
fn application(
    tables: &RoutingTables,
    authority: &Authority,
    [service, title, specification]: [&String; 3],
    areas: &BTreeMap<String, String>,
    now: Timestamp,
) -> Option<Application> {
    authority.covers.iter().find_map(|covered| {
        // A municipality inside the area is what a portal would send.
        let inside = areas.range(covered.clone()..).take_while(|(ars, _)| ars.starts_with(covered.as_str()));
        let municipality = inside.map(|(ars, _)| ars).find(|ars| ars.len() == 12);
        let ars = municipality.unwrap_or(covered);
        let request = RouteRequest {
            service: format!("ozg:{service}").parse().ok()?,
            area: format!("ars:{ars}").parse().ok()?,
        };
        let decision = tables.resolve(&request, now);
        let organization = decision.organization.filter(|one| one.as_str() == authority.key)?;
        (decision.outcome == OutcomeKind::Resolved).then_some(())?;
        Some(Application {
            service: service.clone(),
            title: title.clone(),
            ars: ars.clone(),
            place: authority.place.clone(),
            organization,
            account: format!("department-{}", slug(&authority.place)),
            specification: specification.clone(),
        })
    })
}

fn departments(routes: &[Application], queues: bool) -> Vec<Department> {
    let mut departments: BTreeMap<&str, Department> = BTreeMap::new();
    for route in routes {
        let number = departments.len() + 1;
        let department = departments.entry(&route.account).or_insert_with(|| Department {
            account: route.account.clone(),
            party: format!("dept:{}-{number:02}", slug(&route.place)),
            serves: BTreeSet::new(),
            queue: None,
            xta: false,
            osci: false,
        });
        department.serves.insert(route.organization.clone());
    }
    let mut departments: Vec<Department> = departments.into_values().collect();
    if queues {
        for department in departments.iter_mut().step_by(3) {
            department.queue = Some(format!("amtsbote.demo.{}", department.account));
        }
    }
    if let Some(department) = departments.iter_mut().find(|department| department.queue.is_none()) {
        department.xta = true;
    }
    // By OSCI a delivery goes to a certificate, so these serve one organisation and have one application each.
    let count = |account: &str| routes.iter().filter(|route| route.account == account).count();
    let free = departments.iter_mut().filter(|one| one.queue.is_none() && !one.xta);
    for department in free.filter(|one| count(&one.account) == 1).take(2) {
        department.osci = true;
    }
    departments
}

/// Lower-case letters, digits and hyphens of a place's name up to the first comma.
fn slug(place: &str) -> String {
    let plain = place.split(',').next().unwrap_or(place).to_lowercase();
    let plain = plain.replace('ä', "ae").replace('ö', "oe").replace('ü', "ue").replace('ß', "ss");
    let words: Vec<&str> =
        plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-").chars().take(40).collect()
}

fn read_authorities() -> Vec<Authority> {
    let names = ["organization_key", "area_name", "services", "covers"];
    let list = |text: &str| text.split(';').map(str::to_owned).collect();
    let rows = columns(dvdv_mock::example::AUTHORITIES, names);
    rows.map(|[key, place, services, covers]| Authority {
        place,
        services: list(&services),
        covers: list(&covers),
        key,
    })
    .collect()
}

fn column_map(table: &str, key: &str, value: &str) -> BTreeMap<String, String> {
    columns(table, [key, value]).map(|[key, value]| (key, value)).collect()
}

/// Some columns of a table that is known to be well-formed; a missing one reads as empty.
fn columns<const N: usize>(table: &str, names: [&str; N]) -> impl Iterator<Item = [String; N]> {
    let mut rows = csv_rows(table);
    let header = rows.next().unwrap_or_default();
    let places = names.map(|name| header.iter().position(|one| one == name));
    rows.map(move |row| {
        places.map(|place| place.and_then(|place| row.get(place).cloned()).unwrap_or_default())
    })
}

fn csv_rows(table: &str) -> impl Iterator<Item = Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(table.as_bytes());
    let rows: Vec<Vec<String>> =
        reader.records().map_while(Result::ok).map(|row| row.iter().map(str::to_owned).collect()).collect();
    rows.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_one_application_and_the_places_differ() {
        let plan = make(true, "2026-01-15T12:00:00Z".parse().unwrap());
        assert_eq!(plan.routes.len(), 35);
        let services: BTreeSet<_> = plan.routes.iter().map(|route| &route.service).collect();
        let places: BTreeSet<_> = plan.routes.iter().map(|route| &route.place).collect();
        assert_eq!(services.len(), 35);
        assert!(places.len() >= 20, "{places:?}");
        assert!(plan.departments.iter().any(|department| department.queue.is_some()));
        let served: usize = plan.departments.iter().map(|department| department.serves.len()).sum();
        assert!(served >= 30, "{served}");
    }
}
