//! Agents that are killed at every named step and at random times: what is current is always one whole release, the right
//! one runs after a restart, and the log tells every switch once.

mod healing;
mod named_steps;
mod random_times;
mod step_coverage;
