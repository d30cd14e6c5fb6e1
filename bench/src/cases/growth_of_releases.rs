//! What the next release costs when so many are published already.

use std::time::Instant;

use crate::CommonArguments;
use crate::bench_server::{BenchServer, Durability};
use crate::cases::growth::Curve;
use crate::sample_releases::{BenchPublisher, Change, TreeArguments};
use subscriber::checkout::{Origin, into_cache};

const TREE: TreeArguments = TreeArguments { files: 3, file_bytes: 4096, change: Change::Patch };

/// Publishes until each size is reached, and then, in every round, one more: its publish, the move of the channel, and the
/// fetch of a node that has nothing.
pub(super) async fn costs_of_releases(common: &CommonArguments, sizes: &[u64]) -> anyhow::Result<Vec<Curve>> {
    let server = BenchServer::start(common.directory.as_deref(), Durability::Synced).await?;
    let mut publisher = BenchPublisher::new(&server.connection("bench growth").await?, TREE)?;
    let place = server.subdirectory("fetched")?;
    let mut publishing = Curve::new("publish of one more", "ms");
    let mut moving = Curve::new("promote of one more", "ms");
    let mut fetching = Curve::new("fetch of one more", "ms");
    let mut made = 0;
    for size in sizes {
        while made < *size {
            let release = publisher.publish().await?;
            publisher.promote(&release.published.tag).await?;
            made += 1;
        }
        for _ in 0..common.rounds {
            let release = publisher.publish().await?;
            publishing.add_time(*size, release.took);
            let begun = Instant::now();
            publisher.promote(&release.published.tag).await?;
            moving.add_time(*size, begun.elapsed());
            made += 1;

            let cache = place.join(made.to_string());
            let origin = Origin::Store { store: &publisher.store, published: &release.published, progress: &() };
            let begun = Instant::now();
            into_cache(&origin, &cache, None, false).await?;
            fetching.add_time(*size, begun.elapsed());
            std::fs::remove_dir_all(&cache)?;
        }
    }
    server.stop().await?;
    Ok(vec![publishing, moving, fetching])
}
