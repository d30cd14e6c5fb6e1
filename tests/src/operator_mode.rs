//! A server in operator mode: accounts and users are signed tokens, users log in with a credentials file.
//!
//! The two accounts and their rights are those of the password configuration, in the form that tokens have.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;

/// Issued at the start of 2025: the server compares nothing with it but its own clock.
const ISSUED_AT: u64 = 1_735_689_600;

/// An operator with its two accounts.
pub struct OperatorMode {
    operator: KeyPair,
    system: KeyPair,
    control: KeyPair,
    agents: KeyPair,
}

impl OperatorMode {
    /// New keys for everybody.
    pub fn generate() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            control: KeyPair::new_account(),
            agents: KeyPair::new_account(),
        }
    }

    /// The accounts part of the server's configuration.
    pub fn server_config(&self) -> String {
        let operator = token(
            &self.operator,
            &self.operator.public_key(),
            "operator",
            &json!({"type": "operator", "version": 2, "system_account": self.system.public_key()}),
        );
        let accounts = [
            (&self.system, "SYS", no_streams(), json!([]), json!([])),
            (&self.control, "CONTROL", any_streams(), exports(), json!([])),
            (&self.agents, "AGENTS", no_streams(), json!([]), self.imports()),
        ];
        let preload: Vec<String> = accounts
            .into_iter()
            .map(|(account, name, limits, exports, imports)| {
                let claims = json!({
                    "type": "account", "version": 2, "limits": limits, "exports": exports, "imports": imports,
                    "default_permissions": {"pub": {}, "sub": {}},
                });
                let jwt = token(&self.operator, &account.public_key(), name, &claims);
                format!("  {}: {jwt}\n", account.public_key())
            })
            .collect();
        format!(
            "operator: {operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}}}\n",
            self.system.public_key(),
            preload.concat()
        )
    }

    /// Writes the credentials file of a user that owns the streams.
    pub fn operator_credentials(&self, directory: &Path) -> PathBuf {
        let everything = json!({"pub": {}, "sub": {}});
        credentials(&self.control, "operator", &everything, directory)
    }

    /// Writes the credentials file of a node: it may speak as itself, read, and nothing else.
    pub fn node_credentials(&self, node: &str, directory: &Path) -> PathBuf {
        let rights = json!({
            "pub": {"allow": [
                format!("bundle.*.*.node.{node}"), format!("$KV.BUNDLE_NODES.{node}"),
                "$JS.API.DIRECT.GET.BUNDLE_EVENTS", "$JS.API.DIRECT.GET.BUNDLE_EVENTS.>",
                "$JS.API.DIRECT.GET.OBJ_BUNDLES", "$JS.API.DIRECT.GET.OBJ_BUNDLES.>",
            ]},
            "sub": {"allow": [
                format!("_INBOX_{node}.>"),
                "live.bundle.published.>", "live.bundle.promoted.>", "live.bundle.withdrawn.>", "multicast.BUNDLES.>",
            ]},
        });
        credentials(&self.agents, node, &rights, directory)
    }

    fn imports(&self) -> Value {
        let control = self.control.public_key();
        let import = |(subject, kind): (&str, &str)| json!({"name": subject, "subject": subject, "account": control, "type": kind, "local_subject": subject});
        SHARED_SUBJECTS.iter().copied().map(import).collect()
    }
}

/// What the control account offers to agents.
const SHARED_SUBJECTS: [(&str, &str); 7] = [
    ("live.bundle.>", "stream"),
    ("$JS.API.DIRECT.GET.BUNDLE_EVENTS", "service"),
    ("$JS.API.DIRECT.GET.BUNDLE_EVENTS.>", "service"),
    ("$JS.API.DIRECT.GET.OBJ_BUNDLES", "service"),
    ("$JS.API.DIRECT.GET.OBJ_BUNDLES.>", "service"),
    ("bundle.*.*.node.*", "service"),
    ("$KV.BUNDLE_NODES.*", "service"),
];

fn exports() -> Value {
    let export = |(subject, kind): (&str, &str)| {
        let mut export = json!({"name": subject, "subject": subject, "type": kind});
        // A batch has many answers.
        if kind == "service" {
            export["response_type"] = "Stream".into();
        }
        export
    };
    SHARED_SUBJECTS.iter().copied().map(export).collect()
}

fn no_streams() -> Value {
    json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    })
}

/// An account whose token says nothing about streams has none.
fn any_streams() -> Value {
    let mut limits = no_streams();
    for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
        limits[limit] = (-1).into();
    }
    limits
}

fn credentials(account: &KeyPair, user: &str, rights: &Value, directory: &Path) -> PathBuf {
    let key = KeyPair::new_user();
    let mut claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
    claims["pub"] = rights["pub"].clone();
    claims["sub"] = rights["sub"].clone();
    let jwt = token(account, &key.public_key(), user, &claims);
    let seed = key.seed().expect("a generated key has a seed");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    let path = directory.join(format!("{user}.creds"));
    fs::write(&path, text).expect("the directory is writable");
    path
}

/// A signed token about `subject`.
fn token(issuer: &KeyPair, subject: &str, name: &str, claims: &Value) -> String {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let mut body = json!({
        "iss": issuer.public_key(), "sub": subject, "name": name, "iat": ISSUED_AT, "nats": claims,
    });
    body["jti"] = Sha256Digest::of(body.to_string().as_bytes()).to_string().into();
    let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&body));
    let signature = issuer.sign(signed.as_bytes()).expect("a generated key signs");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
