//! What the last calls of a process did, and how long each step took.

use std::{sync::Arc, time::Duration};

use signet_api::pb::signet::api::agent::trace::v1::{
    Call, ListCallsRequest, ListCallsResponse, Step, trace_server,
};
use tonic::{Request, Response, Status};

use crate::trace::{self, Traces};

pub(super) struct Trace {
    traces: Arc<Traces>,
}

impl Trace {
    pub(super) fn new(traces: Arc<Traces>) -> Self {
        Self { traces }
    }
}

#[tonic::async_trait]
impl trace_server::Trace for Trace {
    async fn list_calls(
        &self,
        request: Request<ListCallsRequest>,
    ) -> Result<Response<ListCallsResponse>, Status> {
        let pid = request.into_inner().pid;
        if pid < 0 {
            return Err(Status::invalid_argument("pid must not be negative"));
        }
        let calls = self.traces.of((pid != 0).then_some(pid));
        let calls = calls.iter().map(|trace| call(trace)).collect();
        Ok(Response::new(ListCallsResponse { calls }))
    }
}

fn call(trace: &trace::Trace) -> Call {
    let state = trace.state_now();
    let (status, message, took) = match state.answer {
        Some(answer) => (answer.status.to_owned(), answer.message, answer.took),
        None => (String::new(), String::new(), Duration::ZERO),
    };
    Call {
        request_id: trace.request_id.to_string(),
        pid: trace.pid,
        uid: trace.uid,
        service: trace.service.to_owned(),
        method: trace.method.to_owned(),
        started_at_millis: trace.at,
        duration_micros: micros(took),
        status,
        message,
        steps: state
            .steps
            .into_iter()
            .map(|step| Step {
                name: step.name.to_owned(),
                detail: step.detail,
                offset_micros: micros(step.offset),
                duration_micros: micros(step.took),
            })
            .collect(),
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
