//! A line per cause and interval: an API server that is away is one cause, however many tasks
//! notice it, and however often.

use std::{sync::Arc, time::Duration};

use signet_base::Repeats;
use signet_k8s::ApiError;

/// How soon the same cause is worth another line.
const INTERVAL: Duration = Duration::from_secs(60);

/// Which errors of the API server are worth a line of the log now. Clones share it.
#[derive(Clone, Debug)]
pub struct ApiErrorThrottle(Arc<Repeats<Cause>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Cause {
    /// The API server does not answer, or not as one that works.
    Away,
    /// It refuses one thing.
    Refused(&'static str, u16),
    /// Something else about one thing.
    Other(&'static str),
}

impl Default for ApiErrorThrottle {
    fn default() -> Self {
        Self(Arc::new(Repeats::new(INTERVAL)))
    }
}

impl ApiErrorThrottle {
    /// Whether a failure of `task` is worth a line now: then how many of the same cause were not
    /// told since the last one.
    pub fn tell(&self, task: &'static str, error: &ApiError) -> Option<u64> {
        self.0.tell(match (error.status(), error) {
            (Some(401 | 429 | 500..), _) | (None, ApiError::Http(_)) => Cause::Away,
            (Some(status), _) => Cause::Refused(task, status),
            (None, _) => Cause::Other(task),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16) -> ApiError {
        ApiError::Refused {
            verb: "list",
            what: "pods".to_owned(),
            status,
            message: String::new(),
            retry_after: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_one_line_a_minute_for_all_tasks() {
        let error_throttle = ApiErrorThrottle::default();
        assert_eq!(error_throttle.tell("pods", &refused(503)), Some(0));
        for _ in 0..100 {
            assert_eq!(error_throttle.tell("lease", &refused(500)), None);
            assert_eq!(error_throttle.tell("nodes", &refused(503)), None);
        }
        // What is missing for one of them is another cause.
        assert_eq!(error_throttle.tell("nodes", &refused(403)), Some(0));
        assert_eq!(error_throttle.tell("pods", &refused(403)), Some(0));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(error_throttle.tell("pods", &refused(503)), Some(200));
    }
}
