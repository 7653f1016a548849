//! A greeter: the server greets whoever has the right SPIFFE ID, and the client calls nobody else.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls_pki_types::ServerName;
use spiffe::X509Source;
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [command, address, peer] = args.as_slice() else {
        bail!("usage: greeter serve|call ADDRESS PEER");
    };
    // The source keeps the identity fresh; SPIFFE_ENDPOINT_SOCKET says where from.
    let source = X509Source::new().await?;
    let peer_is = authorizer::exact([peer.as_str()])?;
    match command.as_str() {
        "serve" => {
            let config = mtls_server(source).authorize(peer_is).build()?;
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind(address).await?;
            loop {
                let (tcp, _) = listener.accept().await?;
                match acceptor.accept(tcp).await {
                    Ok(mut stream) => {
                        let greeting = format!("hello {peer}\n");
                        if stream.write_all(greeting.as_bytes()).await.is_ok() {
                            let _ = stream.shutdown().await;
                        }
                    }
                    Err(error) => eprintln!("refused: {error}"),
                }
            }
        }
        "call" => {
            let config = mtls_client(source).authorize(peer_is).build()?;
            let tcp = TcpStream::connect(address).await.context("connecting")?;
            let name = ServerName::try_from("localhost")?;
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting).await?;
            print!("{greeting}");
            Ok(())
        }
        _ => bail!("usage: greeter serve|call ADDRESS PEER"),
    }
}
