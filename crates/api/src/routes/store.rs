//! `/api/v1/store/*`: looking after what this node keeps.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use axum::Json;
use axum::extract::State;
use warren_content::BlockId;
use warren_content::store::VerifyReport;

use super::answer::{now, read_error, retrieve_error, store_error};
use super::blocking;
use crate::error::{ApiError, ErrorBody};
use crate::state::ApiState;
use crate::types::{Collected, Verified};

/// Most blocks of one document that are asked for in one repair.
const REPAIR_STEP: usize = 4096;

/// Reads every block again, checks it, and fetches what is damaged from peers.
#[utoipa::path(post, path = "/api/v1/store/verify", tag = "store",
    responses((status = 200, body = Verified), (status = 500, body = ErrorBody)))]
pub(crate) async fn verify(State(state): State<ApiState>) -> Result<Json<Verified>, ApiError> {
    let store = state.store.clone();
    let report = blocking(move || store.verify(|_| ControlFlow::Continue(())))
        .await?
        .map_err(read_error)?;
    let repaired = repair(&state, &report).await?;
    let damaged: BTreeSet<BlockId> = report
        .corrupt
        .iter()
        .chain(&report.missing)
        .copied()
        .collect();
    Ok(Json(Verified {
        blocks: report.blocks,
        bytes: report.bytes,
        repaired: damaged
            .intersection(&repaired)
            .map(ToString::to_string)
            .collect(),
        damaged: damaged.iter().map(ToString::to_string).collect(),
    }))
}

async fn repair(state: &ApiState, report: &VerifyReport) -> Result<BTreeSet<BlockId>, ApiError> {
    let mut repaired = BTreeSet::new();
    for document in &report.incomplete {
        // A repaired manifest may name further blocks that are missing.
        loop {
            let (store, document) = (state.store.clone(), *document);
            let missing = blocking(move || store.missing_blocks(document, REPAIR_STEP))
                .await?
                .map_err(read_error)?;
            if missing.is_empty() {
                break;
            }
            let outcome = state
                .retriever
                .repair(document, missing)
                .await
                .map_err(retrieve_error)?;
            for (block, reason) in &outcome.unavailable {
                tracing::warn!(%document, %block, "cannot repair: {reason}");
            }
            let progress = !outcome.repaired.is_empty();
            repaired.extend(outcome.repaired);
            if !progress {
                break;
            }
        }
    }
    Ok(repaired)
}

/// Gives back the space of blocks that no document needs.
#[utoipa::path(post, path = "/api/v1/store/gc", tag = "store",
    responses((status = 200, body = Collected), (status = 500, body = ErrorBody)))]
pub(crate) async fn gc(State(state): State<ApiState>) -> Result<Json<Collected>, ApiError> {
    let report = state.store.gc(now()).await.map_err(store_error)?;
    Ok(Json(Collected {
        blocks: report.blocks,
        bytes: report.bytes,
    }))
}
