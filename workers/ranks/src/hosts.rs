//! Slurm's short form of host names, such as `gpu[003-007,012],login1`.

use crate::error::{RanksError, Result};

/// The first host of a list: the one of rank 0. Of each bracket the first number counts, with its zeros.
///
/// # Errors
/// The list is empty or its brackets do not match.
pub fn first_host(list: &str) -> Result<String> {
    let broken = || RanksError::Configuration(format!("host list {list:?} cannot be read; set MASTER_ADDR"));
    let mut host = String::new();
    let mut rest = list.trim();
    loop {
        let end = rest.find(['[', ']', ',']).unwrap_or(rest.len());
        host.push_str(&rest[..end]);
        rest = &rest[end..];
        match rest.chars().next() {
            None | Some(',') => break,
            Some(']') => return Err(broken()),
            Some(_) => {
                let (numbers, after) = rest[1..].split_once(']').ok_or_else(broken)?;
                let first = numbers.split([',', '-']).next().unwrap_or_default();
                if first.is_empty() || !first.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(broken());
                }
                host.push_str(first);
                rest = after;
            }
        }
    }
    if host.is_empty() { Err(broken()) } else { Ok(host) }
}

#[cfg(test)]
mod tests {
    use super::first_host;

    #[test]
    fn first_hosts() {
        for (list, host) in [
            ("login1", "login1"),
            ("login1,gpu[1-2]", "login1"),
            ("gpu[003-007,012],login1", "gpu003"),
            ("gpu[12,1-3]", "gpu12"),
            ("rack[2-3]-n[04-05].cluster", "rack2-n04.cluster"),
            ("10.0.0.[5-6]", "10.0.0.5"),
        ] {
            assert_eq!(first_host(list).unwrap(), host, "{list}");
        }
        for list in ["", ",", "gpu[", "gpu[1-2", "gpu]1[", "gpu[]", "gpu[a-b]", "gpu[[1]]", "gpu[-2]"] {
            assert!(first_host(list).unwrap_err().to_string().contains("MASTER_ADDR"), "{list}");
        }
    }
}
