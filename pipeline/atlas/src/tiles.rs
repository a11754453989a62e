//! Maps that others serve.

use url::Url;

/// A map in tiles that others serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiles {
    template: String,
    origin: String,
    /// Whose map it is, as its terms want it said.
    pub credit: String,
}

impl Tiles {
    /// Tiles at an address with `{z}`, `{x}` and `{y}`.
    ///
    /// # Errors
    /// Why it is no address of tiles, in words.
    pub fn new(template: &str, credit: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("{template}: {why}; it must be such as https://tiles.example.org/{{z}}/{{x}}/{{y}}.png")
        };
        if let Some(missing) = ["{z}", "{x}", "{y}"].iter().find(|part| !template.contains(**part)) {
            return Err(wrong(&format!("{missing} is missing")));
        }
        let url = Url::parse(template).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(|host| host.contains(['{', ' ', ';']))
        {
            return Err(wrong("it is no address of one site"));
        }
        let origin = url.origin().ascii_serialization();
        Ok(Self { template: template.to_owned(), origin, credit: credit.to_owned() })
    }

    /// The address, with `{z}`, `{x}` and `{y}`.
    pub fn template(&self) -> &str {
        &self.template
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_of_one_site() {
        let tiles = Tiles::new("https://tiles.example.org:8443/a/{z}/{x}/{y}.png?key=1", "©").unwrap();
        assert_eq!(tiles.origin(), "https://tiles.example.org:8443");
        for wrong in [
            "https://tiles.example.org/{z}/{x}.png",
            "/{z}/{x}/{y}.png",
            "javascript:{z}{x}{y}",
            "https://{z}.example.org/{x}/{y}",
            "data:{z}{x}{y}",
        ] {
            assert!(Tiles::new(wrong, "").unwrap_err().contains("tiles.example.org"), "{wrong}");
        }
    }
}
