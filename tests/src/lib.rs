//! What the scenarios stand on: a real nats-server for each test, the workspace's own programs as real processes,
//! bounded waiting, and clients that share no code with the product.
//!
//! Everything a test starts has its own temporary directory and its own port, and ends with the test, failed or not.
//! Logs of processes are kept and shown when the test fails.

pub mod agent;
pub mod audit_trail;
pub mod certificates;
pub mod checkout;
pub mod cluster;
pub mod contracts_files;
pub mod crashing_node;
pub mod fake_github;
pub mod fault_proxy;
pub mod forward_proxy;
pub mod hammering_readers;
pub mod handmade_release;
pub mod http_request;
pub mod loopback_server;
pub mod node_status;
pub mod operations;
pub mod operator_mode;
pub mod process;
pub mod promises;
pub mod publisher_service;
pub mod publishing;
pub mod raw_client;
pub mod reported;
pub mod reserved_port;
pub mod sample_trees;
pub mod scripted_peer;
pub mod seeded_choice;
pub mod server;
pub mod server_store;
pub mod shell;
pub mod shims;
pub mod small_disk;
pub mod status_server;
pub mod stored_log;
pub mod waiting;
pub mod workflow;
pub mod workspace_binary;
pub mod world;
pub mod wrong_clock;
