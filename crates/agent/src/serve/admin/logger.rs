//! `spire.api.agent.logger.v1.Logger`.

use signet_api::pb::spire::api::{
    agent::logger::v1::{
        GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest, logger_server,
    },
    types,
};
use signet_daemon::logging::{LogHandle, LogLevel};
use tonic::{Request, Response, Status};

pub(super) struct Logger {
    log: LogHandle,
}

impl Logger {
    pub(super) fn new(log: LogHandle) -> Self {
        Self { log }
    }

    fn answer(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: to_pb(self.log.level()).into(),
            launch_level: to_pb(self.log.launch_level()).into(),
        })
    }
}

#[tonic::async_trait]
impl logger_server::Logger for Logger {
    async fn get_logger(
        &self,
        _: Request<GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Ok(self.answer())
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        use types::LogLevel as Pb;

        let level = match request.get_ref().new_level() {
            Pb::Unspecified if request.get_ref().new_level == 0 => {
                return Err(Status::invalid_argument(
                    "newLevel value cannot be LogLevel_UNSPECIFIED",
                ));
            }
            Pb::Unspecified => return Err(Status::invalid_argument("unsupported log level")),
            Pb::Panic => LogLevel::Panic,
            Pb::Fatal => LogLevel::Fatal,
            Pb::Error => LogLevel::Error,
            Pb::Warn => LogLevel::Warn,
            Pb::Info => LogLevel::Info,
            Pb::Debug => LogLevel::Debug,
            Pb::Trace => LogLevel::Trace,
        };
        tracing::info!(new_log_level = level.as_str(), "SetLogLevel Called");
        self.log.set_level(level);
        Ok(self.answer())
    }

    async fn reset_log_level(
        &self,
        _: Request<ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        tracing::info!(launch_log_level = self.log.launch_level().as_str(), "ResetLogLevel Called");
        self.log.reset_level();
        Ok(self.answer())
    }
}

fn to_pb(level: LogLevel) -> types::LogLevel {
    match level {
        LogLevel::Panic => types::LogLevel::Panic,
        LogLevel::Fatal => types::LogLevel::Fatal,
        LogLevel::Error => types::LogLevel::Error,
        LogLevel::Warn => types::LogLevel::Warn,
        LogLevel::Info => types::LogLevel::Info,
        LogLevel::Debug => types::LogLevel::Debug,
        LogLevel::Trace => types::LogLevel::Trace,
    }
}
