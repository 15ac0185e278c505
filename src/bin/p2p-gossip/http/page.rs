//! The page, assembled from its parts, and the policy that lets a browser run only these parts.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

pub(super) static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
    html: HTML.replace("{style}", STYLE).replace("{script}", SCRIPT),
    policy: format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    ),
});

#[derive(Debug)]
pub(super) struct Page {
    pub(super) html: String,
    /// The page's content security policy (CSP).
    pub(super) policy: String,
}

/// The name of an inline script or style in a content security policy.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text of the page's only element with this tag.
    fn inside<'a>(html: &'a str, element: &str) -> &'a str {
        let (_, rest) = html.split_once(&format!("<{element}>")).unwrap();
        let (text, rest) = rest.split_once(&format!("</{element}>")).unwrap();
        assert!(!rest.contains(&format!("<{element}")));
        text
    }

    #[test]
    fn policy_allows_exactly_the_parts_of_the_page() {
        let Page { html, policy } = &*PAGE;
        assert!(policy.contains(&format!("script-src '{}';", hash(inside(html, "script")))), "{policy}");
        assert!(policy.contains(&format!("style-src '{}';", hash(inside(html, "style")))), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn page_loads_nothing_external_and_makes_no_markup_from_text() {
        let html = &PAGE.html;
        for way in ["src=", "@import", "url(", " style=", " onclick", " onload"] {
            assert!(!html.contains(way), "{way}");
        }
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!SCRIPT.contains(way), "{way}");
        }
        let elsewhere = html.matches("//").count() - html.matches("http://www.w3.org/").count();
        assert_eq!(elsewhere, SCRIPT.matches("\n// ").count() + SCRIPT.matches("  // ").count());
    }
}
