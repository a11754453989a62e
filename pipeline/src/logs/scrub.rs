//! Takes secrets out of words: values of the environment's secret variables, and what addresses carry beside the path.

/// Variables whose names hold one of these are secret.
const SECRET_NAMES: [&str; 10] = [
    "SECRET",
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "CREDENTIAL",
    "ACCESS_KEY",
    "ACCOUNT_KEY",
    "API_KEY",
    "PRIVATE_KEY",
    "SAS",
];

/// Shorter values would be found in innocent words.
const SHORTEST_SECRET: usize = 6;

/// What stands in the place of a secret.
const HIDDEN: &str = "[hidden]";

/// Longest text that is told at once; the rest is somebody's data.
const MOST_BYTES: usize = 16 << 10;

/// The secret values among variables. That of a file is no secret: people look for it.
pub(super) fn secrets(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let is_secret = |name: &str| {
        let name = name.to_ascii_uppercase();
        SECRET_NAMES.iter().any(|part| name.contains(part))
    };
    let mut secrets: Vec<String> = variables
        .filter(|(name, value)| {
            is_secret(name) && value.trim().len() >= SHORTEST_SECRET && !std::path::Path::new(value).exists()
        })
        .map(|(_, value)| value.trim().to_owned())
        .collect();
    // one may hold another
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// The text without secrets.
pub(super) fn scrub(text: &str, secrets: &[String]) -> String {
    let mut clean = addresses(text);
    for secret in secrets {
        if clean.contains(secret.as_str()) {
            clean = clean.replace(secret.as_str(), HIDDEN);
        }
    }
    // cut afterwards, so that no part of a secret is left at the end
    if clean.len() > MOST_BYTES {
        clean.truncate(clean.floor_char_boundary(MOST_BYTES));
        clean.push_str("…\n");
    }
    clean
}

/// The text with `https://user:password@host/path?signature` as `https://[hidden]@host/path?[hidden]`.
fn addresses(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, address) = rest.split_at(at + "://".len());
        clean.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`' | ')' | '}' | ']' | '\\');
        let (address, after) = address.split_at(address.find(ends).unwrap_or(address.len()));
        let (place, query) = address.split_once('?').map_or((address, None), |(place, query)| (place, Some(query)));
        let host = place.find('/').unwrap_or(place.len());
        match place[..host].rfind('@') {
            Some(user) => {
                clean.push_str(HIDDEN);
                clean.push_str(&place[user..]);
            }
            None => clean.push_str(place),
        }
        if query.is_some() {
            clean.push('?');
            clean.push_str(HIDDEN);
        }
        rest = after;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(all: &[(&str, &str)]) -> Vec<String> {
        secrets(all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn secrets_of_the_environment_are_found_by_name() {
        let found = variables(&[
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG"),
            ("HF_TOKEN", "hf_abcdef\n"),
            ("azure_storage_sas_token", "sv=2020&sig=xyz"),
            ("URBANCROSS_SECRET", "0011223344"),
            ("HOME", "/home/somebody"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/"),
            ("MY_TOKEN", "1"),
        ]);
        assert_eq!(found, ["wJalrXUtnFEMI/K7MDENG", "sv=2020&sig=xyz", "0011223344", "hf_abcdef"]);
    }

    #[test]
    fn secrets_are_taken_out_and_words_stay() {
        let secrets = variables(&[("HF_TOKEN", "hf_abcdef"), ("X_SECRET", "hf_abcdef-longer")]);
        let clean = scrub("Bearer hf_abcdef and hf_abcdef-longer were refused", &secrets);
        assert_eq!(clean, "Bearer [hidden] and [hidden] were refused");
        for (text, clean) in [
            ("GET https://me:hunter2@host/x failed", "GET https://[hidden]@host/x failed"),
            ("(https://host/x?X-Amz-Signature=ab&y=1)", "(https://host/x?[hidden])"),
            ("\"s3://KEY:SECRET@bucket/x\" twice http://a:b@c", "\"s3://[hidden]@bucket/x\" twice http://[hidden]@c"),
            ("s3://bucket/a@b and 1 ?", "s3://bucket/a@b and 1 ?"),
            ("http://p@ss:w@host", "http://[hidden]@host"),
            ("://", "://"),
        ] {
            assert_eq!(scrub(text, &[]), clean);
        }
    }

    #[test]
    fn long_texts_are_cut_and_leave_no_part_of_a_secret() {
        let secret = "é".repeat(100);
        let text = format!("{}{secret}{}", "x".repeat(MOST_BYTES - 50), "y".repeat(1000));
        let clean = scrub(&text, &[secret]);
        assert!(clean.len() < MOST_BYTES + 10 && !clean.contains('é') && clean.ends_with("…\n"));
    }
}
