//! `/api/v1/documents`, `/api/v1/directories` and `/chunks/{cid}`: content in and out.

use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use jiff::Timestamp;
use tokio_util::io::StreamReader;
use warren_content::store::{Cursor, DocumentInfo, Origin, PutOptions, PutReceipt, Retention};
use warren_content::{BlockId, ChunkId, DocumentId};
use warren_identity::UnixMillis;

use super::answer::{
    content_headers, not_modified, now, put_error, read_error, retrieve_error, store_error,
};
use super::{archive, blocking};
use crate::error::{ApiError, ErrorBody};
use crate::range::{Selection, select};
use crate::state::{ApiState, Held};
use crate::types::{Document, Documents, DocumentsQuery, PutQuery, Stored};

/// Documents on a page when nothing is said.
const DEFAULT_DOCUMENTS: usize = 100;
/// Most documents on a page.
const MAX_DOCUMENTS: usize = 1000;

/// Stores the request's body as one document. It is durable when the answer comes.
#[utoipa::path(post, path = "/api/v1/documents", params(PutQuery), tag = "documents",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = Stored), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub(crate) async fn put(
    State(state): State<ApiState>,
    query: Result<Query<PutQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    let options = put_options(query)?;
    must_store(&state)?;
    let receipt = state
        .store
        .put(reader(body), options, &state.key)
        .await
        .map_err(put_error)?;
    Ok(stored(&state, receipt, 0))
}

/// Stores a folder, sent as a tar stream, as one document. It is durable when the answer comes.
#[utoipa::path(post, path = "/api/v1/directories", params(PutQuery), tag = "documents",
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 201, body = Stored), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 507, body = ErrorBody)))]
pub(crate) async fn put_directory(
    State(state): State<ApiState>,
    query: Result<Query<PutQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, ApiError> {
    let options = put_options(query)?;
    must_store(&state)?;
    let put = archive::put(&state.store, reader(body), options, &state.key).await?;
    Ok(stored(&state, put.receipt, put.skipped_unlisted))
}

/// Without the role a node keeps what it reads and serves nobody: what is put there nobody else could get.
fn must_store(state: &ApiState) -> Result<(), ApiError> {
    if state.facts.roles.iter().any(|role| role == "storage") {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "no_storage",
        "this node does not run the role storage, so nobody could get a document from it: put it on a node that does, or add `storage` to roles here (its certificate needs that capability)",
    ))
}

fn reader(body: Body) -> impl tokio::io::AsyncRead + Send + Unpin + 'static {
    StreamReader::new(Box::pin(body.into_data_stream().map_err(io::Error::other)))
}

fn put_options(query: Result<Query<PutQuery>, QueryRejection>) -> Result<PutOptions, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let tags = |listed: String| {
        let each = listed.split(',').map(str::trim);
        each.filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect()
    };
    Ok(PutOptions {
        title: query.title,
        default_title: query.file_name.unwrap_or_default(),
        tags: query.tags.map(tags),
        source_type: query.source_type,
        retention: query.retention_seconds.map(|seconds| match seconds {
            0 => Retention::UntilRemoved,
            seconds => Retention::Seconds(seconds),
        }),
        now: now(),
    })
}

fn stored(state: &ApiState, receipt: PutReceipt, skipped_unlisted: u64) -> Response {
    state.control.announce(receipt.document, Held::Here);
    let body = Stored {
        id: receipt.document.to_string(),
        size: receipt.size,
        chunks: receipt.chunk_count,
        stored_bytes: receipt.stored_bytes,
        files: receipt.file_count,
        existed: receipt.existed,
        expires_at: receipt.expires_at.and_then(rfc3339),
        title: receipt.title,
        skipped: receipt
            .skipped
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        skipped_unlisted,
    };
    (StatusCode::CREATED, Json(body)).into_response()
}

/// Documents that this node holds, newest first.
#[utoipa::path(get, path = "/api/v1/documents", params(DocumentsQuery), tag = "documents",
    responses((status = 200, body = Documents), (status = 400, body = ErrorBody)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    query: Result<Query<DocumentsQuery>, QueryRejection>,
) -> Result<Json<Documents>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_DOCUMENTS);
    if limit == 0 || limit > MAX_DOCUMENTS {
        return Err(ApiError::bad_request(format!(
            "limit {limit} is not between 1 and {MAX_DOCUMENTS}"
        )));
    }
    let cursor = match query.cursor.as_deref().map(str::parse::<u64>) {
        None => None,
        Some(Ok(place)) => Some(Cursor(place)),
        Some(Err(_)) => {
            return Err(ApiError::bad_request(
                "the cursor is not one that this node gave out",
            ));
        }
    };
    let store = state.store.clone();
    let tag = query.tag;
    let page = blocking(move || match tag {
        None => store.documents(cursor, limit),
        Some(tag) => store.documents_tagged(&tag, cursor, limit),
    })
    .await?
    .map_err(read_error)?;
    let documents: Vec<Document> = page.documents.iter().map(document).collect();
    Ok(Json(Documents {
        total: documents.len(),
        documents,
        next_cursor: page.next.map(|Cursor(place)| place.to_string()),
    }))
}

fn document(info: &DocumentInfo) -> Document {
    let signed = info.record.as_ref();
    let record = signed.map(warren_identity::Signed::value);
    Document {
        id: info.id.to_string(),
        kind: if info.is_directory {
            "directory"
        } else {
            "file"
        }
        .to_owned(),
        title: record
            .map(|record| record.title.clone())
            .unwrap_or_default(),
        tags: record.map(|record| record.tags.clone()).unwrap_or_default(),
        source_type: record
            .map(|record| record.source_type.clone())
            .unwrap_or_default(),
        size: info.size,
        chunks: record.map(|record| record.chunk_count),
        origin: match info.origin {
            Origin::Put => "put",
            Origin::Fetched => "fetched",
        }
        .to_owned(),
        created_at: record.and_then(|record| rfc3339(record.created_at)),
        added_at: rfc3339(info.added_at).unwrap_or_default(),
        expires_at: record
            .and_then(|record| record.expires_at())
            .and_then(rfc3339),
        signed_by: signed.map(|signed| signed.signer().to_string()),
    }
}

/// One document that this node holds.
#[utoipa::path(get, path = "/api/v1/documents/{id}", tag = "documents", params(("id" = String, Path, description = "document id")),
    responses((status = 200, body = Document), (status = 404, body = ErrorBody)))]
pub(crate) async fn one(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Document>, ApiError> {
    let id = document_id(&id)?;
    let store = state.store.clone();
    let info = blocking(move || store.document(id))
        .await?
        .map_err(read_error)?;
    let info = info.ok_or_else(|| {
        ApiError::not_found(format!(
            "document {id} is not on this node; `warren get {id}` fetches it from peers"
        ))
    })?;
    Ok(Json(document(&info)))
}

/// Drops a document from this node; copies elsewhere stay.
#[utoipa::path(delete, path = "/api/v1/documents/{id}", tag = "documents", params(("id" = String, Path, description = "document id")),
    responses((status = 204), (status = 404, body = ErrorBody)))]
pub(crate) async fn remove(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = document_id(&id)?;
    if !state.store.remove(id).await.map_err(store_error)? {
        return Err(ApiError::not_found(format!(
            "document {id} is not on this node: there is nothing to remove"
        )));
    }
    state.control.announce(id, Held::Gone);
    Ok(StatusCode::NO_CONTENT)
}

/// A document's bytes, from this node or from peers, each block verified. A folder comes as a tar stream.
#[utoipa::path(get, path = "/api/v1/documents/{id}/content", tag = "documents", params(("id" = String, Path, description = "document id")),
    responses((status = 200, description = "the whole document"), (status = 206, description = "the range asked for"),
        (status = 304), (status = 404, body = ErrorBody), (status = 416, body = ErrorBody)))]
pub(crate) async fn content(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    request: HeaderMap,
) -> Result<Response, ApiError> {
    let id = document_id(&id)?;
    let manifest = state.retriever.manifest(id).await.map_err(retrieve_error)?;
    let etag = format!("\"{id}\"");
    if manifest.is_directory() {
        return archive::get(&state, id, &etag, &request).await;
    }
    let size = manifest.size();
    let (status, range) = match select(&request, &etag, size) {
        Selection::NotModified => return Ok(not_modified(&etag)),
        Selection::Unsatisfiable => return Ok(unsatisfiable(size)),
        Selection::Whole => (StatusCode::OK, 0..size),
        Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
    };
    let retrieved = state
        .retriever
        .open(id, Some(range.clone()))
        .await
        .map_err(retrieve_error)?;
    let mut headers = content_headers(
        &etag,
        retrieved.source,
        "application/octet-stream",
        &format!("{id}.bin"),
    );
    headers.insert(
        header::CONTENT_LENGTH,
        HeaderValue::from(range.end - range.start),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        headers.insert(header::CONTENT_RANGE, content_range(&range, size));
    }
    let stream = retrieved
        .inspect_err(move |error| tracing::warn!(document = %id, "a download broke off: {error}"));
    Ok((status, headers, Body::from_stream(stream)).into_response())
}

/// A chunk's bytes, from this node or from peers.
#[utoipa::path(get, path = "/chunks/{cid}", tag = "documents", params(("cid" = String, Path, description = "chunk id")),
    responses((status = 200, description = "the whole chunk"), (status = 206, description = "the range asked for"),
        (status = 304), (status = 404, body = ErrorBody), (status = 416, body = ErrorBody)))]
pub(crate) async fn chunk(
    State(state): State<ApiState>,
    Path(cid): Path<String>,
    request: HeaderMap,
) -> Result<Response, ApiError> {
    let id: ChunkId = cid
        .parse()
        .map_err(|error| ApiError::bad_request(format!("{cid:?} is no chunk id: {error}")))?;
    let block = state
        .retriever
        .block(BlockId::from(id))
        .await
        .map_err(retrieve_error)?;
    let etag = format!("\"{id}\"");
    let size = block.content.len() as u64;
    let (status, range) = match select(&request, &etag, size) {
        Selection::NotModified => return Ok(not_modified(&etag)),
        Selection::Unsatisfiable => return Ok(unsatisfiable(size)),
        Selection::Whole => (StatusCode::OK, 0..size),
        Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
    };
    let mut headers = content_headers(
        &etag,
        block.source,
        "application/octet-stream",
        &format!("{id}.bin"),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        headers.insert(header::CONTENT_RANGE, content_range(&range, size));
    }
    // A chunk has 4 MiB at most, so its offsets fit.
    let bounds = usize::try_from(range.start).unwrap_or(0)..usize::try_from(range.end).unwrap_or(0);
    Ok((status, headers, Body::from(block.content.slice(bounds))).into_response())
}

fn content_range(range: &std::ops::Range<u64>, size: u64) -> HeaderValue {
    let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn unsatisfiable(size: u64) -> Response {
    let error = ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "range_not_satisfiable",
        format!("the range begins after the end: there are {size} bytes"),
    );
    ([(header::CONTENT_RANGE, format!("bytes */{size}"))], error).into_response()
}

fn document_id(text: &str) -> Result<DocumentId, ApiError> {
    text.parse()
        .map_err(|error| ApiError::bad_request(format!("{text:?} is no document id: {error}")))
}

fn rfc3339(time: UnixMillis) -> Option<String> {
    Some(
        Timestamp::from_millisecond(i64::try_from(time.0).ok()?)
            .ok()?
            .to_string(),
    )
}
