//! Checking files side by side, on a few threads.
//!
//! Which of several failures is told does not depend on the threads: the one of the first file in the list.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::VerifyError;
use super::tree::{CheckedFile, FileCheck, TreeVerification};
use crate::release::Release;

/// More threads would wait for the disk or for whoever hands over the files.
const MOST_THREADS: usize = 4;
/// Trees below both sizes are checked sooner than threads are started.
const FEW_FILES: usize = 32;
const FEW_BYTES: u64 = 1 << 20;

/// Whether checking goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It does.
    NotYet,
    /// A file failed: what comes behind it is not looked at.
    Early,
}

/// How many threads to check a release with; 0 stands for the caller's own.
pub(crate) fn threads_for(release: &Release) -> usize {
    if release.files().len() < FEW_FILES && release.total_bytes() < FEW_BYTES {
        return 0;
    }
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    processors.min(MOST_THREADS).min(release.files().len())
}

/// The failure that is told.
type First = Mutex<Option<(usize, VerifyError)>>;

/// Runs `produce` on this thread, which hands over checks with what is needed for them, and `check` on each of them: on
/// `threads` threads, or at once where there are none. At most as many checks as threads wait. Returns once all that was
/// handed over has ended. A failure of `produce` is that of the file whose check it handed over last, or would next.
pub(crate) fn check_side_by_side<'a, T: Send>(
    verification: &mut TreeVerification<'a>,
    threads: usize,
    check: impl Fn(FileCheck<'a>, T) -> Result<CheckedFile<'a>, VerifyError> + Sync,
    produce: impl FnOnce(
        &mut TreeVerification<'a>,
        &mut dyn FnMut(FileCheck<'a>, T) -> Ended,
    ) -> Result<(), (usize, VerifyError)>,
) -> Result<(), VerifyError> {
    let (first, failed) = (First::default(), AtomicBool::new(false));
    let evidence = Mutex::new(Vec::new());
    let run = |given: FileCheck<'a>, content: T| {
        let index = given.index;
        match check(given, content) {
            Ok(checked) => evidence.lock().unwrap_or_else(PoisonError::into_inner).push(checked),
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                note(&first, index, error);
            }
        }
    };
    let ended = || if failed.load(Ordering::Relaxed) { Ended::Early } else { Ended::NotYet };
    let produced = if threads == 0 {
        produce(verification, &mut |given, content| {
            run(given, content);
            ended()
        })
    } else {
        let (sender, receiver) = sync_channel(threads);
        let receiver = Mutex::new(receiver);
        thread::scope(|scope| {
            for _ in 0..threads {
                // Borrowed, because all of them share it.
                let (run, receiver) = (&run, &receiver);
                scope.spawn(move || {
                    while let Some((given, content)) = next(receiver) {
                        run(given, content);
                    }
                });
            }
            // Moved in, so that the threads end when it does.
            let sender = sender;
            produce(verification, &mut |given, content| {
                // They take everything until this end is dropped.
                let taken = sender.send((given, content)).is_ok();
                if taken { ended() } else { Ended::Early }
            })
        })
    };
    let mut told = first.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Where the content broke off, the file fails too; why it broke off says more.
    if let Err((index, error)) = produced
        && told.as_ref().is_none_or(|(known, _)| index <= *known)
    {
        told = Some((index, error));
    }
    for checked in evidence.into_inner().unwrap_or_else(PoisonError::into_inner) {
        verification.accept(&checked);
    }
    told.map_or(Ok(()), |(_, error)| Err(error))
}

fn next<T>(receiver: &Mutex<Receiver<T>>) -> Option<T> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn note(first: &First, index: usize, error: VerifyError) {
    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
    if first.as_ref().is_none_or(|(known, _)| index < *known) {
        *first = Some((index, error));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;

    use proptest::prelude::*;

    use super::*;
    use crate::digest::Sha256Digest;
    use crate::limits::ReleaseLimits;
    use crate::release::{FileMode, ReleaseFile};
    use crate::verification::VerificationFailure;

    fn release(files: usize) -> Release {
        let files = (0..files).map(|index| ReleaseFile {
            path: format!("{index:05}").parse().unwrap(),
            size: content(index).len() as u64,
            mode: FileMode::Plain,
            sha256: Sha256Digest::of(&content(index)),
        });
        let (bundle, tag) = ("policies".parse().unwrap(), "v1".parse().unwrap());
        Release::new(bundle, tag, None, files.collect(), &ReleaseLimits::default()).unwrap()
    }

    fn content(index: usize) -> Vec<u8> {
        vec![u8::try_from(index % 251).unwrap(); index * 7 % 400]
    }

    #[expect(clippy::needless_pass_by_value, reason = "as content is handed over")]
    fn compare(check: FileCheck<'_>, bytes: Vec<u8>) -> Result<CheckedFile<'_>, VerifyError> {
        check.copy(&mut &bytes[..], io::sink())
    }

    /// Checks a release of which some files are wrong, and some are never handed over. Names the file that is told.
    fn check(
        release: &Release,
        threads: usize,
        wrong: &BTreeSet<usize>,
        skipped: &BTreeSet<usize>,
    ) -> Result<(), String> {
        let mut verification = TreeVerification::new(release);
        let checked = check_side_by_side(&mut verification, threads, compare, |verification, hand_over| {
            while let Some(check) = verification.next_check() {
                let index = check.index;
                let mut bytes = content(index);
                if wrong.contains(&index) {
                    bytes.push(1);
                }
                if !skipped.contains(&index) && hand_over(check, bytes) == Ended::Early {
                    break;
                }
            }
            Ok(())
        });
        let name = |error: VerifyError| match error {
            VerifyError::Refused(failure) => failure.item,
            error @ (VerifyError::Read { .. } | VerifyError::Write { .. }) => panic!("{error}"),
        };
        checked.map_err(name)?;
        verification.finish().map(|_| ()).map_err(|failure| failure.item)
    }

    proptest! {
        #[test]
        fn the_first_wrong_file_is_named_whatever_the_threads(
            files in 1_usize..80,
            threads in 0_usize..6,
            wrong in prop::collection::btree_set(0_usize..80, 0..4),
            skipped in prop::collection::btree_set(0_usize..80, 0..2),
        ) {
            let release = release(files);
            let skipped: BTreeSet<usize> = skipped.difference(&wrong).copied().collect();
            // What is wrong ends it; what is missing shows only at the end.
            let first = wrong.range(..files).next().or(skipped.range(..files).next());
            let expected = first.map_or(Ok(()), |first| Err(format!("{first:05}")));
            prop_assert_eq!(check(&release, threads, &wrong, &skipped), expected);
        }
    }

    #[test]
    fn a_failure_of_the_source_counts_where_it_stands() {
        let release = release(10);
        for (threads, wrong, expected) in [(0, 3, "00003"), (3, 3, "00003"), (0, 9, "source"), (3, 9, "source")] {
            let mut verification = TreeVerification::new(&release);
            let error = check_side_by_side(&mut verification, threads, compare, |verification, hand_over| {
                while let Some(check) = verification.next_check() {
                    let index = check.index;
                    let bytes = if index == wrong { vec![1; 9] } else { content(index) };
                    if index == 6 {
                        return Err((6, VerificationFailure::rule("source", "", "").into()));
                    }
                    if hand_over(check, bytes) == Ended::Early {
                        break;
                    }
                }
                Ok(())
            });
            let Err(VerifyError::Refused(failure)) = error else { panic!("{error:?}") };
            assert_eq!(failure.item, expected);
            assert!(verification.finish().is_err());
        }
    }

    #[test]
    fn small_trees_start_no_threads() {
        assert_eq!(threads_for(&release(3)), 0);
        assert!(threads_for(&release(100)) >= 1);
    }
}
