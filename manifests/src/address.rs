//! Addresses that carry secrets, or lead nowhere.

/// Fields of a query that sign or authorise it, in lower case.
const SECRET_FIELDS: [&str; 20] = [
    "sig",
    "signature",
    "token",
    "access_token",
    "auth",
    "key",
    "api_key",
    "apikey",
    "api-key",
    "secret",
    "password",
    "passwd",
    "pwd",
    "sas",
    "awsaccesskeyid",
    "googleaccessid",
    "ossaccesskeyid",
    "key-pair-id",
    "policy",
    "security-token",
];

/// Prefixes of such fields of Amazon, Google and Alibaba.
const SECRET_PREFIXES: [&str; 3] = ["x-amz-", "x-goog-", "x-oss-"];

/// What in an address is secret, in words that do not repeat it; `None`: nothing. Addresses stand in messages, pages and
/// tables for everybody to read.
pub fn secret_in(address: &str) -> Option<&'static str> {
    if let Some((_, rest)) = address.split_once("://") {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Some("a user or a password");
        }
    }
    let (_, query) = address.split_once('?')?;
    let is_secret = |field: &str| {
        let name = field.split('=').next().unwrap_or_default().to_ascii_lowercase();
        SECRET_FIELDS.contains(&name.as_str()) || SECRET_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    query.split(['&', ';', '#']).any(is_secret).then_some("a signature, a key or a token")
}

/// What an address lacks to lead anywhere, and how it is written; `None`: nothing. Asked for a name that is empty, stores
/// look like ones that do not answer.
pub fn lacks(address: &str) -> Option<&'static str> {
    let (scheme, rest) = address.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.split(':').next().unwrap_or_default();
    match scheme.to_ascii_lowercase().as_str() {
        "file" if rest.is_empty() => Some("it names no folder; write file:///FOLDER, or the path alone"),
        "file" => None,
        _ if !host.is_empty() || authority.starts_with('[') => None,
        "s3" | "s3a" => Some("it names no bucket; write s3://BUCKET/FOLDER"),
        "gs" => Some("it names no bucket; write gs://BUCKET/FOLDER"),
        "az" | "abfs" | "abfss" | "adl" | "azure" => Some("it names no container; write az://CONTAINER/FOLDER"),
        _ => Some("it names no host; write https://HOST/FOLDER"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_and_plain_addresses_pass() {
        for secret in [
            "https://me:hunter2@host/x",
            "https://me@host",
            "s3://KEY:SECRET@bucket/x",
            "ftp://u:p@h?x",
            "https://host/x?X-Amz-Algorithm=A&X-Amz-Signature=ab",
            "https://account.blob.core.windows.net/c?sv=2024&sig=ab%3D",
            "https://host/x?a=1;Token=2",
            "table.csv?AWSAccessKeyId=1&Signature=2",
            "https://host/x?X-Goog-Credential=a",
        ] {
            assert!(secret_in(secret).is_some(), "{secret}");
        }
        for plain in [
            "",
            "world",
            "/data/me@work/x",
            "s3://bucket/SkyScript/",
            "https://host/a@b/c",
            "https://host/x?list=1&page=2",
            "owner/name@main",
            "file:///data/keys?",
        ] {
            assert_eq!(secret_in(plain), None, "{plain}");
        }
    }

    #[test]
    fn an_address_has_a_bucket_a_container_or_a_host() {
        for (address, word) in [
            ("s3://", "BUCKET"),
            ("s3:///SkyScript", "BUCKET"),
            ("gs://", "BUCKET"),
            ("az://", "CONTAINER"),
            ("abfs:///x", "CONTAINER"),
            ("https://", "HOST"),
            ("HTTP:///x", "HOST"),
            ("http://:80/x", "HOST"),
            ("https://?x", "HOST"),
            ("file://", "FOLDER"),
        ] {
            assert!(lacks(address).is_some_and(|why| why.contains(word)), "{address}");
        }
        for whole in ["", "x", "/x", "s3://b", "az://c/x", "http://[::1]:80/x", "https://h:1", "file:///", "file:///x"]
        {
            assert_eq!(lacks(whole), None, "{whole}");
        }
    }
}
