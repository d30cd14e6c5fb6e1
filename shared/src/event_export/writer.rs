//! Writing an export.

use std::io::Write;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::{EXPORT_FORMAT, EventLine, ExportError, ExportFooter, ExportHeader, ExportedEvent, MAX_LINE_BYTES};
use crate::digest::DigestBuilder;

/// An archive is written once and read from the network's far end: a little more time for a smaller file.
const LEVEL: i32 = 6;

/// Writes one export. Nothing is durable before the caller syncs the output it gets back.
pub struct ExportWriter<W: Write> {
    output: zstd::Encoder<'static, W>,
    digest: DigestBuilder,
    line: Vec<u8>,
    events: u64,
}

impl<W: Write> ExportWriter<W> {
    /// Begins with the header.
    pub fn begin(output: W, header: &ExportHeader) -> Result<Self, ExportError> {
        let mut encoder = zstd::Encoder::new(output, LEVEL).map_err(ExportError::Output)?;
        encoder.include_checksum(true).map_err(ExportError::Output)?;
        let mut writer = Self { output: encoder, digest: DigestBuilder::default(), line: Vec::new(), events: 0 };
        writer.write_line(header, 0)?;
        Ok(writer)
    }

    /// Writes the next event.
    pub fn write(&mut self, event: ExportedEvent) -> Result<(), ExportError> {
        let ExportedEvent { stream_sequence, stored_at, subject, message_id, payload } = event;
        let (payload, payload_base64) = match String::from_utf8(payload) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(BASE64_STANDARD.encode(error.as_bytes()))),
        };
        self.write_line(
            &EventLine { stream_sequence, stored_at, subject, message_id, payload, payload_base64 },
            stream_sequence,
        )?;
        self.events += 1;
        Ok(())
    }

    fn write_line(&mut self, line: &impl Serialize, stream_sequence: u64) -> Result<(), ExportError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line).map_err(|error| ExportError::Output(error.into()))?;
        if self.line.len() > MAX_LINE_BYTES {
            return Err(ExportError::TooLarge { stream_sequence });
        }
        self.line.push(b'\n');
        self.digest.update(&self.line);
        self.output.write_all(&self.line).map_err(ExportError::Output)
    }

    /// Writes the footer and returns the output with all bytes written to it, not flushed.
    pub fn finish(mut self) -> Result<(W, ExportFooter), ExportError> {
        let sha256 = std::mem::take(&mut self.digest).finish();
        let footer = ExportFooter { end: EXPORT_FORMAT.to_owned(), events: self.events, sha256 };
        self.write_line(&footer, 0)?;
        let output = self.output.finish().map_err(ExportError::Output)?;
        Ok((output, footer))
    }
}
