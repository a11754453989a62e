//! The one rule for paths found in archives, tables and caption files.

/// Checks that `path` stays inside of the folder it is joined to, on every platform.
/// The error is the reason, to be put into a message that names the path.
pub(crate) fn check_relative(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the path is empty");
    }
    if path.contains(char::is_control) {
        return Err("the path holds a control character");
    }
    if path.contains('\\') {
        return Err("the path holds a backslash: use `/`");
    }
    if path.starts_with('/') || path.as_bytes().get(1) == Some(&b':') {
        return Err("the path is absolute");
    }
    if path.split('/').any(|part| part == "..") {
        return Err("the path climbs out of its folder with `..`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_relative;

    #[test]
    fn only_paths_below_the_folder_pass() {
        for good in ["a", "images2/a1_CH_19.jpg", "a..b/c", "dir/", ".hidden"] {
            assert_eq!(check_relative(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "C:/a", "../a", "a/../b", "a/..", "a\\b", "a\0", "a\nb", "a\u{1b}[31mb", "a\u{9b}"] {
            assert!(check_relative(bad).is_err(), "{bad:?}");
        }
    }
}
