//! One file for each page.

pub(crate) mod audit;
pub(crate) mod bulk;
pub(crate) mod dead_letters;
pub(crate) mod destinations;
pub(crate) mod holds;
pub(crate) mod message;
pub(crate) mod messages;
pub(crate) mod overview;
pub(crate) mod routes;
pub(crate) mod setup;
pub(crate) mod sign_in;
