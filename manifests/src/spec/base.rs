//! Where the paths of a spec lead: those in the file start at the file's folder, those of `--set` at the folder that the
//! command was given in.

use std::path::{Component, Path, PathBuf};

use super::overrides::is_overridden;
use crate::weights::hub_name;

/// What a relative path means: where it starts, and where `~` is.
pub(crate) struct Base {
    pub folder: PathBuf,
    pub home: Option<PathBuf>,
}

impl Base {
    /// Of a field: the folder of the file that it stands in, or the current one if `--set` gave it.
    pub(crate) fn of(field: &str, file: &Path, overrides: &[String]) -> std::io::Result<Base> {
        let folder = if is_overridden(field, overrides) {
            std::env::current_dir()?
        } else {
            let file = std::path::absolute(file)?;
            file.parent().map_or_else(|| file.clone(), Path::to_owned)
        };
        Ok(Base { folder, home: std::env::home_dir() })
    }

    /// A store's address as it is, a path as an absolute one.
    pub(crate) fn store(&self, text: &str) -> Result<String, String> {
        if text.contains("://") {
            return Ok(text.to_owned());
        }
        if let Some(scheme) = SCHEMES.iter().find(|scheme| text.starts_with(&format!("{scheme}:"))) {
            return Err(format!("an address begins with {scheme}://"));
        }
        self.path(text)
    }

    /// What names weights: an address or a name on the hub as it is, a path as an absolute one. A path of two parts that
    /// is there goes before the hub's name of the same spelling.
    pub(crate) fn weights(&self, text: &str, exists: &dyn Fn(&Path) -> bool) -> Result<String, String> {
        if hub_name(text).is_some() && !exists(&self.folder.join(text)) {
            return Ok(text.to_owned());
        }
        self.store(text)
    }

    /// An absolute path.
    pub(crate) fn path(&self, text: &str) -> Result<String, String> {
        if text.is_empty() {
            return Err("it is empty; name a folder".into());
        }
        if let Some(at) = text.find('$')
            && text[at + 1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '{')
        {
            return Err("variables are not replaced in a spec; write the path out, or let the shell replace it in \
                        --set"
                .into());
        }
        let path = match text.strip_prefix('~') {
            None => self.folder.join(text),
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let home = self.home.as_ref().ok_or("`~` is not known here: HOME is not set")?;
                home.join(rest.trim_start_matches('/'))
            }
            Some(_) => return Err("only `~/` is known, not the home of somebody else; write the path out".into()),
        };
        let path = real_path(&path).map_err(|e| e.to_string())?;
        path.into_os_string().into_string().map_err(|path| format!("{} is not UTF-8", path.display()))
    }
}

/// An absolute path without `..`, which a store does not know: what is above a link is what is above its target.
///
/// # Errors
/// The current folder is gone.
pub fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    let mut real = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        if part == Component::ParentDir {
            real = std::fs::canonicalize(&real).unwrap_or(real);
            real.pop();
        } else {
            real.push(part);
        }
    }
    Ok(real)
}

/// Schemes of addresses.
const SCHEMES: [&str; 7] = ["file", "s3", "gs", "az", "abfs", "http", "https"];

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Base {
        Base { folder: "/specs".into(), home: Some("/home/me".into()) }
    }

    #[test]
    fn paths_start_at_their_base() {
        for (text, wanted) in [
            ("work", "/specs/work"),
            ("../work", "/work"),
            ("/data/a%20b", "/data/a%20b"),
            ("~/work", "/home/me/work"),
            ("~", "/home/me"),
            ("s3://bucket/x", "s3://bucket/x"),
            ("file:///x", "file:///x"),
            ("costs-5$", "/specs/costs-5$"),
            ("a~b", "/specs/a~b"),
        ] {
            assert_eq!(base().store(text).as_deref(), Ok(wanted));
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_above_a_link_is_the_one_above_its_target() {
        let root = std::env::temp_dir().canonicalize().unwrap().join(format!("urbancross-{}", std::process::id()));
        std::fs::create_dir_all(root.join("data/inner")).unwrap();
        std::os::unix::fs::symlink(root.join("data/inner"), root.join("link")).unwrap();
        let real = |path: &str| real_path(&root.join(path)).unwrap();
        assert_eq!(real("link/../work"), root.join("data/work"));
        assert_eq!(real("absent/../work"), root.join("work"));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_would_make_a_folder_of_that_name_is_refused() {
        for (text, word) in [
            ("", "empty"),
            ("$HOME/work", "variables"),
            ("/data/${USER}/work", "variables"),
            ("~other/work", "only `~/`"),
            ("file:work", "file://"),
            ("s3:/bucket/work", "s3://"),
        ] {
            let why = base().store(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
        assert!(Base { home: None, ..base() }.store("~/work").unwrap_err().contains("HOME"));
    }

    #[test]
    fn a_folder_goes_before_a_name_on_the_hub() {
        let weights = |text: &str, there: bool| base().weights(text, &|_| there).unwrap();
        assert_eq!(weights("openai/clip", false), "openai/clip");
        assert_eq!(weights("openai/clip@main", false), "openai/clip@main");
        assert_eq!(weights("openai/clip", true), "/specs/openai/clip");
        assert_eq!(weights("weights/sam_vit_h.pth", false), "/specs/weights/sam_vit_h.pth", "a file that is missing");
        assert_eq!(weights("./openai/clip", false), "/specs/openai/clip");
    }
}
