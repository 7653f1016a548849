//! The web console in a real browser.

use std::process::Command;

use e2e::{Server, ServerOptions, bins, cli, on_path, skip};

#[test]
fn a_person_finds_everything_in_the_console_with_keys_in_the_dark_and_on_a_telephone() {
    for program in ["chromedriver", "python3"] {
        if on_path(program).is_none() {
            skip!("{program} is not installed");
        }
    }
    let options = ServerOptions { server: "console { port = 0 }".to_owned(), ..Default::default() };
    let server = Server::start(options);
    let log = server.log();
    let line = log.lines().find(|line| line.contains("Serving the web console")).expect("its line");
    let port = line.split("127.0.0.1:").nth(1).expect("a port");
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    for n in 0..3 {
        let entry = format!(
            "entry create -parentID spiffe://example.org/node{n} \
             -spiffeID spiffe://example.org/service-{n} -selector unix:uid:{n}"
        );
        server.cli().line(&entry).ok();
    }
    let link = server.cli().json("console login")["link"].as_str().expect("a link").to_owned();
    let link = link.replace(":0/", &format!(":{port}/"));
    let mut browser = Command::new("python3");
    browser.arg(bins::sources().join("clients/browser/console.py")).arg(link);
    let output = cli::run(&mut browser, "").ok();
    assert!(output.stdout.ends_with("ok\n"), "{output}");
}
