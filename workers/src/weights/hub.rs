//! The Hugging Face hub as its own tools use it: its address, the token, and the cache of what they have fetched.
//!
//! `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` mean what they mean to `huggingface_hub`.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use manifests::address::secret_in;
use manifests::weights::is_plain;
use object_store::HeaderValue;
use url::Url;

use super::snapshot::Snapshot;
use crate::error::WorkerError;
use crate::stores::is_loopback;

const ENDPOINT: &str = "https://huggingface.co";
/// A token or a commit is a line of text.
const MOST_LINE_BYTES: u64 = 4096;

/// What the environment says of the hub. The token is read when it is needed, and kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hub {
    endpoint: Url,
    /// `HF_HOME` or its default, if there is a home at all.
    home: Option<PathBuf>,
    cache: Option<PathBuf>,
    /// Whether the network may not be asked.
    pub(super) offline: bool,
}

/// What the hub knows its visitor by, and where that stands.
pub(super) struct Token {
    /// `Bearer …`, marked as sensitive: whoever prints it prints no more than that.
    pub(super) header: HeaderValue,
    pub(super) place: String,
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

impl Hub {
    /// # Errors
    /// An `HF_ENDPOINT` that is no address, or holds a secret.
    pub(super) fn from_env() -> Result<Hub, WorkerError> {
        Hub::of(&environment)
    }

    pub(super) fn of(variable: Variable) -> Result<Hub, WorkerError> {
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().trim().to_owned());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        if let Some(secret) = secret_in(&endpoint) {
            let why = format!("HF_ENDPOINT holds {secret}: take it out, put a token into HF_TOKEN");
            return Err(WorkerError::Configuration(why));
        }
        let address = Url::parse(&endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint = address.ok_or_else(|| {
            WorkerError::Configuration(format!("HF_ENDPOINT={endpoint:?} is no address such as {ENDPOINT}"))
        })?;
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| home.as_ref().map(|home| home.join("hub")));
        let offline = text("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str()));
        Ok(Hub { endpoint, home, cache, offline })
    }

    /// Address of a repository's page.
    pub(super) fn page(&self, repository: &str) -> String {
        format!("{}/{repository}", self.endpoint.as_str().trim_end_matches('/'))
    }

    /// Whether an address is the hub's own.
    pub(super) fn is_at(&self, address: &str) -> bool {
        Url::parse(address).is_ok_and(|url| url.origin() == self.endpoint.origin())
    }

    /// The token for requests to an address; `None`: there is none, or it must not go there. It goes to the hub alone,
    /// and where nobody on the way can read it.
    ///
    /// # Errors
    /// A token that cannot be read.
    pub(super) fn token_for(&self, address: &str) -> Result<Option<Token>, WorkerError> {
        self.token_of(address, &environment)
    }

    fn token_of(&self, address: &str, variable: Variable) -> Result<Option<Token>, WorkerError> {
        if !self.is_at(address) || is_open(&self.endpoint) {
            return Ok(None);
        }
        let (text, place) = match (variable("HF_TOKEN"), &self.home) {
            (Some(text), _) => (text.into_encoded_bytes(), "HF_TOKEN".to_owned()),
            (None, None) => return Ok(None),
            (None, Some(home)) => {
                let path = home.join("token");
                match read_line(&path) {
                    Ok(text) => (text, path.display().to_string()),
                    Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(WorkerError::Configuration(format!("token {}: {e}", path.display()))),
                }
            }
        };
        let text = text.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        let mut header = HeaderValue::from_bytes(&[b"Bearer ", text].concat()).map_err(|_| {
            WorkerError::Configuration(format!("{place} holds no token: one is a single word of ASCII"))
        })?;
        header.set_sensitive(true);
        Ok(Some(Token { header, place }))
    }

    /// Why somebody whom the hub has refused was refused, and what to do.
    pub(super) fn lesson(&self, name: &str, page: &str, token: Option<&Token>) -> String {
        let gate = format!("accept the licence on {page}, if it asks for that, with the token's account");
        match token {
            Some(Token { place, .. }) => {
                format!("the hub refuses {name} to the token of {place}: {gate}, and give the token leave to read it")
            }
            None if is_open(&self.endpoint) => {
                format!("the hub refuses {name}, and a token is sent over https only: look at HF_ENDPOINT")
            }
            None => format!(
                "the hub refuses {name} without a token: it is gated, private, or not there. Look at its name, \
                 set HF_TOKEN to a token of your account or put one into $HF_HOME/token (`hf auth login`), and {gate}"
            ),
        }
    }

    /// Where the hub's own tools keep a repository; `None` without a home.
    pub(super) fn cached(&self, repository: &str) -> Option<PathBuf> {
        Some(self.cache.as_ref()?.join(format!("models--{}", repository.replace('/', "--"))))
    }

    /// What the hub's own tools have fetched of a revision, which may be a branch, a tag or a commit.
    pub(super) fn snapshot(&self, repository: &str, revision: &str) -> Option<Snapshot> {
        let cached = self.cached(repository)?;
        let named = read_line(&cached.join("refs").join(revision)).ok();
        let named = named.and_then(|line| String::from_utf8(line.trim_ascii().to_vec()).ok());
        let commit = named.filter(|commit| is_plain(commit)).unwrap_or_else(|| revision.to_owned());
        let folder = cached.join("snapshots").join(&commit);
        folder.is_dir().then_some(Snapshot { folder, commit })
    }
}

/// Whether what travels to an address can be read and changed on its way.
pub(super) fn is_open(address: &Url) -> bool {
    address.scheme() == "http" && !is_loopback(address)
}

fn read_line(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MOST_LINE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    }

    fn hub(set: &[(&str, &str)]) -> Hub {
        Hub::of(&variables(set)).unwrap()
    }

    #[test]
    fn the_token_goes_to_the_hub_alone_and_never_in_the_open() {
        let sent = |endpoint: &str, address: &str| {
            let set = [("HF_ENDPOINT", endpoint), ("HF_TOKEN", "hf_secret\n")];
            let token = hub(&set).token_of(address, &variables(&set)).unwrap();
            token.map(|token| token.header.to_str().unwrap().to_owned())
        };
        let bearer = Some("Bearer hf_secret".to_owned());
        for (endpoint, address) in [
            (ENDPOINT, "https://huggingface.co/a/b/resolve/main"),
            (ENDPOINT, "https://huggingface.co:443/a/b"),
            ("https://mirror.example/hub/", "https://mirror.example/hub/a/b"),
            ("http://127.0.0.1:80", "http://127.0.0.1/a"),
            ("http://localhost:8080", "http://localhost:8080/a"),
        ] {
            assert_eq!(sent(endpoint, address), bearer, "{endpoint} {address}");
        }
        for (endpoint, address) in [
            (ENDPOINT, "https://huggingface.co.example/a/b"),
            (ENDPOINT, "https://cdn.huggingface.co/a/b"),
            (ENDPOINT, "http://huggingface.co/a/b"),
            (ENDPOINT, "https://huggingface.co:8443/a/b"),
            (ENDPOINT, "s3://huggingface.co/a/b"),
            (ENDPOINT, "https://example/https://huggingface.co/a"),
            ("https://mirror.example", "https://huggingface.co/a/b"),
            ("http://mirror.example", "http://mirror.example/a/b"),
            ("http://127.0.0.1.example", "http://127.0.0.1.example/a"),
        ] {
            assert_eq!(sent(endpoint, address), None, "{endpoint} {address}");
        }
    }

    #[test]
    fn the_token_comes_from_the_variable_or_the_home_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let read = |set: &[(&str, &str)]| hub(set).token_of("https://huggingface.co/a", &variables(set));
        assert!(read(&[]).unwrap().is_none() && read(&[("HF_HOME", home)]).unwrap().is_none());
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let token = read(&[("HF_HOME", home)]).unwrap().unwrap();
        assert_eq!((token.header.to_str().unwrap(), token.place.starts_with(home)), ("Bearer hf_file", true));
        let token = read(&[("HF_HOME", home), ("HF_TOKEN", "hf_first")]).unwrap().unwrap();
        assert_eq!(token.header.to_str().unwrap(), "Bearer hf_first");
        assert!(!format!("{:?}", token.header).contains("hf_"));
        let told = hub(&[]).lesson("a/b", &hub(&[]).page("a/b"), Some(&token));
        assert!(told.contains("HF_TOKEN") && told.contains("https://huggingface.co/a/b") && !told.contains("hf_"));
        let error = read(&[("HF_TOKEN", "hf_\u{1}x")]).err().unwrap().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("hf_"), "{error}");
    }

    #[test]
    fn places_and_addresses_are_those_of_the_hubs_own_tools() {
        let cached = |set: &[(&str, &str)]| hub(set).cached("o/n").map(|path| path.display().to_string());
        assert_eq!(cached(&[]), None);
        assert_eq!(cached(&[("HOME", "/me")]).unwrap(), "/me/.cache/huggingface/hub/models--o--n");
        assert_eq!(cached(&[("HOME", "/me"), ("XDG_CACHE_HOME", "/c")]).unwrap(), "/c/huggingface/hub/models--o--n");
        assert_eq!(cached(&[("HOME", "/me"), ("HF_HOME", "/h")]).unwrap(), "/h/hub/models--o--n");
        assert_eq!(cached(&[("HF_HUB_CACHE", "/k"), ("HF_HOME", "/h")]).unwrap(), "/k/models--o--n");
        assert!(hub(&[("HF_HUB_OFFLINE", "1")]).offline && hub(&[("HF_HUB_OFFLINE", "True")]).offline);
        assert!(!hub(&[("HF_HUB_OFFLINE", "0")]).offline && !hub(&[]).offline);
        for (endpoint, words) in [("https://me:hf_x@host", "a user or a password"), ("hub", "no address")] {
            let error = Hub::of(&variables(&[("HF_ENDPOINT", endpoint)])).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("hf_x"), "{error}");
        }
    }

    #[test]
    fn a_reference_cannot_lead_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("models--o--n");
        std::fs::create_dir_all(root.join("refs")).unwrap();
        std::fs::create_dir_all(root.join("snapshots/abc")).unwrap();
        let hub = hub(&[("HF_HUB_CACHE", folder.path().to_str().unwrap())]);
        let commit = |revision: &str| hub.snapshot("o/n", revision).map(|snapshot| snapshot.commit);
        assert_eq!((commit("main"), commit("abc")), (None, Some("abc".into())));
        std::fs::write(root.join("refs/main"), "abc\n").unwrap();
        assert_eq!(commit("main"), Some("abc".into()));
        std::fs::write(root.join("refs/main"), "../../..").unwrap();
        assert_eq!(commit("main"), None);
    }
}
