//! What can go wrong with an answer.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_LENGTH, LOCATION};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;

const MOST_BODY_BYTES: usize = 256 << 20;
/// The server writes what it has whenever nothing more comes at once.
const FLUSH: Duration = Duration::from_millis(50);

/// A fault of an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Another status, with headers and a JSON message.
    Status(u16, Vec<(&'static str, String)>),
    /// The request is taken, and nothing ever comes.
    Hang,
    /// Header at once, then one byte after each pause.
    Trickle(Duration),
    /// Header and half of the body, then nothing more.
    Stall,
    /// The connection ends after half of the announced body.
    CutOff,
    /// The answer ends well, but lacks its last byte.
    Short,
    /// The right number of bytes, of which the first is another.
    Altered,
    /// More bytes than anybody takes, without announcing how many.
    Endless,
    /// Go elsewhere.
    Redirect(String),
    /// Other content.
    Body(String),
}

impl Fault {
    /// A status without headers.
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new())
    }

    /// GitHub's limit is used up until a time, in seconds since 1970.
    pub fn rate_limited(status: u16, until: i64) -> Self {
        let headers = vec![("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", until.to_string())];
        Self::Status(status, headers)
    }

    /// Makes the fault out of the regular answer.
    pub(super) async fn apply(self, regular: Response) -> Response {
        let (parts, body) = regular.into_parts();
        let body = to_bytes(body, MOST_BODY_BYTES).await.expect("regular answers are whole");
        let mut response = match self {
            Self::Status(status, headers) => {
                let mut response = Response::new(Body::from(r#"{"message": "as the test wants it"}"#));
                *response.status_mut() = status.try_into().expect("the test names a status");
                for (name, value) in headers {
                    let value = HeaderValue::from_str(&value).expect("the test names a header's value");
                    response.headers_mut().insert(HeaderName::from_static(name), value);
                }
                return response;
            }
            Self::Redirect(location) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = axum::http::StatusCode::FOUND;
                let location = HeaderValue::from_str(&location).expect("the test names an address");
                response.headers_mut().insert(LOCATION, location);
                return response;
            }
            Self::Hang => unreachable!("hanging answers are never made"),
            Self::Trickle(pause) => {
                let bytes = stream::unfold(body.clone(), move |mut rest| async move {
                    tokio::time::sleep(pause).await;
                    (!rest.is_empty()).then(|| (Ok::<_, Infallible>(rest.split_to(1)), rest))
                });
                with_length(Body::from_stream(bytes), body.len())
            }
            Self::Stall => {
                let half = body.slice(..body.len() / 2);
                let bytes = stream::unfold(Some(half), |half| async move {
                    match half {
                        Some(half) => Some((Ok::<_, Infallible>(half), None)),
                        None => std::future::pending().await,
                    }
                });
                with_length(Body::from_stream(bytes), body.len())
            }
            Self::CutOff => {
                let half = body.slice(..body.len() / 2);
                let bytes = stream::unfold(Some(half), |half| async move {
                    if let Some(half) = half {
                        return Some((Ok(half), None));
                    }
                    // What was sent is on its way by then.
                    tokio::time::sleep(FLUSH).await;
                    Some((Err(io::Error::from(io::ErrorKind::ConnectionReset)), None))
                });
                with_length(Body::from_stream(bytes), body.len())
            }
            Self::Short => Response::new(Body::from(body.slice(..body.len().saturating_sub(1)))),
            Self::Altered => {
                let mut altered = body.to_vec();
                if let Some(first) = altered.first_mut() {
                    *first ^= 1;
                }
                Response::new(Body::from(altered))
            }
            Self::Endless => {
                let piece = Bytes::from(vec![b' '; 1 << 20]);
                Response::new(Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(piece.clone()))))
            }
            Self::Body(text) => Response::new(Body::from(text)),
        };
        *response.status_mut() = parts.status;
        response
    }
}

fn with_length(body: Body, length: usize) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}
