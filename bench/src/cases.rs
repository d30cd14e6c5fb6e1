//! One module a case: its options, its ways of doing the work, its report.

pub(crate) mod replay;
