//! Compiles the product's own contracts into the agent: every file of `contracts/` by its path, sorted, so that the same
//! sources give the same agent. What becomes of them is decided in `src/embedded.rs`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> Result<(), io::Error> {
    let root = variable("CARGO_MANIFEST_DIR")?.join("../contracts").canonicalize()?;
    let mut files = Vec::new();
    for folder in ["schemas", "api-contracts", "wit", "envelopes"] {
        let folder = root.join(folder);
        if folder.is_dir() {
            collect(&folder, &mut files)?;
        }
    }
    files.sort();
    let mut table = String::from("[\n");
    for file in &files {
        let path = file.strip_prefix(&root).map_err(io::Error::other)?;
        // `{:?}` escapes whatever a path may hold.
        writeln!(table, "    ({:?}, include_bytes!({:?})),", slashed(path), file).map_err(io::Error::other)?;
    }
    table.push_str("]\n");
    fs::write(variable("OUT_DIR")?.join("contracts.rs"), table)?;
    // A directory is looked through by time, so a file that is added counts too.
    let root = root.display();
    // The directive goes to cargo, which reads standard output.
    io::Write::write_all(&mut io::stdout(), format!("cargo::rerun-if-changed={root}\n").as_bytes())
}

fn variable(name: &str) -> Result<PathBuf, io::Error> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(format!("cargo sets no {name}")))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), io::Error> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn slashed(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
