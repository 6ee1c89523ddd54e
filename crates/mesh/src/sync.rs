//! The sync protocol `/warren/sync/1.0.0`: one request, one answer, both CBOR.
//!
//! On the wire a request is a map with its `kind` and the fields of that kind; an answer is a map
//! with `error`, or with the fields of the kind. Fields nobody knows are ignored and missing ones
//! are empty, so kinds and fields can be added; a kind nobody knows is answered with an error.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use warren_identity::{NodeRecord, Signed};

use crate::core::gossip::Announcement;

/// No request is longer.
pub(crate) const MAX_REQUEST_BYTES: u64 = 256 * 1024;

/// No answer is longer: a revocation list may have one MiB.
pub(crate) const MAX_RESPONSE_BYTES: u64 = 4 * 1024 * 1024;

/// Documents one request may ask for.
pub const MAX_HAVE_DOCUMENTS: usize = 1_024;

/// Members one answer may name.
pub(crate) const MAX_MEMBERS: usize = 512;

/// A revocation list by the hash of its CA's key, and its number.
pub type ListNumber = ([u8; 32], u64);

/// What one member asks another.
#[derive(Debug, Clone)]
pub enum SyncRequest {
    /// Which of these documents it holds whole; at most [`MAX_HAVE_DOCUMENTS`].
    Have {
        /// Document ids as text.
        documents: Vec<String>,
    },
    /// Its revocation lists that are newer than these.
    Revocations {
        /// What we have.
        have: Vec<ListNumber>,
    },
    /// Takes our record and gives its own.
    Record {
        /// Ours.
        record: Arc<Signed<NodeRecord>>,
    },
    /// The members it knows.
    Members,
}

/// An answer.
#[derive(Debug, Clone)]
pub enum SyncResponse {
    /// One entry per document asked for, in order.
    Have(Vec<bool>),
    /// Lists, DER.
    Revocations(Vec<Bytes>),
    /// The record of the node that answers.
    Record(Arc<Signed<NodeRecord>>),
    /// Records of members, each with the certificates that prove whose it is.
    Members(Vec<MemberProof>),
}

/// A member's record and certificates; to be verified before it is believed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberProof(pub(crate) Announcement);

const HAVE: &str = "have";
const REVOCATIONS: &str = "revocations";
const RECORD: &str = "record";
const MEMBERS: &str = "members";

/// A request as it is sent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WireRequest {
    kind: String,
    documents: Vec<String>,
    lists: Vec<ListNumber>,
    record: Option<Signed<NodeRecord>>,
}

/// An answer as it is sent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WireResponse {
    kind: String,
    error: Option<String>,
    /// One bit per document, the first in the lowest bit of the first byte.
    have: Bytes,
    count: usize,
    lists: Vec<Bytes>,
    record: Option<Signed<NodeRecord>>,
    members: Vec<MemberProof>,
}

impl From<SyncRequest> for WireRequest {
    fn from(request: SyncRequest) -> Self {
        match request {
            SyncRequest::Have { documents } => Self {
                kind: HAVE.into(),
                documents,
                ..Self::default()
            },
            SyncRequest::Revocations { have } => Self {
                kind: REVOCATIONS.into(),
                lists: have,
                ..Self::default()
            },
            SyncRequest::Record { record } => Self {
                kind: RECORD.into(),
                record: Some(Signed::clone(&record)),
                ..Self::default()
            },
            SyncRequest::Members => Self {
                kind: MEMBERS.into(),
                ..Self::default()
            },
        }
    }
}

impl WireRequest {
    /// What is asked, or the words of the error to answer with.
    pub(crate) fn into_request(self) -> Result<SyncRequest, String> {
        match self.kind.as_str() {
            HAVE if self.documents.len() > MAX_HAVE_DOCUMENTS => Err(format!(
                "{} documents are more than one request may ask for ({MAX_HAVE_DOCUMENTS})",
                self.documents.len()
            )),
            HAVE => Ok(SyncRequest::Have {
                documents: self.documents,
            }),
            REVOCATIONS => Ok(SyncRequest::Revocations { have: self.lists }),
            RECORD => match self.record {
                Some(record) => Ok(SyncRequest::Record {
                    record: Arc::new(record),
                }),
                None => Err("a record request without a record".into()),
            },
            MEMBERS => Ok(SyncRequest::Members),
            other => Err(format!(
                "unknown kind of request `{}`",
                other.chars().take(32).collect::<String>()
            )),
        }
    }
}

impl WireResponse {
    pub(crate) fn error(error: impl Into<String>) -> Self {
        Self {
            error: Some(error.into()),
            ..Self::default()
        }
    }

    /// The answer, or the words of the other side's error.
    pub(crate) fn into_response(self) -> Result<SyncResponse, String> {
        if let Some(error) = self.error {
            return Err(error.chars().take(256).collect());
        }
        match self.kind.as_str() {
            HAVE if self.count <= MAX_HAVE_DOCUMENTS && self.have.len() * 8 >= self.count => {
                let held = (0..self.count).map(|i| self.have[i / 8] >> (i % 8) & 1 == 1);
                Ok(SyncResponse::Have(held.collect()))
            }
            REVOCATIONS => Ok(SyncResponse::Revocations(self.lists)),
            RECORD => self
                .record
                .map(|record| SyncResponse::Record(Arc::new(record)))
                .ok_or_else(|| "an answer without the record".into()),
            MEMBERS => Ok(SyncResponse::Members(self.members)),
            _ => Err("an answer that makes no sense".into()),
        }
    }
}

impl From<SyncResponse> for WireResponse {
    fn from(response: SyncResponse) -> Self {
        match response {
            SyncResponse::Have(held) => {
                let mut bits = vec![0u8; held.len().div_ceil(8)];
                for (i, _) in held.iter().enumerate().filter(|(_, held)| **held) {
                    bits[i / 8] |= 1 << (i % 8);
                }
                Self {
                    kind: HAVE.into(),
                    have: bits.into(),
                    count: held.len(),
                    ..Self::default()
                }
            }
            SyncResponse::Revocations(lists) => Self {
                kind: REVOCATIONS.into(),
                lists,
                ..Self::default()
            },
            SyncResponse::Record(record) => Self {
                kind: RECORD.into(),
                record: Some(Signed::clone(&record)),
                ..Self::default()
            },
            SyncResponse::Members(members) => Self {
                kind: MEMBERS.into(),
                members,
                ..Self::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_held_documents_when_sent_as_bits_then_they_come_back_in_order() {
        for length in [0, 1, 7, 8, 9, 1_024] {
            let held: Vec<bool> = (0..length).map(|i| i % 3 == 0).collect();
            let wire = WireResponse::from(SyncResponse::Have(held.clone()));
            let Ok(SyncResponse::Have(back)) = wire.into_response() else {
                panic!("another kind came back");
            };
            assert_eq!(back, held);
        }
    }

    #[test]
    fn given_fewer_bits_than_announced_when_read_then_it_is_an_error() {
        let wire = WireResponse {
            kind: HAVE.into(),
            count: 9,
            have: Bytes::from_static(&[0xff]),
            ..WireResponse::default()
        };
        assert!(wire.into_response().is_err());
    }

    #[test]
    fn given_an_unknown_kind_when_read_then_the_answer_names_it() {
        let wire = WireRequest {
            kind: "teleport".into(),
            ..WireRequest::default()
        };
        assert_eq!(
            wire.into_request().unwrap_err(),
            "unknown kind of request `teleport`"
        );
    }

    #[test]
    fn given_too_many_documents_when_read_then_it_is_an_error() {
        let wire = WireRequest {
            kind: HAVE.into(),
            documents: vec![String::new(); MAX_HAVE_DOCUMENTS + 1],
            ..WireRequest::default()
        };
        assert!(wire.into_request().is_err());
    }
}
