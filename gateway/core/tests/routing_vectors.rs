//! The 42 golden vectors for responsibility resolution, on the shipped sample and, where it is at hand, on the full table.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::path::Path;

use amtsbote_core::Timestamp;
use amtsbote_core::key::{AreaKey, ServiceKey};
use amtsbote_core::route::{
    Decision, RouteRequest, RoutingTables, SourceProblem, Sources, decode_area_table,
};
use serde_json::Value;

const SAMPLE: &str = include_str!("../data/areas-sample.csv");
const SERVICES: &str = include_str!("../../../dvdv-mock/data/services.csv");
const AUTHORITIES: &str = include_str!("../../../dvdv-mock/data/authorities.csv");
const VECTORS: &str = include_str!("routing-vectors.json");

fn load(areas: &str) -> RoutingTables {
    Sources { areas, services: SERVICES, authorities: AUTHORITIES }.load().unwrap().tables
}

/// The channel column of the example authorities, which production takes from the directory.
fn channels() -> HashMap<String, String> {
    let mut reader = csv::Reader::from_reader(AUTHORITIES.as_bytes());
    let rows = reader.deserialize::<HashMap<String, String>>();
    rows.map(|row| row.unwrap())
        .map(|row| (row["organization_key"].clone(), row["channel_type"].clone()))
        .collect()
}

fn request(vector: &Value) -> Result<RouteRequest, String> {
    let spell = |value: &Value| {
        let (kind, key) = value.as_object().unwrap().iter().next().unwrap();
        let kind = match kind.as_str() {
            "leikaKey" => "leika",
            "ozgId" => "ozg",
            "serviceSpecificationUri" => "uri",
            other => other,
        };
        format!("{kind}:{}", key.as_str().unwrap())
    };
    let service = spell(&vector["service"]).parse::<ServiceKey>().map_err(|error| error.to_string())?;
    let area = spell(&vector["area"]).parse::<AreaKey>().map_err(|error| error.to_string())?;
    Ok(RouteRequest { service, area })
}

fn strings<T: ToString>(values: &[T]) -> Value {
    values.iter().map(ToString::to_string).collect()
}

fn rendered(decision: &Decision, channels: &HashMap<String, String>) -> Value {
    let mut shown = serde_json::json!({"outcome": decision.outcome.as_str()});
    if let Some(organization) = &decision.organization {
        shown["matchedArea"] = decision.matched_area.as_ref().unwrap().as_str().into();
        shown["organization"] = organization.as_str().into();
        shown["lookupKey"] = decision.lookup_key.as_ref().unwrap().as_str().into();
        shown["channel"] = channels[organization.as_str()].as_str().into();
    }
    if decision.more_specific_exists {
        shown["moreSpecificExists"] = true.into();
    }
    if !decision.candidates.is_empty() {
        shown["candidates"] = strings(&decision.candidates);
    }
    if !decision.areas.is_empty() {
        shown["areas"] = strings(&decision.areas);
    }
    shown
}

fn check_all(tables: &RoutingTables) {
    let channels = channels();
    let document: Value = serde_json::from_str(VECTORS).unwrap();
    let vectors = document["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 42);
    let wrong: Vec<String> = vectors
        .iter()
        .filter_map(|vector| {
            let at: Timestamp = vector["at"].as_str().unwrap().parse().unwrap();
            let found = match request(vector) {
                Ok(request) => rendered(&tables.resolve(&request, at), &channels),
                Err(_) => serde_json::json!({"outcome": "BAD_REQUEST"}),
            };
            (found != vector["expect"])
                .then(|| format!("{}: {} instead of {}", vector["note"], found, vector["expect"]))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_vectors_hold_on_the_shipped_sample() {
    assert!(SAMPLE.lines().count() < 400);
    check_all(&load(SAMPLE));
}

#[test]
fn all_vectors_hold_on_the_full_directory_of_municipalities() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/gebiete-gvisys-2021q1.csv");
    let Ok(full) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: the full directory of municipalities is not at hand");
        return;
    };
    // As the vectors say: Eisenach after its reform is added, its old key gives up the postcode.
    let reformed = full.replace("Eisenach, Stadt\",16056,99817", "Eisenach, Stadt\",16056,")
        + "160630105105,16063105,gemeinde,stadt,\"Eisenach, Stadt\",16063,99817\n";
    check_all(&load(&reformed));
    let published = load(&gv100ad(&reformed));
    assert_eq!(published.sizes(), load(&reformed).sizes());
    check_all(&published);
}

/// An area table as Destatis would write it.
fn gv100ad(table: &str) -> String {
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let mut lines = Vec::new();
    for row in reader.deserialize::<HashMap<String, String>>() {
        let row = row.unwrap();
        let (kind, kind_code) = match row["level"].as_str() {
            "bund" => continue,
            "land" => ("10", ""),
            "regierungsbezirk" => ("20", ""),
            "kreis" => ("40", "43"),
            "verband" => ("50", "53"),
            _ => ("60", "64"),
        };
        // In this format the municipality comes before the association.
        let ars = &row["ars"];
        let (upper, association, municipality) =
            (&ars[..ars.len().min(5)], ars.get(5..9).unwrap_or(""), ars.get(9..).unwrap_or(""));
        let key = format!("{upper:<5}{municipality:<3}{association:<4}");
        let (name, postcode) = (&row["name"], &row["plz_sitz"]);
        lines.push(format!(
            "{kind}20251231{key}{name:<50}{:<50}{kind_code:<2}{:<41}{postcode:<5}{:<50}",
            "", "", ""
        ));
        if association.starts_with('0') {
            // What belongs to no association is listed as one of its own.
            let key = format!("{upper:<5}   {association}");
            lines.push(format!("5020251231{key}{name:<50}{:<50}50{:<96}", "", ""));
        }
    }
    lines.push(format!("3020251231081  {:<7}Region Stuttgart{:<182}", "", ""));
    lines.join("\r\n")
}

#[test]
fn all_vectors_hold_on_the_sample_in_the_format_of_destatis() {
    let text = gv100ad(SAMPLE);
    check_all(&load(&text));
    let old: Vec<u8> = gv100ad(SAMPLE).chars().map(|letter| u8::try_from(letter).unwrap_or(b'?')).collect();
    check_all(&load(&decode_area_table(&old)));
}

#[test]
fn places_outside_every_kreis_are_left_out_with_a_warning() {
    let text = format!(
        "102025123107{:<10}Rheinland-Pfalz\n602025123107000999{:<4}Gemeinschaftliches Hoheitsgebiet\n",
        "", "0999"
    );
    let sources =
        Sources { areas: &text, services: SERVICES, authorities: "organization_key,name,covers,services\n" };
    let loaded = sources.load().unwrap();
    assert_eq!(loaded.warnings, ["area 070000999999 lies in no listed area and is left out"]);
    assert_eq!(loaded.tables.sizes()["areas"], 2);
}

#[test]
fn a_broken_record_of_the_destatis_format_is_named() {
    let text = format!("1020251231 7{:<10}Rheinland-Pfalz\n7020251231\n102025123108\n", "");
    assert_eq!(
        problems(&text, SERVICES, AUTHORITIES),
        [
            "areas line 1, column `ARS`: malformed ars: expected 2, 3, 5, 9 or 12 digits; leading zeros count",
            "areas line 2, column `Satzart`: expected 10, 20, 30, 40, 50 or 60",
            "areas line 3, column `Bezeichnung`: a value is required",
        ]
    );
}

#[test]
fn a_central_office_decides_alone() {
    let services = "ozg_id,name,leika_key,service_specification_uri,exclusive_central\n10092,W,,http://amtsbote.example/w,true\n";
    let authorities = "organization_key,name,category,covers,services\n\
                       ags:07315000,Mainz,x,073150000000,10092\nlan:070000000000,Land,x,07,10092\n";
    let resolve = |services: &str| {
        let tables = Sources { areas: SAMPLE, services, authorities }.load().unwrap().tables;
        let request =
            RouteRequest { service: "ozg:10092".parse().unwrap(), area: "ars:073150000000".parse().unwrap() };
        tables.resolve(&request, "2026-01-15T12:00:00Z".parse().unwrap()).organization.unwrap().to_string()
    };
    assert_eq!(resolve(services), "lan:070000000000");
    assert_eq!(resolve(&services.replace("true", "false")), "ags:07315000");
    let wrong = services.replace("true", "yes");
    assert_eq!(
        problems(SAMPLE, &wrong, authorities),
        ["services line 2, column `exclusive_central`: expected true or false"]
    );
}

#[test]
fn the_same_question_is_answered_the_same_way() {
    let tables = load(SAMPLE);
    let request =
        RouteRequest { service: "ozg:10142".parse().unwrap(), area: "ars:064120000000".parse().unwrap() };
    let at: Timestamp = "2026-01-15T12:00:00Z".parse().unwrap();
    let first = tables.resolve(&request, at);
    assert!((0..50).all(|_| tables.resolve(&request, at) == first));
    assert_eq!(tables.version(), load(SAMPLE).version());
}

#[test]
fn a_future_ambiguity_is_a_warning() {
    let loaded = Sources { areas: SAMPLE, services: SERVICES, authorities: AUTHORITIES }.load().unwrap();
    assert_eq!(loaded.warnings, ["service 10142 in area 06412 will be AMBIGUOUS"]);
}

fn problems(areas: &str, services: &str, authorities: &str) -> Vec<String> {
    let problems: Vec<SourceProblem> = Sources { areas, services, authorities }.load().unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_problem_of_the_files_is_reported_with_line_and_column() {
    let areas = "ars,ags,level,name,parent_ars,plz_sitz\n7,7,land,X,,\n08,08,landkreis,Y,00,\n";
    let found = problems(areas, "ozg_id,name,leika_key\n10092,W,123\n", AUTHORITIES);
    assert_eq!(
        found,
        [
            "areas line 2, column `ars`: malformed ars: expected 2, 3, 5, 9 or 12 digits; leading zeros count",
            "areas line 3, column `level`: expected bund, land, regierungsbezirk, kreis, verband or gemeinde",
            "services line 2, column `leika_key`: malformed leika: expected 14 digits beginning with 99",
        ]
    );
}

#[test]
fn a_missing_column_is_named() {
    assert_eq!(
        problems(SAMPLE, "ozg_id\n10092\n10093\n", AUTHORITIES),
        ["services: column `name` is missing"]
    );
}

#[test]
fn contradicting_tables_are_refused() {
    let areas = "ars,ags,level,name,parent_ars,plz_sitz\n07,07,land,A,00,\n07315,07315,kreis,B,08,\n\
                 073150000000,07316000,gemeinde,C,07315,\n10,10,land,D,11,\n11,11,land,E,10,\n";
    let found = problems(
        areas,
        "ozg_id,name\n10092,W\n",
        "organization_key,name,covers,services\nwgb:0001,W,99,10000\n",
    );
    for expected in [
        "area 07315 lies in 08, which is not listed",
        "ARS 073150000000 and AGS 07316000 do not belong together",
        "area 10 is its own ancestor",
        "wgb:0001 is responsible for service 10000, which is not in the catalogue",
        "wgb:0001 is responsible for area 99, which is not listed",
    ] {
        assert!(found.iter().any(|one| one == expected), "{expected}\n{found:#?}");
    }
}
