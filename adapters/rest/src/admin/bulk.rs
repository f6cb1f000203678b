//! One action on many dead letters.

use std::sync::Arc;

use amtsbote_core::Timestamp;
use amtsbote_core::operations::{Action, Bulk, BulkFailure, Job, JobState};
use amtsbote_http::Problem;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::dead_letters::Filter;
use super::{AdminServices, Operator, Viewer, problem};
use crate::body::json;
use crate::caller::At;
use crate::describe::NotFound;

/// What to do with which dead letters.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BulkBody {
    /// `redrive`, `reroute` or `cancel`.
    #[schema(value_type = String)]
    action: Action,
    /// Which.
    #[serde(default)]
    filter: Filter,
    /// Must be true if the filter is empty.
    #[serde(default)]
    all: bool,
    /// Messages per second; absent: as fast as possible.
    #[schema(minimum = 1)]
    rate: Option<u32>,
    /// Count only.
    #[serde(default)]
    dry_run: bool,
    /// For other operators; needed unless it is a dry run.
    reason: Option<String>,
}

/// A bulk operation that was taken, or would be.
#[derive(Serialize, ToSchema)]
pub(super) struct SubmittedView {
    /// Its name; absent for a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    /// Messages the filter matches now.
    count: u64,
}

/// A message a bulk operation could do nothing with.
#[derive(Serialize, ToSchema)]
struct FailureView {
    /// Which.
    id: String,
    /// Why.
    problem: String,
}

/// A bulk operation.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobView {
    /// Its name.
    job: String,
    /// What it does.
    #[schema(value_type = String)]
    action: Action,
    /// `running`, `done` or `stopped`.
    #[schema(value_type = String)]
    state: JobState,
    /// With which.
    #[schema(value_type = Object)]
    filter: serde_json::Value,
    /// Messages per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    /// Who ordered it.
    by: String,
    /// Why.
    reason: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    /// Messages that matched at the beginning.
    total: u64,
    /// Messages the action was applied to.
    done: u64,
    /// Messages that could not take it.
    failed: u64,
    /// The first of those.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<FailureView>,
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        let failure = |one: BulkFailure| FailureView { id: one.id.to_string(), problem: one.problem };
        Self {
            filter: serde_json::to_value(&job.filter).unwrap_or_default(),
            job: job.id,
            action: job.action,
            state: job.state,
            rate: job.rate,
            by: job.by.to_string(),
            reason: job.reason,
            created_at: job.created_at,
            finished_at: job.finished_at,
            total: job.total,
            done: job.done,
            failed: job.failed,
            failures: job.failures.into_iter().map(failure).collect(),
        }
    }
}

/// All bulk operations.
#[derive(Serialize, ToSchema)]
pub(super) struct JobsView {
    /// Newest first.
    jobs: Vec<JobView>,
}

/// Begin a bulk operation on dead letters, or see how many it would touch
///
/// It survives a restart half-way and touches only messages that are dead now.
#[utoipa::path(post, path = "/admin/v1/bulk", tag = "dead letters", operation_id = "bulk", request_body = BulkBody,
    responses((status = 200, description = "Dry run: the count", body = SubmittedView),
        (status = 202, description = "Taken", body = SubmittedView),
        (status = 400, description = "Malformed, or no reason", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It would touch nothing, or everything without `all`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn submit(
    State(services): State<Arc<AdminServices>>,
    operator: Operator,
    body: Result<Json<BulkBody>, JsonRejection>,
) -> Result<(StatusCode, Json<SubmittedView>), Problem> {
    let body = json(body)?;
    let bulk = Bulk { action: body.action, filter: body.filter.parse()?, all: body.all, rate: body.rate };
    if body.dry_run {
        let count = services.operations.preview(&bulk).await.map_err(problem)?;
        return Ok((StatusCode::OK, Json(SubmittedView { job: None, count })));
    }
    let order = operator.order(body.reason.unwrap_or_default())?;
    let job = services.operations.submit(bulk, order).await.map_err(problem)?;
    Ok((StatusCode::ACCEPTED, Json(SubmittedView { count: job.total, job: Some(job.id) })))
}

/// List bulk operations
#[utoipa::path(get, path = "/admin/v1/bulk", tag = "dead letters", operation_id = "bulkJobs",
    responses((status = 200, description = "All that are remembered", body = JobsView)))]
pub(super) async fn list(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
) -> Result<Json<JobsView>, Problem> {
    let jobs = services.operations.jobs().await.map_err(problem)?;
    Ok(Json(JobsView { jobs: jobs.into_iter().map(Into::into).collect() }))
}

/// Follow a bulk operation
#[utoipa::path(get, path = "/admin/v1/bulk/{job}", tag = "dead letters", operation_id = "bulkJob",
    params(("job" = String, Path, description = "Its name")),
    responses((status = 200, description = "How far it is", body = JobView), NotFound))]
pub(super) async fn find(
    State(services): State<Arc<AdminServices>>,
    _viewer: Viewer,
    At(job): At<String>,
) -> Result<Json<JobView>, Problem> {
    services.operations.job(&job).await.map(|job| Json(job.into())).map_err(problem)
}

/// Stop a bulk operation; what it has done stays done
#[utoipa::path(delete, path = "/admin/v1/bulk/{job}", tag = "dead letters", operation_id = "stopBulkJob",
    params(("job" = String, Path, description = "Its name")),
    responses((status = 200, description = "Stopped, or it had ended already", body = JobView), NotFound))]
pub(super) async fn stop(
    State(services): State<Arc<AdminServices>>,
    operator: Operator,
    At(job): At<String>,
) -> Result<Json<JobView>, Problem> {
    let order = operator.order("stopped by an operator".to_owned())?;
    services.operations.stop_job(&job, order).await.map(|job| Json(job.into())).map_err(problem)
}
