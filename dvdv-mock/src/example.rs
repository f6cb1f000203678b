//! The example directory: 35 services, 77 authorities, one tree of categories. Names of places and their keys are real,
//! everything else is invented (`.example` hosts).

/// Authorities: who they are, where they are responsible, how they are reached.
pub const AUTHORITIES: &str = include_str!("../data/authorities.csv");
/// Services with their specification URIs.
pub const SERVICES: &str = include_str!("../data/services.csv");
/// Tree of organisation categories.
pub const CATEGORIES: &str = include_str!("../data/categories.json");
