//! Downloading an archive together with other nodes that want it at the same moment.
//!
//! What others have asked for is believed no more than anything else: the digest of the whole decides, before anything is
//! decoded. Where it is another one, the archive is read again from the store alone.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};

use shared::daemon::ErrorChain;
use shared::daemon::crash_point::CrashPoint;
use shared::digest::Sha256Digest;
use shared::event::ObjectReference;
use streams::release_store::{FetchError, PlacedChunk, ReleaseStore, SharedReadError, SharedReading, TransferProgress};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::placed_file::PlacedFile;
use super::{StageFailure, WRITE_QUEUE, download};
use crate::metrics::count_multicast;
use crate::staging::StagingDirectory;

/// How reading together ended.
enum Ended {
    /// Everything arrived, with this digest, and so many bytes of it because of others.
    Whole { digest: Sha256Digest, file: File, from_others: u64 },
    /// What arrived fits no such object.
    Misfit(SharedReadError),
}

/// Streams an archive into the staging directory, together with other nodes where that is worthwhile. Returns once all of
/// it was received with the announced size and digest.
pub(super) async fn download_together(
    store: &ReleaseStore,
    object: &ObjectReference,
    staging: StagingDirectory,
    progress: &dyn TransferProgress,
) -> Result<(StagingDirectory, File), StageFailure> {
    let Some(mut reading) = store.open_together(object).await? else {
        return download(store, object, staging, progress).await;
    };
    let (staging, ended) = receive(&mut reading, staging, progress).await?;
    drop(reading);
    match ended {
        Ended::Whole { digest, file, .. } if digest == object.sha256 => return Ok((staging, file)),
        Ended::Whole { digest, from_others: 0, .. } => {
            let (object, expected) = (object.name.clone(), object.sha256);
            return Err(FetchError::DigestMismatch { object, expected, actual: digest }.into());
        }
        Ended::Whole { digest, from_others, .. } => tracing::warn!(
            object = object.name, actual = %digest, expected = %object.sha256, from_others,
            "what was read together with other nodes is not the announced archive; it is read again alone"
        ),
        Ended::Misfit(error) => tracing::warn!(
            object = object.name, error = %ErrorChain(&error),
            "the archive cannot be read together with other nodes; it is read again alone"
        ),
    }
    store.read_alone_for_a_while();
    download(store, object, staging, progress).await
}

async fn receive(
    reading: &mut SharedReading,
    staging: StagingDirectory,
    progress: &dyn TransferProgress,
) -> Result<(StagingDirectory, Ended), StageFailure> {
    let (chunks, mut queue) = mpsc::channel::<PlacedChunk>(WRITE_QUEUE);
    let writing = spawn_blocking(move || {
        let mut file = PlacedFile::new(staging.create_object()?);
        while let Some(chunk) = queue.blocking_recv() {
            file.write(chunk.offset, &chunk.bytes).map_err(StageFailure::Archive)?;
            CrashPoint::ArchiveChunkWritten.reach();
        }
        CrashPoint::ArchiveWritten.reach();
        let (mut file, digest) = file.finish();
        file.seek(SeekFrom::Start(0)).map_err(StageFailure::Archive)?;
        Ok::<_, StageFailure>((staging, file, digest))
    });
    let mut from_others = 0;
    let received = loop {
        match reading.next().await {
            Ok(Some(chunk)) => {
                progress.advanced(chunk.received);
                if chunk.from_others {
                    from_others += chunk.bytes.len() as u64;
                    count_multicast(chunk.bytes.len() as u64);
                }
                // A writer that ended early says why below.
                if chunks.send(chunk).await.is_err() {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    drop(chunks);
    let (staging, file, digest) = writing.await??;
    match received {
        Ok(()) => Ok((staging, Ended::Whole { digest, file, from_others })),
        Err(SharedReadError::Failed(error)) => Err(error.into()),
        Err(error @ SharedReadError::Misfit { .. }) => Ok((staging, Ended::Misfit(error))),
    }
}
