//! What every page has around it.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::assets::address;
use crate::trouble::Trouble;

/// An entry of the navigation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nav {
    /// Address of the page.
    pub path: &'static str,
    /// What it is called.
    pub name: &'static str,
}

/// Makes whole pages; handlers take it as an `Extension`.
#[derive(Debug, Clone)]
pub struct Shell {
    nav: Arc<[Nav]>,
}

impl Shell {
    pub(crate) fn new(nav: Vec<Nav>) -> Self {
        Self { nav: nav.into() }
    }

    /// A page: `path` is its place in the navigation, `script` the name of its module among the assets, if it has one.
    pub fn page(&self, path: &str, title: &str, script: Option<&str>, content: Markup) -> Response {
        respond(StatusCode::OK, self.html(path, title, script, content))
    }

    /// A page that says why there is no other.
    pub fn trouble(&self, trouble: &Trouble) -> Response {
        trouble.log();
        let content = html! {
            h1 { "This did not work" }
            p.lead { (trouble) }
            p { a href="/" { "Back to the search" } }
        };
        respond(trouble.status(), self.html("", "This did not work", None, content))
    }

    pub(crate) fn lost(&self) -> Response {
        self.trouble(&Trouble::NotThere("there is no such page".into()))
    }

    fn html(&self, path: &str, title: &str, script: Option<&str>, content: Markup) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · UrbanCross" }
                    link rel="icon" href=(address("icon.svg")) type="image/svg+xml";
                    link rel="stylesheet" href=(address("atlas.css"));
                    @if let Some(script) = script { script type="module" src=(address(script)) {} }
                }
                body {
                    a.skip href="#content" { "To the content" }
                    header.top {
                        a.brand href="/" { "UrbanCross" }
                        nav aria-label="Pages" {
                            ul {
                                @for entry in self.nav.iter() {
                                    li { a href=(entry.path) aria-current=[(entry.path == path).then_some("page")] { (entry.name) } }
                                }
                            }
                        }
                    }
                    main #content tabindex="-1" { (content) }
                }
            }
        };
        page.into_string()
    }
}

fn respond(status: StatusCode, page: String) -> Response {
    (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// Address of an image's page, or of something below it. Ids may have any characters.
pub fn image_path(prefix: &str, country: &str, id: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("country", country).append_pair("id", id);
    let path = format!("{prefix}?{}", query.finish());
    // only ever a path of this server
    path.parse::<Uri>().map_or_else(|_| "/".into(), |_| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_id_is_its_address_is_one_of_ours() {
        assert_eq!(
            image_path("/image", "finland", "a b/../c?d=1&e#f"),
            "/image?country=finland&id=a+b%2F..%2Fc%3Fd%3D1%26e%23f"
        );
    }

    #[test]
    fn the_navigation_says_where_one_is() {
        let shell = Shell::new(vec![Nav { path: "/", name: "Search" }, Nav { path: "/space", name: "Space" }]);
        let page = shell.html("/space", "<b>", None, html! {});
        assert!(
            page.contains(r#"<a href="/space" aria-current="page">"#) && page.contains(r#"<a href="/">"#),
            "{page}"
        );
        assert!(page.contains("<title>&lt;b&gt; · UrbanCross</title>"));
    }
}
