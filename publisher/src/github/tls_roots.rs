//! The authorities that are trusted: the system's, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
//!
//! The HTTP client reads the variables itself, and passes over a file that it cannot use; every connection then fails
//! with a certificate that nobody vouches for. So the file is looked at first.

use std::ffi::OsString;
use std::path::Path;

use super::error::GitHubError;

const VARIABLE: &str = "SSL_CERT_FILE";

/// Checks the environment's file, where one is named.
pub(super) fn check() -> Result<(), GitHubError> {
    std::env::var_os(VARIABLE).map_or(Ok(()), |file| check_file(&file))
}

fn check_file(file: &OsString) -> Result<(), GitHubError> {
    let refused = |reason: String| GitHubError::Authorities { path: file.display().to_string(), reason };
    let text = std::fs::read(Path::new(file)).map_err(|error| refused(error.to_string()))?;
    match reqwest::Certificate::from_pem_bundle(&text) {
        Ok(certificates) if certificates.is_empty() => Err(refused("it holds no certificate".to_owned())),
        Ok(_) => Ok(()),
        Err(_) => Err(refused("it is no PEM file".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        check_file(&file.path().as_os_str().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_that_holds_no_certificates_is_named() {
        let missing = check_file(&"/nowhere/ca.pem".into()).unwrap_err().to_string();
        assert!(missing.contains("SSL_CERT_FILE") && missing.contains("/nowhere/ca.pem"), "{missing}");
        assert!(checked("").unwrap_err().contains("holds no certificate"));
        assert!(checked("hello\n").unwrap_err().contains("holds no certificate"));
        assert!(checked("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap_err().contains("no PEM"));
    }
}
