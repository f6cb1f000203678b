//! What the load generator and the comparison share: a client that keeps connections open, and results with percentiles.

pub mod fill;
pub mod gateway;
pub mod load;
pub mod result;
