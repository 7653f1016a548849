//! A small HTTP server whose answers a test decides.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a client may take to send a request.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// For example `GET`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The header lines.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The value of a header; names are told apart by letters alone.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What a request is answered with.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The HTTP status; 0 closes the connection without an answer.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, or whatever a test wants to pass for it.
    pub body: String,
}

impl Reply {
    /// Without headers of its own.
    pub fn new(status: u16, body: impl ToString) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string() }
    }

    /// No answer.
    pub fn none() -> Self {
        Self::default()
    }

    /// With a header more.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// A server on 127.0.0.1, one request for each connection. It is there as long as the process.
#[derive(Debug)]
pub struct FakeHttp {
    /// Its port.
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeHttp {
    /// Starts a server that answers with the status and the JSON that `answer` gives.
    ///
    /// # Panics
    ///
    /// When there is no port.
    pub fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::replying(move |asked| {
            let (status, body) = answer(asked);
            Reply::new(status, body)
        })
    }

    /// Starts a server that answers with what `answer` gives.
    ///
    /// # Panics
    ///
    /// When there is no port.
    pub fn replying(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its own address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                // A client may go away at any time.
                std::thread::spawn(move || drop(serve(stream, &noted, &*answer)));
            }
        });
        Self { port, asked }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(
    mut stream: TcpStream,
    noted: &Mutex<Vec<Asked>>,
    answer: &dyn Fn(&Asked) -> Reply,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).map(|_| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        match line()? {
            end if end.is_empty() => break,
            header => headers.push(header),
        }
    }
    let mut asked = Asked { method, target, headers, body: Vec::new() };
    let length = asked.header("content-length").and_then(|length| length.parse().ok());
    asked.body.resize(length.unwrap_or(0), 0);
    reader.read_exact(&mut asked.body)?;
    noted.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let Reply { status, headers, body } = answer(&asked);
    if status == 0 {
        return Ok(());
    }
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
