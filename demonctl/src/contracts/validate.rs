//! `demonctl contracts validate`: whether a bundle file is sound, belongs to its manifest, and can take the place of
//! another one.

mod report;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use publisher::compatibility::{breaking_changes, changes_not_judged};
use publisher::contracts_document::manifest::{MANIFEST_BYTES, check_checksum, check_manifest};
use publisher::contracts_document::{BUNDLE_BYTES, ContractsDocument, Defect, check};
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;

use self::report::ValidationReport;

/// What a released bundle and the files beside it are called.
const BUNDLE_FILE: &str = "bundle.json";
const MANIFEST_FILE: &str = "manifest.json";
const CHECKSUM_FILE: &str = "bundle.sha256";
/// The file that is standard input.
const STANDARD_INPUT: &str = "-";

#[derive(Debug, Args)]
#[command(
    after_help = "Checked are: the form of the file, every schema against its dialect of JSON Schema, every pattern,\n\
                  every reference (nothing is ever fetched), every WIT definition's package, and manifest.json\n\
                  and bundle.sha256 where they lie beside a bundle.json. One line a defect, `path: message`; what\n\
                  lies inside a schema's text follows after `#`.\n\n\
                  Exit codes: 0 valid, 1 not valid or not there, 2 wrong usage."
)]
pub(crate) struct ValidateArguments {
    /// The bundle file; `-` reads standard input.
    #[arg(env = "DEMON_VALIDATE_FILE", value_name = "FILE")]
    file: PathBuf,

    /// Form of the output: lines for people, or one JSON document.
    #[arg(long, env = "DEMON_VALIDATE_FORMAT", value_name = "FORMAT", default_value = "text", value_enum)]
    format: ValidateFormat,

    /// Manifest of the bundle. Without it: `manifest.json` beside a `bundle.json`, where there is one.
    #[arg(long, env = "DEMON_VALIDATE_MANIFEST", value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// Refuse a manifest with keys that nobody knows.
    #[arg(long, env = "DEMON_VALIDATE_STRICT", value_parser = clap::builder::BoolishValueParser::new())]
    strict: bool,

    /// Bundle to compare with: prints every change that may break who reads it.
    #[arg(long, env = "DEMON_VALIDATE_BASE", value_name = "FILE")]
    base: Option<PathBuf>,

    /// Fail where a change breaks who reads the base. Needs `--base`.
    #[arg(
        long,
        env = "DEMON_VALIDATE_REQUIRE_COMPATIBLE",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    require_compatible: bool,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum ValidateFormat {
    /// Lines for people.
    Text,
    /// One JSON document.
    Json,
}

impl ValidateArguments {
    /// The effective settings.
    #[expect(clippy::unnecessary_wraps, reason = "every command's settings may fail")]
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "file": self.file,
            "format": self.format,
            "manifest": self.manifest,
            "strict": self.strict,
            "base": self.base,
            "require_compatible": self.require_compatible,
        }))
    }
}

/// Checks the file and prints what was found.
pub(super) async fn run(arguments: ValidateArguments) -> anyhow::Result<ExitCode> {
    if arguments.require_compatible && arguments.base.is_none() {
        crate::output::note("demonctl: --require-compatible compares with a bundle: name it with --base FILE");
        return Ok(ExitCode::from(2));
    }
    let format = arguments.format;
    let report =
        tokio::task::spawn_blocking(move || validate(&arguments)).await.context("the check was interrupted")??;
    match format {
        ValidateFormat::Text => report.print_text()?,
        ValidateFormat::Json => report.print_json()?,
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn validate(arguments: &ValidateArguments) -> anyhow::Result<ValidationReport> {
    let bytes = read_bundle(&arguments.file)?;
    let digest = Sha256Digest::of(&bytes);
    let mut report = ValidationReport::new(&arguments.file, digest);
    let document = match check(&bytes) {
        Ok(document) => Some(document),
        Err(defects) => {
            report.errors.extend(defects);
            // Whatever is wrong with its schemas, it may still be counted and compared.
            ContractsDocument::parse(&bytes).ok()
        }
    };
    if let Some(document) = &document {
        report.describe(document);
    }
    check_neighbours(arguments, digest, &mut report)?;
    if let Some(base) = &arguments.base {
        let base = ContractsDocument::parse(&read_bundle(base)?)
            .with_context(|| format!("`{}` is nothing to compare with", base.display()))?;
        if let Some(document) = &document {
            report.breaking = breaking_changes(&base, document);
            let notes = changes_not_judged(&base, document);
            report.warnings.extend(notes.into_iter().map(|message| Defect { path: String::new(), message }));
        }
    }
    report.conclude(arguments.require_compatible);
    Ok(report)
}

/// Checks manifest and checksum file, where they were named or lie beside a `bundle.json`.
fn check_neighbours(
    arguments: &ValidateArguments,
    digest: Sha256Digest,
    report: &mut ValidationReport,
) -> anyhow::Result<()> {
    let released = arguments.file.file_name().is_some_and(|name| name == BUNDLE_FILE);
    let beside = |name: &str| arguments.file.with_file_name(name);
    let manifest = match &arguments.manifest {
        Some(path) => Some((path.clone(), read(path, MANIFEST_BYTES)?)),
        None if released => read_if_there(&beside(MANIFEST_FILE))?,
        None => None,
    };
    if let Some((path, manifest)) = manifest {
        let name = path.file_name().map_or_else(|| MANIFEST_FILE.into(), |name| name.to_string_lossy().into_owned());
        let in_manifest = |defect: Defect| Defect { path: format!("{name}#{}", defect.path), ..defect };
        let findings = check_manifest(&manifest, digest);
        report.errors.extend(findings.defects.into_iter().map(in_manifest));
        let unknown = findings.unknown_keys.into_iter().map(in_manifest);
        if arguments.strict {
            report.errors.extend(unknown);
        } else {
            report.warnings.extend(unknown);
        }
    }
    if let Some((_, checksum)) = released.then(|| read_if_there(&beside(CHECKSUM_FILE))).transpose()?.flatten() {
        let in_checksum = |defect: Defect| Defect { path: CHECKSUM_FILE.to_owned(), ..defect };
        report.errors.extend(check_checksum(&checksum, digest).into_iter().map(in_checksum));
    }
    Ok(())
}

fn read_bundle(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.as_os_str() == STANDARD_INPUT {
        return read_limited(io::stdin().lock(), BUNDLE_BYTES).context("standard input cannot be read");
    }
    read(path, BUNDLE_BYTES)
}

fn read_if_there(path: &Path) -> anyhow::Result<Option<(PathBuf, Vec<u8>)>> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    Ok(Some((path.to_owned(), read(path, MANIFEST_BYTES)?)))
}

fn read(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let context = || format!("`{}` cannot be read", path.display());
    if path.is_dir() {
        bail!("`{}` is a directory: name the bundle file in it", path.display());
    }
    let file = File::open(path).with_context(context)?;
    read_limited(file, limit).with_context(context)
}

/// Reads at most one byte more than is allowed: the check then says that it is too large.
fn read_limited(input: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
