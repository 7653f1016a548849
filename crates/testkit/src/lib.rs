//! What tests of several crates share, and the demo with them. Nothing of it is shipped.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says by a panic that something is not as it should be"
)]

#[cfg(feature = "anchors")]
mod anchors;
mod bao;
mod captured;
#[cfg(feature = "clouds")]
pub mod clouds;
mod fake_http;
mod local_kms;
mod metrics_doc;
mod mutated;
mod ports;
mod postgres;
mod programs;
mod small_disk;
mod suspended;

#[cfg(feature = "anchors")]
pub use anchors::{AnchorCase, HOST, TRUST_DOMAIN, anchor_cases};
pub use bao::Bao;
pub use captured::Captured;
pub use fake_http::{Asked, FakeHttp, Reply};
pub use local_kms::LocalKms;
pub use metrics_doc::assert_metrics_documented;
pub use mutated::mutated;
pub use ports::{free_port, free_ports};
pub use postgres::{POSTGRES_USER, PgBouncer, Postgres};
pub use programs::on_path;
pub use small_disk::{SmallDisk, make_room};
pub use suspended::Suspended;

/// Leaves a test early because the machine lacks something, and says so. Where nothing may be
/// missing (`SIGNET_REQUIRE_ALL=1`) it fails instead. No test may be left in any other way.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        $crate::skipped(&format!($($why)*));
        return;
    }};
}

/// Says why a test is skipped; for [`skip!`].
///
/// # Panics
///
/// Where nothing may be missing.
#[track_caller]
pub fn skipped(why: &str) {
    assert!(
        std::env::var_os("SIGNET_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "cannot be skipped here: {why}"
    );
    eprintln!("SKIPPED: {why}");
}
