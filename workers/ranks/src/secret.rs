//! What ranks prove to each other when they meet: that they know one secret.
//!
//! Nobody learns the secret from a proof, and no proof serves twice: each is made over fresh random numbers of both
//! sides. What travels afterwards is neither sealed nor encrypted, so a network that others can change needs more.

use std::fmt;
use std::io::Read;
use std::path::Path;

use crate::error::{RanksError, Result};

/// The variable with the secret of a world.
pub const SECRET: &str = "URBANCROSS_SECRET";
/// The variable that names a file with it.
pub const SECRET_FILE: &str = "URBANCROSS_SECRET_FILE";
/// What can be guessed is no secret.
const LEAST_BYTES: usize = 16;
const MOST_BYTES: usize = 4096;

/// Bytes of a proof.
pub(crate) const PROOF_BYTES: usize = blake3::OUT_LEN;

/// What all ranks of a world know and nobody else does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(blake3::Hash);

impl Secret {
    /// The secret that `URBANCROSS_SECRET` holds or `URBANCROSS_SECRET_FILE` leads to; `None`: neither is set.
    ///
    /// # Errors
    /// A file that cannot be read, a secret that is too short or too long.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        if let Some(text) = variable(SECRET) {
            return Self::from_text(text.as_bytes(), SECRET).map(Some);
        }
        let Some(path) = variable(SECRET_FILE) else { return Ok(None) };
        let place = format!("{SECRET_FILE}={path:?}");
        let bytes = read_short(Path::new(&path)).map_err(|e| RanksError::Configuration(format!("{place}: {e}")))?;
        Self::from_text(&bytes, &place).map(Some)
    }

    fn from_text(text: &[u8], place: &str) -> Result<Self> {
        let text = text.trim_ascii();
        if (LEAST_BYTES..=MOST_BYTES).contains(&text.len()) {
            return Ok(Self::of(text));
        }
        Err(RanksError::Configuration(format!(
            "{place} holds {} bytes, a secret has {LEAST_BYTES} to {MOST_BYTES}; `openssl rand -hex 32` makes one",
            text.len()
        )))
    }

    /// The secret made of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(blake3::derive_key("urbancross ranks: a world's secret", bytes).into())
    }

    /// What those prove that were given none: anybody can.
    pub(crate) fn none() -> Self {
        Self::of(&[])
    }

    /// Another value that follows from the secret and does not betray it.
    pub(crate) fn derived<const BYTES: usize>(&self, what: &str) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        blake3::Hasher::new_keyed(self.0.as_bytes()).update(what.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// The proof of one side over what both sides have said. Compare it as it is: that takes the same time whatever
    /// differs.
    pub(crate) fn proof(&self, side: Side, said: [&[u8]; 2]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(self.0.as_bytes());
        hasher.update(match side {
            Side::Connecting => b"proof of the connecting side\n",
            Side::Listening => b"proof of the listening side \n",
        });
        said.iter().for_each(|said| _ = hasher.update(said));
        hasher.finalize()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who proves: no proof of one side is one of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Connecting,
    Listening,
}

/// Random bytes of the operating system, which nobody can guess.
///
/// # Errors
/// The system has none.
pub(crate) fn random<const BYTES: usize>() -> Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|e| RanksError::Library(format!("the operating system gives no random numbers: {e}")))?;
    Ok(bytes)
}

/// A new secret, in the form that the variable takes.
///
/// # Errors
/// The operating system has no random numbers.
pub fn new_secret() -> Result<String> {
    Ok(random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_short(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // one more than is allowed, so that a longer file is seen to be one
    std::fs::File::open(path)?.take(MOST_BYTES as u64 + 2).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "0123456789abcdef0123456789abcdef";

    fn read(variables: &[(&str, &str)]) -> Result<Option<Secret>, String> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Secret::from_environment(&get).map_err(|e| e.to_string())
    }

    #[test]
    fn a_secret_comes_from_a_variable_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, format!("{TEXT}\n")).unwrap();
        let file = file.to_str().unwrap();
        let wanted = Ok(Some(Secret::of(TEXT.as_bytes())));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(SECRET, TEXT)]), wanted);
        assert_eq!(read(&[(SECRET_FILE, file)]), wanted);
        assert_eq!(read(&[(SECRET, TEXT), (SECRET_FILE, "/absent")]), wanted);
        assert!(read(&[(SECRET, &new_secret().unwrap())]).unwrap().is_some());
        assert_ne!(new_secret().unwrap(), new_secret().unwrap());
    }

    #[test]
    fn what_is_no_secret_is_refused_and_never_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let [empty, long] = ["empty", "long"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
        std::fs::write(&empty, "\n").unwrap();
        std::fs::write(&long, vec![b'a'; 1 << 20]).unwrap();
        for (variables, words) in [
            ([(SECRET, "hunter2")], "URBANCROSS_SECRET holds 7 bytes"),
            ([(SECRET_FILE, empty.as_str())], "holds 0 bytes"),
            ([(SECRET_FILE, long.as_str())], "16 to 4096"),
            ([(SECRET_FILE, "/absent")], "/absent"),
        ] {
            let why = read(&variables).unwrap_err();
            assert!(why.contains(words) && !why.contains("hunter2"), "{why:?} says {words:?}");
        }
        assert_eq!(format!("{:?}", Secret::of(TEXT.as_bytes())), "Secret(..)");
    }

    #[test]
    fn a_proof_serves_one_side_of_one_meeting() {
        let secret = Secret::of(TEXT.as_bytes());
        let proof = secret.proof(Side::Connecting, [b"a", b"b"]);
        assert_eq!(proof, secret.proof(Side::Connecting, [b"a", b"b"]));
        for other in [
            secret.proof(Side::Listening, [b"a", b"b"]),
            secret.proof(Side::Connecting, [b"b", b"a"]),
            secret.proof(Side::Connecting, [b"a", b"c"]),
            Secret::none().proof(Side::Connecting, [b"a", b"b"]),
        ] {
            assert_ne!(proof, other);
        }
    }
}
