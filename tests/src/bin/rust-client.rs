//! Speaks to the Workload API with the `spiffe` crate; each command prints JSON lines.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use spiffe::{JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Context, X509Source};
use spiffe_rustls::authorizer;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tokio_stream::StreamExt;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &[&str]) -> anyhow::Result<()> {
    match args {
        ["x509"] => emit(&describe(&client().await?.fetch_x509_context().await?)?),
        ["watch"] => {
            let mut stream = client().await?.stream_x509_contexts().await?;
            while let Some(update) = stream.next().await {
                emit(&describe(&update?)?);
            }
        }
        ["bundles"] => bundles().await?,
        ["jwt", audience] => {
            let audience: Vec<&str> = audience.split(',').collect();
            let svid = client().await?.fetch_jwt_svid(audience, None).await?;
            emit(&json!({
                "id": svid.spiffe_id().to_string(),
                "token": svid.token(),
                "expiry": svid.expiry().unix_timestamp(),
            }));
        }
        ["validate", audience, token] => {
            let client = client().await?;
            let svid = client.validate_jwt_token(audience, token).await?;
            let bundles = client.fetch_jwt_bundles().await?;
            JwtSvid::parse_and_validate(token, &bundles, &[audience])?;
            emit(&json!({ "id": svid.spiffe_id().to_string() }));
        }
        ["serve", caller] => serve(caller).await?,
        ["call", port, server] => call(port.parse()?, server).await?,
        _ => bail!("usage: rust-client COMMAND [ARGUMENT...]"),
    }
    Ok(())
}

fn emit(value: &Value) {
    println!("{value}");
}

async fn client() -> anyhow::Result<WorkloadApiClient> {
    Ok(WorkloadApiClient::connect_env().await?)
}

fn describe(context: &X509Context) -> anyhow::Result<Value> {
    let mut svids = Vec::new();
    for svid in context.svids() {
        let (_, leaf) = X509Certificate::from_der(svid.leaf().as_ref())?;
        svids.push(json!({
            "id": svid.spiffe_id().to_string(),
            "hint": svid.hint().unwrap_or_default(),
            "serial": leaf.tbs_certificate.serial.to_string(),
            "not_after": leaf.validity().not_after.timestamp(),
            "chain": svid.cert_chain().len(),
            "verified": verified(context, svid.spiffe_id().trust_domain(), svid.cert_chain())?,
        }));
    }
    let authorities: serde_json::Map<String, Value> = context
        .bundle_set()
        .iter()
        .map(|(td, bundle)| (td.to_string(), bundle.authorities().len().into()))
        .collect();
    Ok(json!({ "svids": svids, "authorities": authorities }))
}

/// Whether the last certificate of the chain was signed by an authority of its trust domain.
fn verified<C: AsRef<[u8]>>(
    context: &X509Context,
    trust_domain: &TrustDomain,
    chain: &[C],
) -> anyhow::Result<bool> {
    let last = chain.last().context("an empty chain")?;
    let (_, last) = X509Certificate::from_der(last.as_ref())?;
    let bundle = context.bundle_set().get(trust_domain).context("no bundle")?;
    Ok(bundle.authorities().iter().any(|authority| {
        X509Certificate::from_der(authority.as_ref())
            .is_ok_and(|(_, root)| root.subject() == last.issuer())
    }))
}

async fn bundles() -> anyhow::Result<()> {
    let client = client().await?;
    let x509: serde_json::Map<String, Value> = client
        .fetch_x509_bundles()
        .await?
        .iter()
        .map(|(td, bundle)| (td.to_string(), bundle.authorities().len().into()))
        .collect();
    let jwt: serde_json::Map<String, Value> = client
        .fetch_jwt_bundles()
        .await?
        .iter()
        .map(|(td, bundle)| {
            let kids: Vec<&str> = bundle.jwt_authorities().map(|key| key.key_id()).collect();
            (td.to_string(), json!(kids))
        })
        .collect();
    emit(&json!({ "x509": x509, "jwt": jwt }));
    Ok(())
}

async fn serve(caller: &str) -> anyhow::Result<()> {
    let source = X509Source::new().await?;
    let config =
        spiffe_rustls::mtls_server(source).authorize(authorizer::exact([caller])?).build()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    emit(&json!({ "port": listener.local_addr()?.port() }));
    loop {
        let (tcp, _) = listener.accept().await?;
        if let Err(error) = greet(acceptor.accept(tcp).await).await {
            eprintln!("refused: {error:?}");
        }
    }
}

async fn greet(accepted: std::io::Result<TlsStream<TcpStream>>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(accepted?);
    stream.read_line(&mut String::new()).await?;
    let (_, connection) = stream.get_ref().get_ref();
    let leaf = connection.peer_certificates().and_then(|c| c.first()).context("no certificate")?;
    let id = uri(leaf)?;
    stream.write_all(format!("hello {id}\n").as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

fn uri(leaf: &[u8]) -> anyhow::Result<SpiffeId> {
    let (_, cert) = X509Certificate::from_der(leaf)?;
    let names = cert.subject_alternative_name()?.context("no alternative names")?;
    let uri = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    Ok(SpiffeId::new(uri.context("no URI")?)?)
}

async fn call(port: u16, server: &str) -> anyhow::Result<()> {
    let source = X509Source::new().await?;
    let config =
        spiffe_rustls::mtls_client(source).authorize(authorizer::exact([server])?).build()?;
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("localhost")?;
    let mut stream = BufReader::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?);
    stream.write_all(b"hello\n").await?;
    let mut reply = String::new();
    stream.read_line(&mut reply).await?;
    emit(&json!({ "reply": reply.trim() }));
    Ok(())
}
