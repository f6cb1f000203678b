//! The arrows between packages, with the reason for each; whatever is not listed is not allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Package, what it may depend on of ours, and why.
const ARROWS: &[(&str, &[&str], &str)] = &[
    ("amtsbote-core", &[], "knows no protocol; every rule of delivery is testable without I/O"),
    ("amtsbote-telemetry", &["amtsbote-core"], "metric names in one place; replaceable"),
    ("amtsbote-tls", &[], "plain library: bytes in, identities out"),
    ("amtsbote-http", &["amtsbote-tls"], "listeners need TLS, nothing else of ours"),
    ("amtsbote-soap", &[], "plain library: bytes in, trees out; the one door for XML of strangers"),
    ("amtsbote-store-sled", &["amtsbote-core"], "one contract suite proves stores interchangeable"),
    ("amtsbote-rest", &["amtsbote-core", "amtsbote-http"], "thin driving adapter"),
    ("amtsbote-console", &["amtsbote-core", "amtsbote-http"], "pages over core's operations"),
    (
        "amtsbote-xta",
        &["amtsbote-core", "amtsbote-http", "amtsbote-soap"],
        "thin driving adapter; XML and packages are the library's",
    ),
    (
        "amtsbote-osci",
        &["amtsbote-core", "amtsbote-http", "amtsbote-soap"],
        "driving and driven adapter; the one tree of signed XML is the library's",
    ),
    (
        "amtsbote-dvdv",
        &["amtsbote-core", "amtsbote-http", "amtsbote-tls"],
        "shares no message types with the mock",
    ),
    ("amtsbote-amqp", &["amtsbote-core", "amtsbote-tls"], "an adapter depends on no other adapter"),
    ("amtsbote-folder", &["amtsbote-core"], "an adapter depends on no other adapter"),
    (
        "amtsbote-webhook",
        &["amtsbote-core", "amtsbote-http"],
        "an adapter depends on no other adapter outside of wire",
    ),
    ("amtsbote-seal", &["amtsbote-core"], "signs digests, reads no payloads"),
    (
        "dvdv-mock",
        &["amtsbote-http", "amtsbote-tls", "amtsbote-certs"],
        "core stays out, or both agree on the same bug",
    ),
    ("amtsbote-certs", &[], "development PKI, no policy"),
    ("amtsbote-testkit", &["amtsbote-core"], "fakes and contracts of core's ports"),
    ("amtsbote-sim", &["amtsbote-core", "amtsbote-testkit"], "whole core on memory ports"),
    (
        "amtsbote-it",
        &["amtsbote-testkit", "amtsbote-certs", "dvdv-mock"],
        "black box: the daemon only as a process",
    ),
    (
        "amtsbote-torture",
        &["amtsbote-it", "amtsbote-testkit", "amtsbote-certs"],
        "the same laboratory as the black-box tests, for longer",
    ),
    ("amtsbote-ui", &["amtsbote-it"], "the same laboratory, with a browser before it"),
    (
        "amtsbote-fuzz",
        &["amtsbote-osci", "amtsbote-soap"],
        "their readers are what strangers' bytes meet first",
    ),
    ("amtsbote-torture-shim", &[], "stands between the gateway and the C library"),
    (
        "amtsbote-benches",
        &[
            "amtsbote-core",
            "amtsbote-testkit",
            "amtsbote-certs",
            "amtsbote-store-sled",
            "amtsbote-tls",
            "amtsbote-http",
            "amtsbote-soap",
            "amtsbote-xta",
            "amtsbote-osci",
        ],
        "generators and the committer alone",
    ),
    (
        "amtsbote",
        &[
            "amtsbote-core",
            "amtsbote-telemetry",
            "amtsbote-tls",
            "amtsbote-http",
            "amtsbote-soap",
            "amtsbote-store-sled",
            "amtsbote-rest",
            "amtsbote-console",
            "amtsbote-xta",
            "amtsbote-osci",
            "amtsbote-dvdv",
            "amtsbote-amqp",
            "amtsbote-folder",
            "amtsbote-webhook",
            "amtsbote-seal",
            "amtsbote-certs",
            "dvdv-mock",
        ],
        "the only place that names concrete adapters",
    ),
];

/// Third-party crates with one owner among the product's packages.
const OWNERS: &[(&str, &[&str])] = &[
    ("sled", &["amtsbote-store-sled"]),
    ("lapin", &["amtsbote-amqp"]),
    ("prometheus", &["amtsbote-telemetry"]),
    ("rustls", &["amtsbote-tls"]),
    ("tokio-rustls", &["amtsbote-tls"]),
    ("quick-xml", &["amtsbote-soap"]),
    ("reqwest", &["amtsbote-http"]),
    ("cms", &["amtsbote-seal"]),
    ("openssl", &["amtsbote-osci"]),
    ("anyhow", &["amtsbote", "dvdv-mock"]),
];

/// Packages that are no part of the product and may use brokers and TLS as clients.
const OUTSIDE: &[&str] = &[
    "amtsbote-it",
    "amtsbote-ui",
    "amtsbote-benches",
    "amtsbote-testkit",
    "amtsbote-sim",
    "amtsbote-torture",
];

/// Licences of third-party crates that fit EUPL-1.2.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "0BSD",
    "CC0-1.0",
    "OpenSSL",
    "MIT-0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "Unlicense",
    "MPL-2.0",
    "EUPL-1.2",
];

fn metadata() -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).other_options(vec!["--locked".to_owned()]).exec().unwrap()
}

#[test]
fn every_arrow_is_in_the_table() {
    let metadata = metadata();
    let table: BTreeMap<&str, &[&str]> = ARROWS.iter().map(|(name, allowed, _)| (*name, *allowed)).collect();
    let ours: BTreeSet<&str> =
        metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let Some(allowed) = table.get(package.name.as_str()) else {
            wrong.push(format!("{} is not in the table", package.name));
            continue;
        };
        let normal = package.dependencies.iter().filter(|one| one.kind != DependencyKind::Development);
        for dependency in normal.filter(|one| ours.contains(one.name.as_str())) {
            if !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} -> {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn protocol_libraries_have_one_owner() {
    let mut wrong = Vec::new();
    for package in metadata().workspace_packages() {
        for dependency in package.dependencies.iter().filter(|one| one.kind != DependencyKind::Development) {
            let owners = OWNERS.iter().find(|(name, _)| *name == dependency.name).map(|(_, owners)| *owners);
            let outside = OUTSIDE.contains(&package.name.as_str());
            if owners.is_some_and(|owners| !owners.contains(&package.name.as_str()) && !outside) {
                wrong.push(format!("{} -> {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn third_party_crates_come_from_the_registry_under_licences_that_fit() {
    let mut wrong = Vec::new();
    for package in &metadata().packages {
        let Some(source) = &package.source else { continue };
        if !source.is_crates_io() {
            wrong.push(format!("{} comes from {source}", package.name));
        }
        let licence = package.license.clone().unwrap_or_default().replace('/', " OR ");
        // One of the alternatives, all of its parts.
        let fits = licence.split(" OR ").any(|choice| {
            choice.split(" AND ").all(|one| LICENCES.contains(&one.trim_matches(|c| "() ".contains(c))))
        });
        if !fits {
            wrong.push(format!("{} is under `{licence}`", package.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_direct_dependency_has_one_version() {
    let metadata = metadata();
    let direct: BTreeSet<String> = metadata
        .workspace_packages()
        .iter()
        .flat_map(|package| package.dependencies.iter().map(|dependency| dependency.name.clone()))
        .collect();
    let mut required: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata.workspace_packages() {
        for dependency in package.dependencies.iter().filter(|one| direct.contains(&one.name)) {
            required.entry(dependency.name.clone()).or_default().insert(dependency.req.to_string());
        }
    }
    let several: Vec<_> = required.into_iter().filter(|(_, versions)| versions.len() > 1).collect();
    assert!(several.is_empty(), "{several:?}");
}

/// Crates that are really built, by name with their versions.
fn built() -> BTreeMap<String, BTreeSet<String>> {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let mut crates: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8(tree.stdout).unwrap().lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            crates.entry(name.to_owned()).or_default().insert(version.trim_start_matches('v').to_owned());
        }
    }
    crates
}

/// Entries of a list in `[bans]` of deny.toml.
fn bans(list: &str) -> Vec<String> {
    let file: toml::Table = include_str!("../../../deny.toml").parse().unwrap();
    let entries = file["bans"][list].as_array().unwrap();
    let without_wrappers = entries.iter().filter(|entry| entry.get("wrappers").is_none());
    without_wrappers.map(|entry| entry["crate"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn banned_crates_are_not_built_and_every_double_is_explained() {
    let built = built();
    assert!(built.contains_key("rustls") && built.len() > 100);
    for banned in bans("deny") {
        assert!(!built.contains_key(&banned), "{banned} is banned in deny.toml");
    }
    let explained = bans("skip");
    let mut needless: BTreeSet<&String> = explained.iter().collect();
    for (name, versions) in built.iter().filter(|(_, versions)| versions.len() > 1) {
        let (newest, older) = (versions.last().unwrap(), versions.iter().rev().skip(1));
        for version in older {
            let entry = explained.iter().find(|entry| {
                entry.split_once('@').is_some_and(|(one, prefix)| {
                    one == name && (version == prefix || version.starts_with(&format!("{prefix}.")))
                })
            });
            let entry =
                entry.unwrap_or_else(|| panic!("{name} {version} besides {newest} is not in deny.toml"));
            needless.remove(entry);
        }
    }
    assert!(needless.is_empty(), "no longer needed in deny.toml: {needless:?}");
}
