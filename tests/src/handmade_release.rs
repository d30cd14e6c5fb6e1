//! A release put together step by step with the libraries, so that a test can act between two steps.

use std::time::Duration;

use chrono::Utc;
use shared::archive::write_archive;
use shared::digest::Sha256Digest;
use shared::event::{BundleEvent, DeltaReference, Hold, Promoted, PromotionCause, Published, Trigger, Withdrawn};
use shared::event_chain::EventDraft;
use shared::event_type::EventType;
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use shared::limits::ReleaseLimits;
use shared::release::{FileMode, Release, ReleaseFile};
use shared::source::Source;
use shared::subjects::{EventSubject, Scope, archive_object, delta_object, release_object};
use streams::event_log::{EventLog, Expectation, Reader};
use streams::event_writer::{EventWriter, new_event_id};
use streams::release_store::{NewObject, ReleaseStore, StoredObject};

const PATIENCE: Duration = Duration::from_secs(30);

/// A release whose objects are in the bucket and which nobody has announced.
#[derive(Debug)]
pub struct HandmadeRelease {
    release: Release,
    archive: StoredObject,
    description: StoredObject,
    deltas: Vec<DeltaReference>,
}

impl HandmadeRelease {
    /// Stores archive and `release.json` of these files.
    pub async fn stored(store: &ReleaseStore, bundle: &str, tag: &str, files: &[(&str, Vec<u8>)]) -> Self {
        let release = release_of(bundle, tag, files);
        let open = |file: &ReleaseFile| {
            let found = files.iter().find(|(path, _)| *path == file.path.as_str());
            Ok(found.map(|(_, content)| content.as_slice()).unwrap_or_default())
        };
        let archive = write_archive(&release, open, Vec::new()).expect("the archive is written to memory");
        let description = release.to_json().expect("a release has a JSON form");
        Self::of_objects(store, release, &archive, &description).await
    }

    /// Stores these bytes as archive and `release.json` of a release, whatever they are.
    pub async fn of_objects(store: &ReleaseStore, release: Release, archive: &[u8], description: &[u8]) -> Self {
        let put = async |name: String, content: &[u8]| {
            store.put(NewObject::named(name), content, &()).await.expect("the bucket takes the object")
        };
        let archive = put(archive_object(release.bundle(), release.tag()), archive).await;
        let description = put(release_object(release.bundle(), release.tag()), description).await;
        Self { release, archive, description, deltas: Vec::new() }
    }

    /// Stores these bytes as a delta from a release, whatever they are, for the announcement to name.
    pub async fn with_delta(mut self, store: &ReleaseStore, base: &str, delta: &[u8]) -> Self {
        let base_tag: Tag = base.parse().expect("a valid tag");
        let name = delta_object(self.release.bundle(), self.release.tag(), &base_tag);
        let stored = store.put(NewObject::named(name), delta, &()).await.expect("the bucket takes the object");
        self.deltas.push(DeltaReference { base_tag, object: stored.reference() });
        self
    }

    /// Names of everything it has in the bucket.
    pub fn objects(&self) -> [&StoredObject; 2] {
        [&self.archive, &self.description]
    }

    /// Its identity.
    pub fn tree_digest(&self) -> Sha256Digest {
        self.release.tree_digest()
    }

    /// Announces it and moves no channel.
    pub async fn only_announced(&self, log: &EventLog) {
        let mut writer = EventWriter::in_memory(Source::Publisher(actor()));
        let subject = EventSubject::release_announcement(self.release.bundle(), self.release.tag());
        append(&mut writer, log, BundleEvent::Published(self.published()), &subject).await;
    }

    /// Moves the channel `latest` to it.
    pub async fn promoted(&self, log: &EventLog) {
        let mut writer = EventWriter::in_memory(Source::Publisher(actor()));
        let channel: ChannelName = "latest".parse().expect("a valid name");
        let subject = EventSubject::channel_head(self.release.bundle(), &channel);
        let event = BundleEvent::Promoted(promoted(&self.release, &channel));
        append(&mut writer, log, event, &subject).await;
    }

    /// Withdraws it and moves no channel.
    pub async fn withdrawn(&self, log: &EventLog) {
        let mut writer = EventWriter::in_memory(Source::Publisher(actor()));
        let (bundle, tag) = (self.release.bundle().clone(), self.release.tag().clone());
        let subject = EventSubject::new(EventType::Withdrawn, bundle.clone(), Scope::Release(tag.clone()));
        let withdrawn = Withdrawn {
            bundle,
            tag,
            tree_digest: self.release.tree_digest(),
            content_digest: self.release.content_digest(),
            reason: "it breaks everything".to_owned(),
            actor: actor(),
        };
        append(&mut writer, log, BundleEvent::Withdrawn(withdrawn), &subject).await;
    }

    /// Announces it, and moves the channel `latest` to it.
    pub async fn announced(&self, log: &EventLog) {
        self.announced_and_promoted_as(log, self.tree_digest()).await;
    }

    /// The same with a head that names this tree, whatever was announced.
    pub async fn announced_and_promoted_as(&self, log: &EventLog, tree_digest: Sha256Digest) {
        let mut writer = EventWriter::in_memory(Source::Publisher(actor()));
        let bundle = self.release.bundle();
        let published = BundleEvent::Published(self.published());
        append(&mut writer, log, published, &EventSubject::release_announcement(bundle, self.release.tag())).await;
        let channel: ChannelName = "latest".parse().expect("a valid name");
        let promoted = BundleEvent::Promoted(Promoted { tree_digest, ..promoted(&self.release, &channel) });
        append(&mut writer, log, promoted, &EventSubject::channel_head(bundle, &channel)).await;
    }

    fn published(&self) -> Published {
        Published {
            bundle: self.release.bundle().clone(),
            tag: self.release.tag().clone(),
            tree_digest: self.release.tree_digest(),
            content_digest: self.release.content_digest(),
            files: self.release.files().len() as u64,
            total_bytes: self.release.total_bytes(),
            archive: self.archive.reference(),
            release: self.description.reference(),
            deltas: self.deltas.clone(),
            git: None,
            trigger: Trigger::Local,
            actor: actor(),
        }
    }
}

/// A release of these files. The content digest of contracts is that of their `bundle.json`.
pub fn release_of(bundle: &str, tag: &str, files: &[(&str, Vec<u8>)]) -> Release {
    let bundle: BundleName = bundle.parse().expect("a valid bundle name");
    let tag: Tag = tag.parse().expect("a valid tag");
    let content = files.iter().find(|(path, _)| *path == "bundle.json").map(|(_, content)| Sha256Digest::of(content));
    let listed = files.iter().map(|(path, content)| ReleaseFile {
        path: path.parse().expect("a valid path"),
        size: content.len() as u64,
        mode: FileMode::Plain,
        sha256: Sha256Digest::of(content),
    });
    Release::new(bundle, tag, content, listed.collect(), &ReleaseLimits::default()).expect("a valid release")
}

/// The three files of a contracts release with this text in its only schema.
pub fn contracts_files(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bundle = format!(
        "{{\n  \"apiContracts\": {{}},\n  \"schemas\": {{\n    \"a.json\": \"{text}\"\n  }},\n  \"version\": \"1.0.0\",\n  \"wit\": {{}}\n}}\n"
    );
    let digest = Sha256Digest::of(bundle.as_bytes());
    let manifest = format!(
        "{{\"bundle\":\"bundle.json\",\"bundle_sha256\":\"{digest}\",\"git\":{{\"sha\":\"{}\"}},\
         \"timestamp\":\"2025-09-21T06:00:00Z\",\"trigger\":\"local\",\"version\":\"1.0.0\"}}\n",
        "0".repeat(40)
    );
    vec![
        ("bundle.json", bundle.into_bytes()),
        ("bundle.sha256", format!("{digest}  bundle.json\n").into_bytes()),
        ("manifest.json", manifest.into_bytes()),
    ]
}

/// What moves a channel to a release.
pub fn promoted(release: &Release, channel: &ChannelName) -> Promoted {
    Promoted {
        bundle: release.bundle().clone(),
        channel: channel.clone(),
        tag: release.tag().clone(),
        tree_digest: release.tree_digest(),
        previous_tag: None,
        cause: PromotionCause::Promote,
        hold: Hold::None,
        reason: None,
        actor: actor(),
    }
}

/// A new event that is not numbered yet.
pub fn draft(event: BundleEvent) -> EventDraft {
    EventDraft { id: new_event_id(), time: Utc::now(), event }
}

async fn append(writer: &mut EventWriter, log: &EventLog, event: BundleEvent, subject: &EventSubject) {
    let last = log.last(subject, Reader::Leader).await.expect("the log can be read");
    let expected = Expectation::OnOwnSubject(last.map_or(0, |last| last.stream_sequence));
    writer.append(log, &draft(event), expected, PATIENCE).await.expect("the log takes the event");
}

fn actor() -> ActorName {
    "tests".parse().expect("a valid name")
}
