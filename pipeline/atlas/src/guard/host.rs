//! The names that a server answers to. A page elsewhere can let its own name point here (DNS rebinding), and its scripts
//! would then read whatever this server tells its own pages: the name in the request gives it away.

use std::net::{IpAddr, Ipv6Addr};

use url::Url;

pub(super) struct Hosts {
    listens_beyond: bool,
    names: Vec<String>,
}

impl Hosts {
    pub(super) fn new(listens: IpAddr, public: Option<&Url>) -> Result<Self, String> {
        let name = |url: &Url| match url.host_str() {
            Some(host) if matches!(url.scheme(), "http" | "https") => Ok(host.to_ascii_lowercase()),
            _ => Err(format!("{url} is no address of a site; it must be such as https://atlas.example.org")),
        };
        let names = public.map(name).transpose()?.into_iter().collect();
        Ok(Self { listens_beyond: !listens.is_loopback(), names })
    }

    /// Answers to one more name, where others can reach the server at all.
    pub(super) fn add(&mut self, name: &str) {
        if self.listens_beyond {
            self.names.push(name.to_ascii_lowercase());
        }
    }

    /// Whether a `Host` header names this server. Numbers cannot be made to point elsewhere, so a server beyond loopback
    /// answers to all of them.
    pub(super) fn allow(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        let name = name.to_ascii_lowercase();
        if name == "localhost" || self.names.contains(&name) {
            return true;
        }
        let number = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(six) => six.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
            None => name.parse().ok().filter(IpAddr::is_ipv4),
        };
        number.is_some_and(|number| number.is_loopback() || self.listens_beyond)
    }
}

/// The name in `name`, `name:port` or `[::1]:port`.
fn without_port(host: &str) -> Option<&str> {
    let end_of_name = host.rfind(']').map_or(0, |at| at + 1);
    let (name, port) = match host[end_of_name..].split_once(':') {
        Some((rest, port)) => (&host[..end_of_name + rest.len()], Some(port)),
        None => (host, None),
    };
    let is_port = |port: &str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    (!name.is_empty() && port.is_none_or(is_port)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_only_names_of_this_machine_lead_here() {
        let hosts = Hosts::new([127, 0, 0, 1].into(), None).unwrap();
        for own in ["localhost", "LocalHost:80", "127.0.0.1:8080", "127.0.0.2", "[::1]:8080", "[::1]"] {
            assert!(hosts.allow(own), "{own}");
        }
        for other in [
            "",
            ":80",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.7:8080",
            "localhost:80:80",
            "localhost:evil.example",
            "[::1].evil.example",
            "::1",
            "localhost@evil.example",
        ] {
            assert!(!hosts.allow(other), "{other}");
        }
    }

    #[test]
    fn beyond_loopback_numbers_and_the_public_name_lead_here() {
        let public = Url::parse("https://Atlas.example.org").unwrap();
        let mut hosts = Hosts::new([0, 0, 0, 0].into(), Some(&public)).unwrap();
        assert!(!hosts.allow("node7:8080"));
        hosts.add("Node7");
        for own in ["node7:8080", "192.0.2.7:8080", "[2001:db8::1]:8080", "atlas.example.org", "ATLAS.example.org:443"]
        {
            assert!(hosts.allow(own), "{own}");
        }
        assert!(!hosts.allow("evil.example") && !hosts.allow("example.org"));
        assert!(Hosts::new([0, 0, 0, 0].into(), Some(&Url::parse("file:///etc").unwrap())).is_err());
    }
}
