//! A file where a store of this machine needs a folder, or a folder where it needs a file. The system's error names
//! neither what lies in the way nor what to do about it.

use std::path::Path;

/// What keeps an object from lying at a path below a folder; a path that ends with `/` is that of a folder.
pub(super) fn find(folder: &Path, relative: &str) -> Option<String> {
    let mut place = folder.to_owned();
    let mut names = relative.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        place.push(name);
        let is_folder = std::fs::metadata(&place).ok()?.is_dir();
        let wants_folder = names.peek().is_some() || relative.ends_with('/');
        if is_folder != wants_folder {
            let [found, wanted] = if is_folder { ["folder", "file"] } else { ["file", "folder"] };
            return Some(format!("{} is a {found} where a {wanted} must be: remove it and run again", place.display()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b.json")).unwrap();
        std::fs::write(root.path().join("c"), b"").unwrap();
        let said = |path: &str| find(root.path(), path);
        for free in ["a/b.json/", "a/b.json/d", "a/e", "c", "f/g"] {
            assert_eq!(said(free), None, "{free}");
        }
        let folder = said("a/b.json").unwrap();
        assert!(folder.ends_with("a/b.json is a folder where a file must be: remove it and run again"), "{folder}");
        for below in ["c/d.json", "c/d/e", "c/"] {
            let file = said(below).unwrap();
            assert!(file.ends_with("/c is a file where a folder must be: remove it and run again"), "{file}");
        }
    }
}
