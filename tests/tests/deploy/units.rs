//! Units of systemd.

use std::{collections::BTreeMap, fs};

use e2e::kubernetes;

/// The settings of a unit's `[Service]`, of which the last one holds.
fn service(program: &str) -> BTreeMap<String, String> {
    let file = kubernetes::deploy().join(format!("systemd/{program}.service"));
    let text = fs::read_to_string(file).expect("a unit");
    let (_, service) = text.split_once("[Service]").expect("a service");
    let (service, _) = service.split_once("[Install]").expect("an installation");
    service
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn a_unit_waits_for_its_program_to_be_ready_and_opens_no_private_directory() {
    for program in ["signet-server", "signet-agent"] {
        let service = service(program);
        assert_eq!(service["Type"], "notify", "{program}");
        assert_eq!(service["TimeoutStartSec"], "infinity", "{program}");
        assert_eq!(service["LimitCORE"], "0", "{program}");
        // The mode is that of every directory in the list: what is below it the program makes, each
        // with the mode that it needs.
        assert_eq!(service["RuntimeDirectory"], program);
        let mode = u32::from_str_radix(&service["RuntimeDirectoryMode"], 8).expect("a mode");
        assert_eq!(mode & 0o022, 0, "{program}: others may write to it");
    }
}
