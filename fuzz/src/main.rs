//! One program for all targets, so that it is linked once: `SIGNET_FUZZ_TARGET` says which reader
//! gets the inputs. `cargo xtask fuzz` builds and runs it.
#![no_main]

mod readers;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// The name of the variable that names the target.
const VARIABLE: &str = "SIGNET_FUZZ_TARGET";

fn target() -> readers::Reader {
    static TARGET: OnceLock<readers::Reader> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        let found = readers::ALL.iter().find(|(name, _)| *name == wanted);
        found.map_or_else(|| panic!("{VARIABLE} names no target: {wanted:?}"), |(_, read)| *read)
    })
}

fuzz_target!(|input: &[u8]| target()(input));
