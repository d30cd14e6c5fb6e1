//! What a validation found, as people and scripts read it.

use std::path::Path;

use publisher::compatibility::BreakingChange;
use publisher::contracts_document::{ContractsDocument, Defect};
use serde::Serialize;
use shared::digest::Sha256Digest;

use crate::output::{note, print_line};

/// Everything found out about a file.
#[derive(Debug, Serialize)]
pub(super) struct ValidationReport {
    /// Whether the file is sound, and compatible where that was asked for.
    pub(super) valid: bool,
    file: String,
    digest: String,
    schemas: usize,
    api_contracts: usize,
    wit: usize,
    pub(super) errors: Vec<Defect>,
    pub(super) warnings: Vec<Defect>,
    pub(super) breaking: Vec<BreakingChange>,
}

impl ValidationReport {
    /// Nothing found yet.
    pub(super) fn new(file: &Path, digest: Sha256Digest) -> Self {
        Self {
            valid: false,
            file: file.display().to_string(),
            digest: digest.to_string(),
            schemas: 0,
            api_contracts: 0,
            wit: 0,
            errors: Vec::new(),
            warnings: Vec::new(),
            breaking: Vec::new(),
        }
    }

    /// Counts what the bundle holds.
    pub(super) fn describe(&mut self, document: &ContractsDocument) {
        self.schemas = document.schemas().len();
        self.api_contracts = document.api_contracts().len();
        self.wit = document.wit().len();
    }

    /// Decides, from all that was found.
    pub(super) fn conclude(&mut self, require_compatible: bool) {
        self.valid = self.errors.is_empty() && (!require_compatible || self.breaking.is_empty());
    }

    /// Prints it for people: the verdict or the defects on standard output, remarks on standard error.
    pub(super) fn print_text(&self) -> anyhow::Result<()> {
        for warning in &self.warnings {
            let line = if warning.path.is_empty() { warning.message.clone() } else { warning.to_string() };
            note(&format!("warning: {line}"));
        }
        for defect in &self.errors {
            print_line(&defect.to_string())?;
        }
        for change in &self.breaking {
            print_line(&format!("breaking: {change}"))?;
        }
        if self.valid {
            return print_line(&format!("✓ {} is valid: {}, digest {}", self.file, self.contents(), self.digest));
        }
        let mut found = Vec::new();
        if !self.errors.is_empty() {
            found.push(counted(self.errors.len(), "defect"));
        }
        if !self.breaking.is_empty() {
            found.push(counted(self.breaking.len(), "breaking change"));
        }
        note(&format!("✗ {} is not valid: {}", self.file, found.join(", ")));
        Ok(())
    }

    /// Prints it for scripts.
    pub(super) fn print_json(&self) -> anyhow::Result<()> {
        print_line(&serde_json::to_string_pretty(self)?)
    }

    fn contents(&self) -> String {
        let mut parts = vec![counted(self.schemas, "schema")];
        if self.api_contracts > 0 {
            parts.push(counted(self.api_contracts, "API description"));
        }
        if self.wit > 0 {
            parts.push(counted(self.wit, "WIT file"));
        }
        parts.join(", ")
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
