//! The file of variables that a systemd unit reads (`EnvironmentFile=`): parsing, changing, writing it back whole.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use thiserror::Error;

/// Most that is read.
const LARGEST_FILE: u64 = 1 << 20;
/// Rights of a new file: it may hold passwords.
const NEW_MODE: u32 = 0o600;
/// Rights that an existing file keeps.
const KEPT_RIGHTS: u32 = 0o640;

/// A file that cannot be used, or a variable that cannot stand in it.
#[derive(Debug, Error)]
pub(crate) enum EnvironmentFileError {
    #[error("`{}` cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` cannot be written; is it root's? try sudo", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}` is larger than {LARGEST_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    // The line itself may hold a secret.
    #[error(
        "line {0} of the file is no `KEY=VALUE`, continues on the next line or has an open quotation: mend it first"
    )]
    Line(usize),
    #[error("`{0}` is no name of a variable: letters, digits and `_`, no digit first")]
    Name(String),
    #[error("the value of `{0}` holds control characters, which the file cannot carry")]
    Value(String),
}

/// The lines of a file. Comments and order stay.
#[derive(Debug, Default)]
pub(crate) struct EnvironmentFile {
    lines: Vec<Line>,
}

#[derive(Debug)]
enum Line {
    Other(String),
    Variable { name: String, value: String, text: String },
}

impl EnvironmentFile {
    /// Reads the file; one that does not exist is empty.
    pub(crate) fn read(path: &Path) -> Result<Self, EnvironmentFileError> {
        let failed = |source| EnvironmentFileError::Read { path: path.to_owned(), source };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.len() > LARGEST_FILE => {
                return Err(EnvironmentFileError::TooLarge(path.to_owned()));
            }
            Ok(_) => {}
        }
        Self::parse(&fs::read_to_string(path).map_err(failed)?)
    }

    fn parse(text: &str) -> Result<Self, EnvironmentFileError> {
        let lines = text.lines().enumerate().map(|(index, text)| {
            let trimmed = text.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                return Ok(Line::Other(text.to_owned()));
            }
            let parsed = trimmed.split_once('=').filter(|(name, _)| is_name(name.trim_end()));
            let (name, value) = parsed.ok_or(EnvironmentFileError::Line(index + 1))?;
            let value = unquoted(value.trim()).ok_or(EnvironmentFileError::Line(index + 1))?;
            Ok(Line::Variable { name: name.trim_end().to_owned(), value, text: text.to_owned() })
        });
        Ok(Self { lines: lines.collect::<Result<_, _>>()? })
    }

    /// The value in force: that of the last line with the name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables().filter(|(other, _)| *other == name).map(|(_, value)| value).last()
    }

    /// Every variable in force, sorted by its name.
    pub(crate) fn effective(&self) -> std::collections::BTreeMap<&str, &str> {
        self.variables().collect()
    }

    /// Sets a variable, at the place of its first line where it has one.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), EnvironmentFileError> {
        if !is_name(name) {
            return Err(EnvironmentFileError::Name(name.chars().take(80).flat_map(char::escape_default).collect()));
        }
        if value.chars().any(char::is_control) {
            return Err(EnvironmentFileError::Value(name.to_owned()));
        }
        let line = Line::Variable { name: name.into(), value: value.into(), text: format!("{name}={}", quoted(value)) };
        let place = self.lines.iter().position(|line| line.is(name)).unwrap_or(self.lines.len());
        self.unset(name);
        self.lines.insert(place, line);
        Ok(())
    }

    /// Removes a variable; false where it was not set.
    pub(crate) fn unset(&mut self, name: &str) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| !line.is(name));
        self.lines.len() < before
    }

    /// Replaces the file at once: whoever reads it sees the old or the new one whole. Returns after both are on disk.
    pub(crate) fn write(&self, path: &Path) -> Result<(), EnvironmentFileError> {
        self.replace(path).map_err(|source| EnvironmentFileError::Write { path: path.to_owned(), source })
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        // A link stays one.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        for line in &self.lines {
            writeln!(file, "{}", line.text())?;
        }
        let mut mode = NEW_MODE;
        if let Ok(old) = fs::metadata(&path) {
            mode = old.mode() & KEPT_RIGHTS;
            let new = file.as_file().metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                let (owner, group) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
                rustix::fs::fchown(file.as_file(), Some(owner), Some(group))?;
            }
        }
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    }

    fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| match line {
            Line::Variable { name, value, .. } => Some((name.as_str(), value.as_str())),
            Line::Other(_) => None,
        })
    }
}

impl Line {
    fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Variable { name, .. } if name == wanted)
    }

    fn text(&self) -> &str {
        match self {
            Self::Other(text) | Self::Variable { text, .. } => text,
        }
    }
}

/// Whether a variable can have this name.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A value as systemd and a shell read it back.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@,+=%-".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    let escaped = value.chars().flat_map(|c| "\"\\$`".contains(c).then_some('\\').into_iter().chain([c]));
    format!("\"{}\"", escaped.collect::<String>())
}

/// The value of a line; `None` where a quotation stays open or the line goes on.
fn unquoted(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut quotation = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quotation, c) {
            (Some(open), c) if c == open => quotation = None,
            (None, '"' | '\'') => quotation = Some(c),
            (Some('\''), c) => value.push(c),
            (Some(_), '\\') => match characters.next()? {
                escaped @ ('"' | '\\' | '$' | '`') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            (None, '\\') => value.push(characters.next()?),
            (_, c) => value.push(c),
        }
    }
    quotation.is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_way_through_the_file() {
        for value in ["", "plain", "two words", "a\"b'c\\d$e`f", "#no comment", "  edges  ", "ünïcode", "a=b;c", "\\"]
        {
            let mut file = EnvironmentFile::default();
            file.set("KEY", value).unwrap();
            let text = file.lines.iter().map(Line::text).collect::<Vec<_>>().join("\n");
            assert_eq!(EnvironmentFile::parse(&text).unwrap().get("KEY"), Some(value), "{text}");
        }
    }

    #[test]
    fn comments_stay_and_the_last_line_counts() {
        let mut file = EnvironmentFile::parse("# first\nA=1\n\nB='x y'\nA=2\n").unwrap();
        assert_eq!((file.get("A"), file.get("B")), (Some("2"), Some("x y")));
        file.set("A", "3").unwrap();
        let lines: Vec<&str> = file.lines.iter().map(Line::text).collect();
        assert_eq!(lines, ["# first", "A=3", "", "B='x y'"]);
        assert!(file.unset("A") && !file.unset("A"));
    }

    #[test]
    fn what_is_not_understood_is_not_rewritten() {
        for text in ["A=1 \\\n2", "A=\"open", "export A=1", "1A=2", "nothing"] {
            assert!(matches!(EnvironmentFile::parse(text), Err(EnvironmentFileError::Line(_))), "{text}");
        }
        let mut file = EnvironmentFile::default();
        assert!(file.set("A B", "x").is_err() && file.set("A", "x\ny").is_err());
    }
}
