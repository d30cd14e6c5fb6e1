//! The embedded server's configuration file.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::{EmbeddedServerOptions, LOG_FILE};

/// Limits that the default layout fits into. A number only: nothing is reserved on disk.
const MAX_FILE_STORE: &str = "64GB";
const MAX_MEMORY_STORE: &str = "256MB";

/// Files of a server that serves TLS.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// PEM file with its certificate.
    pub certificate: PathBuf,
    /// PEM file with the certificate's key.
    pub key: PathBuf,
    /// PEM file with the authorities of clients: clients must show a certificate.
    pub client_authorities: Option<PathBuf>,
    /// Speak TLS before anything else.
    pub handshake_first: bool,
}

/// The accounts part for a server where everybody may do everything: no logins, one account.
pub fn open_config() -> String {
    String::new()
}

/// Renders the file. An error where a path cannot be written into it.
pub(super) fn render(options: &EmbeddedServerOptions, run_dir: &Path, store_dir: &Path) -> io::Result<String> {
    let port = options.port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
    let mut text = String::from("# Written anew at every start.\n");
    let mut line = |content: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{content}");
    };
    line(format!("listen: \"127.0.0.1:{port}\""));
    line(format!("ports_file_dir: {}", quoted(run_dir)?));
    line(format!("log_file: {}", quoted(&run_dir.join(LOG_FILE))?));
    // What is acknowledged is on disk: an audit log is worth the milliseconds.
    line(format!(
        "jetstream {{ store_dir: {}, sync_interval: always, max_file_store: {MAX_FILE_STORE}, max_memory_store: {MAX_MEMORY_STORE} }}",
        quoted(store_dir)?
    ));
    if let Some(tls) = &options.tls {
        line("tls {".to_owned());
        line(format!("  cert_file: {}", quoted(&tls.certificate)?));
        line(format!("  key_file: {}", quoted(&tls.key)?));
        if let Some(authorities) = &tls.client_authorities {
            line(format!("  ca_file: {}", quoted(authorities)?));
            line("  verify: true".to_owned());
        }
        if tls.handshake_first {
            line("  handshake_first: true".to_owned());
        }
        line("  timeout: 5".to_owned());
        line("}".to_owned());
    }
    line(options.accounts.clone());
    line(options.extra_config.clone());
    Ok(text)
}

/// A path as a configuration string.
fn quoted(path: &Path) -> io::Result<String> {
    let text = path.to_str().filter(|text| !text.contains(['"', '\\', '\n']));
    text.map(|text| format!("\"{text}\"")).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("path `{}` cannot stand in a configuration file", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> EmbeddedServerOptions {
        EmbeddedServerOptions {
            binary: "nats-server".into(),
            supervisor: Vec::new(),
            store_dir: "/s".into(),
            run_dir: "/r".into(),
            accounts: open_config(),
            port: None,
            tls: None,
            extra_config: String::new(),
        }
    }

    #[test]
    fn the_server_listens_on_loopback_and_syncs_every_write() {
        let text = render(&options(), Path::new("/r"), Path::new("/s")).unwrap();
        assert!(text.contains("listen: \"127.0.0.1:-1\"\n"), "{text}");
        assert!(text.contains("store_dir: \"/s\", sync_interval: always"), "{text}");
        assert!(!text.contains("tls {"), "{text}");
    }

    #[test]
    fn tls_is_rendered_where_asked_for() {
        let tls = ServerTls {
            certificate: "/c.pem".into(),
            key: "/k.pem".into(),
            client_authorities: Some("/ca.pem".into()),
            handshake_first: true,
        };
        let options = EmbeddedServerOptions { tls: Some(tls), port: Some(4333), ..options() };
        let text = render(&options, Path::new("/r"), Path::new("/s")).unwrap();
        for part in ["127.0.0.1:4333", "cert_file: \"/c.pem\"", "verify: true", "handshake_first: true"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_path_cannot_become_configuration() {
        assert!(render(&options(), Path::new("/r\" }"), Path::new("/s")).is_err());
    }
}
