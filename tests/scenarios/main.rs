//! The system as a whole: real nats-server, real processes, one module for each topic.
//!
//! Each test has its own server, ports and directories; they run side by side.

#[cfg(test)]
mod agent_http;
#[cfg(test)]
mod bootstrap;
#[cfg(test)]
mod bundle_commands;
#[cfg(test)]
mod channel_moves;
#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod configuration_file;
#[cfg(test)]
mod containers;
#[cfg(test)]
mod contracts_validate;
#[cfg(test)]
mod crash_safety;
#[cfg(test)]
mod deltas;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod deployment;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod documented_commands;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod embedded_fallback;
#[cfg(test)]
mod event_log;
#[cfg(test)]
mod events_commands;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod feed_watchdog;
#[cfg(test)]
mod fetch_bundle;
#[cfg(test)]
mod fleet_commands;
#[cfg(test)]
mod github_publisher;
#[cfg(test)]
mod github_source;
#[cfg(test)]
mod guarantees;
#[cfg(test)]
mod health_check;
#[cfg(test)]
mod hostile_releases;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod local_pin;
#[cfg(test)]
mod log_verification;
#[cfg(test)]
mod main_job;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod other_readers;
#[cfg(test)]
mod permissions;
#[cfg(test)]
mod playbook_releases;
#[cfg(test)]
mod playbook_users;
#[cfg(test)]
mod prefetch;
#[cfg(test)]
mod publish_command;
#[cfg(test)]
mod publish_hostile_inputs;
#[cfg(test)]
mod publish_interrupted;
#[cfg(test)]
mod publish_refused;
#[cfg(test)]
mod publisher_service;
#[cfg(test)]
mod publisher_service_github;
#[cfg(test)]
mod publisher_service_http;
#[cfg(test)]
mod publisher_service_schedule;
#[cfg(test)]
mod quiet_agent;
#[cfg(test)]
mod reading_together;
#[cfg(test)]
mod refused_login;
#[cfg(test)]
mod release_store;
#[cfg(test)]
mod restored_log;
#[cfg(test)]
mod scripts_node;
#[cfg(test)]
mod scripts_release;
#[cfg(test)]
mod scripts_validate;
#[cfg(test)]
mod several_bundles;
#[cfg(test)]
mod shared_state;
#[cfg(test)]
mod standing;
#[cfg(test)]
mod store_commands;
#[cfg(test)]
mod stored_events;
#[cfg(test)]
mod switch_hook;
#[cfg(test)]
mod tamper_while_running;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod time_travel;
#[cfg(test)]
mod transport_security;
#[cfg(test)]
mod unverified;
#[cfg(test)]
mod up;
#[cfg(test)]
mod user_errors;
mod withdrawal;
