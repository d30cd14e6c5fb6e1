//! Certificates made for one test: an authority, and a server that it vouches for.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use streams::embedded_server::ServerTls;

/// An authority with the PEM file by which clients trust it.
#[derive(Debug)]
pub struct Authority {
    file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one; its certificate goes to `<name>.pem`.
    pub fn new(directory: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).expect("an authority vouches for itself");
        let file = written(directory, &format!("{name}.pem"), &certificate.pem());
        Self { file, issuer: Issuer::new(parameters, key) }
    }

    /// What `--tls-ca` takes.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A server on this machine that clients of this authority trust.
    pub fn server(&self, directory: &Path) -> ServerTls {
        let key = KeyPair::generate().expect("a key can be made");
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let parameters = CertificateParams::new(names).expect("the names are valid");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("the authority signs");
        ServerTls {
            certificate: written(directory, "server.pem", &certificate.pem()),
            key: written(directory, "server.key", &key.serialize_pem()),
            client_authorities: None,
            handshake_first: false,
        }
    }
}

fn written(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).expect("the directory is writable");
    path
}
