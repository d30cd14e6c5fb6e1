//! A client without any code of ours in between: what somebody with stolen credentials would use.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, Request, ServerError};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::waiting::{PATIENCE, eventually};

/// How long a request may take that should be answered.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// Address and login of one user.
#[derive(Debug, Clone)]
pub struct Login {
    /// Server addresses without a login, separated by commas.
    pub url: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// What its reply subjects begin with.
    pub inbox_prefix: String,
}

/// A raw connection that remembers what the server complained about.
#[derive(Debug, Clone)]
pub struct RawClient {
    client: Client,
    complaints: Arc<Mutex<Vec<String>>>,
}

/// What the server answers to a message that it stored, or refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StoreAnswer {
    /// Its place in the stream; 0 where it was refused.
    #[serde(rename = "seq", default)]
    pub sequence: u64,
    /// Whether it was there already.
    #[serde(default)]
    pub duplicate: bool,
    /// Why it was refused.
    pub error: Option<ServerAnswer>,
}

/// An error of the JetStream API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ServerAnswer {
    /// The server's own number for it.
    pub err_code: u64,
    /// Its words.
    #[serde(default)]
    pub description: String,
}

impl RawClient {
    /// Connects once.
    pub async fn connect(login: &Login) -> Self {
        let options = ConnectOptions::with_user_and_password(login.user.clone(), login.password.clone())
            .custom_inbox_prefix(&login.inbox_prefix)
            .name("raw client");
        Self::connect_with(&login.url, options).await
    }

    /// Connects once, with options of the caller's.
    pub async fn connect_with(url: &str, options: ConnectOptions) -> Self {
        let servers: Vec<&str> = url.split(',').collect();
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&complaints);
        let client = options
            .event_callback(move |event| {
                let heard = Arc::clone(&heard);
                async move {
                    if let Event::ServerError(ServerError::Other(text)) = event {
                        heard.lock().expect("nobody panics while holding it").push(text);
                    }
                }
            })
            .connect(servers)
            .await
            .unwrap_or_else(|error| panic!("a raw client cannot connect to `{url}`: {error}"));
        Self { client, complaints }
    }

    /// The client library's own handle.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The client library's JetStream handle.
    pub fn jetstream(&self) -> Context {
        jetstream::new(self.client.clone())
    }

    /// What the server complained about since the last call, oldest first.
    pub fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut *self.complaints.lock().expect("nobody panics while holding it"))
    }

    /// Publishes without waiting for an answer, as an attacker would, and waits until the server has read it.
    pub async fn send(&self, subject: &str, reply: Option<&str>, headers: HeaderMap, payload: impl Into<Bytes>) {
        let subject = subject.to_owned();
        let payload = payload.into();
        let sent = match reply {
            Some(reply) => {
                self.client.publish_with_reply_and_headers(subject, reply.to_owned(), headers, payload).await
            }
            None => self.client.publish_with_headers(subject, headers, payload).await,
        };
        sent.expect("the client library takes the message");
        self.client.flush().await.expect("the connection is open");
    }

    /// Publishes where the server must refuse, and waits for the server's own words that it did.
    ///
    /// # Panics
    /// Where no permissions violation for this subject arrives: silence proves nothing.
    pub async fn denied(&self, subject: &str, headers: HeaderMap, payload: impl Into<Bytes>) {
        self.take_complaints();
        self.send(subject, Some(&self.client.new_inbox()), headers, payload).await;
        self.complaint(&format!("Permissions Violation for Publish to \"{subject}\"")).await;
    }

    /// Waits until the server has complained with these words.
    pub async fn complaint(&self, words: &str) {
        eventually(&format!("the server's complaint `{words}`"), PATIENCE, async || {
            let heard = self.complaints.lock().expect("nobody panics while holding it").clone();
            if heard.iter().any(|text| text.contains(words)) { Ok(()) } else { Err(format!("heard only {heard:?}")) }
        })
        .await;
    }

    /// A request with its answer.
    pub async fn request(&self, subject: &str, headers: HeaderMap, payload: impl Into<Bytes>) -> Message {
        let request = Request::new().headers(headers).payload(payload.into()).timeout(Some(REQUEST_LIMIT));
        self.client
            .send_request(subject.to_owned(), request)
            .await
            .unwrap_or_else(|error| panic!("no answer on `{subject}`: {error}"))
    }

    /// Publishes to a stream and returns the server's answer.
    pub async fn store(&self, subject: &str, headers: HeaderMap, payload: impl Into<Bytes>) -> StoreAnswer {
        let answer = self.request(subject, headers, payload).await;
        serde_json::from_slice(&answer.payload)
            .unwrap_or_else(|error| panic!("`{subject}` is not answered by a stream: {error}: {answer:?}"))
    }

    /// Asks the JetStream API; null stands for an empty request.
    pub async fn api(&self, operation: &str, request: &Value) -> Value {
        let request = if request.is_null() { String::new() } else { request.to_string() };
        let answer = self.request(&format!("$JS.API.{operation}"), HeaderMap::new(), request).await;
        serde_json::from_slice(&answer.payload).expect("the JetStream API answers with JSON")
    }

    /// State of a stream: messages, sequences, consumers.
    pub async fn stream_state(&self, stream: &str) -> StreamState {
        let answer = self.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await;
        serde_json::from_value(answer["state"].clone())
            .unwrap_or_else(|error| panic!("stream `{stream}` has no state: {error}: {answer}"))
    }
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StreamState {
    /// How many messages it holds.
    pub messages: u64,
    /// Sequence of the last message it ever took.
    #[serde(rename = "last_seq")]
    pub last_sequence: u64,
    /// How many consumers it has.
    #[serde(rename = "consumer_count")]
    pub consumers: u64,
}
