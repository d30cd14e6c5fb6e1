//! Putting an object through an election: a put that fails because nobody leads is begun again from the first byte.

use std::io;

use tokio::io::AsyncRead;

use super::object_meta::{NewObject, StoredObject};
use super::{PutError, ReleaseStore, TransferProgress};
use crate::election::{ELECTION_PATIENCE, NoLeader, Repeated, may_pass};

impl ReleaseStore {
    /// Stores an object like [`ReleaseStore::put`]; where a cluster elects a leader meanwhile, once more from the beginning,
    /// at most for [`ELECTION_PATIENCE`]. `content` is asked for the object's bytes before each attempt. An attempt whose
    /// end was unknown may turn out as [`PutError::NameTaken`] by that same object.
    pub async fn put_through_elections<C: AsyncRead + Unpin + Send>(
        &self,
        object: &NewObject,
        mut content: impl FnMut() -> io::Result<C>,
        progress: &dyn TransferProgress,
    ) -> Result<StoredObject, PutError> {
        let mut repeated = Repeated::at_most(ELECTION_PATIENCE);
        loop {
            let bytes = content().map_err(|source| PutError::Content { name: object.name.clone(), source })?;
            let error = match self.put(object.clone(), bytes, progress).await {
                Err(error) if self.may_pass(&error) => error,
                ended => return ended,
            };
            tracing::debug!(object = object.name, %error, "the cluster has no leader yet; put again");
            if !repeated.again(&self.connection).await {
                return Err(no_leader(error, &repeated));
            }
        }
    }

    fn may_pass(&self, error: &PutError) -> bool {
        match error {
            PutError::Chunk { source, .. } | PutError::Meta { source, .. } | PutError::Unknown { source, .. } => {
                may_pass(source, self.connection.is_clustered())
            }
            // Chunks that were sent while one leader followed another.
            PutError::OutOfOrder { .. } => self.connection.is_clustered(),
            PutError::NameTaken { .. }
            | PutError::NameDeleted { .. }
            | PutError::NotIdentical { .. }
            | PutError::Content { .. }
            | PutError::Existing { .. } => false,
        }
    }
}

/// Says of the cluster what is known after the last attempt.
fn no_leader(error: PutError, repeated: &Repeated) -> PutError {
    let of = |name: &str, source| {
        NoLeader { subject: format!("object {name}"), waited: repeated.waited(), source: Box::new(source) }.into()
    };
    match error {
        PutError::Chunk { name, chunk, source } => PutError::Chunk { source: of(&name, source), name, chunk },
        PutError::Meta { name, source } => PutError::Meta { source: of(&name, source), name },
        PutError::Unknown { name, source } => PutError::Unknown { source: of(&name, source), name },
        other @ (PutError::NameTaken { .. }
        | PutError::NameDeleted { .. }
        | PutError::NotIdentical { .. }
        | PutError::Content { .. }
        | PutError::OutOfOrder { .. }
        | PutError::Existing { .. }) => other,
    }
}
