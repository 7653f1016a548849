use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use signet_base::Clock;
use tracing::{debug, info, info_span, trace, warn};

use super::*;

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(settings: LogSettings, act: impl FnOnce(&LogHandle, &Lines)) {
    let lines = Lines::default();
    let (subscriber, handle) = with_writer(&settings, Arc::new(Fixed), lines.clone());
    tracing::subscriber::with_default(subscriber, || act(&handle, &lines));
}

#[test]
fn text_lines_carry_message_fields_spans_and_subsystem() {
    logged(LogSettings::default(), |_, lines| {
        let span = info_span!("call", method = "MintX509SVID", agent = "outer");
        let _entered = span.enter();
        warn!(agent = "inner", count = 2_u32, "Rate limited");
        info!(subsystem_name = "ca_manager", msg = "x", "Own name");
        assert_eq!(
            lines.take(),
            [
                "time=\"2026-01-01T00:00:00Z\" level=warning msg=\"Rate limited\" agent=inner \
                 count=2 method=MintX509SVID subsystem_name=daemon.logging.tests",
                "time=\"2026-01-01T00:00:00Z\" level=info msg=\"Own name\" agent=outer \
                 fields.msg=x method=MintX509SVID subsystem_name=ca_manager",
            ]
        );
    });
}

#[test]
fn json_lines_parse_and_keep_types() {
    let settings = LogSettings { format: LogFormat::Json, ..LogSettings::default() };
    logged(settings, |_, lines| {
        info!(ok = true, n = -1, error = %"bad \"thing\"", "Hello");
        let value: serde_json::Value = serde_json::from_str(&lines.take()[0]).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "error": "bad \"thing\"", "level": "info", "msg": "Hello", "n": -1, "ok": true,
                "subsystem_name": "daemon.logging.tests", "time": "2026-01-01T00:00:00Z",
            })
        );
    });
}

#[test]
fn errors_are_written_with_their_causes_once() {
    logged(LogSettings::default(), |_, lines| {
        let error = LogError::Open { path: "/x".into(), source: io::Error::other("no space") };
        warn!(error = &error as &dyn std::error::Error, "Failed");
        assert!(lines.take()[0].contains("error=\"opening log file /x: no space\""));
    });
}

#[test]
fn the_level_changes_while_the_program_runs_and_goes_back() {
    logged(LogSettings::default(), |handle, lines| {
        let speak = || {
            debug!("detail");
            trace!("everything");
            warn!("attention");
        };
        speak();
        assert_eq!(lines.take().len(), 1);
        handle.set_level(LogLevel::Debug);
        speak();
        assert_eq!(lines.take().len(), 2);
        handle.set_level(LogLevel::Fatal);
        speak();
        assert_eq!(lines.take().len(), 0);
        handle.reset_level();
        speak();
        assert_eq!(lines.take().len(), 1);
        assert_eq!(handle.level(), LogLevel::Info);
    });
}

#[test]
fn libraries_are_quiet_and_never_show_bytes() {
    let settings = LogSettings { level: LogLevel::Trace, ..LogSettings::default() };
    logged(settings, |handle, lines| {
        let speak = || {
            tracing::trace!(target: "h2::codec", "bytes");
            tracing::debug!(target: "h2::codec", "frame");
            tracing::warn!(target: "rustls", "alert");
        };
        speak();
        assert_eq!(lines.take().len(), 2);
        handle.set_level(LogLevel::Debug);
        speak();
        assert_eq!(lines.take().len(), 1);
    });
}

#[test]
fn source_locations_name_file_line_and_module() {
    let settings = LogSettings { source_location: true, ..LogSettings::default() };
    logged(settings, |_, lines| {
        info!("here");
        let line = &lines.take()[0];
        assert!(line.contains("file=\"tests.rs:"), "{line}");
        assert!(line.contains("func=\"signet_daemon::logging::tests\""), "{line}");
    });
}

#[test]
fn a_huge_value_is_cut() {
    logged(LogSettings::default(), |_, lines| {
        info!(value = "ä".repeat(100_000), "big");
        assert!(lines.take()[0].len() < 10_000);
    });
}

#[test]
fn a_rotated_file_is_written_anew_after_reopen_and_kept_when_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let output = Output::open(Some(&path)).unwrap();
    output.write("one\n");
    std::fs::rename(&path, dir.path().join("log.1")).unwrap();
    output.write("two\n");
    output.reopen().unwrap();
    output.write("three\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("log.1")).unwrap(), "one\ntwo\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(output.reopen().is_err());
    output.write("four\n");
    assert_eq!(output.lost_lines(), 0);
}

#[test]
fn a_full_disk_costs_lines_only() {
    let Ok(output) = Output::open(Some(std::path::Path::new("/dev/full"))) else { return };
    output.write("lost\n");
    assert_eq!(output.lost_lines(), 1);
}
