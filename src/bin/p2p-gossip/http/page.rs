//! The page: its HTML, script and style, and the policy that lets a browser load only these.
//!
//! All links are relative, so that the page works below any path of a reverse proxy.

pub(super) const HTML: &str = include_str!("page/page.html");
pub(super) const STYLE: &str = include_str!("page/page.css");
pub(super) const SCRIPT: &str = include_str!("page/page.js");

/// The page's content security policy (CSP).
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_no_inline_code_and_only_relative_links() {
        for way in [" style=", "<style", " onclick", " onload", "javascript:", "=\"/", "=\"http", "srcset"] {
            assert!(!HTML.contains(way), "{way}");
        }
        assert_eq!(
            HTML.matches("<script").count(),
            HTML.matches("<script src=\"page.js\"></script>").count()
        );
        for way in ["@import", "url("] {
            assert!(!STYLE.contains(way), "{way}");
        }
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!SCRIPT.contains(way), "{way}");
        }
        for call in ["get(\"/", "fetch(\"/", "EventSource(\"/", "EventSource(`/"] {
            assert!(!SCRIPT.contains(call), "{call}");
        }
        for text in [HTML, STYLE, SCRIPT] {
            let comments = text.lines().filter(|line| line.trim_start().starts_with("// ")).count();
            let namespaces = text.matches("http://www.w3.org/").count();
            assert_eq!(text.matches("//").count(), comments + namespaces, "a link to elsewhere");
        }
    }
}
