//! The `manifest.json` of a bundle: what it must say, and whether it belongs to the bundle.
