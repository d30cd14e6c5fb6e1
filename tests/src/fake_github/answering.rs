//! Which path gets which answer.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;

use super::releases::{FakeAsset, FakeRelease};
use super::{RecordedRequest, Repository};

impl Repository {
    pub(super) fn answer(&mut self, request: &RecordedRequest) -> Response {
        if request.header("user-agent").is_empty() {
            return message(403, "Request forbidden by administrative rules. Please set a User-Agent header.");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((request.path.as_str(), ""));
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        // Storage asks nobody who they are: the address is the permission. A login beside it is refused.
        if let ["storage", id] = segments[..] {
            return match self.asset_with_id(id) {
                _ if !request.header("authorization").is_empty() => message(400, "Only one auth mechanism allowed"),
                Some(asset) => bytes(asset.content.clone()),
                None => message(404, "Not Found"),
            };
        }
        let sent = request.header("authorization");
        let sent = sent.strip_prefix("token ").or_else(|| sent.strip_prefix("Bearer ")).unwrap_or(sent);
        if !sent.is_empty() && self.token.as_deref() != Some(sent) {
            return message(401, "Bad credentials");
        }
        let known = !sent.is_empty();
        if segments == ["user"] {
            return if known {
                ok(request, &json!({ "login": "ada" }))
            } else {
                message(401, "Requires authentication")
            };
        }
        let (owner, name) = (self.owner.clone(), self.name.clone());
        let hidden = self.private && !known;
        match segments[..] {
            ["repos", o, n, ref rest @ ..] if (o, n) == (&owner, &name) && !hidden => {
                self.answer_api(request, rest, query, known)
            }
            // The web host knows sessions, not tokens.
            [o, n, ref rest @ ..] if (o, n) == (&owner, &name) && !self.private => self.answer_web(rest),
            _ => message(404, "Not Found"),
        }
    }

    fn answer_api(&mut self, request: &RecordedRequest, rest: &[&str], query: &str, known: bool) -> Response {
        match (request.method.as_str(), rest) {
            ("GET" | "HEAD", ["releases"]) => ok(request, &self.page(query, known)),
            ("GET" | "HEAD", ["releases", "latest"]) => {
                self.release_answer(request, self.releases.iter().find(|release| !release.draft))
            }
            ("GET" | "HEAD", ["releases", "tags", tag]) => {
                self.release_answer(request, self.releases.iter().find(|release| release.tag == *tag && !release.draft))
            }
            ("GET" | "HEAD", ["releases", "assets", id]) => match self.asset_with_id(id) {
                None => message(404, "Not Found"),
                Some(asset) if request.header("accept") != "application/octet-stream" => {
                    ok(request, &json!({ "id": asset.id, "name": asset.name, "size": asset.content.len() }))
                }
                Some(asset) => match &self.storage {
                    Some(storage) => redirect(&format!("{storage}storage/{id}?signature=for-this-download-only")),
                    None => bytes(asset.content.clone()),
                },
            },
            ("POST", ["actions", "workflows", _, "dispatches"]) if known => status(204, Body::empty()),
            ("POST", ["actions", "workflows", _, "dispatches"]) => message(401, "Requires authentication"),
            ("GET", ["actions", "runs"] | ["actions", "workflows", _, "runs"]) => {
                ok(request, &json!({ "total_count": self.runs.len(), "workflow_runs": self.runs }))
            }
            _ => message(404, "Not Found"),
        }
    }

    fn answer_web(&self, rest: &[&str]) -> Response {
        match rest {
            ["releases", "latest"] => match self.releases.iter().find(|release| !release.draft) {
                Some(release) => redirect(&format!("{}/releases/tag/{}", self.downloads(), release.tag)),
                None => redirect(&format!("{}/releases", self.downloads())),
            },
            ["releases"] => status(200, Body::from("<html></html>")),
            ["releases", "tag", tag] if self.releases.iter().any(|release| release.tag == *tag) => {
                status(200, Body::from("<html></html>"))
            }
            ["releases", "download", tag, name] => {
                let release = self.releases.iter().find(|release| release.tag == *tag && !release.draft);
                match release.and_then(|release| release.assets.iter().find(|asset| asset.name == *name)) {
                    Some(asset) => bytes(asset.content.clone()),
                    None => message(404, "Not Found"),
                }
            }
            _ => message(404, "Not Found"),
        }
    }

    /// A page of the listing. Drafts are shown to whoever may write.
    fn page(&self, query: &str, known: bool) -> Value {
        let parameter = |name: &str, default: usize| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(default)
        };
        let (size, page) = (parameter("per_page", 30).clamp(1, 100), parameter("page", 1).max(1));
        let visible = self.releases.iter().filter(|release| known || !release.draft);
        visible.skip((page - 1) * size).take(size).map(|release| self.render(release)).collect()
    }

    fn release_answer(&self, request: &RecordedRequest, release: Option<&FakeRelease>) -> Response {
        release.map_or_else(|| message(404, "Not Found"), |release| ok(request, &self.render(release)))
    }

    fn render(&self, release: &FakeRelease) -> Value {
        release.to_json(&format!("{}/repos/{}/{}", self.base, self.owner, self.name), &self.downloads())
    }

    fn downloads(&self) -> String {
        format!("{}/{}/{}", self.base, self.owner, self.name)
    }

    fn asset_with_id(&self, id: &str) -> Option<&FakeAsset> {
        let id: u64 = id.parse().ok()?;
        self.releases.iter().flat_map(|release| &release.assets).find(|asset| asset.id == id)
    }
}

/// JSON with an entity tag; nothing where the client has it already.
fn ok(request: &RecordedRequest, document: &Value) -> Response {
    let text = document.to_string();
    let entity_tag = format!("\"{}\"", Sha256Digest::of(text.as_bytes()));
    let mut response = if request.header("if-none-match") == entity_tag {
        status(304, Body::empty())
    } else {
        status(200, Body::from(text))
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response.headers_mut().insert(ETAG, HeaderValue::from_str(&entity_tag).expect("a digest is a header's value"));
    response
}

fn bytes(content: Bytes) -> Response {
    let mut response = status(200, Body::from(content));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

fn message(code: u16, text: &str) -> Response {
    status(code, Body::from(json!({ "message": text }).to_string()))
}

fn redirect(location: &str) -> Response {
    let mut response = status(302, Body::empty());
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(location).expect("addresses are header values"));
    response
}

fn status(code: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("the code is one");
    response
}
