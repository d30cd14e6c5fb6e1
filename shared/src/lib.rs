//! The language of Demon bundle distribution, shared by every other crate.
//!
//! Nothing here touches NATS, a disk or a clock: callers pass bytes, readers and times in.
//!
//! | term | meaning |
//! |---|---|
//! | bundle | a named line of releases, for example `contracts` |
//! | release | one immutable tree of files under a tag, described by its `release.json` |
//! | tree digest | SHA-256 over the list of a release's files; *the* digest everywhere |
//! | content digest | what "unchanged" compares: for contracts the SHA-256 of `bundle.json`, else the tree digest |
//! | delta | what turns one release, the base, into another; smaller than its archive |
//! | channel | a name that points at a tag; agents follow a channel |
//! | event | one fact on the stream `BUNDLE_EVENTS`, in a CloudEvents envelope |
//! | source | who wrote an event: a node, a publisher or an operator |
//! | incarnation | one continuous writer of a source; its events are numbered without gaps and hash-chained |
//! | fold | a pure function from the event history to a state |

pub mod archive;
pub mod canonical_json;
pub mod checkpoint;
pub mod contracts_form;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod delta;
pub mod digest;
pub mod event;
pub mod event_chain;
pub mod event_envelope;
pub mod event_export;
pub mod event_type;
pub mod fleet_history;
pub mod identifiers;
pub mod limits;
pub mod log_proof;
pub mod log_verification;
pub mod merkle;
pub mod release;
pub mod release_path;
pub mod signed_note;
pub mod source;
pub mod subjects;
mod text_form;
pub mod verification;
