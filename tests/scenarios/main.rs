//! The system as a whole: real nats-server, real processes, one module for each topic.
//!
//! Each test has its own server, ports and directories; they run side by side.

#[cfg(test)]
mod containers;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod event_log;
#[cfg(test)]
mod events_commands;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod log_verification;
#[cfg(test)]
mod main_job;
#[cfg(test)]
mod other_readers;
#[cfg(test)]
mod permissions;
#[cfg(test)]
mod release_store;
#[cfg(test)]
mod shared_state;
#[cfg(test)]
mod stored_events;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod time_travel;
#[cfg(test)]
mod transport_security;
#[cfg(test)]
mod up;
