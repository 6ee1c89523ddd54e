//! A document's record, asked of those that hold the document.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::timeout;
use tracing::debug;
use warren_identity::{PeerId, Signed};

use super::Context;
use crate::core::id::DocumentId;
use crate::core::record::DocumentRecord;

/// How long a record is looked for where nothing else is: a holder that answers does so much sooner, and nobody waits
/// longer for a document that is here.
const PATIENCE: Duration = Duration::from_secs(3);
/// Holders asked for one record at most. Most have it; that many without are no accident.
const MAX_ASKED: usize = 16;
/// Of these, how many at once.
const ASKED_AT_ONCE: usize = 4;

/// Asks the holders of `document` until one has its record; `None` if none of them has, in good time.
pub(super) async fn seek(
    context: &Context,
    document: DocumentId,
) -> Option<Signed<DocumentRecord>> {
    let asked = async {
        let holders = context.providers.find(document.into()).await;
        let answers = stream::iter(holders.into_iter().take(MAX_ASKED))
            .map(|peer| ask(context, peer, document))
            .buffer_unordered(ASKED_AT_ONCE)
            .filter_map(std::future::ready);
        Box::pin(answers).next().await
    };
    timeout(PATIENCE, asked).await.ok().flatten()
}

async fn ask(
    context: &Context,
    peer: PeerId,
    document: DocumentId,
) -> Option<Signed<DocumentRecord>> {
    let client = match context.peers.client(peer).await {
        Ok(client) => client,
        Err(error) => {
            debug!(%peer, %error, "a holder cannot be asked for a record");
            return None;
        }
    };
    client.record(document).await.unwrap_or_else(|error| {
        debug!(%error, "the document's record is not to be had from this peer");
        None
    })
}
