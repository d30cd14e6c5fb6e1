//! What must hold for any bytes: each function reads them as hostile input and panics where a promise is broken.
//!
//! The fuzz targets call these with what libFuzzer invents; `shared/tests/fuzz_inputs.rs` calls the same with every
//! committed seed and every finding, so that a fault once found stays fixed without a fuzzer.

pub mod deltas;
pub mod history;
pub mod proofs;
pub mod releases;
