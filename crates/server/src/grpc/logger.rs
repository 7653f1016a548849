//! `spire.api.server.logger.v1.Logger`: the log level at run time.

use signet_api::pb::spire::api::{
    server::logger::v1::{self as pb, logger_server},
    types::{self, LogLevel as Pb},
};
use signet_audit::Field;
use signet_daemon::logging::{LogHandle, LogLevel};
use tonic::{Request, Response, Status};

use super::shared::serve;
use crate::usecase::{authorization::Action, error::Error};

/// The logger service.
#[derive(Clone, Debug)]
pub struct LoggerService {
    log: LogHandle,
}

impl LoggerService {
    /// The service that changes `log`.
    pub fn new(log: LogHandle) -> Self {
        Self { log }
    }

    /// As a service for the router.
    pub fn into_server(self) -> logger_server::LoggerServer<Self> {
        logger_server::LoggerServer::new(self)
    }

    fn state(&self) -> types::Logger {
        types::Logger {
            current_level: to_pb(self.log.level()).into(),
            launch_level: to_pb(self.log.launch_level()).into(),
        }
    }
}

#[tonic::async_trait]
impl logger_server::Logger for LoggerService {
    async fn get_logger(
        &self,
        request: Request<pb::GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        serve(request, |call, _| async move {
            call.may(Action::ReadLog)?;
            Ok(self.state())
        })
        .await
    }

    async fn set_log_level(
        &self,
        request: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        serve(request, |call, request| async move {
            call.may(Action::ManageLog)?;
            let asked = Pb::try_from(request.new_level)
                .map_err(|_| Error::invalid("unsupported log level"))?;
            call.about(Field::NewLogLevel(asked.as_str_name()));
            let level = from_pb(asked)
                .ok_or_else(|| Error::invalid("newLevel value cannot be LogLevel_UNSPECIFIED"))?;
            tracing::info!(new_log_level = asked.as_str_name(), "Changing the log level");
            self.log.set_level(level);
            Ok(self.state())
        })
        .await
    }

    async fn reset_log_level(
        &self,
        request: Request<pb::ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        serve(request, |call, _| async move {
            call.may(Action::ManageLog)?;
            tracing::info!("Resetting the log level");
            self.log.reset_level();
            Ok(self.state())
        })
        .await
    }
}

fn to_pb(level: LogLevel) -> Pb {
    match level {
        LogLevel::Panic => Pb::Panic,
        LogLevel::Fatal => Pb::Fatal,
        LogLevel::Error => Pb::Error,
        LogLevel::Warn => Pb::Warn,
        LogLevel::Info => Pb::Info,
        LogLevel::Debug => Pb::Debug,
        LogLevel::Trace => Pb::Trace,
    }
}

fn from_pb(level: Pb) -> Option<LogLevel> {
    Some(match level {
        Pb::Unspecified => return None,
        Pb::Panic => LogLevel::Panic,
        Pb::Fatal => LogLevel::Fatal,
        Pb::Error => LogLevel::Error,
        Pb::Warn => LogLevel::Warn,
        Pb::Info => LogLevel::Info,
        Pb::Debug => LogLevel::Debug,
        Pb::Trace => LogLevel::Trace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_counterpart() {
        for value in 1..=7 {
            let pb = Pb::try_from(value).unwrap();
            assert_eq!(to_pb(from_pb(pb).unwrap()), pb);
        }
        assert!(from_pb(Pb::Unspecified).is_none());
    }
}
