//! The API of a container engine: Docker's, which Podman speaks as well.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use bytes::Bytes;
use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde::Deserialize;
use signet_base::chain;
use signet_http::{HttpClient, HttpError, Proxies, Trust, UNRESERVED, expect_success};

/// The largest answer that is read, bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Where an engine's API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port of this machine, without TLS.
    Tcp {
        /// A loopback address, or `localhost`.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no address of an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let expected = || {
            AddressError(format!(
                "found {text:?}, expected unix:///path/of/socket or tcp://127.0.0.1:port"
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "tcp" | "http" => {
                let (host, port) =
                    rest.trim_end_matches('/').rsplit_once(':').ok_or_else(expected)?;
                let port = port.parse().map_err(|_| expected())?;
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                let ip = bare.unwrap_or(host).parse::<IpAddr>();
                if host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) {
                    return Ok(Self::Tcp { host: host.to_owned(), port });
                }
                Err(AddressError(format!(
                    "{text:?} is not on this machine: the containers attested are this machine's, \
                     and on the way anybody could answer for its engine; use unix:///path/of/socket"
                )))
            }
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where the engine of each user is: an address with `%d` for the user ID, `%%` for a `%`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootlessAddress {
    before: String,
    after: String,
}

impl RootlessAddress {
    /// The address of this user's engine.
    pub fn of(&self, uid: u32) -> Address {
        let text = format!("{}{uid}{}", self.before, self.after);
        // It was tried with another number when it was read.
        text.parse().unwrap_or_else(|_| Address::Unix(text.into()))
    }
}

impl FromStr for RootlessAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let mut parts = vec![String::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let plain = match (c, parts.last_mut()) {
                ('%', last) => match (chars.next(), last) {
                    (Some('%'), Some(last)) => {
                        last.push('%');
                        continue;
                    }
                    (Some('d'), _) => {
                        parts.push(String::new());
                        continue;
                    }
                    _ => None,
                },
                (c, Some(last)) => {
                    last.push(c);
                    Some(())
                }
                _ => None,
            };
            if plain.is_none() {
                return Err(AddressError(
                    "only %d for the user ID and %% for a % are known".to_owned(),
                ));
            }
        }
        match <[String; 2]>::try_from(parts) {
            Ok([before, after]) => {
                format!("{before}1000{after}").parse::<Address>()?;
                Ok(Self { before, after })
            }
            Err(_) => Err(AddressError("exactly one %d for the user ID is expected".to_owned())),
        }
    }
}

/// Why an engine gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No answer, or none with a success.
    #[error("asking {engine}: {}", chain(.source))]
    Asking {
        /// The engine and where it is.
        engine: String,
        /// What went wrong.
        source: HttpError,
    },
    /// The answer is not what the API defines.
    #[error("the answer of {engine} is malformed: {source}")]
    Malformed {
        /// The engine and where it is.
        engine: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// A container as the engine describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// What it was made with.
    #[serde(rename = "Config")]
    pub config: ContainerConfig,
    /// The ID of the image that it runs.
    #[serde(rename = "Image", default)]
    pub image: String,
    #[serde(rename = "State", default)]
    state: State,
}

impl Container {
    /// The number of its first process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        (self.state.running && self.state.pid > 0).then_some(self.state.pid)
    }
}

/// What a container was made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// Its labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Its environment, `NAME=value`.
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// The image's name as the user wrote it.
    #[serde(default)]
    pub image: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    pid: i32,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "Id", default)]
    id: String,
}

/// Reads `null` as nothing, which Docker writes for empty maps and lists.
fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An engine to ask.
#[derive(Debug)]
pub struct Engine {
    client: HttpClient,
    base: String,
    shown: String,
}

impl Engine {
    /// An engine at `address`, whose answers may take as long as `deadline`. Nothing is asked yet.
    ///
    /// # Errors
    /// [`EngineError::Asking`] when no client can be made.
    pub fn new(
        name: &str,
        address: &Address,
        version: Option<&str>,
        deadline: Duration,
    ) -> Result<Self, EngineError> {
        let shown = format!("{name} at {address}");
        let builder = HttpClient::builder()
            .trust(Trust::Roots(Vec::new()))
            .proxies(Proxies::none())
            .timeout(deadline)
            .max_body(MAX_ANSWER);
        let (builder, host) = match address {
            Address::Unix(path) => (builder.socket(path), "localhost".to_owned()),
            Address::Tcp { host, port } => (builder, format!("{host}:{port}")),
        };
        let client = builder
            .build()
            .map_err(|source| EngineError::Asking { engine: shown.clone(), source })?;
        let version = version.map(|version| format!("/v{version}")).unwrap_or_default();
        Ok(Self { client, base: format!("http://{host}{version}"), shown })
    }

    /// What the engine says of a container; none when it does not know it.
    ///
    /// # Errors
    /// [`EngineError`] when there is no answer, or none that can be understood.
    pub async fn container(&self, id: &str) -> Result<Option<Container>, EngineError> {
        self.get(&format!("/containers/{id}/json")).await
    }

    /// The ID of an image; none when the engine does not know it.
    ///
    /// # Errors
    /// As [`Engine::container`].
    pub async fn image(&self, name: &str) -> Result<Option<String>, EngineError> {
        if name.is_empty() || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Ok(None);
        }
        let image: Option<Image> = self.get(&format!("/images/{}/json", in_path(name))).await?;
        Ok(image.map(|image| image.id))
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<T>, EngineError> {
        let failed = |source| EngineError::Asking { engine: self.shown.clone(), source };
        let url = format!("{}{path}", self.base);
        let answer = self.client.get(&url).await.map_err(failed)?;
        if answer.status() == http::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let body: Bytes = expect_success(answer, &url).map_err(failed)?;
        let parsed = serde_json::from_slice(&body);
        parsed
            .map(Some)
            .map_err(|source| EngineError::Malformed { engine: self.shown.clone(), source })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What stays as it is in the path of a URL.
const PATH: &AsciiSet = &UNRESERVED.remove(b'/').remove(b':').remove(b'@');

/// A name as part of a URL's path.
fn in_path(name: &str) -> String {
    utf8_percent_encode(name, PATH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_on_this_machine() {
        let unix = Address::Unix("/run/docker.sock".into());
        assert_eq!("unix:///run/docker.sock".parse(), Ok(unix));
        for (text, host, port) in [
            ("tcp://127.0.0.1:2375", "127.0.0.1", 2375),
            ("tcp://localhost:1", "localhost", 1),
            ("http://[::1]:2375/", "[::1]", 2375),
        ] {
            assert_eq!(text.parse(), Ok(Address::Tcp { host: host.to_owned(), port }), "{text}");
        }
        for (text, wanted) in [
            ("/run/docker.sock", "expected unix:///path"),
            ("unix://docker.sock", "expected unix:///path"),
            ("npipe:////./pipe/docker_engine", "expected unix:///path"),
            ("https://127.0.0.1:2376", "expected unix:///path"),
            ("tcp://127.0.0.1", "expected unix:///path"),
            ("tcp://10.0.0.1:2375", "is not on this machine"),
            ("tcp://docker.example:2375", "is not on this machine"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn the_user_stands_in_the_address_exactly_once() {
        let address: RootlessAddress = "unix:///run/%%user/%d/podman.sock".parse().unwrap();
        assert_eq!(address.of(7), Address::Unix("/run/%user/7/podman.sock".into()));
        for (text, wanted) in [
            ("unix:///run/podman.sock", "exactly one %d"),
            ("unix:///run/%d/%d", "exactly one %d"),
            ("unix:///run/%d/%s", "only %d"),
            ("unix:///run/%d/%", "only %d"),
            ("/run/%d", "expected unix:///path"),
        ] {
            let error = text.parse::<RootlessAddress>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn a_name_does_not_leave_its_place_in_the_path() {
        assert_eq!(in_path("envoyproxy/envoy:v1@sha256:ab"), "envoyproxy/envoy:v1@sha256:ab");
        assert_eq!(in_path("a?b#c d%"), "a%3Fb%23c%20d%25");
    }
}
