//! One question over HTTP: attempts, redirects, limits, and where the token goes.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use http::header::{ACCEPT, AUTHORIZATION, ETAG, IF_NONE_MATCH, LOCATION};
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use tokio::time::{Instant, sleep, timeout};

use super::arguments::{GitHubSettings, host_of, usable};
use super::error::GitHubError;
use super::response_judgement::{Judgement, judge, pause};
use super::tls_roots;

/// GitHub refuses clients that do not say who they are.
const USER_AGENT: &str = concat!("demon/", env!("CARGO_PKG_VERSION"));
/// Redirects that one question follows.
const MOST_REDIRECTS: usize = 5;

/// What to ask for.
#[derive(Debug)]
pub(super) struct Fetch<'a> {
    pub(super) url: Url,
    pub(super) accept: &'static str,
    /// Most bytes of the body.
    pub(super) most_bytes: u64,
    /// How long the body must be, where that is known.
    pub(super) expected_bytes: Option<u64>,
    /// What we have already.
    pub(super) entity_tag: Option<&'a str>,
    /// What it is, for messages.
    pub(super) what: &'a str,
}

/// What came.
#[derive(Debug)]
pub(super) enum Answer {
    NotModified,
    Content { body: Bytes, entity_tag: Option<String> },
}

/// The client of one repository.
pub(super) struct HttpClient {
    client: Client,
    settings: GitHubSettings,
    authorization: Option<HeaderValue>,
    proxies: Matcher,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpClient").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why an attempt failed, and whether and when another one makes sense.
struct FailedAttempt {
    error: Box<GitHubError>,
    again: Again,
}

enum Again {
    Never,
    /// Not before this time, where it is known.
    Later(Option<DateTime<Utc>>),
}

impl HttpClient {
    pub(super) fn new(settings: &GitHubSettings) -> Result<Self, GitHubError> {
        tls_roots::check()?;
        let authorization = settings.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("token {}", token.expose()))?;
            value.set_sensitive(true);
            Ok::<_, http::header::InvalidHeaderValue>(value)
        });
        let client = Client::builder()
            .user_agent(USER_AGENT)
            // Followed by hand: the token must not go along.
            .redirect(Policy::none())
            .connect_timeout(settings.connect_timeout)
            .build()
            .map_err(GitHubError::Client)?;
        Ok(Self {
            client,
            settings: settings.clone(),
            authorization: authorization.transpose().map_err(|_| GitHubError::Token)?,
            proxies: Matcher::from_env(),
        })
    }

    /// Asks until there is an answer, an error that asking again does not cure, or no attempt left.
    pub(super) async fn fetch(&self, fetch: &Fetch<'_>) -> Result<Answer, GitHubError> {
        let mut failed_attempts = 0;
        loop {
            let failed = match self.attempt(fetch).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            failed_attempts += 1;
            let Again::Later(again_at) = failed.again else { return Err(*failed.error) };
            let GitHubSettings { first_pause, longest_wait, attempts, .. } = self.settings;
            if failed_attempts >= attempts {
                return Err(*failed.error);
            }
            let random = rand::random();
            let Some(pause) = pause(failed_attempts, first_pause, longest_wait, again_at, Utc::now(), random) else {
                return Err(*failed.error);
            };
            tracing::debug!(error = %failed.error, ?pause, "asking GitHub again");
            sleep(pause).await;
        }
    }

    async fn attempt(&self, fetch: &Fetch<'_>) -> Result<Answer, FailedAttempt> {
        let mut exchange = Exchange {
            client: self,
            fetch,
            host: host_of(&fetch.url),
            deadline: Instant::now() + self.settings.timeout,
            received: 0,
        };
        let mut url = fetch.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            exchange.host = host_of(&url);
            let response = exchange.send(&url).await?;
            let status = response.status().as_u16();
            match judge(status, response.headers(), Utc::now()) {
                Judgement::Content => {
                    let entity_tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
                    return Ok(Answer::Content { body: exchange.body(response).await?, entity_tag });
                }
                Judgement::NotModified if fetch.entity_tag.is_some() => return Ok(Answer::NotModified),
                Judgement::Redirect => url = exchange.redirected(&url, &response)?,
                Judgement::Refused => return Err(exchange.refused(status).for_good()),
                Judgement::RateLimited(until) => return Err(exchange.rate_limited(until).again(until)),
                Judgement::Unavailable(again_at) => return Err(exchange.status(status, &url).again(again_at)),
                Judgement::NotModified | Judgement::Unexpected => {
                    return Err(exchange.status(status, &url).for_good());
                }
            }
        }
        Err(exchange.not_followed("it was redirected too often").for_good())
    }

    /// The proxy for an address, as the client chooses it: scheme, host and port, never user and password.
    fn proxy(&self, url: &Url) -> Option<String> {
        let proxy = self.proxies.intercept(&url.as_str().parse::<Uri>().ok()?)?;
        let uri = proxy.uri();
        let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}://{}{port}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or_default()))
    }

    /// Whether the token may go there: only to where the API is.
    fn trusts(&self, url: &Url) -> bool {
        url.origin() == self.settings.api_url.origin()
    }
}

/// One attempt, as far as it has come.
struct Exchange<'a> {
    client: &'a HttpClient,
    fetch: &'a Fetch<'a>,
    host: String,
    deadline: Instant,
    received: u64,
}

impl Exchange<'_> {
    async fn send(&self, url: &Url) -> Result<Response, FailedAttempt> {
        let mut request = self.client.client.get(url.clone()).header(ACCEPT, self.fetch.accept);
        if let Some(authorization) = self.client.authorization.as_ref().filter(|_| self.client.trusts(url)) {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(entity_tag) = self.fetch.entity_tag {
            request = request.header(IF_NONE_MATCH, entity_tag);
        }
        self.in_time(request.send()).await?.map_err(|error| self.not_sent(url, error.without_url()))
    }

    async fn body(&mut self, mut response: Response) -> Result<Bytes, FailedAttempt> {
        let announced = response.content_length();
        let limit = self.fetch.most_bytes;
        let too_large = || GitHubError::TooLarge { what: self.fetch.what.to_owned(), limit }.for_good();
        if announced.is_some_and(|announced| announced > limit) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        loop {
            let chunk = self.in_time(response.chunk()).await?.map_err(|error| self.broken(error.without_url()))?;
            let Some(chunk) = chunk else { break };
            self.received += chunk.len() as u64;
            if self.received > limit {
                return Err(GitHubError::TooLarge { what: self.fetch.what.to_owned(), limit }.for_good());
            }
            body.extend_from_slice(&chunk);
        }
        match self.fetch.expected_bytes {
            Some(expected) if expected != self.received => Err(GitHubError::Size {
                what: self.fetch.what.to_owned(),
                host: self.host.clone(),
                received: self.received,
                expected,
            }
            .again(None)),
            Some(_) | None => Ok(body.freeze()),
        }
    }

    /// Waits for one step: neither longer than silence may last nor beyond the end of the attempt.
    async fn in_time<T>(&self, step: impl Future<Output = T>) -> Result<T, FailedAttempt> {
        let (what, host, received) = (self.fetch.what.to_owned(), self.host.clone(), self.received);
        let settings = &self.client.settings;
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        timeout(remaining.min(settings.idle_timeout), step).await.map_err(|_| {
            if remaining <= settings.idle_timeout && received > 0 {
                // It would be as slow the next time.
                GitHubError::TooSlow { what, host, received, limit: settings.timeout }.for_good()
            } else {
                let limit = remaining.min(settings.idle_timeout);
                GitHubError::Idle { what, host, received, limit }.again(None)
            }
        })
    }

    fn redirected(&self, from: &Url, response: &Response) -> Result<Url, FailedAttempt> {
        let refused = |reason| self.not_followed(reason).for_good();
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let location = location.ok_or_else(|| refused("no address is given"))?;
        let to = from.join(location).map_err(|_| refused("the address is none"))?;
        usable(&to).map_err(|_| refused("the address is no plain http:// or https:// one"))?;
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err(refused("the address leaves https"));
        }
        Ok(to)
    }

    fn not_sent(&self, url: &Url, source: reqwest::Error) -> FailedAttempt {
        let (host, what) = (self.host.clone(), self.fetch.what.to_owned());
        if is_tls(&source) {
            return GitHubError::Tls { host, what, source }.for_good();
        }
        if !source.is_connect() {
            return self.broken(source);
        }
        match self.client.proxy(url) {
            Some(proxy) => GitHubError::Proxy { host, what, proxy, source }.again(None),
            None => GitHubError::Connect { host, what, source }.again(None),
        }
    }

    fn broken(&self, source: reqwest::Error) -> FailedAttempt {
        let (what, host) = (self.fetch.what.to_owned(), self.host.clone());
        GitHubError::Broken { what, host, received: self.received, source }.again(None)
    }

    fn refused(&self, status: u16) -> GitHubError {
        let with_token = self.client.authorization.is_some();
        GitHubError::Refused { what: self.fetch.what.to_owned(), host: self.host.clone(), status, with_token }
    }

    fn rate_limited(&self, until: Option<DateTime<Utc>>) -> GitHubError {
        let with_token = self.client.authorization.is_some();
        GitHubError::RateLimited { host: self.host.clone(), until, with_token }
    }

    fn status(&self, status: u16, url: &Url) -> GitHubError {
        let host = match self.client.proxy(url) {
            // Said by the proxy itself.
            Some(proxy) if status == 407 => format!("proxy {proxy}"),
            Some(_) | None => self.host.clone(),
        };
        GitHubError::Status { status, what: self.fetch.what.to_owned(), host }
    }

    fn not_followed(&self, reason: &'static str) -> GitHubError {
        GitHubError::Redirect { what: self.fetch.what.to_owned(), host: self.host.clone(), reason }
    }
}

impl GitHubError {
    fn for_good(self) -> FailedAttempt {
        FailedAttempt { error: Box::new(self), again: Again::Never }
    }

    fn again(self, not_before: Option<DateTime<Utc>>) -> FailedAttempt {
        FailedAttempt { error: Box::new(self), again: Again::Later(not_before) }
    }
}

/// Whether an error of the client comes from TLS. It files them under input/output errors, some of them twice.
fn is_tls(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<rustls::Error>() || error.downcast_ref().is_some_and(wraps_tls) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn wraps_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>() || inner.downcast_ref().is_some_and(wraps_tls))
}
