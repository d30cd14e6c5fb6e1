//! Everything JetStream: what is stored where, and what is promised about it.
//!
//! | stored | where | promise |
//! |---|---|---|
//! | events | stream `BUNDLE_EVENTS` | an append returns only after the server has stored the event; exactly once |
//! | releases | object store `BUNDLES` | visible only when whole; names written once; every byte hashed when read |
//! | node states | key-value table `BUNDLE_NODES` | in memory, gone 90 s after a node's last word |
//! | events not yet sent | the outbox directory of their writer | on disk before `record` returns, removed only after they are in the log |
//!
//! This is the only crate of the product that speaks to NATS. It makes no consumers: readers use Direct Get, and
//! listeners the server's republished copies. Every wait is bounded.

pub mod alternating_file;
pub mod connection;
pub mod connection_arguments;
pub mod connection_settings;
mod direct_get;
pub mod durability;
mod durable_file;
pub mod election;
pub mod embedded_server;
pub mod empty_variables;
pub mod epoch;
pub mod event_log;
pub mod event_writer;
pub mod jetstream_api;
pub mod layout;
pub mod live_feed;
pub mod log_keys;
pub mod node_table;
pub mod outbox;
pub mod release_store;
pub mod secret;
pub mod server_address;
pub mod server_fault;
pub mod stored_event;
mod stream_consumer;
