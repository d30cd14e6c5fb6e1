//! One module a case: its options, its ways of doing the work, its report.

pub(crate) mod delta;
pub(crate) mod fetch;
pub(crate) mod fleet;
pub(crate) mod fleet_status;
pub(crate) mod flip;
pub(crate) mod idle;
pub(crate) mod multicast;
pub(crate) mod one;
pub(crate) mod put;
pub(crate) mod reconnect;
pub(crate) mod replay;
