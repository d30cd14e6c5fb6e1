//! One plain HTTP request to the application: bounded in time and size, no redirects, no TLS.
//!
//! It goes to the application on this node; what else would need certificates and proxies is a command's task.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// The most that is read of an answer's body.
const MOST_BODY: usize = 16 << 10;

/// An address that a request can go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalUrl {
    uri: Uri,
    authority: String,
    host: String,
    port: u16,
}

/// Text that is no such address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum LocalUrlError {
    /// It is no address at all.
    #[error("it is no address of the form `http://HOST:PORT/PATH`")]
    Malformed,
    /// It needs TLS.
    #[error("only `http://` is spoken; let a command ask for anything else")]
    NotPlain,
    /// It holds a login, which would show in messages.
    #[error("it holds a login; let a command ask for what needs one")]
    Login,
}

/// A request without a usable answer.
#[derive(Debug, Error)]
pub(crate) enum RequestFailure {
    /// Nothing usable came in time.
    #[error("no answer from `{url}` within {} ms", limit.as_millis())]
    TimedOut {
        /// The address.
        url: String,
        /// How long it was given.
        limit: Duration,
    },
    /// Nobody listens there.
    #[error("`{url}` cannot be reached")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The exchange broke off.
    #[error("`{url}` gave no HTTP answer")]
    Broken {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// Its answer is no success.
    #[error("`{url}` answered {status}")]
    Status {
        /// The address.
        url: String,
        /// What it answered.
        status: StatusCode,
    },
}

/// A successful answer.
#[derive(Debug)]
pub(crate) struct LocalAnswer {
    /// Its header lines.
    pub headers: HeaderMap,
    /// Its body; empty where it was larger than 16 KiB.
    pub body: Bytes,
}

impl LocalUrl {
    /// Takes an address apart.
    pub(crate) fn parse(text: &str) -> Result<Self, LocalUrlError> {
        let uri: Uri = text.trim().parse().map_err(|_| LocalUrlError::Malformed)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(LocalUrlError::NotPlain),
            Some(_) | None => return Err(LocalUrlError::Malformed),
        }
        let authority = uri.authority().ok_or(LocalUrlError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(LocalUrlError::Login);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(LocalUrlError::Malformed);
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { authority: authority.to_string(), host, port, uri })
    }

    /// The address, for messages: without its query, which may hold what is nobody's business.
    pub(crate) fn shown(&self) -> String {
        format!("http://{}{}", self.authority, self.uri.path())
    }

    /// Asks, and takes any answer from 200 to 299 as success.
    pub(crate) async fn request(
        &self,
        method: Method,
        headers: &[(&str, String)],
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<LocalAnswer, RequestFailure> {
        let answered = timeout(limit, self.exchange(method, headers, body)).await;
        answered.unwrap_or_else(|_| Err(RequestFailure::TimedOut { url: self.shown(), limit }))
    }

    async fn exchange(
        &self,
        method: Method,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<LocalAnswer, RequestFailure> {
        let broken = |source| RequestFailure::Broken { url: self.shown(), source };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|source| RequestFailure::Unreachable { url: self.shown(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MOST_BODY)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let target = self.uri.path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str);
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, &self.authority);
        request = request.header(header::USER_AGENT, concat!("demon-runtime/", env!("CARGO_PKG_VERSION")));
        request = request.header(header::CONNECTION, "close");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        // Names, digests and numbers make valid header lines.
        let unsendable = |error: axum::http::Error| RequestFailure::Unreachable {
            url: self.shown(),
            source: std::io::Error::other(error),
        };
        let request = request.body(Body::from(body)).map_err(unsendable)?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(RequestFailure::Status { url: self.shown(), status });
        }
        let headers = answer.headers().clone();
        let body = to_bytes(Body::new(answer.into_body()), MOST_BODY).await.unwrap_or_default();
        Ok(LocalAnswer { headers, body })
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn only_plain_addresses_without_a_login_are_taken() {
        let url = LocalUrl::parse("http://[::1]:8080/ready?key=1").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.shown().as_str()), ("::1", 8080, "http://[::1]:8080/ready"));
        assert_eq!(LocalUrl::parse("http://app").unwrap().port, 80);
        assert_eq!(LocalUrl::parse("https://app/"), Err(LocalUrlError::NotPlain));
        assert_eq!(LocalUrl::parse("http://ada:secret@app/"), Err(LocalUrlError::Login));
        assert_eq!(LocalUrl::parse("/ready"), Err(LocalUrlError::Malformed));
    }

    async fn ask(router: Router, path: &str, limit: Duration) -> Result<LocalAnswer, RequestFailure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _serving = AbortOnDropHandle::new(tokio::spawn(async { axum::serve(listener, router).await }));
        let url = LocalUrl::parse(&format!("http://{address}{path}")).unwrap();
        url.request(Method::GET, &[("x-demon-tag", "v1".to_owned())], Vec::new(), limit).await
    }

    #[tokio::test]
    async fn success_and_nothing_else_is_success() {
        let router = || {
            let echo = async |headers: HeaderMap| headers["x-demon-tag"].to_str().unwrap().to_owned();
            let moved = async || (StatusCode::FOUND, [("location", "/good")]);
            let endless = async || "x".repeat(MOST_BODY + 1);
            Router::new().route("/good", get(echo)).route("/moved", get(moved)).route("/endless", get(endless))
        };
        assert_eq!(ask(router(), "/good?a=b", LIMIT).await.unwrap().body, "v1");
        assert_eq!(ask(router(), "/endless", LIMIT).await.unwrap().body, "");
        for (path, expected) in [("/moved", "302 Found"), ("/missing", "404 Not Found")] {
            let failure = ask(router(), path, LIMIT).await.unwrap_err().to_string();
            assert!(failure.ends_with(expected), "{failure}");
        }
    }

    #[tokio::test]
    async fn silence_ends() {
        let router = Router::new().route("/", get(std::future::pending::<&'static str>));
        let failure = ask(router, "/", Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(failure, RequestFailure::TimedOut { .. }), "{failure}");
    }
}
