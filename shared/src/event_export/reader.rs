//! Reading an export: what is handed out before the footer was reached is not proven yet.

use std::io::{self, BufRead, BufReader, Read};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{
    EXPORT_FORMAT, EXPORT_VERSION, EventLine, ExportError, ExportFooter, ExportHeader, ExportedEvent, FOOTER_START,
    MAX_LINE_BYTES,
};
use crate::digest::DigestBuilder;

/// Largest window a reader allocates for: 16 MiB, above what the writer's level uses.
const MAX_WINDOW_LOG: u32 = 24;
/// How a zstd frame begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Reads one export, compressed or not.
pub struct ExportReader<'a> {
    lines: Box<dyn BufRead + Send + 'a>,
    header: ExportHeader,
    footer: Option<ExportFooter>,
    digest: DigestBuilder,
    line: Vec<u8>,
    number: u64,
    events: u64,
}

impl<'a> ExportReader<'a> {
    /// Reads the header.
    pub fn begin(input: impl Read + Send + 'a) -> Result<Self, ExportError> {
        let mut input = BufReader::new(input);
        let compressed = input.fill_buf().map_err(ExportError::Input)?.starts_with(&ZSTD_MAGIC);
        let lines: Box<dyn BufRead + Send + 'a> = if compressed {
            let mut decoder = zstd::Decoder::with_buffer(input).map_err(ExportError::Input)?;
            decoder.window_log_max(MAX_WINDOW_LOG).map_err(ExportError::Input)?;
            Box::new(BufReader::new(decoder))
        } else {
            Box::new(input)
        };
        let header = ExportHeader {
            format: String::new(),
            version: 0,
            stream: String::new(),
            epoch: None,
            last_sequence: 0,
            exported_at: chrono::DateTime::UNIX_EPOCH,
        };
        let digest = DigestBuilder::default();
        let mut reader = Self { lines, header, footer: None, digest, line: Vec::new(), number: 0, events: 0 };
        if !reader.next_line()? {
            return Err(ExportError::NotAnExport);
        }
        reader.header = serde_json::from_slice(&reader.line).map_err(|_| ExportError::NotAnExport)?;
        if reader.header.format != EXPORT_FORMAT {
            return Err(ExportError::NotAnExport);
        }
        if reader.header.version != EXPORT_VERSION {
            return Err(ExportError::Version { actual: reader.header.version });
        }
        reader.digest.update(&reader.line);
        Ok(reader)
    }

    /// What the export says of itself.
    pub fn header(&self) -> &ExportHeader {
        &self.header
    }

    /// The footer, once [`ExportReader::next_event`] returned `None`: the export is whole and unaltered.
    pub fn footer(&self) -> Option<&ExportFooter> {
        self.footer.as_ref()
    }

    /// The next event; `None` after the last one, with the footer proven.
    pub fn next_event(&mut self) -> Result<Option<ExportedEvent>, ExportError> {
        if self.footer.is_some() {
            return Ok(None);
        }
        if !self.next_line()? {
            return Err(ExportError::Truncated { line: self.number });
        }
        if self.line.starts_with(FOOTER_START) {
            self.footer = Some(self.proven_footer()?);
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') {
            return Err(ExportError::Truncated { line: self.number });
        }
        self.digest.update(&self.line);
        self.events += 1;
        self.parse().map(Some)
    }

    fn parse(&self) -> Result<ExportedEvent, ExportError> {
        let line = self.number;
        let read: EventLine =
            serde_json::from_slice(&self.line).map_err(|source| ExportError::Line { line, source })?;
        let payload = match (read.payload, read.payload_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(text)) => BASE64_STANDARD.decode(text).map_err(|_| ExportError::Payload { line })?,
            (Some(_), Some(_)) | (None, None) => return Err(ExportError::Payload { line }),
        };
        Ok(ExportedEvent {
            stream_sequence: read.stream_sequence,
            stored_at: read.stored_at,
            subject: read.subject,
            message_id: read.message_id,
            payload,
        })
    }

    fn proven_footer(&mut self) -> Result<ExportFooter, ExportError> {
        let line = self.number;
        let footer: ExportFooter =
            serde_json::from_slice(&self.line).map_err(|source| ExportError::Line { line, source })?;
        let actual = std::mem::take(&mut self.digest).finish();
        if footer.sha256 != actual {
            return Err(ExportError::Digest { expected: footer.sha256, actual });
        }
        if footer.events != self.events {
            return Err(ExportError::Count { expected: footer.events, actual: self.events });
        }
        // Nothing covers the footer but itself: exactly one form of it is accepted.
        let mut own_form = serde_json::to_vec(&footer).map_err(|source| ExportError::Line { line, source })?;
        own_form.push(b'\n');
        if footer.end != EXPORT_FORMAT || own_form != self.line {
            return Err(ExportError::Footer { line });
        }
        if self.next_line()? {
            return Err(ExportError::BehindFooter);
        }
        Ok(footer)
    }

    /// Reads one line with its end; false where nothing is left.
    fn next_line(&mut self) -> Result<bool, ExportError> {
        self.line.clear();
        let number = self.number;
        let mut limited = self.lines.by_ref().take(MAX_LINE_BYTES as u64 + 1);
        limited.read_until(b'\n', &mut self.line).map_err(|error| {
            // What the decoder says of a frame without its end.
            if error.kind() == io::ErrorKind::UnexpectedEof {
                ExportError::Truncated { line: number }
            } else {
                ExportError::Input(error)
            }
        })?;
        if self.line.is_empty() {
            return Ok(false);
        }
        self.number += 1;
        if self.line.len() > MAX_LINE_BYTES {
            return Err(ExportError::LongLine { line: self.number });
        }
        Ok(true)
    }
}
