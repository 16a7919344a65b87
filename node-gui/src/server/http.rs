//! Shell: the one HTTP client of the node. Plain HTTP: what matters is signed, and there are no CA certificates here.

use std::time::Duration;

use crate::journey::problem::{Problem, ProblemKind};

/// A server in the same room answers in milliseconds; this is for a busy one.
const CONNECT: Duration = Duration::from_secs(3);
/// The longest time for one small document.
const TOTAL: Duration = Duration::from_secs(20);

/// A client bound to the lab's server.
#[derive(Debug, Clone)]
pub struct Http {
    client: reqwest::Client,
    server: String,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection, or it broke.
    #[error("{url}: {}", chain(.source))]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the client said.
        source: reqwest::Error,
    },
    /// An answer that is not 200.
    #[error("{url}: the server answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The number of the answer.
        status: u16,
    },
    /// More bytes than such a document may have.
    #[error("{url}: longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The most that is read.
        limit: usize,
    },
}

impl Http {
    /// A client for the server with this base URL.
    ///
    /// # Errors
    /// When the client cannot be built.
    pub fn new(server: &str) -> Result<Self, Problem> {
        let client = reqwest::Client::builder().connect_timeout(CONNECT).timeout(TOTAL).no_proxy();
        let client = client.build().map_err(|error| {
            Problem::internal(format!("cannot build the HTTP client: {}", chain(&error)))
        })?;
        Ok(Self { client, server: server.trim_end_matches('/').to_owned() })
    }

    /// The server's base URL.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The document at this path of the server (with its slash), of at most `limit` bytes.
    ///
    /// # Errors
    /// When the document is missing or too long, or the server does not answer.
    pub async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, HttpError> {
        self.get_url(format!("{}{path}", self.server), limit).await
    }

    /// The document at this URL, of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub async fn get_url(&self, url: String, limit: usize) -> Result<Vec<u8>, HttpError> {
        let unreachable = |source| unreachable(&url, source);
        let mut answer = self.client.get(&url).send().await.map_err(unreachable)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(HttpError::Status { url, status: answer.status().as_u16() });
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > limit {
                return Err(HttpError::TooLong { url, limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Sends JSON to this path and waits for the answer, which is not read.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn post(&self, path: &str, json: Vec<u8>) -> Result<(), HttpError> {
        let url = format!("{}{path}", self.server);
        let request = self.client.post(&url).header("content-type", "application/json").body(json);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(source) => Err(unreachable(&url, source)),
        }
    }
}

impl HttpError {
    /// This error as a plain-language problem.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let (what, why) = match self {
            Self::Unreachable { .. } => {
                ("The server does not answer", "This PC cannot reach the lab's server.")
            }
            Self::Status { .. } => (
                "The server has no systems to offer",
                "The lab's server answered, but not with the files that this PC needs.",
            ),
            Self::TooLong { .. } => {
                ("The server's answer is invalid", "It sent far more data than expected.")
            }
        };
        let next_step = "Try again. If this keeps happening, tell your supervisor.";
        Problem::new(ProblemKind::NoServer, what, why, next_step, self.to_string())
    }
}

/// The URL is named once, by [`HttpError`].
fn unreachable(url: &str, source: reqwest::Error) -> HttpError {
    HttpError::Unreachable { url: url.to_owned(), source: source.without_url() }
}

/// An error with all its causes: reqwest hides the interesting one at the end.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server on this machine that answers one request with these bytes.
    async fn answer(bytes: &'static [u8]) -> Http {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = [0; 2048];
            let read = stream.read(&mut request).await.expect("a request");
            assert!(read > 0);
            stream.write_all(bytes).await.expect("an answer");
        });
        Http::new(&format!("http://{address}/")).expect("a client")
    }

    #[tokio::test]
    async fn a_document_arrives_complete() {
        let http = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!(http.get("/x", 5).await.expect("is there"), b"hello");
    }

    #[tokio::test]
    async fn a_longer_document_than_allowed_is_refused() {
        let http = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        assert!(matches!(http.get("/x", 4).await, Err(HttpError::TooLong { limit: 4, .. })));
    }

    #[tokio::test]
    async fn a_missing_document_and_a_missing_server_are_different_problems() {
        let http = answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        let error = http.get("/x", 4).await.expect_err("404");
        assert!(error.to_string().contains("404") && error.problem().what.contains("no systems"));
        let http = Http::new("http://127.0.0.1:1").expect("a client");
        let error = http.get("/x", 4).await.expect_err("nobody listens");
        assert!(error.problem().detail.to_lowercase().contains("refused"), "{error}");
    }
}
