//! `api fetch x509` and `api watch`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use signet_api::{
    pb::workload::{
        X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    workload,
};
use signet_base::{Backoff, Clock as _, SystemClock};
use signet_daemon::cli::Output;
use signet_identity::SpiffeId;
use signet_pki::{
    PrivateKey, files, pem,
    x509::{Certificate, TrustBundle, parse_chain, split_der_chain, verify_svid},
};
use signet_time::UnixTime;
use tonic::Code;

use super::{
    CliError, Terminal,
    connect::{PublicSocket, describe, first, timeout},
    print::{duration, timestamp},
};

/// Flags of `api fetch x509`.
#[derive(Debug, clap::Args)]
pub(super) struct FetchFlags {
    #[command(flatten)]
    socket: PublicSocket,
    /// How long to wait for an answer; 0 waits for ever
    #[arg(long = "timeout", value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// Print nothing (with pretty output)
    #[arg(long = "silent")]
    silent: bool,
    /// Directory to write SVIDs, keys and bundles to (with pretty output)
    #[arg(long = "write", value_name = "DIR")]
    write: Option<PathBuf>,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
}

/// Flags of `api watch`.
#[derive(Debug, clap::Args)]
pub(super) struct WatchFlags {
    #[command(flatten)]
    socket: PublicSocket,
}

/// What a response says, checked.
struct Svid {
    message: X509svid,
    chain: Vec<Certificate>,
    bundle: Vec<Certificate>,
}

/// The foreign bundles of a response by trust domain ID.
type Federated = BTreeMap<String, Vec<Certificate>>;

/// Fetches, prints and writes the caller's X.509-SVIDs once.
pub(super) async fn fetch(flags: &FetchFlags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let channel = flags.socket.connect(terminal.program).await?;
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let start = Instant::now();
    let request = workload::request(X509svidRequest {});
    let response = first(flags.timeout, client.fetch_x509svid(request)).await?;
    let took = start.elapsed();
    if flags.output == Output::Json {
        return terminal.json(&response);
    }
    let (svids, federated) = check(response)?;
    if !flags.silent {
        print(&svids, &federated, took, terminal)?;
    }
    match &flags.write {
        Some(directory) if !directory.as_os_str().is_empty() => {
            write(&svids, &federated, directory, terminal)
        }
        _ => Ok(()),
    }
}

/// Prints the caller's X.509-SVIDs whenever they change.
pub(super) async fn watch(flags: &WatchFlags, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut since = Instant::now();
    loop {
        let status = match flags.socket.connect(terminal.program).await {
            Err(CliError::Failed(message)) => {
                writeln!(terminal.err, "{message}")?;
                None
            }
            Err(error) => return Err(error),
            Ok(channel) => {
                let mut client = SpiffeWorkloadApiClient::new(channel);
                match client.fetch_x509svid(workload::request(X509svidRequest {})).await {
                    Err(status) => Some(status),
                    Ok(stream) => {
                        let mut stream = stream.into_inner();
                        loop {
                            match stream.message().await {
                                Err(status) => break Some(status),
                                Ok(None) => break None,
                                Ok(Some(response)) => {
                                    backoff.reset();
                                    let (svids, federated) = check(response)?;
                                    print(&svids, &federated, since.elapsed(), terminal)?;
                                    terminal.out.flush()?;
                                    since = Instant::now();
                                }
                            }
                        }
                    }
                }
            }
        };
        if let Some(status) = status {
            // Asking again in the same way would be refused again.
            if status.code() == Code::InvalidArgument {
                return Err(CliError::Failed(describe(&status)));
            }
            writeln!(terminal.err, "{}", describe(&status))?;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Checks every SVID of a response against the bundle that came with it.
fn check(response: X509svidResponse) -> Result<(Vec<Svid>, Federated), CliError> {
    if response.svids.is_empty() {
        return Err(CliError::Failed("workload response contains no svids".to_owned()));
    }
    let mut federated = Federated::new();
    for (id, der) in response.federated_bundles {
        let bundle = certificates(&der)
            .map_err(|error| CliError::Failed(format!("bundle of {id}: {error}")))?;
        federated.insert(id, bundle);
    }
    let now = SystemClock.unix();
    let mut svids = Vec::with_capacity(response.svids.len());
    for message in response.svids {
        let svid = check_svid(message.clone(), now).map_err(|error| {
            CliError::Failed(format!("X.509-SVID of {}: {error}", message.spiffe_id))
        })?;
        svids.push(svid);
    }
    Ok((svids, federated))
}

fn check_svid(message: X509svid, now: UnixTime) -> Result<Svid, String> {
    let chain = certificates(&message.x509_svid)?;
    let bundle = certificates(&message.bundle)?;
    PrivateKey::from_der(&message.x509_svid_key).map_err(|error| error.to_string())?;
    let id: SpiffeId = message.spiffe_id.parse().map_err(text)?;
    let authorities: Vec<_> = bundle.iter().map(|cert| cert.der().clone()).collect();
    let trust = TrustBundle::new(id.trust_domain().clone(), &authorities).map_err(text)?;
    let ders: Vec<_> = chain.iter().map(|cert| cert.der().clone()).collect();
    let verified = verify_svid(&ders, &trust, now).map_err(text)?;
    if verified.id != id {
        return Err(format!("the certificate names {}", verified.id));
    }
    Ok(Svid { message, chain, bundle })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn certificates(der: &[u8]) -> Result<Vec<Certificate>, String> {
    let chain = split_der_chain(der).map_err(text)?;
    if chain.is_empty() {
        return Err("no certificates".to_owned());
    }
    parse_chain(&chain).map_err(text)
}

fn print(
    svids: &[Svid],
    federated: &Federated,
    took: Duration,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let out = &mut terminal.out;
    let plural = if svids.len() == 1 { "" } else { "s" };
    writeln!(out, "Received {} svid{plural} after {}", svids.len(), duration(took))?;
    for svid in svids {
        writeln!(out, "\nSPIFFE ID:\t\t{}", svid.message.spiffe_id)?;
        if !svid.message.hint.is_empty() {
            writeln!(out, "Hint:\t\t\t{}", svid.message.hint)?;
        }
        for (at, cert) in svid.chain.iter().enumerate() {
            let what = if at == 0 { "SVID".to_owned() } else { format!("Intermediate #{at}") };
            validity(out, &what, cert)?;
        }
        for (at, cert) in svid.bundle.iter().enumerate() {
            validity(out, &format!("CA #{}", at + 1), cert)?;
        }
        for (id, bundle) in federated {
            for (at, cert) in bundle.iter().enumerate() {
                validity(out, &format!("[{id}] CA #{}", at + 1), cert)?;
            }
        }
    }
    Ok(writeln!(out)?)
}

fn validity(out: &mut dyn std::io::Write, what: &str, cert: &Certificate) -> Result<(), CliError> {
    writeln!(out, "{what} Valid After:\t{}", timestamp(cert.not_before().seconds()))?;
    Ok(writeln!(out, "{what} Valid Until:\t{}", timestamp(cert.not_after().seconds()))?)
}

fn write(
    svids: &[Svid],
    federated: &Federated,
    directory: &Path,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    for (at, svid) in svids.iter().enumerate() {
        let mut file = |what: &str, name: String, text: &str, mode: u32| {
            let path = directory.join(name);
            writeln!(terminal.out, "Writing {what} to file {}.", path.display())?;
            files::write_atomic(&path, text.as_bytes(), mode).map_err(|error| {
                let cause = std::error::Error::source(&error);
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                CliError::Failed(format!("{error}{cause}"))
            })
        };
        file(&format!("SVID #{at}"), format!("svid.{at}.pem"), &to_pem(&svid.chain), 0o644)?;
        let key = zeroize::Zeroizing::new(pem::encode("PRIVATE KEY", &svid.message.x509_svid_key));
        file(&format!("key #{at}"), format!("svid.{at}.key"), &key, 0o600)?;
        file(&format!("bundle #{at}"), format!("bundle.{at}.pem"), &to_pem(&svid.bundle), 0o644)?;
        for (foreign, (id, bundle)) in federated.iter().enumerate() {
            let what = format!("federated bundle #{foreign} for trust domain {id}");
            let name = format!("federated_bundle.{at}.{foreign}.pem");
            file(&what, name, &to_pem(bundle), 0o644)?;
        }
    }
    Ok(())
}

fn to_pem(certificates: &[Certificate]) -> String {
    pem::encode_certificates(certificates.iter().map(|cert| &**cert.der()))
}
