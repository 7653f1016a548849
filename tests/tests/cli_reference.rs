//! The reference of commands in the documentation is what the programs say of themselves.

use std::{path::Path, process::Command};

use e2e::bins;

#[test]
fn the_reference_of_each_program_is_current() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    for name in
        ["signet-server", "signet-agent", "signet-controller", "signet-oidc", "signet-broker"]
    {
        let printed = Command::new(bins::find(name))
            .args(["manual", "-markdown"])
            .output()
            .expect("the program runs");
        let printed = String::from_utf8(printed.stdout).expect("text");
        assert!(printed.contains(&format!("## {name} run\n")), "{printed}");
        let path = docs.join(format!("{name}.md"));
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == printed,
            "{} is out of date: `target/debug/{name} manual -markdown > docs/reference/{name}.md`",
            path.display()
        );
    }
}
