//! Requests that always end: bounded in time, and ended at once where the server denies them.

use std::time::Duration;

use async_nats::{HeaderMap, Message, Request, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use thiserror::Error;
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout, timeout_at};

use super::Connection;
use crate::server_fault::ServerFault;

/// A request that got no usable answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The credentials do not allow it. Nothing was done.
    #[error("permission denied to publish on `{subject}`")]
    PermissionDenied {
        /// The subject.
        subject: String,
    },
    /// No answer in time. Whether the server acted on it is unknown.
    #[error("no answer on `{subject}` within {} ms", limit.as_millis())]
    TimedOut {
        /// The subject.
        subject: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Nobody listens there: the stream does not exist, or is not visible to this account. Nothing was done.
    #[error("nobody answers on `{subject}`: the stream is missing or not visible to this account")]
    NoResponders {
        /// The subject.
        subject: String,
    },
    /// Larger than the server accepts. Nothing was sent.
    #[error("a message of {size} bytes on `{subject}` is larger than the server accepts")]
    TooLarge {
        /// The subject.
        subject: String,
        /// Size of the payload.
        size: usize,
    },
    /// The connection was closed. Whether the server acted on it is unknown.
    #[error("the connection is closed")]
    Closed,
}

impl Connection {
    /// A new subject for answers.
    pub(crate) fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// Listens on `reply` (which may hold wildcards) for answers to what will be sent to `request_subject`.
    pub(crate) async fn answers(&self, request_subject: &str, reply: String) -> Result<Answers, RequestError> {
        // Listening begins before anything is sent: a denial cannot be missed.
        let faults = self.faults.subscribe();
        let limit = self.request_timeout;
        let request_subject = request_subject.to_owned();
        match timeout(limit, self.client.subscribe(reply)).await {
            Ok(Ok(messages)) => Ok(Answers { request_subject, limit, messages, faults }),
            Ok(Err(_)) => Err(RequestError::Closed),
            Err(_) => Err(RequestError::TimedOut { subject: request_subject, limit }),
        }
    }

    /// Sends a message whose answer comes on `reply`. Queueing can block while the connection is down, so it is
    /// bounded like an answer.
    pub(crate) async fn send(&self, subject: &str, reply: String, payload: Bytes) -> Result<(), RequestError> {
        let limit = self.request_timeout;
        match timeout(limit, self.client.publish_with_reply(subject.to_owned(), reply, payload)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(RequestError::Closed),
            Err(_) => Err(RequestError::TimedOut { subject: subject.to_owned(), limit }),
        }
    }

    /// Sends a request and waits for its answer, at most the connection's request time.
    pub(crate) async fn request(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, RequestError> {
        let limit = self.request_timeout;
        let deadline = Instant::now() + limit;
        let size = payload.len();
        // Listening begins before the request is sent: the denial cannot be missed.
        let mut faults = self.faults.subscribe();
        let mut request = Request::new().payload(payload).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let answer = self.client.send_request(subject.to_owned(), request);
        tokio::pin!(answer);
        let subject = || subject.to_owned();
        loop {
            tokio::select! {
                answer = timeout_at(deadline, &mut answer) => {
                    return match answer {
                        Err(_) => Err(RequestError::TimedOut { subject: subject(), limit }),
                        Ok(Ok(message)) => Ok(message),
                        Ok(Err(error)) => Err(match error.kind() {
                            RequestErrorKind::NoResponders => RequestError::NoResponders { subject: subject() },
                            RequestErrorKind::MaxPayloadExceeded => RequestError::TooLarge { subject: subject(), size },
                            RequestErrorKind::TimedOut => RequestError::TimedOut { subject: subject(), limit },
                            RequestErrorKind::InvalidSubject | RequestErrorKind::Other => RequestError::Closed,
                        }),
                    };
                }
                fault = faults.recv() => match fault {
                    Ok(fault) if fault.denies_publish(&subject()) => {
                        return Err(RequestError::PermissionDenied { subject: subject() });
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Err(RequestError::Closed),
                },
            }
        }
    }
}

/// Answers to what was sent with this reply subject, ended early where sending was denied.
pub(crate) struct Answers {
    request_subject: String,
    limit: Duration,
    messages: Subscriber,
    faults: broadcast::Receiver<ServerFault>,
}

impl Answers {
    /// The next answer, within the connection's request time.
    pub(crate) async fn next(&mut self) -> Result<Message, RequestError> {
        // One that is here already needs no timer, which in a batch of hundreds is most of them.
        if let Some(Some(answer)) = self.messages.next().now_or_never() {
            return Ok(answer);
        }
        let (subject, limit) = (self.request_subject.clone(), self.limit);
        timeout(limit, self.next_unbounded()).await.unwrap_or(Err(RequestError::TimedOut { subject, limit }))
    }

    async fn next_unbounded(&mut self) -> Result<Message, RequestError> {
        loop {
            tokio::select! {
                // Answers first: a complaint about another request must not hide one that is here.
                biased;
                answer = self.messages.next() => return answer.ok_or(RequestError::Closed),
                fault = self.faults.recv() => match fault {
                    Ok(fault) if fault.denies_publish(&self.request_subject) => {
                        return Err(RequestError::PermissionDenied { subject: self.request_subject.clone() });
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Err(RequestError::Closed),
                },
            }
        }
    }
}
